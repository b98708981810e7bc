// The explorer: one state, one set of readings, and views of both. An engine (see engine.js) does the reading.
import { continuationView, nextView } from "./next.js";
import { channelView } from "./channels.js";
import { controls, explanations, topBar } from "./controls.js";
import { button, enable, h } from "./dom.js";
import { download, drawing, picture, table } from "./exporting.js";
import { gridView, lossView } from "./grid.js";
import { layerMeans, measured, shown as number, windowOf } from "./measures.js";
import { clean, defaults, describe, fromAddress, gateOf, History, interventions, label, toAddress } from "./state.js";
import { textView } from "./text.js";
import { quoted, tokenLabel } from "./tokens.js";

const CACHED = 12;
const QUICK = 0.5; // seconds of a reading, under which continuations are written without being asked for
const PAUSE = 300; // milliseconds without a change, after which the address says the state

let apps = 0;

export class App {
  /** options: `address`, whether the state stands in the page's address; `state`, to begin with; `about`, what the engine
   * does not say of itself; `remember(state)`. */
  constructor(root, engine, about, options = {}) {
    about = { ...about, ...options.about };
    Object.assign(this, { root, engine, about, options, id: `gx${apps++}`, readings: new Map(), cards: new Map(), turn: 0, hovered: null, moved: false });
    const given = options.address ? { ...options.state, ...fromAddress(location.hash) } : options.state;
    this.state = clean(given ?? {}, about);
    this.history = new History(this.state);
    this.result = null;
    engine.notify = (words) => this.say(words, true);
    this.build();
    this.refresh();
  }

  build() {
    this.theme = hostTheme();
    this.controls = controls(this);
    this.top = topBar(this, {
      png: () => this.save(async (m) => [".png", await picture(m), "image/png"]),
      svg: () => this.save((m) => [".svg", drawing(m), "image/svg+xml"]),
      csv: () => this.save((m) => [".csv", table(m), "text/csv;charset=utf-8"], false),
      link: () => this.copyLink(),
      theme: () => { this.theme = this.theme === "dark" ? "light" : "dark"; this.draw(); },
    });
    this.text = textView(this);
    this.continuation = continuationView(this);
    this.channels = channelView(this);
    this.views = [this.text, gridView(this), lossView(this), this.channels, nextView(this), this.continuation];
    this.readout = h("p", { class: "readout", id: `${this.id}-readout` });
    this.caption = h("p", { class: "caption" });
    this.spoken = h("p", { class: "unseen", "aria-live": "polite" });
    this.message = h("p", { class: "message", role: "status" });
    this.again = button("Read again", () => this.refresh(), { hidden: true });
    this.extent = h("span", {});
    this.earlier = button("Earlier", () => this.turnPage(-1));
    this.later = button("Later", () => this.turnPage(1));
    this.pages = h("div", { class: "row pages" }, this.extent, this.earlier, this.later);
    this.busy = h("div", { class: "row busy", hidden: true }, h("span", { class: "progress" }, "Reading…"), button("Stop", () => this.engine.stop()));
    const [text, grid, losses, channels, next, continuation] = this.views.map((view) => view.el);
    this.root.classList.add("gx");
    this.root.replaceChildren(this.top.el, explanations(), h("div", { class: "body" },
      this.controls.el,
      h("div", { class: "views" }, h("div", { class: "sticky" }, this.readout, this.caption, h("div", { class: "row" }, this.message, this.again), this.busy), text, this.pages,
        h("div", { class: "stack" }, grid, losses, continuation), h("div", { class: "stack side-stack" }, channels, next)), this.spoken));
    this.root.addEventListener("keydown", (event) => this.shortcut(event));
    let width = 0; // a text that grows changes the height alone
    this.observer = new ResizeObserver(([{ contentRect }]) => {
      if (contentRect.width !== width) this.draw();
      width = contentRect.width;
    });
    this.observer.observe(this.root);
    this.ended = new AbortController();
    const follow = () => { this.theme = hostTheme(); this.draw(); };
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", follow, { signal: this.ended.signal });
    if (!this.options.address) return;
    const moved = () => this.change({ ...defaults(this.about), ...fromAddress(location.hash) }); // a link was pasted here
    addEventListener("hashchange", moved, { signal: this.ended.signal });
  }

  destroy() {
    this.observer.disconnect();
    this.ended.abort();
    clearTimeout(this.addressing);
    this.engine.stop();
  }

