/** Interventions on a gate's values: the clamps of `rwkvgate/explore/interventions.py`, on one token at a time. */
import { mapped } from "./arithmetic.js";

/** Tokens that a model reads before a text: the prefix. Positions of a model count them, those of interventions do not. */
export const BEFORE = 1;

/**
 * Interventions as each layer's clamps, in order, once the arm can have them.
 *
 * @param {import("./engine.js").Intervention[]} interventions
 * @param {Object} arm its entry in the header of a weight file.
 * @param {Map<string, ?Float32Array[]>} [recorded] of each text to replace gates by, each layer's gate, as a reading has it.
 * @returns {Object[][]}
 * @throws {Error} names what is out of range, and what is allowed.
 */
export function clampsOf(interventions, { name, config, gate }, recorded = new Map()) {
  const { num_hidden_layers: layers, hidden_size: channels } = config;
  if (interventions.length && !gate) throw new Error(`arm ${name} has no gate to change`);
  const clamps = interventions.map(({ layer = null, channels: some = null, tokens = null, value = null, scale = null, replace = null }) => {
    if ([value, scale, replace].filter((one) => one !== null).length !== 1) {
      throw new Error("exactly one of value, scale and replace must be given");
    }
    if (scale !== null) checkNumbers("scale", [scale], Infinity);
    for (const row of rowsOf(value)) {
      if (row.length !== channels) throw new Error(`value has ${row.length} numbers; it must have 1 or ${channels}`);
    }
    checkNumbers("value", typeof value === "number" ? [value] : rowsOf(value).flatMap((row) => Array.from(row)), 1);
    if (layer !== null) checkWhole("layer", [layer], 1, layers);
    if (some !== null) checkWhole("channels", some, 0, channels - 1);
    if (tokens !== null) checkWhole("tokens", tokens, 0, Infinity);
    const positions = tokens && new Set(tokens.map((token) => token + BEFORE));
    const given = (i) => {
      if (replace !== null) return repeated(recorded.get(replace)[i], channels);
      return value?.[0]?.length ? (position) => value[position - BEFORE] : () => value;
    };
    return { layer, channels: some && new Set(some), positions, given, scale };
  });
  const own = (i) => clamps.filter(({ layer }) => layer === null || layer === i + 1);
  return Array.from({ length: layers }, (_, i) => own(i).map((clamp) => ({ ...clamp, given: clamp.given(i) })));
}

/** The recorded values of a position: those of a text without end, which repeats the one that was read. */
function repeated(values, channels) {
  const tokens = values.length / channels;
  return (position) => {
    if (position < BEFORE) return undefined;
    const start = ((position - BEFORE) % tokens) * channels;
    return values.subarray(start, start + channels);
  };
}

/** A gate's values, by channel, after a clamp; `position` is the model's. */
export function clamped(values, { channels, positions, given, scale }, position) {
  const value = given(position);
  if (value === undefined || (positions && !positions.has(position))) return values;
  return mapped(values, (g, i) => {
    if (channels && !channels.has(i)) return g;
    return scale === null ? (value.length ? value[i] : value) : g * scale;
  });
}

/** The rows of a value that is no single number: of all tokens together, or one a token. */
function rowsOf(value) {
  if (value === null || typeof value === "number") return [];
  return value[0]?.length ? Array.from(value) : [value];
}

function checkNumbers(what, numbers, most) {
  const bad = numbers.find((number) => !(number >= 0 && number <= most && Number.isFinite(number)));
  const allowed = most < Infinity ? `0 to ${most}` : "a finite number of at least 0";
  if (bad !== undefined) throw new Error(`${what} is ${bad}; it must be ${allowed}`);
}

function checkWhole(what, numbers, least, most) {
  const bad = numbers.find((number) => !(Number.isInteger(number) && number >= least && number <= most));
  const allowed = `whole numbers from ${least}${most < Infinity ? ` to ${most}` : ""}`;
  if (bad !== undefined) throw new Error(`${what} holds ${bad}; allowed are ${allowed}`);
}
