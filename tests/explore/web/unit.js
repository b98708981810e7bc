// What needs no browser: states, words, measures, colours, tokens, tables.
import { colour, ink, luminance } from "./colour.js";
import { cardOf } from "./cards.js";
import { cell } from "./exporting.js";
import { channelValues, highest, histogram, layerMeans, mean, measured, SCALES, share, windowOf } from "./measures.js";
import { clean, defaults, describe, fromAddress, History, interventions, labelWidth, toAddress } from "./state.js";
import { floats, halves } from "./numbers.js";
import { direction, quoted, readable, tokenLabel, visible } from "./tokens.js";

const gate = { layers: 3, channels: 2 };
const about = { arms: [{ name: "base", gate: null }, { name: "a", gate }, { name: "b", gate: { ...gate, labels: ["1 time", "1 channel", "2 time"] } }], text: "Once" };
const reading = (shift = 0) => ({
  layers: 3, channels: 2, pieces: ["x", "y"], letIn: new Float32Array(6), surprisal: Float32Array.of(NaN, 2),
  gates: [0, 1, 2].map((layer) => Float32Array.of(0.1, 0.3, 0.5, 0.7).map((value) => value + shift + layer / 10)),
});

export function run(assert) {
  // States: an address gives the same state, and what it has of nonsense is the default.
  const start = defaults(about);
  assert.deepEqual([defaults({ ...about, token: 7, beside: "b" }).token, toAddress(clean({ token: 0 }, { ...about, token: 7 }), { ...about, token: 7 })], [7, "token=0"]);
  assert.equal(start.arm, "a");
  const chosen = clean({ text: "é & = # </script>\u2028", layer: "2", channel: "0", gate: "scale", scale: "1.25", layers: "one", token: "1" }, about);
  assert.deepEqual(clean(fromAddress(`#${toAddress(chosen, about)}`), about), chosen);
  assert.equal(toAddress(start, about), "");
  const bad = { arm: "none", layer: "9", channel: "2", token: "1.5", value: "7", gate: "ajar", measure: "constructor", length: "", seed: "x", other: 1, __proto__: null };
  assert.deepEqual(clean(bad, about), start);
  assert.deepEqual(clean(fromAddress("#constructor=1&__proto__=1&toString=1"), about), start);
  assert.equal(clean({ channel: null }, about).channel, null);
  assert.equal(clean({ arm: "b", beside: "b" }, about).beside, "");
  const later = { ...about, arms: [...about.arms, { name: "c", gate: null, later: true }] }; // not loaded: its gate is not known
  const kept = clean({ ...start, arm: "c", layer: 3, channel: 1 }, later);
  assert.deepEqual([kept.layer, kept.channel, clean({ arm: "c", layer: -1, channel: 0.5 }, later).layer], [3, 1, 1]);
  later.arms[3] = { name: "c", gate: { layers: 2, channels: 2 } };
  assert.deepEqual([clean(kept, later).layer, clean(kept, later).channel], [1, 1]);

  assert.ok(labelWidth(about.arms[2].gate) > labelWidth(gate));

  // Interventions and their words.
  assert.equal(defaults({ arms: about.arms.slice(0, 1) }).measure, "surprisal");
  assert.deepEqual(interventions(start, about), []);
  assert.deepEqual(interventions({ ...chosen, arm: "base" }, about), []);
  assert.deepEqual(interventions(chosen, about), [{ layer: 2, channels: null, tokens: null, scale: 1.25 }]);
  assert.deepEqual(interventions({ ...start, arm: "b", gate: "off", layers: "one", layer: 3, channel: 1, channels: "one", tokens: "one", token: 4 }, about), [{ layer: 2, channels: [1], tokens: [4], value: 0 }]);
  assert.equal(describe([]), "gate on");
  assert.equal(describe([{ layer: null, channels: null, tokens: null, value: 0 }]), "gate off in every layer");
  assert.equal(describe([{ layer: 2, channels: [7], tokens: [3], scale: 0.5 }]), "gate × 0.50 in layer 2, channel 7, token 3");

  const replaced = clean({ ...start, gate: "replace", other: "A fox & <b>" }, about);
  assert.deepEqual(interventions(replaced, about), [{ layer: null, channels: null, tokens: null, replace: "A fox & <b>" }]);
  assert.equal(describe(interventions(replaced, about)), "gate of “A fox & <b>” in every layer");
  assert.deepEqual(clean(fromAddress(`#${toAddress(replaced, about)}`), about), replaced);

  const history = new History(1);
  history.push(2);
  history.push(3);
  assert.ok(history.move(-1) && history.move(-1) && !history.move(-1) && history.state === 1);
  history.push(4);
  assert.ok(!history.can(1) && history.can(-1) && history.state === 4);
  history.replace(5);
  assert.ok(history.state === 5 && history.move(-1) && history.state === 1);

  // Measures stand on scales that no text changes.
  const own = reading();
  assert.deepEqual([...layerMeans(own)].map((x) => +x.toFixed(3)), [0.2, 0.6, 0.3, 0.7, 0.4, 0.8]);
  assert.deepEqual([...channelValues(own, 1)].map((x) => +x.toFixed(3)), [0.3, 0.7, 0.4, 0.8, 0.5, 0.9]);
  for (const shift of [0, 0.001]) assert.equal(measured("gate", null, reading(shift), null).scale, SCALES.gate);
  const change = measured("change", null, reading(0.1), own);
  assert.ok(change.data.every((value) => Math.abs(value - 0.1) < 1e-6) && share(0.25, change.scale) === 0.5);
  assert.match(measured("change", null, own, null).problem, /no untrained arm/);
  assert.match(measured("change", null, own, own).problem, /is the untrained arm/);
  assert.match(measured("gate", null, { ...own, gates: null }, null).problem, /has no gate/);
  assert.match(measured("gate", 1, { ...own, gates: null, means: new Float32Array(6) }, null).problem, /no single channels/);
  assert.equal(measured("surprisal", null, { ...own, gates: null }, null).rows, 1);
  assert.equal(mean([NaN, 1, 3]), 2);
  assert.ok(Number.isNaN(mean([])));
  assert.deepEqual([...histogram([0, 0.4, 1, 1.7], 2)], [0.5, 0.5]);
  assert.deepEqual(highest([1, NaN, 3, 2], 2), [2, 3]);
  assert.deepEqual(windowOf(300, 600), [256, 512]);
  assert.deepEqual(windowOf(0, 0), [0, 0]);

  // Cards: two gates of two channels; the second channel of the second gate is highest in one place alone.
  const packed = {
    documents: 2, of: 3, tokens: 9, pieces: ["a", "<b>", "c"], contexts: [[1, 0, 1, 2], [0, 2]],
    top: [[0, 1, 1, -1], [0, -1, 1, -1]], value: [[0.9, 0.8, 0.7, 0], [0.6, 0, 0.5, 0]], mean: [[0.1, 0.2], [0.3, 0.4]],
    histogram: ["A/gA", "/AgA"], untrained: { mean: [[0.5, 0.5], [0.5, 0.6]], histogram: ["AAAA", "AAA/"] },
  };
  const own4 = cardOf(packed, 2, 1);
  assert.deepEqual(own4.contexts, [{ pieces: ["c"], at: 0, value: 0.5 }]);
  assert.deepEqual([own4.mean, own4.histogram.map((x) => +x.toFixed(2)), own4.untrained], [0.4, [0.26, 0], { mean: 0.6, histogram: [0, 1] }]);
  assert.deepEqual(cardOf(packed, 1, 0).contexts[0], { pieces: ["a", "<b>", "c"], at: 1, value: 0.9 });
  assert.equal(cardOf({ ...packed, untrained: null }, 1, 0).untrained, null);

  // Colours: equal steps of lightness, legible ink on each, nothing for NaN.
  for (const theme of ["light", "dark"]) {
    for (const diverging of [false, true]) {
      const shares = Array.from({ length: 21 }, (_, i) => (diverging ? i / 10 - 1 : i / 20));
      const levels = shares.map((one) => luminance(colour(one, { theme, diverging })));
      for (const [i, level] of levels.entries()) {
        const text = ink(colour(shares[i], { theme, diverging })) === "#000" ? 0 : 1;
        assert.ok((Math.max(level, text) + 0.05) / (Math.min(level, text) + 0.05) >= 4.5);
        if (i && !diverging) assert.ok((level - levels[i - 1]) * (theme === "light" ? -1 : 1) > 0);
      }
    }
  }
  assert.equal(colour(NaN), null);
  assert.deepEqual(colour(7), colour(1));

  // Tokens: nothing acts unseen.
  assert.equal(readable("  "), "··");
  assert.equal(readable("\u0301"), "◌\u0301");
  assert.equal(readable("a\u202eb\x07"), "a□b□");
  assert.equal(readable("\n"), "⏎");
  assert.equal(readable("👩\u200d👩"), "👩\u200d👩");
  assert.equal(tokenLabel(" a\n"), "·a⏎");
  assert.equal([...tokenLabel("😀".repeat(50))].length, 24);
  assert.equal(visible("a\u202eb\n\tc"), "a□b\n\tc");
  assert.equal(direction("في قديم a"), "rtl");
  assert.equal(direction("123"), "ltr");
  assert.equal(quoted(""), "no text");

  // Numbers of buffers, wherever they begin.
  const bytes = new Uint8Array([9, 0x00, 0x3c, 0x00, 0x38, 0x01, 0x00, 0x00, 0x7e, 0x00, 0xc0]);
  assert.deepEqual([...halves(bytes.subarray(1))], [1, 0.5, 2 ** -24, NaN, -2]);
  assert.throws(() => floats(bytes.subarray(0, 3)), /cut off/);

  // Tables: quoted where it must be, and no formula.
  assert.equal(cell('a"b,c'), '"a""b,c"');
  assert.equal(cell("=1+1"), "'=1+1");
  assert.equal(cell(-0.5), "-0.5");
}
