/**
 * Engines: what reads a text for the front end. Every engine, in the page or in a kernel, is an object with the methods
 * of `Engine`; the front end knows nothing else of it.
 *
 * @typedef {Object} Arm
 * @property {string} name
 * @property {string} label
 * @property {?{layers: number, channels: number, kind: string, shift: string, norm: string}} gate null without a gate;
 *   kind, shift and norm are those of `GateConfig`.
 * @property {string} note a sentence on the arm; may be empty.
 *
 * @typedef {Object} About
 * @property {"page"|"kernel"|"recorded"} engine
 * @property {string} title
 * @property {string} vocabulary
 * @property {Arm[]} arms
 * @property {{tokens: number}} limits tokens that one reading takes at most; further ones are left out and counted.
 * @property {string[]} cards names of the arms whose channels have cards.
 * @property {?string} untrained name of the arm with an untrained gate, the baseline of "change from untrained".
 *
 * @typedef {Object} Intervention Changes gate values, as `clamp_gate` does: one after another, each on what those
 *   before it left. Exactly one of `value`, `scale` and `replace` is given.
 * @property {?number} layer from 1; null is every layer.
 * @property {?number[]} channels from 0; null is all.
 * @property {?number[]} tokens positions in the text from 0, generated tokens included; null is all.
 * @property {number|ArrayLike<number>|ArrayLike<number>[]} [value] 0 to 1, in place of the gate: a number, one for each
 *   channel, or a row of these for each token (tokens after the last row keep their own).
 * @property {number} [scale] a factor of at least 0.
 * @property {string} [replace] another text: the gates that the arm has on it, token by token and from its start again
 *   at its end, in place of the gate.
 *
 * @typedef {Object} Reading Of the first `limits.tokens` tokens of a text, which the model reads after the prefix token;
 *   a clamp of all tokens clamps there too.
 * @property {string} arm
 * @property {string} text
 * @property {Intervention[]} interventions
 * @property {string[]} pieces text of each token; a part of a character as its bytes, ⟨e7 8c⟩.
 * @property {number} layers
 * @property {number} channels
 * @property {?Float32Array[]} gates each layer's gate after the interventions, token by token: tokens * channels.
 * @property {Float32Array} letIn layer by layer, layers * tokens: the norm over channels of what the gate adds,
 *   |g h(t-1)|, over that of the state that it is added to, |h(t)|; 0 without a gate.
 * @property {Float32Array} surprisal nats, by token; NaN for the first.
 * @property {{piece: string, p: number}[][]} top after each token, the ten most probable next ones.
 * @property {number} [left] tokens of the text that were not read.
 * @property {number} seconds
 *
 * @typedef {Object} Token One token of a continuation.
 * @property {string} piece
 * @property {string} [text] the characters that this token completes: all of them joined are the continuation.
 * @property {number} id
 * @property {number} p its probability, before temperature.
 *
 * @typedef {Object} Engine Every method returns a promise; a refusal rejects with a sentence to show.
 * @property {() => Promise<About>} about
 * @property {(asked: {arm: string, text: string, interventions?: Intervention[]},
 *   onProgress?: (tokens: number, total: number) => void) => Promise<Reading>} read
 * @property {(asked: {arm: string, text: string, interventions?: Intervention[], tokens: number, temperature?: number,
 *   seed?: number}, onToken?: (token: Token) => void) => Promise<{pieces: string[]}>} continue at most `tokens` tokens,
 *   fewer where the text ends; temperature 0 is greedy.
 * @property {(arm: string, onProgress?: (read: number, total: number) => void) => Promise<Object>} cards of an arm's
 *   channels over test documents, for `cardOf`.
 * @property {() => Promise<void>} stop ends what runs: a reading rejects, and a
 *   continuation returns what it has, once its text is read.
 */

/**
 * The engine that runs the model in the page, in a worker.
 *
 * @param {ArrayBuffer|string} weights a file of `rwkvgate.explore.weights.pack`, or its text of `embedded`.
 * @param {{worker?: Worker, arms?: string[], cards?: Object}} [options] worker: one that runs `worker.js`, such as
 *   `workerOf(source)` where the page is a single file; arms: names that the file must hold; cards: of channels, by arm.
 * @returns {Promise<Engine>}
 */
export async function pageEngine(weights, { worker = freshWorker(), arms = [], cards = {} } = {}) {
  const waiting = new Map(); // of each question its promise's ends, and who is told on the way
  let asked = 0;
  const ask = (method, args, tell) =>
    new Promise((resolve, reject) => {
      waiting.set(++asked, { resolve, reject, tell });
      worker.postMessage({ question: asked, method, args });
    });
  worker.onmessage = ({ data: { question, told, result, error } }) => {
    const { resolve, reject, tell } = waiting.get(question);
    if (told) return tell?.(...told);
    waiting.delete(question);
    if (error === undefined) resolve(result);
    else reject(new Error(error));
  };
  worker.onerror = (event) => {
    event.preventDefault();
    for (const { reject } of waiting.values()) reject(new Error(`the page's worker failed: ${event.message}`));
    waiting.clear();
  };
  await ask("open", [weights, arms]);
  return {
    about: async () => ({ ...(await ask("about", [])), cards: Object.keys(cards) }),
    read: (wanted, onProgress) => ask("read", [wanted], onProgress),
    continue: (wanted, onToken) => ask("continue", [wanted], onToken),
    cards: async (arm) => cards[arm],
    stop: () => ask("stop", []),
  };
}

/** A worker over a single script, in which all modules of `worker.js` are bundled: it needs no file beside the page. */
export function workerOf(source) {
  return new Worker(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
}

function freshWorker() {
  return new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
}
