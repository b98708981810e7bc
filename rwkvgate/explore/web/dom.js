// Elements from plain arguments: text is only ever text.

export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "checked" || name === "disabled") element[name] = value;
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** A card: a heading, and what is shown. */
export function card(name, title, ...children) {
  const head = h("h2", {}, title);
  return { head, el: h("section", { class: `card ${name}`, "aria-label": title }, head, ...children) };
}

export function button(name, act, attributes = {}) {
  return h("button", { type: "button", onclick: act, ...attributes }, name);
}

/** Show whether a button does something now. A disabled one would lose the focus. */
export function enable(element, can) {
  element.setAttribute("aria-disabled", String(!can));
}

/** What the colours of a chart stand for: names by kind of mark, a class of app.css. */
export function key(names) {
  return Object.entries(names).map(([kind, name]) => h("span", { class: `key ${kind}` }, name));
}

/** A canvas' context, for drawing in CSS pixels at the screen's own resolution. */
export function fit(canvas, width, height) {
  const ratio = globalThis.devicePixelRatio || 1;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  canvas.style.height = `${height}px`;
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  context.clearRect(0, 0, width, height);
  return context;
}

/** A labelled control. */
export function field(name, control, hint) {
  return h("label", { class: "field" }, h("span", {}, name), control, hint ? h("small", {}, hint) : null);
}

export function choice(options, attributes = {}) {
  return h("select", attributes, ...Object.entries(options).map(([value, name]) => h("option", { value }, name)));
}

let groups = 0;

/** Radio buttons in a row. `set(value)` chooses one without calling `change`. */
export function segments(name, options, change) {
  const group = `gx-${groups++}`;
  const inputs = Object.entries(options).map(([value, text]) => {
    const input = h("input", { type: "radio", name: group, value, onchange: () => change(value) });
    return [value, input, h("label", {}, input, h("span", {}, text))];
  });
  const el = h("fieldset", { class: "segments" }, h("legend", {}, name), h("div", {}, ...inputs.map(([, , item]) => item)));
  return { el, set: (value) => inputs.forEach(([own, input]) => { input.checked = own === value; }) };
}
