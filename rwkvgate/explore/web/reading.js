/** The page engine itself, an `Engine` over a weight file, in whichever thread it is made. */
import { mapped } from "./arithmetic.js";
import { Tokenizer } from "./bpe.js";
import { clampsOf } from "./clamps.js";
import { Network } from "./network.js";
import { openWeights } from "./weights.js";

/** Tokens of one reading at most. */
export const LIMIT = 2000;
const TOP = 10;
/** Milliseconds between two looks at what else the thread was asked, such as to stop. */
const PATIENCE = 20;
/** Readings whose last state is kept, so that a continuation does not read its text again. */
const KEPT = 8;

export class PageEngine {
  /**
   * @param {ArrayBuffer} weights
   * @param {string[]} [arms] that the file must hold.
   * @throws {Error} as `openWeights` does.
   */
  constructor(weights, arms) {
    Object.assign(this, openWeights(weights, arms), { networks: new Map(), states: new Map(), others: new Map(), stops: 0 });
    this.tokenizer = new Tokenizer(this.header.tokenizer);
  }

  /** @returns {Promise<import("./engine.js").About>} */
  async about() {
    const { title, untrained, arms, tokenizer } = this.header;
    return {
      engine: "page",
      title,
      vocabulary: `byte-level BPE of ${Object.keys(tokenizer.model.vocab).length} tokens`,
      arms: arms.map(({ name, label, note, gate, config }) => ({
        name,
        label,
        note,
        gate: gate && {
          layers: config.num_hidden_layers,
          channels: config.hidden_size,
          kind: gate.gating,
          shift: gate.shift,
          norm: gate.norm,
        },
      })),
      limits: { tokens: LIMIT },
      untrained,
    };
  }

  async read({ arm, text, interventions = [] }, onProgress) {
    const started = performance.now();
    const run = await this.begin(arm, text, interventions);
    const { ids, pieces } = run.tokens;
    const { num_hidden_layers: layers, hidden_size: channels } = run.network.config;
    const count = Math.min(ids.length, LIMIT);
    const gates = run.network.gate && Array.from({ length: layers }, () => new Float32Array(count * channels));
    const letIn = new Float32Array(layers * count);
    const surprisal = new Float32Array(count).fill(NaN);
    const top = [];
    const keep = (token, next) => {
      const { logits, watched } = next(true);
      const odds = softmax(logits);
      if (token + 1 < count) surprisal[token + 1] = -odds.log(ids[token + 1]);
      top.push(best(logits, TOP).map((id) => ({ piece: this.tokenizer.piece(id), p: Math.exp(odds.log(id)) })));
      watched.forEach(({ values, share }, layer) => {
        gates[layer].set(values, token * channels);
        letIn[layer * count + token] = share;
      });
    };
    await this.each(run, count, keep, onProgress);
    const seconds = (performance.now() - started) / 1000;
    const asked = { arm, text, interventions, pieces: pieces.slice(0, count) };
    return { ...asked, layers, channels, gates, letIn, surprisal, top, left: ids.length - count, seconds };
  }

  async continue({ arm, text, interventions = [], tokens, temperature = 0, seed = 0 }, onToken) {
    if (!(Number.isInteger(tokens) && tokens >= 1)) throw new Error(`tokens is ${tokens}; it must be at least 1`);
    if (!(temperature >= 0 && temperature < Infinity)) {
      throw new Error(`temperature is ${temperature}; it must be a number of at least 0`);
    }
    const run = await this.begin(arm, text, interventions);
    const count = run.tokens.ids.length;
    if (count > LIMIT) throw new Error(`the text has ${count} tokens; the page continues up to ${LIMIT}`);
    if (!this.states.has(run.key)) await this.each(run, count, (token, next) => next(token + 1 === count));
    let { state, logits } = this.states.get(run.key);
    state = structuredClone(state);
    const random = randomNumbers(seed);
    const characters = new TextDecoder("utf-8", { ignoreBOM: true });
    const pieces = [];
    const { stops } = this;
    while (pieces.length < tokens && this.stops === stops) {
      const odds = softmax(logits);
      const id = temperature ? drawn(logits, temperature, random()) : best(logits, 1)[0];
      if (run.arm.ends.includes(id)) break;
      const piece = this.tokenizer.piece(id);
      ({ logits } = take(run, state, id, true));
      pieces.push(piece);
      onToken?.({
        piece,
        text: characters.decode(this.tokenizer.bytes.get(id), { stream: true }),
        id,
        p: Math.exp(odds.log(id)),
      });
      await otherWork();
    }
    return { pieces };
  }

