/** What an engine answers to the cases of `cases.py`, as plain JSON; run by node and in a browser alike. */

const plain = (array) => (array === null ? null : Array.from(array));

/** @param {Object} engine of the cases; @param {Object} core a `PageEngine` in this thread, for tokens and logits. */
export async function answers(engine, core, { texts, readings, continuations, refused }) {
  const tokens = texts.map((text) => core.tokenizer.encode(text));
  const read = [];
  for (const asked of readings) {
    const reading = await engine.read(asked);
    const logits = [];
    const run = await core.begin(asked.arm, asked.text, asked.interventions);
    await core.each(run, run.tokens.ids.length, (token, next) => logits.push(plain(next(true).logits)));
    const { letIn, surprisal, gates, top, pieces, layers, left } = reading;
    const numbers = { gates: gates && gates.map(plain), letIn: plain(letIn), surprisal: plain(surprisal) };
    read.push({ ...numbers, logits, top, pieces, layers, left });
  }
  const written = [];
  for (const asked of continuations) {
    const steps = [];
    const { pieces } = await engine.continue(asked, (step) => steps.push(step));
    written.push({ steps, pieces });
  }
  const refusals = [];
  for (const [method, asked] of refused) {
    refusals.push(await engine[method](asked).then(() => null, (error) => error.message));
  }
  return {
    behaviour: await behaviour(engine, continuations[0]),
    about: await engine.about(),
    ids: tokens.map(({ ids }) => plain(ids)),
    pieces: tokens.map(({ pieces }) => pieces),
    read,
    written,
    refusals,
  };
}

/** What cannot be compared with PyTorch: sampling, the limit and stopping. */
async function behaviour(engine, { arm, text }) {
  const drawn = async (temperature, seed, tokens = 30) =>
    (await engine.continue({ arm, text, tokens, temperature, seed })).pieces;
  const long = { arm, text: "a ".repeat(2100) };
  const whole = await engine.read(long);
  const refused = await engine.continue({ ...long, tokens: 1 }).catch((error) => error.message);
  const reading = engine.read(long).catch((error) => error.message);
  await engine.stop();
  let count = 0;
  const onToken = () => ++count === 3 && engine.stop();
  const cut = (await engine.continue({ arm, text, tokens: 5000, temperature: 1, seed: 1 }, onToken)).pieces;
  return {
    samples: [await drawn(1, 1), await drawn(1, 1), await drawn(1, 2), await drawn(1e-9, 3), await drawn(0, 4)],
    long: [whole.pieces.length, whole.left, whole.letIn.length, refused],
    stopped: [await reading, cut.length],
  };
}
