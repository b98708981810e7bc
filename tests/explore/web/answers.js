/** What an engine answers to the cases of `cases.py`, as plain JSON; run by node and in a browser alike. */

const plain = (array) => (array === null ? null : Array.from(array));

/** @param {Object} engine of the cases; @param {Object} core a `PageEngine` in this thread, for logits. */
export async function answers(engine, core, { texts, readings, continuations, refused }) {
  const tokens = [];
  for (const text of texts) tokens.push(await engine.tokenize(text));
  const read = [];
  for (const asked of readings) {
    const reading = await engine.read(asked);
    const logits = [];
    const run = core.begin(asked.arm, asked.text, asked.interventions);
    await core.each(run, run.tokens.ids.length, (token, next) => logits.push(plain(next(true).logits)));
    const { letIn, surprisal, gates, top, pieces, layers, left } = reading;
    const numbers = { gates: gates && gates.map(plain), letIn: plain(letIn), surprisal: plain(surprisal) };
    read.push({ ...numbers, logits, top, pieces, layers, left });
  }
  const written = [];
  for (const asked of continuations) {
    const steps = [];
    let last = null;
    const { pieces } = await engine.continue(asked, ({ gates, ...step }) => {
      steps.push(step);
      last = gates ? gates.map(plain) : null;
    });
    written.push({ steps, last, pieces });
  }
  const refusals = [];
  for (const [method, asked] of refused) {
    refusals.push(await engine[method](asked).then(() => null, (error) => error.message));
  }
  return {
    about: await engine.about(),
    ids: tokens.map(({ ids }) => plain(ids)),
    pieces: tokens.map(({ pieces }) => pieces),
    spans: tokens.map(({ spans }) => spans),
    read,
    written,
    refusals,
  };
}
