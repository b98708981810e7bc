// What the user has chosen: plain values, from which interventions, words and the address follow. No DOM.
import { quoted } from "./tokens.js";

export const MEASURES = {
  gate: "the gate",
  letin: "added / state",
  change: "change from untrained",
  surprisal: "surprisal",
};

export const GATES = { on: "On", off: "Off", value: "Value", scale: "Scale", replace: "Replace" };

/** The choices at the start, from what an engine says about itself. */
export function defaults(about) {
  const first = about.arms.find((arm) => arm.gate) ?? about.arms[0];
  return {
    text: about.text ?? "",
    arm: first ? first.name : "",
    beside: about.beside ?? "", // the arm that losses and continuations are compared with; "" is the same arm with its gate on
    measure: first?.gate ? "gate" : "surprisal",
    layer: 1, // a row of the grid, from 1
    token: about.token ?? 0,
    channel: null, // null is the mean over all channels
    gate: "on",
    value: 0.5,
    scale: 1.5,
    other: Object.values(about.examples ?? {})[1] ?? "", // the text whose gates replace those of this one
    layers: "all", // which layers, channels and tokens an intervention changes: all, or the chosen one
    channels: "all",
    tokens: "all",
    length: 30,
    temperature: 0,
    seed: 0,
  };
}

const ALLOWED = {
  measure: Object.keys(MEASURES),
  gate: Object.keys(GATES),
  layers: ["all", "one"],
  channels: ["all", "one"],
  tokens: ["all", "one"],
};

const RANGES = {
  token: [0, 1e6],
  value: [0, 1],
  scale: [0, 2],
  length: [1, 200],
  temperature: [0, 2],
  seed: [0, 2 ** 31],
};

const WHOLE = ["token", "length", "seed"];

/** A whole number; NaN for anything else, null and the empty string too. */
function whole(value) {
  return value === null || value === "" || !Number.isInteger(Number(value)) ? NaN : Number(value);
}

/** A state in which every value is allowed: what is not, such as a part of a mistyped address, is the default. */
export function clean(given, about) {
  const state = { ...defaults(about) };
  const names = about.arms.map((arm) => arm.name);
  for (const [key, value] of Object.entries(given)) {
    const number = WHOLE.includes(key) ? whole(value) : value === null || value === "" ? NaN : Number(value);
    const inside = (low, high) => number >= low && number <= high;
    if ((key === "text" || key === "other") && typeof value === "string") state[key] = value;
    else if (key === "arm" && names.includes(value)) state.arm = value;
    else if (key === "beside" && (value === "" || names.includes(value))) state.beside = value;
    else if (Object.hasOwn(ALLOWED, key) && ALLOWED[key].includes(value)) state[key] = value;
    else if (Object.hasOwn(RANGES, key) && inside(...RANGES[key])) state[key] = number;
  }
  const arm = about.arms.find(({ name }) => name === state.arm);
  if (arm?.gate || arm?.later) { // of an arm that is loaded later nothing is known yet: all is kept, and looked at then
    const layer = whole(given.layer), channel = whole(given.channel);
    if (layer >= 1 && layer <= (arm.gate?.layers ?? Infinity)) state.layer = layer;
    if (channel >= 0 && channel < (arm.gate?.channels ?? Infinity)) state.channel = channel;
  }
  if (state.beside === state.arm) state.beside = "";
  return state;
}

export function gateOf(name, about) {
  return about.arms.find((arm) => arm.name === name)?.gate ?? null;
}

/** The interventions that an engine is asked for. */
export function interventions(state, about) {
  const gate = gateOf(state.arm, about);
  if (state.gate === "on" || !gate) return [];
  if (state.gate === "scale" && state.scale === 1) return [];
  const change = { off: { value: 0 }, value: { value: state.value }, scale: { scale: state.scale }, replace: { replace: state.other } }[state.gate];
  return [
    {
      layer: state.layers === "all" ? null : parseInt(label(gate, state.layer), 10),
      channels: state.channels === "all" || state.channel === null ? null : [state.channel],
      tokens: state.tokens === "all" ? null : [state.token],
      ...change,
    },
  ];
}

/** The name of a row of the grid: the layer's number, and the gate's place where a layer has two. */
export function label(gate, row) {
  return gate?.labels?.[row - 1] ?? String(row);
}

/** Pixels that the names of the grid's rows take; those of a layer with two gates name the place too. */
export function labelWidth(gate) {
  return gate?.labels?.some((one) => one.includes(" ")) ? 80 : 34;
}

/** An intervention in words: "gate on", "gate off in layer 2", "gate at 0.50 in every layer, channel 7". */
export function describe(changes) {
  if (!changes.length) return "gate on";
  return changes
    .map(({ layer, channels, tokens, value, scale, replace }) => {
      const what = replace !== undefined ? `gate of ${quoted(replace, 24)}` : scale !== undefined ? `gate × ${scale.toFixed(2)}` : value === 0 ? "gate off" : `gate at ${value.toFixed(2)}`;
      const where = [layer === null ? "in every layer" : `in layer ${layer}`];
      if (channels) where.push(`channel ${channels.join(", ")}`);
      if (tokens) where.push(`token ${tokens.join(", ")}`);
      return `${what} ${where.join(", ")}`;
    })
    .join("; ");
}

/** The part of a state that differs from the defaults, as the fragment of an address. */
export function toAddress(state, about) {
  const base = defaults(about);
  const pairs = Object.entries(state).filter(([key, value]) => value !== base[key] && value !== null);
  return new URLSearchParams(pairs.map(([key, value]) => [key, String(value)])).toString();
}

export function fromAddress(fragment) {
  return Object.fromEntries(new URLSearchParams(fragment.replace(/^#/, "")));
}

/** Undo and redo over states. */
export class History {
  constructor(state) {
    this.states = [state];
    this.place = 0;
  }

  get state() {
    return this.states[this.place];
  }

  push(state) {
    this.states = [...this.states.slice(0, this.place + 1), state].slice(-200);
    this.place = this.states.length - 1;
  }

  replace(state) {
    this.states[this.place] = state;
  }

  /** Move by -1 or 1; returns whether there was such a state. */
  move(step) {
    const there = this.states[this.place + step] !== undefined;
    if (there) this.place += step;
    return there;
  }

  can(step) {
    return this.states[this.place + step] !== undefined;
  }
}
