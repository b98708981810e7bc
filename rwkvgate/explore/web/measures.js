// Numbers of readings: what the views show, on scales that never depend on the text. No DOM.

/** The ends of each measure's scale, `open` where values can lie above. They are fixed: a scale of a text's own would
 * make noise look learned. */
export const SCALES = {
  gate: { low: 0, high: 1, unit: "" },
  letin: { low: 0, high: 1, unit: "", open: true },
  change: { low: -0.5, high: 0.5, unit: "", diverging: true },
  surprisal: { low: 0, high: 12, unit: " nats", open: true },
};

const MEANS = new WeakMap();

/** Mean gate over channels, layers x tokens. A reading without channels brings its own means; without a gate: null. */
export function layerMeans(reading) {
  if (reading.means) return reading.means;
  if (!reading.gates) return null;
  if (!MEANS.has(reading)) {
    const { layers, channels } = reading;
    const tokens = reading.pieces.length;
    const means = new Float32Array(layers * tokens);
    for (let layer = 0; layer < layers; layer++) {
      const values = reading.gates[layer];
      for (let token = 0; token < tokens; token++) {
        let sum = 0;
        for (let channel = 0; channel < channels; channel++) sum += values[token * channels + channel];
        means[layer * tokens + token] = sum / channels;
      }
    }
    MEANS.set(reading, means);
  }
  return MEANS.get(reading);
}

/** One channel's gate, layers x tokens; null where the reading has no channels. */
export function channelValues(reading, channel) {
  if (!reading.gates) return null;
  const tokens = reading.pieces.length;
  const values = new Float32Array(reading.layers * tokens);
  reading.gates.forEach((gate, layer) => {
    for (let token = 0; token < tokens; token++) values[layer * tokens + token] = gate[token * reading.channels + channel];
  });
  return values;
}

/** The values of the text and of the grid: {name, scale, data} with data layers x tokens (1 x tokens for surprisal),
 * or {problem}, a sentence. `untrained` is `shown` itself where that is the untrained arm. */
export function measured(measure, channel, shown, untrained) {
  const scale = SCALES[measure];
  if (measure === "surprisal") return { name: "surprisal", scale, data: shown.surprisal, rows: 1 };
  const of = channel === null ? "mean gate over channels" : `gate of channel ${channel}`;
  const values = (reading) => (channel === null ? layerMeans(reading) : channelValues(reading, channel));
  const own = values(shown);
  if (!layerMeans(shown)) return { problem: "This arm has no gate: choose another arm, or the surprisal." };
  if (!own) return { problem: "This reading keeps no single channels: the text is too long for them, or they were not recorded." };
  if (measure === "gate") return { name: of, scale, data: own, rows: shown.layers };
  if (measure === "letin") {
    return { name: "added / state, |what the gate adds| / |h(t)|", scale, data: shown.letIn, rows: shown.layers };
  }
  if (untrained === shown) return { problem: "This is the untrained arm." };
  const base = untrained ? values(untrained) : null;
  if (!base || base.length !== own.length) {
    return { problem: "There is no untrained arm of the same shape to compare with." };
  }
  return { name: `${of}, minus the untrained gate`, scale, data: own.map((value, i) => value - base[i]), rows: shown.layers };
}

/** The place of a value on a scale: 0 to 1, or -1 to 1 on a diverging one. */
export function share(value, scale) {
  return scale.diverging ? value / scale.high : (value - scale.low) / (scale.high - scale.low);
}

/** The mean of the known values; NaN if there are none. */
export function mean(values) {
  let sum = 0, count = 0;
  for (const value of values) if (!Number.isNaN(value)) { sum += value; count++; }
  return count ? sum / count : NaN;
}

/** Shares of values in equal bins of 0 to 1; values beyond are in the last bin. */
export function histogram(values, bins = 20) {
  const counts = new Float32Array(bins);
  for (const value of values) counts[Math.min(bins - 1, Math.max(0, Math.floor(value * bins)))]++;
  return counts.map((count) => count / (values.length || 1));
}

/** The gate's values of a layer, of one channel or of all. */
export function layerValues(reading, layer, channel) {
  const gate = reading.gates?.[layer];
  if (!gate || channel === null) return gate ?? null;
  return gate.filter((_, i) => i % reading.channels === channel);
}

/** The places of the highest values, the highest first. */
export function highest(values, count) {
  return [...values.keys()].filter((i) => !Number.isNaN(values[i])).sort((a, b) => values[b] - values[a]).slice(0, count);
}

export const WINDOW = 256;

/** The window of tokens that holds a token, [start, stop). */
export function windowOf(token, total) {
  const start = Math.floor(token / WINDOW) * WINDOW;
  return [start, Math.min(start + WINDOW, total)];
}

export function shown(value, digits = 2) {
  return Number.isNaN(value) || value === undefined ? "–" : value.toFixed(digits).replace("-", "−");
}

export function signed(value, digits = 2) {
  return Number.isNaN(value) ? "–" : `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(digits)}`;
}
