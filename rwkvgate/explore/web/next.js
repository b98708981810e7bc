// What the model expects after the chosen token, and how it continues the text.
import { button, card, field, h } from "./dom.js";
import { direction, tokenLabel, visible } from "./tokens.js";

const LEAD = 60; // characters of the text before a continuation

export function nextView() {
  const lists = h("div", { class: "sides" });
  const { el, head } = card("next", "Next tokens", lists);
  const side = (name, top) =>
    h("div", { class: "side" },
      h("h3", {}, name),
      h("ol", { class: "bars" }, ...top.map(({ piece, p }) => {
        const fill = h("i", { "aria-hidden": "true" });
        fill.style.width = `${100 * p}%`;
        return h("li", {}, fill, h("bdi", {}, tokenLabel(piece)), h("span", {}, `${(100 * p).toFixed(1)} %`));
      })));
  return {
    el,
    draw(m) { this.point(m); },
    point(m) {
      head.textContent = m.total ? `Next after token ${m.point.token}, “${tokenLabel(m.shown.pieces[m.point.token] ?? "")}”` : "Next tokens";
      const sides = [[m.names.shown, m.shown], ...(m.reference ? [[m.names.reference, m.reference]] : [])];
      lists.replaceChildren(...sides.map(([name, reading]) => side(name, reading.top[m.point.token] ?? [])));
    },
  };
}

export function continuationView(app) {
  const sides = h("div", { class: "sides" });
  const status = h("p", { class: "note", role: "status" });
  const run = button("Continue", () => app.write(), { class: "primary" });
  const number = (key, attributes) => {
    const input = h("input", {
      type: "number", ...attributes,
      onchange: () => input.reportValidity() && app.change({ [key]: input.value }),
      onblur: () => { input.value = app.state[key]; }, // a refused number goes
    });
    return [key, input];
  };
  const inputs = [
    number("length", { min: 1, max: 200, step: 1 }),
    number("temperature", { min: 0, max: 2, step: "any" }),
    number("seed", { min: 0, max: 2 ** 31, step: 1 }),
  ];
  const names = { length: "Tokens", temperature: "Temperature", seed: "Seed" };
  const options = h("div", { class: "row options" }, run, ...inputs.map(([key, input]) => field(names[key], input)));
  const { el } = card("continuation", "Continuation", options, sides, status);
  return {
    el,
    draw(m) {
      for (const [key, input] of inputs) {
        if (document.activeElement !== input) input.value = m.state[key];
        input.closest("label").hidden = m.about.engine === "recorded" || (key === "seed" && m.state.temperature === 0);
      }
    },
    point() {},
    /** One empty text a side, {add(text), end()}, after the end of the text read; what was there goes. */
    begin(titles, text) {
      status.textContent = "";
      const letters = [...text];
      const lead = visible(letters.slice(-LEAD).join(""));
      const before = letters.length > LEAD ? `…${lead}` : lead;
      const parts = titles.map((title) => {
        const written = h("span", {});
        const box = h("div", { class: "written", dir: direction(text) }, h("span", { class: "lead" }, before), written);
        return { written, el: h("div", { class: "side" }, h("h3", {}, title), box) };
      });
      sides.replaceChildren(...parts.map((part) => part.el));
      return parts.map(({ written }) => {
        let own = "", count = 0;
        return {
          add(piece) {
            own += piece;
            count++;
            written.textContent = visible(own);
          },
          end() {
            if (!own) written.replaceChildren(h("i", {}, count ? " No character is complete." : " It ends at once."));
          },
        };
      });
    },
    clear(words = "") {
      sides.replaceChildren();
      status.textContent = words;
    },
  };
}
