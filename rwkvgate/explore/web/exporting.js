// Files of what is shown: a picture, a drawing and a table.
import { colour, css } from "./colour.js";
import { layerMeans, share } from "./measures.js";
import { label, labelWidth } from "./state.js";
import { tokenLabel } from "./tokens.js";

const CELL = 14, HEAD = 44, FOOT = 110;

/** A cell of a CSV table; text that a spreadsheet would run as a formula is quoted. */
export function cell(value) {
  const text = String(value);
  const safe = typeof value === "string" && /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
  return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

/** A row for each layer and token of a reading, as CSV. */
export function table(m) {
  const { shown, reference, gate, total, values } = m;
  const means = layerMeans(shown);
  const head = ["arm", "intervention", "compared_with", "layer", "token", "piece", "measure", "value", "gate", "added_over_state", "surprisal_nats", "compared_surprisal_nats"];
  const lines = [head];
  const number = (value) => (value === undefined || Number.isNaN(value) ? "" : Number(value.toPrecision(6)));
  for (let layer = 0; layer < (means ? shown.layers : 1); layer++) {
    for (let t = 0; t < total; t++) {
      const at = layer * total + t;
      lines.push([
        m.armLabel, m.changed, reference ? m.names.reference : "", means ? label(gate, layer + 1) : "", t, shown.pieces[t],
        values.name ?? "", values.problem ? "" : number(values.data[values.rows === 1 ? t : at]),
        means ? number(means[at]) : "", means ? number(shown.letIn[at]) : "", number(shown.surprisal[t]), reference ? number(reference.surprisal[t]) : "",
      ]);
    }
  }
  return lines.map((line) => line.map(cell).join(",")).join("\r\n") + "\r\n";
}

/** The layers and tokens of the window as an SVG document. */
export function drawing(m) {
  const { data, rows, scale, name } = m.grid;
  const columns = m.stop - m.start, left = labelWidth(m.gate) + 6;
  const make = (tag, attributes, text) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const width = Math.max(left + columns * CELL + 20, 640), height = HEAD + rows * CELL + FOOT;
  const svg = make("svg", { xmlns: "http://www.w3.org/2000/svg", width, height, viewBox: `0 0 ${width} ${height}`, "font-family": "system-ui, sans-serif", "font-size": 11, fill: m.colours.text });
  svg.append(make("title", {}, `${name}: ${m.caption}`), make("rect", { width, height, fill: m.colours.ground }));
  svg.append(make("text", { x: 8, y: 18, "font-size": 13, "font-weight": 600 }, `${name}, scale ${scale.low} to ${scale.high}`), make("text", { x: 8, y: 34, fill: m.colours.soft }, m.caption));
  for (let y = 0; y < rows; y++) {
    svg.append(make("text", { x: left - 6, y: HEAD + y * CELL + 11, "text-anchor": "end" }, rows === 1 ? "" : label(m.gate, y + 1)));
    for (let t = m.start; t < m.stop; t++) {
      const fill = css(colour(share(data[y * m.total + t], scale), { ...scale, theme: m.theme }));
      svg.append(make("rect", { x: left + (t - m.start) * CELL, y: HEAD + y * CELL, width: CELL - 1, height: CELL - 1, fill }));
    }
  }
  for (let t = m.start; t < m.stop; t++) {
    const x = left + (t - m.start) * CELL + 10, y = HEAD + rows * CELL + 6;
    svg.append(make("text", { x, y, transform: `rotate(-90 ${x} ${y})`, "text-anchor": "end" }, tokenLabel(m.shown.pieces[t], 16)));
  }
  return new XMLSerializer().serializeToString(svg);
}

/** The same drawing as a PNG. */
export async function picture(m) {
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(drawing(m))}`;
  await image.decode();
  const canvas = document.createElement("canvas");
  canvas.width = 2 * image.width;
  canvas.height = 2 * image.height;
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

export function download(name, content, type) {
  const address = URL.createObjectURL(content instanceof Blob ? content : new Blob([content], { type }));
  const link = document.createElement("a");
  link.href = address;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 60000);
}
