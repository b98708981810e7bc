// The channels of the chosen layer and token, and a card for a channel of one's choice.
import { button, card, fit, h, key } from "./dom.js";
import { colour, css } from "./colour.js";
import { cardOf } from "./cards.js";
import { highest, histogram, layerValues, mean, SCALES, share, shown as number } from "./measures.js";
import { label } from "./state.js";
import { readable } from "./tokens.js";

const CELL = 17;
const BINS = 20;
const LEAD = 7, TAIL = 3; // tokens of a context around its own

export function channelView(app) {
  const canvas = h("canvas", { "aria-hidden": "true" });
  const box = h("div", { class: "plot", role: "group", tabindex: "0", "aria-label": "Channels: arrow keys move, Enter chooses", "aria-describedby": `${app.id}-readout` }, canvas);
  const note = h("p", { class: "note" });
  const spread = histogramView();
  const words = h("p", { class: "words" });
  const contexts = h("ol", { class: "contexts" });
  const over = histogramView();
  const found = h("p", { class: "words" });
  const places = h("ol", { class: "contexts" });
  const documents = h("div", { class: "documents" }, h("h3", {}, "Over the test documents"), over.el, found, places);
  const all = button("All channels", () => {
    box.focus({ preventScroll: true }); // the button goes
    app.choose({ channel: null });
  });
  const { el, head } = card("channels", "Channels", box, note, spread.el, words, contexts, documents, all);
  let m = null, columns = 1;
  const at = (event) => {
    const area = canvas.getBoundingClientRect();
    const x = Math.floor(((event.clientX - area.left) / area.width) * columns);
    const channel = Math.floor((event.clientY - area.top) / CELL) * columns + Math.min(columns - 1, Math.max(0, x));
    return channel >= 0 && channel < m.gate.channels ? channel : null;
  };
  box.addEventListener("pointermove", (event) => m?.shown.gates && at(event) !== null && app.hover({ channel: at(event) }));
  box.addEventListener("pointerleave", () => app.hover(null));
  box.addEventListener("blur", () => app.hover(null));
  box.addEventListener("click", (event) => {
    const channel = m?.shown.gates ? at(event) : null;
    if (channel !== null) app.choose({ channel: channel === m.state.channel ? null : channel });
  });
  box.addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns };
    if (!m?.gate || !(event.key in steps || event.key === "Enter" || event.key === "Escape")) return;
    event.preventDefault();
    const from = m.point.channel ?? 0;
    if (event.key in steps) app.hover({ channel: Math.min(m.gate.channels - 1, Math.max(0, from + steps[event.key])) }, true);
    else app.choose({ channel: event.key === "Enter" ? from : null });
  });

  function cells() {
    const { gates, channels } = m.shown;
    const width = box.clientWidth || 300;
    columns = Math.max(1, Math.floor(width / CELL));
    const context = fit(canvas, width, Math.ceil(channels / columns) * CELL);
    const values = gates[m.point.layer - 1], wide = width / columns;
    for (let channel = 0; channel < channels; channel++) {
      const x = (channel % columns) * wide, y = Math.floor(channel / columns) * CELL;
      context.fillStyle = css(colour(share(values[m.point.token * channels + channel], SCALES.gate), { theme: m.theme }));
      context.fillRect(x, y, wide - 1, CELL - 1);
      if (channel === m.point.channel) {
        context.strokeStyle = m.colours.accent;
        context.lineWidth = 2;
        context.strokeRect(x, y + 1, wide - 1, CELL - 2);
      }
    }
  }

  function about() {
    const channel = m.point.channel, layer = m.point.layer - 1;
    const own = layerValues(m.shown, layer, channel);
    const base = m.untrained ? layerValues(m.untrained, layer, channel) : null;
    spread.draw(m, histogram(own, BINS), base && histogram(base, BINS));
    const of = channel === null ? `all ${m.gate.channels} channels` : `channel ${channel}`;
    words.textContent = `Layer ${label(m.gate, m.point.layer)}, ${of}, over this text: mean ${number(mean(own), 3)}` + (base ? `; untrained ${number(mean(base), 3)}.` : ".");
    const top = channel === null ? [] : highest(own, 5);
    contexts.replaceChildren(...top.map((t) => context(m.shown.pieces, t, own[t])));
    contexts.hidden = !top.length;
    all.hidden = m.state.channel === null;
    overDocuments(app.cardsOf(m.shown.arm), channel);
  }

  /** The channel's card, of the gate as it is, whatever is clamped. */
  function overDocuments(cards, channel) {
    const known = channel !== null && Boolean(cards?.top);
    documents.hidden = !cards;
    over.el.hidden = places.hidden = !known;
    found.textContent = cards?.top ? "Point at a channel." : cards;
    if (!known) return;
    const own = cardOf(cards, m.point.layer, channel);
    over.draw(m, own.histogram, own.untrained?.histogram);
    const read = own.documents < own.of ? `the first ${own.documents} of ${own.of}` : own.documents;
    const beside = own.untrained ? `; untrained ${number(own.untrained.mean, 3)}` : "";
    found.textContent = `${m.armLabel}, gate on, layer ${label(m.gate, m.point.layer)}, channel ${channel}, over ${read} documents (${own.tokens.toLocaleString("en")} tokens): mean ${number(own.mean, 3)}${beside}. Highest at:`;
    places.replaceChildren(...own.contexts.map(({ pieces, at, value }) => context(pieces, at, value)));
  }

  return {
    el,
    draw(model) {
      m = model;
      this.point(model);
    },
    point(model) {
      m = model;
      const there = Boolean(m.gate && m.shown.gates && m.total);
      for (const part of [box, spread.el, words]) part.hidden = !there;
      note.hidden = there;
      head.textContent = there ? `Channels of token ${m.point.token}, layer ${label(m.gate, m.point.layer)}` : "Channels";
      if (there) { cells(); about(); return; }
      contexts.hidden = documents.hidden = true;
      all.hidden = m.state.channel === null;
      note.textContent = !m.gate ? "This arm has no gate." : !m.total ? "The text is empty." : "This reading keeps no single channels.";
    },
  };
}