  /** Set parts of the state: a step of undo, unless only another token is looked at. */
  change(changes) {
    const state = clean({ ...this.state, ...changes }, this.about);
    if (JSON.stringify(state) === JSON.stringify(this.state)) return;
    const looks = Object.keys(state).every((key) => key === "token" || state[key] === this.state[key]) && state.tokens === "all";
    if (looks) this.history.replace(state);
    else this.history.push(state);
    this.take(state);
  }

  /** Choose a token, a layer or a channel. */
  choose(place) {
    this.hover(null);
    this.change(place);
  }

  step(by) {
    if (!this.history.move(by)) return;
    this.moved = true; // also the text field follows, even if it has the focus
    this.take(this.history.state);
    this.moved = false;
  }

  take(state) {
    const before = this.state;
    this.state = state;
    this.options.remember?.(state);
    clearTimeout(this.addressing);
    if (this.options.address) this.addressing = setTimeout(() => this.address(), PAUSE);
    this.controls.draw({ state });
    if (this.result) this.say(""); // else the words say why there is none
    const differ = (of) => JSON.stringify(of(state)) !== JSON.stringify(of(before));
    const rewrite = differ((one) => this.continuations(one));
    if (rewrite) this.forget();
    if (rewrite || differ((one) => this.requests(one))) this.refresh();
    else this.draw();
  }

  /** Write the state into the page's address. Safari throws after 100 changes in 30 seconds. */
  address() {
    clearTimeout(this.addressing);
    try { window.history.replaceState(null, "", `#${toAddress(this.state, this.about)}`); } catch { /* a later change writes it */ }
  }

  /** The readings that a state needs, by role. */
  requests(state) {
    const { text, arm } = state;
    const changes = interventions(state, this.about);
    const asked = { shown: { arm, text, interventions: changes } };
    if (state.beside || changes.length) asked.reference = { arm: state.beside || arm, text, interventions: [] };
    if (state.measure === "change" && this.control(state)) asked.untrained = this.control(state);
    return asked;
  }

  /** What the engine is asked for to continue a state's text, shown and reference. */
  continuations(state) {
    const { shown, reference } = this.requests(state);
    const { length, temperature, seed } = state;
    return [shown, reference].filter(Boolean).map((request) => ({ ...request, tokens: length, temperature, seed }));
  }

  /** The reading of the untrained gate on a state's text; null where there is none to compare with. */
  control({ arm, text }) {
    const base = this.about.untrained;
    return base && base !== arm && gateOf(arm, this.about) ? { arm: base, text, interventions: [] } : null;
  }

  /** Learn of an arm that the engine has not loaded before; what the state says of its gate is checked then. */
  async know(name) {
    const place = this.about.arms.findIndex((arm) => arm.name === name && arm.later);
    if (place < 0) return;
    this.about.arms[place] = await this.engine.arm(name);
    this.state = clean(this.state, this.about);
  }

  async refresh() {
    const turn = ++this.turn;
    if (this.waiting) this.engine.stop();
    this.wait(true);
    try {
      for (const name of [this.state.arm, this.state.beside, this.state.measure === "change" ? this.about.untrained : ""]) {
        await this.know(name);
        if (turn !== this.turn) return;
      }
      const state = this.state, result = {};
      for (const [role, request] of Object.entries(this.requests(state))) {
        result[role] = await this.read(request);
        if (turn !== this.turn) return;
      }
      this.result = result;
      this.say("");
      this.draw();
      if (result.shown.seconds < QUICK) {
        this.write();
        const control = !result.untrained && this.control(state);
        if (!control) return;
        const reading = this.know(control.arm).then(() => (turn === this.turn ? this.read(control) : null));
        result.untrained = await reading.catch(() => null); // stopped, perhaps; what is shown stands without it
        if (turn === this.turn) this.draw();
      }
    } catch (error) {
      if (turn !== this.turn) return;
      this.result = null;
      this.draw();
      this.say(sentence(error), true);
      this.again.hidden = !this.state.text;
      if (this.busy.contains(document.activeElement)) this.again.focus(); // Stop, which goes
    } finally {
      if (turn === this.turn) this.wait(false);
    }
  }

  /** The cards of an arm's channels over test documents; words while they are made; null where there are none. They are
   * asked for once a channel is chosen, for an engine may have to read the documents first. */
  cardsOf(arm) {
    if (!this.about.cards?.includes(arm) || !gateOf(arm, this.about)) return null;
    if (!this.cards.has(arm) && this.state.channel !== null) {
      const set = (cards) => { this.cards.set(arm, cards); if (this.result) this.channels.draw(this.model()); };
      this.cards.set(arm, "Reading the test documents…");
      this.engine.cards(arm, (read, total) => set(`Reading the test documents… ${read} of ${total}`)).then(set, (error) => {
        if (error.message === "stopped") this.cards.delete(arm); // it goes on at the next look
        else set(sentence(error));
      });
    }
    return this.cards.get(arm) ?? "Choose a channel to see where it is highest in the test documents.";
  }

