// Cards of channels over test documents, as `cards.py` packs them for each arm. No DOM.

const LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/** How a channel's gate is spread: its mean, and shares of equal bins of 0 to 1. */
function spread({ mean, histogram }, gate, channel) {
  const bins = histogram[gate].length / mean[gate].length;
  const letters = histogram[gate].slice(channel * bins, (channel + 1) * bins);
  return { mean: mean[gate][channel], histogram: Array.from(letters, (letter) => (LETTERS.indexOf(letter) / 63) ** 2) };
}

/** The card of a channel: its spread, the untrained gate's or null, and its contexts, the highest value first.
 * `layer` is a row of the grid, from 1. */
export function cardOf(cards, layer, channel) {
  const gate = layer - 1, each = cards.top[gate].length / cards.mean[gate].length;
  const contexts = Array.from({ length: each }, (_, i) => channel * each + i)
    .filter((place) => cards.top[gate][place] >= 0)
    .map((place) => {
      const [at, ...ids] = cards.contexts[cards.top[gate][place]];
      return { pieces: ids.map((id) => cards.pieces[id]), at, value: cards.value[gate][place] };
    });
  const { documents, of, tokens, untrained } = cards;
  return { documents, of, tokens, contexts, ...spread(cards, gate, channel), untrained: untrained && spread(untrained, gate, channel) };
}
