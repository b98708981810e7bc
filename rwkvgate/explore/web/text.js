// The text, each token on a background of its value's colour.
import { card, h } from "./dom.js";
import { css, ink, colour } from "./colour.js";
import { direction, readable } from "./tokens.js";
import { share } from "./measures.js";

export function textView(app) {
  const note = h("p", { class: "note" });
  const box = h("div", { class: "tokens", role: "listbox", tabindex: "0", "aria-label": "Tokens of the text" });
  const bar = h("div", { class: "legend" });
  const { el, head } = card("text", "The text", bar, box, note);
  let spans = [], built = null, at = null;
  const place = (event) => event.target.closest?.(".token")?.place;
  box.addEventListener("pointerover", (event) => place(event) !== undefined && app.hover({ token: place(event) }));
  box.addEventListener("pointerleave", () => app.hover(null));
  box.addEventListener("click", (event) => place(event) !== undefined && app.choose({ token: place(event) }));
  box.addEventListener("keydown", (event) => app.keys(event, { ArrowUp: "layer-", ArrowDown: "layer+" }));

  function build({ shown, start, stop }) {
    const pieces = shown.pieces.slice(start, stop);
    box.replaceChildren();
    spans = pieces.map((piece, i) => {
      const span = h("span", { class: "token", role: "option", id: `${app.id}-token-${start + i}`, "aria-selected": "false" }, readable(piece));
      span.place = start + i;
      box.append(span, "\n".repeat(piece.split("\n").length - 1));
      return span;
    });
    box.dir = direction(pieces.join(""));
  }

  return {
    el,
    focus: () => box.focus({ preventScroll: true }),
    draw(m) {
      const key = m.shown;
      if (built?.key !== key || built.start !== m.start) build(m);
      built = { key, start: m.start };
      const { problem, name, scale, data, rows } = m.values;
      note.textContent = m.shown.pieces.length ? (problem ?? "") : "The text is empty: there is no token to show.";
      note.hidden = !note.textContent;
      box.hidden = !m.shown.pieces.length;
      head.textContent = problem ? "The text" : `The text: ${name}`;
      bar.replaceChildren(...(problem ? [] : legend(scale, m.theme)));
      const line = rows === 1 ? 0 : m.point.layer - 1;
      spans.forEach((span, i) => {
        const parts = problem ? null : colour(share(data[line * m.total + m.start + i], scale), { ...scale, theme: m.theme });
        span.style.background = css(parts);
        span.style.color = parts ? ink(parts) : "";
      });
      this.point(m);
    },
    point(m) {
      at?.classList.remove("at");
      at?.setAttribute("aria-selected", "false");
      at = spans[m.point.token - m.start];
      at?.classList.add("at");
      at?.setAttribute("aria-selected", "true");
      if (at) box.setAttribute("aria-activedescendant", at.id);
      else box.removeAttribute("aria-activedescendant");
    },
  };
}

/** The scale of a measure: its ends and the colours between them. */
export function legend(scale, theme) {
  const canvas = h("canvas", { width: "120", height: "1", "aria-hidden": "true" });
  const context = canvas.getContext("2d");
  for (let x = 0; x < 120; x++) {
    const value = scale.low + ((x + 0.5) / 120) * (scale.high - scale.low);
    context.fillStyle = css(colour(share(value, scale), { ...scale, theme }));
    context.fillRect(x, 0, 1, 1);
  }
  const end = (value) => h("span", {}, `${String(value).replace("-", "−")}${scale.unit}`);
  return [end(scale.low), canvas, h("span", {}, scale.open ? "≥ " : "", `${scale.high}${scale.unit}`)];
}