  async read(request) {
    const key = JSON.stringify(request);
    const reading = this.readings.get(key) ?? (await this.engine.read(request, (done, total) => this.progress(done, total)));
    this.readings.delete(key);
    this.readings.set(key, reading);
    if (this.readings.size > CACHED) this.readings.delete(this.readings.keys().next().value);
    return reading;
  }

  /** Write the continuations that belong to the state, side by side. */
  async write() {
    const requests = this.continuations(this.state), turn = (this.writing = {});
    const sides = this.continuation.begin(requests.map((request) => this.name(request)), this.state.text);
    try {
      await Promise.all(requests.map(async (request, i) => {
        const add = (token) => turn === this.writing && sides[i].add(token.text ?? token.piece);
        await this.engine.continue(request, add);
        if (turn === this.writing) sides[i].end();
      }));
    } catch (error) {
      if (turn === this.writing) this.continuation.clear(sentence(error));
    }
  }

  /** Take away what was written for another state. */
  forget() {
    if (this.writing) this.engine.stop();
    this.writing = null;
    this.continuation.clear("Not written yet for these choices.");
  }

  hover(place, speak = false) {
    this.hovered = place;
    if (!this.result) return;
    const m = this.model();
    for (const view of this.views) view.point(m);
    this.tell(m);
    if (speak) this.spoken.textContent = this.readout.textContent;
  }