  async stop() {
    this.stops++;
  }

  /** What a reading or a continuation needs, once all of it is checked. */
  async begin(name, text, interventions) {
    const arm = this.header.arms.find((one) => one.name === name);
    if (!arm) throw new Error(`there is no arm ${name}; there are ${this.header.arms.map((one) => one.name).join(", ")}`);
    const recorded = new Map();
    for (const { replace } of interventions) if (typeof replace === "string") recorded.set(replace, await this.recorded(name, replace));
    const clamps = clampsOf(interventions, arm, recorded);
    const tokens = this.tokenizer.encode(text);
    if (!tokens.ids.length) throw new Error("the text is empty; type at least one character");
    if (!this.networks.has(name)) this.networks.set(name, new Network(arm, this.tensors(name)));
    return { arm, clamps, tokens, network: this.networks.get(name), key: JSON.stringify([name, text, interventions]) };
  }

  /** Each layer's gate over another text. */
  async recorded(arm, text) {
    if (!text) throw new Error("the other text is empty; type at least one character");
    const key = JSON.stringify([arm, text]);
    if (!this.others.has(key)) this.others.set(key, (await this.read({ arm, text })).gates);
    if (this.others.size > KEPT) this.others.delete(this.others.keys().next().value);
    return this.others.get(key);
  }

  /** After the prefix, call work(token, next) for each token, where next(wanted) reads it; keep the state at the end. */
  async each(run, count, work, onProgress) {
    const state = run.network.start();
    take(run, state, this.header.prefix, false);
    const { stops } = this;
    let [looked, logits] = [performance.now(), null];
    for (let token = 0; token < count; token++) {
      work(token, (wanted) => {
        const result = take(run, state, run.tokens.ids[token], wanted);
        logits = result.logits;
        return result;
      });
      if (performance.now() - looked < PATIENCE) continue;
      onProgress?.(token + 1, count);
      await otherWork();
      looked = performance.now();
      if (this.stops !== stops) throw new Error(`stopped after ${token + 1} of ${count} tokens`);
    }
    if (count < run.tokens.ids.length) return;
    this.states.set(run.key, { state, logits });
    if (this.states.size > KEPT) this.states.delete(this.states.keys().next().value);
  }
}

/** Read a token: its gates and, where wanted, the logits after it. */
function take({ network, clamps }, state, id, wanted) {
  const watched = [];
  const hidden = network.step(state, id, clamps, (layer, values, share) => (watched[layer] = { values, share }));
  return { logits: wanted ? network.logits(hidden) : null, watched };
}

/** Let the thread do what else it was asked. A timer would wait 4 ms. */
function otherWork() {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(null);
  });
}

/** Log probabilities of a softmax. */
function softmax(logits) {
  let [largest, total] = [-Infinity, 0];
  for (let id = 0; id < logits.length; id++) largest = Math.max(largest, logits[id]);
  for (let id = 0; id < logits.length; id++) total += Math.exp(logits[id] - largest);
  return { log: (id) => logits[id] - largest - Math.log(total) };
}

/** The ids of the largest logits, the largest first; of equals the first. */
function best(logits, count) {
  const ids = [];
  for (let id = 0; id < logits.length; id++) {
    if (ids.length === count && logits[id] <= logits[ids[count - 1]]) continue;
    let place = ids.length;
    while (place && logits[id] > logits[ids[place - 1]]) place--;
    ids.splice(place, 0, id);
    ids.length = Math.min(ids.length, count);
  }
  return ids;
}

/** The id at a share of the probability, 0 to 1, counted from the first id. */
function drawn(logits, temperature, share) {
  const odds = softmax(mapped(logits, (logit) => logit / temperature));
  let left = share;
  for (let id = 0; id < logits.length; id++) if ((left -= Math.exp(odds.log(id))) < 0) return id;
  return best(logits, 1)[0];
}

/** Random numbers from 0 to below 1, the same for the same seed (mulberry32). */
function randomNumbers(seed) {
  let state = seed | 0;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let x = Math.imul(state ^ (state >>> 15), state | 1);
    x ^= x + Math.imul(x ^ (x >>> 7), x | 61);
    return ((x ^ (x >>> 14)) >>> 0) / 2 ** 32;
  };
}
