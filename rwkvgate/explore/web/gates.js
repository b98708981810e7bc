/**
 * The gated shift of one token: norm(h + s g shifted), with its shifts and gating functions.
 *
 * docs/gates.md has the equations. A layer's past is its last hidden states, the newest first.
 */
import { layerNorm, mapped, norm, sigmoid, times } from "./arithmetic.js";
import { clamped } from "./clamps.js";

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
 * @param {number} position tokens that were read before this one.
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
