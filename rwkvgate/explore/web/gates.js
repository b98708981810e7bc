/**
 * The gated shift of one token: norm(h + s g shifted), its shifts and gating functions, and clamps of its values.
 *
 * docs/gates.md has the equations. A layer's past is its last hidden states, the newest first.
 */
import { layerNorm, mapped, norm, sigmoid, times } from "./arithmetic.js";

/** Positions, in tokens, around which the position features of a convolution change. */
const POSITION_SCALES = [1, 4, 16, 64, 256, 1024, 4096];

/** shifted(weights, past, position): which past states enter, by `GateConfig.shift`; a recurrent one's are results. */
const SHIFTS = {
  previous: (w, past) => past[0],
  offset: (w, past) => past[past.length - 1],
  recurrent: (w, past) => past[0],
  convolution: (w, past, position) => {
    const weight = w["gate_shift.weight"];
    const grown = w["gate_shift.position_weight"];
    const features = POSITION_SCALES.map((scale) => position / (position + scale));
    const channels = past[0].length;
    const tapWeight = (tap, i) => {
      let total = weight[tap * channels + i];
      if (grown) features.forEach((f, n) => (total += f * grown[(tap * features.length + n) * channels + i]));
      return total;
    };
    return mapped(past[0], (_, i) => past.reduce((total, state, tap) => total + tapWeight(tap, i) * state[i], 0));
  },
};

const linear = (w, name, x) => {
  const bias = w[`gating.${name}.bias`];
  return mapped(times(w[`gating.${name}.weight`], x), (y, i) => y + bias[i]);
};
const opened = (x) => mapped(x, sigmoid);

/** values(weights, h, shifted, config): the gate's values for each channel, by `GateConfig.gating`. */
const GATINGS = {
  fixed: (w, h, shifted, config) => mapped(h, () => config.value),
  sigmoid: (w, h) => opened(linear(w, "linear", h)),
  "low-rank": (w, h) => opened(linear(w, "up", times(w["gating.down.weight"], h))),
  "per-head": (w, h, shifted, config) => {
    const heads = opened(linear(w, "linear", h));
    return mapped(h, (_, i) => heads[Math.floor((i * config.heads) / h.length)]);
  },
  routing: (w, h, shifted) => {
    const other = times(w["gating.shifted.weight"], shifted);
    return opened(mapped(linear(w, "current", h), (y, i) => y + other[i]));
  },
};

/** The past states of a layer before a text. */
export function startOfGate(config, channels) {
  return Array.from({ length: config.taps ?? config.offset ?? 1 }, () => new Float64Array(channels));
}

/**
 * @param {Object} config the fields of `GateConfig`.
 * @param {Object<string, Float32Array>} w weights of the layer's gate.
 * @param {Float64Array} h
 * @param {Float64Array[]} past which takes up h.
 * @param {number} position tokens of the text before this one.
 * @param {Object[]} clamps of this layer.
 * @returns {{hidden: Float64Array, values: Float64Array, letIn: number}} letIn: norm of what is added over that of h.
 */
export function gated(config, w, h, past, position, clamps) {
  const shifted = SHIFTS[config.shift](w, past, position);
  let values = GATINGS[config.gating](w, h, shifted, config);
  for (const clamp of clamps) values = clamped(values, clamp, position);
  const scale = w.gate_scale;
  const routed = config.gating === "routing";
  const added = mapped(shifted, (state, i) => (scale ? scale[i] : 1) * values[i] * (routed ? state - h[i] : state));
  let hidden = mapped(h, (value, i) => value + added[i]);
  if (config.norm === "layer") hidden = layerNorm(hidden, w["norm.weight"], w["norm.bias"], config.norm_epsilon);
  past.pop();
  past.unshift(config.shift === "recurrent" ? hidden : h);
  return { hidden, values, letIn: norm(added) / Math.max(norm(h), Number.MIN_VALUE) };
}

function clamped(values, { channels, tokens, value, scale }, position) {
  if (tokens && !tokens.has(position)) return values;
  const each = value?.length === values.length;
  const first = each ? 0 : position * values.length;
  if (value?.length && first >= value.length) return values;
  return mapped(values, (g, i) => {
    if (channels && !channels.has(i)) return g;
    if (value === undefined) return g * scale;
    return value.length ? value[first + i] : value;
  });
}

/**
 * Interventions as each layer's clamps, in order, once the arm can have them.
 *
 * @param {import("./engine.js").Intervention[]} interventions
 * @param {Object} arm its entry in the header of a weight file.
 * @returns {Object[][]}
 * @throws {Error} names what is out of range, and what is allowed.
 */
export function clampsOf(interventions, { name, config, gate }) {
  const { num_hidden_layers: layers, hidden_size: channels } = config;
  const refuse = (message) => {
    throw new Error(message);
  };
  const within = (what, numbers, last) => {
    const bad = numbers?.find((number) => !(Number.isInteger(number) && number >= 0 && number <= last));
    if (bad !== undefined) refuse(`${what} include ${bad}; allowed are whole numbers from 0${last < Infinity ? ` to ${last}` : ""}`);
    return numbers && new Set(numbers);
  };
  if (interventions.length && !gate) refuse(`arm ${name} has no gate to change`);
  const clamps = interventions.map((one) => {
    const { value, scale, layer } = one;
    if ((value === undefined) === (scale === undefined)) refuse("exactly one of value and scale must be given");
    if (scale !== undefined && !(scale >= 0 && scale < Infinity)) refuse(`scale is ${scale}; it must be a number of at least 0`);
    const given = typeof value === "number" || value === undefined ? [] : Array.from(value);
    if (given.length % channels) refuse(`value has ${given.length} numbers; it must have one, or a multiple of ${channels}`);
    const wrong = (given.length ? given : [value ?? 0]).find((g) => !(g >= 0 && g <= 1));
    if (wrong !== undefined) refuse(`value holds ${wrong}; a gate's values must be 0 to 1`);
    if (layer != null && !(Number.isInteger(layer) && layer >= 1 && layer <= layers)) {
      refuse(`layer is ${layer}; the model has layers 1 to ${layers}`);
    }
    const chosen = { channels: within("channels", one.channels, channels - 1), tokens: within("tokens", one.tokens, Infinity) };
    return { layer, clamp: { ...chosen, value, scale } };
  });
  return Array.from({ length: layers }, (_, i) =>
    clamps.filter(({ layer }) => layer == null || layer === i + 1).map(({ clamp }) => clamp),
  );
}
