// The controls: text, arm, measure, and the gate's switch.
import { button, choice, enable, field, h, segments } from "./dom.js";
import { GATES, gateOf, label, MEASURES } from "./state.js";

const STEP = 0.05; // of the slider
const PAUSE = 400; // milliseconds without a key, after which the text is read

export function controls(app) {
  const { about } = app;
  const recorded = about.engine === "recorded";
  let timer = 0;
  const text = h("textarea", { rows: "2", spellcheck: "false", dir: "auto", readonly: recorded });
  const other = h("textarea", { rows: "3", spellcheck: "false", dir: "auto", onchange: () => app.change({ other: other.value }) });
  const others = field("Replace the gate by its values on this text", other);
  const take = () => { clearTimeout(timer); if (text.value !== app.state.text) app.change({ text: text.value, token: 0 }); };
  text.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(take, PAUSE); });
  text.addEventListener("change", take);
  const examples = Object.entries(about.examples ?? {}).map(([name, one]) => button(name, () => app.change({ text: one, token: 0 })));
  const names = Object.fromEntries(about.arms.map((arm) => [arm.name, arm.label]));
  const select = (key, options) => {
    const own = choice(options, { onchange: () => app.change({ [key]: own.value }) });
    return own;
  };
  const arm = select("arm", names);
  const beside = select("beside", { "": "the same arm, gate on", ...names });
  const measure = select("measure", MEASURES);
  const gate = segments("Gate", recorded ? { on: "On", off: "Off", value: "Open" } : GATES, (value) =>
    app.change(recorded && value === "value" ? { gate: value, value: 1 } : { gate: value }));
  const slider = h("input", { type: "range", min: 0, max: 1, step: STEP });
  const output = h("output", {});
  slider.addEventListener("input", () => { output.textContent = words(); });
  slider.addEventListener("change", () => app.change({ [app.state.gate]: Number(slider.value).toFixed(2) }));
  const words = () => (app.state.gate === "scale" ? `× ${Number(slider.value).toFixed(2)}` : Number(slider.value).toFixed(2));
  const sliderName = h("span", {});
  const amount = h("label", { class: "field slider" }, sliderName, slider, output);
  const scope = {
    layers: segments("Layers", { all: "Every", one: "Chosen" }, (value) => app.change({ layers: value })),
    channels: segments("Channels", { all: "Every", one: "Chosen" }, (value) => app.change({ channels: value })),
    tokens: segments("Tokens", { all: "Every", one: "Chosen" }, (value) => app.change({ tokens: value })),
  };
  const where = h("p", { class: "note" });
  const note = h("p", { class: "note" });
  const intervention = h("div", { class: "intervention" }, gate.el, amount, others, scope.layers.el, scope.channels.el, scope.tokens.el, where);
  const el = h("div", { class: "controls" },
    h("div", { class: "field" }, field("Text", text, recorded ? about.limits.words : null),
      examples.length && !recorded ? h("div", { class: "row", role: "group", "aria-label": "Examples" }, ...examples) : null),
    field("Network (arm)", arm), note, intervention, field("Compare with", beside), field("Colour by", measure));
  return {
    el,
    draw(m) {
      const { state } = m;
      if (document.activeElement !== text || app.moved) text.value = state.text;
      for (const [control, key] of [[arm, "arm"], [beside, "beside"], [measure, "measure"]]) control.value = state[key];
      for (const option of beside.options) option.hidden = option.disabled = option.value === state.arm;
      note.textContent = about.arms.find((one) => one.name === state.arm)?.note ?? "";
      note.hidden = !note.textContent;
      gate.set(state.gate);
      for (const key of ["layers", "channels", "tokens"]) {
        scope[key].set(state[key]);
        scope[key].el.hidden = state.gate === "on" || (recorded && key !== "layers") || (key === "channels" && state.channel === null);
      }
      amount.hidden = recorded || !["value", "scale"].includes(state.gate);
      others.hidden = state.gate !== "replace";
      if (document.activeElement !== other || app.moved) other.value = state.other;
      const scaled = state.gate === "scale";
      sliderName.textContent = scaled ? "Multiply the gate by" : "Set the gate to";
      const amountNow = scaled ? state.scale : state.value, steps = amountNow / STEP;
      slider.max = scaled ? 2 : 1;
      slider.step = Math.abs(steps - Math.round(steps)) < 1e-6 ? STEP : "any"; // a link may name any number
      slider.value = amountNow;
      output.textContent = words();
      const own = gateOf(state.arm, about);
      intervention.hidden = !own;
      const chosen = [
        state.layers === "one" && own ? `layer ${parseInt(label(own, state.layer), 10)}` : null,
        state.channels === "one" && state.channel !== null ? `channel ${state.channel}` : null,
        state.tokens === "one" ? `token ${state.token}` : null,
      ].filter(Boolean);
      where.textContent = state.gate !== "on" && chosen.length ? `Chosen: ${chosen.join(", ")}. Click on another in a view.` : "";
      where.hidden = !where.textContent;
    },
  };
}

/** What stands on top: the title, undo, theme, export, link, and the explanations. */
export function topBar(app, actions) {
  const undo = button("Undo", () => app.step(-1)), redo = button("Redo", () => app.step(1));
  const save = h("details", { class: "menu" }, h("summary", {}, "Export"), h("div", {},
    button("Picture, PNG", actions.png), button("Drawing, SVG", actions.svg), button("Table, CSV", actions.csv)));
  save.addEventListener("click", (event) => { if (event.target.tagName === "BUTTON") save.open = false; });
  const link = app.options.address ? button("Copy link", actions.link) : null;
  const theme = button("Theme", actions.theme, { "aria-label": "Theme: change between light and dark" });
  const el = h("header", { class: "top" },
    h("div", {}, h("h1", {}, app.about.title)),
    h("div", { class: "row actions" }, undo, redo, link, save, theme));
  return { el, draw() { enable(undo, app.history.can(-1)); enable(redo, app.history.can(1)); } };
}

export function explanations() {
  const part = (title, ...lines) => h("div", {}, h("h2", {}, title), ...lines.map((line) => h("p", {}, line)));
  return h("details", { class: "about" }, h("summary", {}, "What is this?"), h("div", { class: "parts" },
    part("The gate", "After each layer, part of the hidden state of the token before is added to that of this token: h(t) ← LayerNorm(h(t) + g(t) · h(t−1)). The gate g(t) has a value between 0 and 1 for each channel, computed from h(t). At 0 nothing of the previous token enters, at 1 all of it. An untrained gate lies around one half."),
    part("The paper’s claim", "Enhancing RWKV-based Language Models for Long-Sequence Text Generation (arXiv 2502.15485) reports that the gate nearly doubles ROUGE-L, and says that it captures long-range dependencies and attends to syntactic boundaries."),
    part("What you can test", "Switch the gate off, or set it to a value, and compare the loss of each token and the continuation. Clamping a trained gate to 0 breaks what the network was tuned with; whether a gate helps is seen against base-tuned: the same network without a gate, tuned alike. One text is an example, not a measurement: the tables of the README measure over test documents and seeds."),
    part("How to read it", "Colours span 0 to 1, whatever the text: a gate that has learned little looks flat. A loss is −ln p of a token, in nats; lower is better. Click a token, a layer or a channel to choose it; the arrow keys move within a view.")));
}
