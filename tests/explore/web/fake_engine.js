// An engine without a model: numbers that follow from the text, so that a test can say what must be shown.

const LAYERS = 3, CHANNELS = 32;

function pieces(text) {
  return text.match(/\s?\S+|\s/gu) ?? [];
}

function value(i) {
  return Math.abs(Math.sin(i * 12.9898) * 43758.5453) % 1;
}

function changed(own, interventions, layer, token, channel) {
  let now = own;
  for (const one of interventions) {
    const hit = (one.layer === null || one.layer === layer + 1) && (!one.tokens || one.tokens.includes(token)) && (!one.channels || one.channels.includes(channel));
    if (hit) now = one.replace !== undefined ? value(token * CHANNELS + channel + one.replace.length) : one.scale === undefined ? one.value : now * one.scale;
  }
  return now;
}

/** Cards of one context, whose words a page could take for markup. */
function cards(documents) {
  const every = (value) => Array.from({ length: LAYERS }, () => Array.from({ length: CHANNELS }, () => value));
  const spread = (mean, letters) => ({ mean: every(mean), histogram: Array.from({ length: LAYERS }, () => letters.repeat(CHANNELS)) });
  const contexts = documents.map((text) => [1, ...pieces(text).map((_, i) => i)]);
  return {
    documents: 300, of: 300, tokens: 61234, pieces: pieces(documents.join(" ")), contexts, top: every(0), value: every(0.912),
    ...spread(0.437, "AAAABCHOYnsxmgXMGCBA"), untrained: spread(0.501, "AAAAAAAAGuuGAAAAAAAA"),
  };
}

/** `holds` names an arm whose readings wait until `release()` or `stop()`; other pauses take `delay` milliseconds. */
export function fakeEngine({ title = "The gate", delay = 0, holds = "", about = {} } = {}) {
  const gate = { layers: LAYERS, channels: CHANNELS, kind: "sigmoid", shift: "previous", norm: "layer" };
  const arms = [
    { name: "enhanced", label: "enhanced", gate, note: "" },
    { name: "base-tuned", label: "base-tuned", gate: null, note: "The same network, tuned for the same steps, without a gate." },
    { name: "untrained", label: "enhanced-untrained", gate, note: "" },
  ];
  const pause = () => new Promise((resolve) => setTimeout(resolve, delay));
  let stopped = 0, waiting = [];
  const letGo = () => { waiting.forEach((go) => go()); waiting = []; };
  return {
    calls: [],
    holds,
    async about() {
      return {
        engine: "page", title, vocabulary: "words", arms, limits: { tokens: 4096 }, cards: ["enhanced"], untrained: "untrained",
        text: "Once upon a time, in a distant land, there lived a baker named Mira. She kept a silver key, and her brother wanted it.",
        examples: { Story: "Once upon a time", Essay: "In the realm of artificial intelligence, a gate decides what to keep." }, ...about,
      };
    },
    async read({ arm, text, interventions }) {
      const turn = stopped;
      this.calls.push({ arm, text, interventions });
      await (arm === this.holds ? new Promise((go) => waiting.push(go)) : pause());
      if (turn !== stopped) throw new Error("stopped");
      if (text.includes("refuse")) throw new Error("This engine refuses that text.");
      const own = pieces(text), count = own.length, has = arms.find((one) => one.name === arm).gate;
      const gates = has && Array.from({ length: LAYERS }, (_, layer) =>
        Float32Array.from({ length: count * CHANNELS }, (_, i) => {
          const token = Math.floor(i / CHANNELS), channel = i % CHANNELS;
          const trained = arm === "untrained" ? 0.5 + 0.02 * (value(i) - 0.5) : 0.35 + 0.15 * layer + 0.3 * (value(i + layer) - 0.5) + 0.15 * (value(token + 7 * layer) - 0.5);
          return changed(trained, interventions, layer, token, channel);
        }));
      const off = interventions.length ? 0.7 : 0;
      return {
        arm, text, interventions, pieces: own, layers: has ? LAYERS : 0, channels: has ? CHANNELS : 0, gates,
        letIn: Float32Array.from({ length: has ? LAYERS * count : 0 }, (_, i) => (off ? 0 : 0.3 + 0.3 * value(i))),
        surprisal: Float32Array.from(own, (_, t) => (t ? 1 + 6 * value(3 * t) + off * value(t) : NaN)),
        top: own.map((_, t) => Array.from({ length: 10 }, (_, k) => ({ piece: ` ${own[(t + k + 1) % count].trim()}`, p: 0.4 * 0.6 ** k }))),
        seconds: delay / 1000,
      };
    },
    async continue({ text, interventions, tokens }, onToken) {
      const turn = stopped, written = [];
      for (let i = 0; i < tokens && turn === stopped; i++) {
        await new Promise((resolve) => setTimeout(resolve, 2));
        const piece = interventions.length ? " and" : ` ${["she", "took", "the", "key", "<b>home</b>"][i % 5]}`;
        written.push(piece);
        onToken({ piece, id: i, p: 0.5 });
      }
      return { pieces: written };
    },
    async cards(arm, onProgress) {
      onProgress(12, 300);
      await pause();
      return cards(["The <b>key</b> <img/onerror=alert(1)> was \u202ein the drawer ."]);
    },
    release() { this.holds = ""; letGo(); },
    async stop() { stopped++; letGo(); },
  };
}