  /** Arrow keys in a view: along the tokens, and what `extra` names for others. */
  keys(event, extra = {}) {
    const m = this.result && this.model();
    if (!m?.total) return;
    const { token, layer } = m.point, last = m.total - 1;
    const moves = {
      ArrowLeft: { token: Math.max(0, token - 1) }, ArrowRight: { token: Math.min(last, token + 1) },
      Home: { token: 0 }, End: { token: last },
      "layer-": { layer: Math.max(1, layer - 1) }, "layer+": { layer: Math.min(m.gate?.layers ?? 1, layer + 1) },
    };
    const move = moves[extra[event.key] ?? event.key];
    if (!move || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    this.hover(null);
    this.change(move);
    this.spoken.textContent = this.readout.textContent;
  }

  shortcut(event) {
    if (!(event.ctrlKey || event.metaKey) || event.key.toLowerCase() !== "z" || event.target.matches('textarea, input[type="number"]')) return;
    event.preventDefault();
    event.stopPropagation();
    this.step(event.shiftKey ? 1 : -1);
  }

  /** Everything that the views show. */
  model() {
    const { state, about, result } = this;
    const { shown, reference, untrained } = result;
    const gate = gateOf(shown.arm, about), total = shown.pieces.length;
    const at = { ...state, ...this.hovered };
    const point = { token: Math.min(at.token, Math.max(0, total - 1)), layer: Math.min(at.layer, gate?.layers ?? 1), channel: at.channel };
    const [start, stop] = windowOf(point.token, total);
    const colours = (this.colours ??= paints(this.root));
    const values = (measure) => measured(measure, state.channel, shown, shown.arm === about.untrained ? shown : untrained);
    if (this.valuesOf?.state !== state || this.valuesOf.shown !== shown) {
      const own = values(state.measure);
      this.valuesOf = { state, shown, own, grid: state.measure === "surprisal" ? values("gate") : own };
    }
    const names = { shown: this.name(shown), reference: reference ? this.name(reference) : "" };
    const { own, grid } = this.valuesOf;
    return {
      state, about, shown, reference, untrained, gate, total, point, start, stop, colours, names, values: own, grid, theme: this.theme,
      armLabel: this.label(shown.arm), changed: describe(shown.interventions), caption: `${names.shown}. ${quoted(shown.text)}`,
    };
  }

  label(name) {
    return this.about.arms.find((arm) => arm.name === name)?.label ?? name;
  }

  /** A reading's arm and intervention in words. */
  name({ arm, interventions }) {
    return gateOf(arm, this.about) ? `${this.label(arm)}, ${describe(interventions)}` : `${this.label(arm)}, no gate`;
  }

  draw() {
    this.root.dataset.theme = this.theme;
    this.colours = null;
    this.root.classList.toggle("empty", !this.result);
    this.top.draw();
    this.controls.draw({ state: this.state });
    if (!this.result) {
      this.readout.textContent = this.caption.textContent = "";
      this.pages.hidden = true;
      return;
    }
    const m = this.model();
    for (const view of this.views) view.draw(m);
    this.tell(m);
    this.caption.textContent = m.caption;
    this.drawPages(m);
    if (document.activeElement === this.again) this.text.focus();
    this.again.hidden = true;
  }

  /** The numbers at the point, in one line. */
  tell(m) {
    const { token, layer, channel } = m.point;
    if (!m.total) { this.readout.textContent = ""; return; }
    const at = (layer - 1) * m.total + token, means = layerMeans(m.shown);
    const parts = [`Token ${token} “${tokenLabel(m.shown.pieces[token])}”`];
    if (means) {
      parts.push(`layer ${label(m.gate, layer)}`, `mean gate ${number(means[at], 3)}`, `added / state ${number(m.shown.letIn[at], 3)}`);
      if (channel !== null && m.shown.gates) parts.push(`channel ${channel}: ${number(m.shown.gates[layer - 1][token * m.shown.channels + channel], 3)}`);
    }
    if (m.shown.surprisal[token] >= 0) {
      const loss = `loss ${number(m.shown.surprisal[token], 3)} nats`;
      parts.push(m.reference ? `${loss}, compared with ${number(m.reference.surprisal[token], 3)}` : loss);
    }
    this.readout.textContent = parts.join(" · ");
  }

  /** Buttons between the windows of a long text, and how much of it was read. */
  drawPages(m) {
    const left = m.shown.left ? ` ${m.shown.left.toLocaleString("en")} more were not read.` : "";
    this.pages.hidden = m.total === m.stop - m.start && !left;
    if (this.pages.hidden) return;
    this.extent.textContent = `Tokens ${m.start.toLocaleString("en")} to ${(m.stop - 1).toLocaleString("en")} of ${m.total.toLocaleString("en")} are shown.${left}`;
    enable(this.earlier, m.start > 0);
    enable(this.later, m.stop < m.total);
  }

  turnPage(step) {
    const { start, stop, total } = this.model(), token = step < 0 ? start - 1 : stop;
    if (token >= 0 && token < total) this.choose({ token });
  }

  say(words, error = false) {
    this.message.textContent = words;
    this.message.classList.toggle("error", error);
    this.message.hidden = !words;
  }

  wait(waiting) {
    this.waiting = waiting;
    this.root.setAttribute("aria-busy", String(waiting));
    clearTimeout(this.timer);
    // What is quick needs no sign; a flicker would only disturb.
    if (waiting) this.timer = setTimeout(() => { this.busy.hidden = false; this.root.classList.add("waiting"); }, 250);
    else { this.busy.hidden = true; this.root.classList.remove("waiting"); this.progress(0, 0); }
  }

  progress(done, total) {
    const words = total ? `Reading… ${done.toLocaleString("en")} of ${total.toLocaleString("en")} tokens` : "Reading…";
    this.busy.firstElementChild.textContent = words;
  }

  async save(make, drawn = true) {
    const problem = this.result ? drawn && this.model().grid.problem : "There is no reading to export.";
    if (problem) return this.say(problem, true);
    const [ending, content, type] = await make(this.model());
    download(`gate-${this.state.measure}${ending}`, content, type);
  }

  async copyLink() {
    this.address();
    try {
      await navigator.clipboard.writeText(location.href);
      this.say("The link is copied: it opens this view.");
    } catch {
      this.say("The browser did not allow copying; the page’s address is the link.");
    }
  }
}

/** An error as a sentence to show. */
function sentence(error) {
  const words = error.message ?? String(error);
  return words.charAt(0).toUpperCase() + words.slice(1);
}

/** The theme of the notebook or editor around, else the system's. */
function hostTheme() {
  const { jpThemeLight, vscodeThemeKind } = document.body.dataset;
  if (jpThemeLight !== undefined) return jpThemeLight === "false" ? "dark" : "light";
  if (vscodeThemeKind) return vscodeThemeKind.includes("dark") ? "dark" : "light";
  return matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
}

/** The theme's colours, for canvases. */
function paints(root) {
  const style = getComputedStyle(root);
  const own = (name) => style.getPropertyValue(`--gx-${name}`).trim();
  return { text: own("text"), soft: own("soft"), line: own("line"), accent: own("accent"), quiet: own("quiet"), ground: own("ground"), font: style.fontFamily };
}

/** Show an explorer over an engine in an element; resolves once it is there. */
export async function start(root, engine, options = {}) {
  return new App(root, engine, await engine.about(), options);
}
