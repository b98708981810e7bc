// Layers down, tokens across; below, on the same columns, each token's loss.
import { card, fit, h, key } from "./dom.js";
import { colour, css } from "./colour.js";
import { mean, share, shown as number, signed, SCALES } from "./measures.js";
import { label, labelWidth } from "./state.js";
import { legend } from "./text.js";

const TALL = 120;
const GRID = "Layers (down) and tokens (across)";

/** The place under a pointer on a canvas of the window's columns by `rows` cells, right of the labels. */
function under(event, canvas, { gate, start, stop }, rows) {
  const box = canvas.getBoundingClientRect(), left = labelWidth(gate), columns = stop - start;
  const x = Math.floor(((event.clientX - box.left - left) / (box.width - left)) * columns);
  const y = Math.floor(((event.clientY - box.top) / box.height) * rows);
  return { column: Math.min(columns - 1, Math.max(0, x)), row: Math.min(rows - 1, Math.max(0, y)) };
}

function plot(name, role) {
  const canvas = h("canvas", { "aria-hidden": "true" });
  return { canvas, el: h("div", { class: "plot", role: "group", tabindex: "0", "aria-label": name, "aria-describedby": role }, canvas) };
}

export function gridView(app) {
  const { canvas, el: box } = plot("Layers and tokens: arrow keys move the point", `${app.id}-readout`);
  const bar = h("div", { class: "legend" });
  const note = h("p", { class: "note" });
  const { el, head } = card("grid", GRID, bar, box, note);
  let m = null;
  const at = (event) => {
    const { column, row } = under(event, canvas, m, m.grid.rows);
    return { token: m.start + column, layer: row + 1 };
  };
  const active = () => m && !m.grid.problem && m.total;
  box.addEventListener("pointermove", (event) => active() && app.hover(at(event)));
  box.addEventListener("pointerleave", () => app.hover(null));
  box.addEventListener("click", (event) => active() && app.choose(at(event)));
  box.addEventListener("keydown", (event) => app.keys(event, { ArrowUp: "layer-", ArrowDown: "layer+" }));

  return {
    el,
    draw(model) {
      m = model;
      const { problem, name, scale, data, rows } = m.grid;
      head.textContent = problem ? GRID : `${GRID}: ${name}`;
      box.hidden = Boolean(problem) || !m.total;
      note.textContent = problem ?? (m.total ? "" : "The text is empty: there is no token to show.");
      note.hidden = !note.textContent;
      bar.replaceChildren(...(problem ? [] : legend(scale, m.theme)));
      if (!box.hidden) paint(canvas, m, { scale, data, rows });
    },
    point(model) {
      m = model;
      if (!box.hidden) paint(canvas, m, m.grid);
    },
  };
}

function paint(canvas, m, { scale, data, rows }) {
  const width = canvas.parentElement.clientWidth, left = labelWidth(m.gate);
  const row = Math.min(26, Math.max(10, 300 / rows));
  const context = fit(canvas, width, rows * row);
  const cell = (width - left) / (m.stop - m.start);
  const gap = cell > 6 ? 1 : 0;
  for (let y = 0; y < rows; y++) {
    for (let t = m.start; t < m.stop; t++) {
      context.fillStyle = css(colour(share(data[y * m.total + t], scale), { ...scale, theme: m.theme }));
      context.fillRect(left + (t - m.start) * cell, y * row, Math.max(cell - gap, 0.5), row - 1);
    }
    context.fillStyle = y + 1 === m.point.layer ? m.colours.text : m.colours.soft;
    context.font = `${y + 1 === m.point.layer ? 600 : 400} 11px ${m.colours.font}`;
    context.textAlign = "right";
    context.textBaseline = "middle";
    context.fillText(rows === 1 ? "" : label(m.gate, y + 1), left - 8, y * row + row / 2);
  }
  context.strokeStyle = m.colours.accent;
  context.lineWidth = 2;
  const x = left + (m.point.token - m.start) * cell, y = (rows === 1 ? 0 : m.point.layer - 1) * row;
  context.strokeRect(x - 0.5, y, Math.max(cell, 3), row - 1);
}

export function lossView(app) {
  const { canvas, el: box } = plot("Loss of each token: arrow keys move the point", `${app.id}-readout`);
  const words = h("p", { class: "words" });
  const names = h("div", { class: "legend" });
  const { el } = card("losses", "Loss of each token (nats)", words, names, box);
  let m = null;
  const at = (event) => ({ token: m.start + under(event, canvas, m, 1).column });
  box.addEventListener("pointermove", (event) => m?.total && app.hover(at(event)));
  box.addEventListener("pointerleave", () => app.hover(null));
  box.addEventListener("click", (event) => m?.total && app.choose(at(event)));
  box.addEventListener("keydown", (event) => app.keys(event));

  return {
    el,
    draw(model) {
      m = model;
      words.textContent = lossWords(m);
      box.hidden = m.total < 2;
      names.replaceChildren(...key({ accent: m.names.shown, ...(m.reference && { quiet: m.names.reference }) }));
      if (!box.hidden) losses(canvas, m);
    },
    point(model) {
      m = model;
      if (!box.hidden) losses(canvas, m);
    },
  };
}

/** The mean loss, and how far the intervention or the other arm changes it. */
export function lossWords({ shown, reference, names, total }) {
  if (total < 2) return "A loss needs at least two tokens: each is predicted from those before it.";
  const own = mean(shown.surprisal);
  const words = `Mean ${number(own, 3)} nats per token`;
  if (!reference) return `${words} over the text. Compare with another network, or switch the gate off.`;
  const base = mean(reference.surprisal);
  const change = own - base;
  const reading = Math.abs(change) < 0.0005 ? "no change" : change > 0 ? "worse" : "better";
  return `${words}; ${number(base, 3)} with ${names.reference}: ${signed(change, 3)}, ${reading} on this text.`;
}

function losses(canvas, m) {
  const width = canvas.parentElement.clientWidth, left = labelWidth(m.gate);
  const context = fit(canvas, width, TALL + 4);
  const high = SCALES.surprisal.high, cell = (width - left) / (m.stop - m.start);
  const y = (value) => 2 + TALL * (1 - Math.min(value, high) / high);
  context.font = `11px ${m.colours.font}`;
  context.textAlign = "right";
  context.textBaseline = "middle";
  for (const tick of [0, 4, 8, 12]) {
    context.fillStyle = m.colours.line;
    context.fillRect(left, Math.round(y(tick)), width - left, 1);
    context.fillStyle = m.colours.soft;
    context.fillText(tick === high ? `≥ ${tick}` : String(tick), left - 8, Math.min(TALL - 2, Math.max(8, y(tick))));
  }
  if (m.reference) {
    context.fillStyle = m.colours.quiet;
    for (let t = m.start; t < m.stop; t++) {
      const value = m.reference.surprisal[t];
      if (value >= 0) context.fillRect(left + (t - m.start) * cell, y(value), Math.max(cell - (cell > 6 ? 1 : 0), 0.5), y(0) - y(value));
    }
  }
  context.fillStyle = m.colours.accent;
  for (let t = m.start; t < m.stop; t++) {
    const value = m.shown.surprisal[t];
    if (value >= 0) context.fillRect(left + (t - m.start) * cell, y(value) - 1, Math.max(cell - (cell > 6 ? 1 : 0), 1), 2.5);
  }
  context.strokeStyle = m.colours.accent;
  context.strokeRect(left + (m.point.token - m.start) * cell - 0.5, 1, Math.max(cell, 3), TALL + 1);
}