/** A token among those around it. */
function context(pieces, place, value) {
  const words = (from, to) => pieces.slice(Math.max(0, from), to).map(readable).join("");
  const shown = h("bdi", {}, words(place - LEAD, place), h("strong", {}, readable(pieces[place])), words(place + 1, place + 1 + TAIL));
  return h("li", {}, shown, h("span", {}, number(value)));
}

function histogramView() {
  const names = h("div", { class: "legend" }), canvas = h("canvas", { "aria-hidden": "true" });
  return {
    el: h("div", {}, names, canvas),
    draw(m, own, base) {
      names.replaceChildren(...key({ quiet: "this arm", ...(base && { line: "untrained" }) }), "height: square root of the share");
      histograms(canvas, m, own, base);
    },
  };
}

/** Shares of bins of 0 to 1: bars for this arm, a line for the untrained one. The height is a square root. */
function histograms(canvas, m, own, base) {
  const width = canvas.parentElement.clientWidth, height = 56;
  const context = fit(canvas, width, height + 14);
  const wide = width / own.length, y = (part) => height * (1 - Math.sqrt(part));
  context.fillStyle = m.colours.quiet;
  own.forEach((part, i) => context.fillRect(i * wide, y(part), wide - 1, height - y(part)));
  if (base) {
    context.strokeStyle = m.colours.text;
    context.lineWidth = 1.5;
    context.beginPath();
    base.forEach((part, i) => { context.lineTo(i * wide, y(part)); context.lineTo((i + 1) * wide, y(part)); });
    context.stroke();
  }
  context.fillStyle = m.colours.soft;
  context.font = `11px ${m.colours.font}`;
  context.fillText("0", 0, height + 12);
  context.textAlign = "right";
  context.fillText("1", width, height + 12);
}
