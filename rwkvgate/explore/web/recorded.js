// The recorded engine: readings of one text that were made beforehand, for a page without a kernel and without weights.
import { unpacked } from "./numbers.js";

function bytes(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

/** `record` is what `page.recording` wrote: `about`, `readings` with their buffers and continuations, and `cards`. */
export function recordedEngine({ about, readings, cards }) {
  const key = ({ arm, text, interventions }) => JSON.stringify([arm, text, interventions.map(({ layer, channels, tokens, value, scale }) => [layer, channels, tokens, value, scale])]);
  const kept = new Map(readings.map((one) => [key(one.reading), one]));
  const find = (request) => {
    const found = kept.get(key(request));
    if (!found) throw new Error(about.limits.words);
    return found;
  };
  return {
    async about() {
      return { ...about, cards: Object.keys(cards) };
    },
    async read(request) {
      const { reading, buffers } = find(request);
      return { ...unpacked(reading, buffers.map(bytes)), seconds: 0 };
    },
    async continue(request, onToken = () => {}) {
      const { continuation } = find(request);
      continuation.forEach(onToken);
      return { pieces: continuation.map(({ piece }) => piece) };
    },
    async cards(arm) {
      return cards[arm];
    },
    async stop() {},
  };
}
