/**
 * RWKV-6 and its gates, one token at a time from a state: the equations of `rwkvgate/rwkv6` and `rwkvgate/gate`.
 *
 * Weights are float32; activations and the state are float64, which costs nothing here. Names are the model's.
 */
import { affine, layerNorm, mapped, normalise, sigmoid, times } from "./arithmetic.js";
import { gated, startOfGate } from "./gates.js";

const MIXES = ["w", "k", "v", "r", "g"];
/** Epsilon of the last norm, torch's default. */
const FINAL_EPSILON = 1e-5;

const sum = (x, y) => mapped(x, (value, i) => value + y[i]);
const difference = (x, y) => mapped(x, (value, i) => value - y[i]);
/** x moved by a share of delta. */
const moved = (x, delta, share) => mapped(x, (value, i) => value + delta[i] * share[i]);
const normed = (x, weights, name, epsilon) => layerNorm(x, weights[`${name}.weight`], weights[`${name}.bias`], epsilon);

export class Network {
  /**
   * @param {Object} arm the arm's entry in the header of a weight file.
   * @param {Object<string, Float32Array>} tensors
   */
  constructor(arm, tensors) {
    Object.assign(this, { config: arm.config, gate: arm.gate, tensors });
    const below = (all, prefix) => {
      const own = Object.entries(all).filter(([name]) => name.startsWith(prefix));
      return Object.fromEntries(own.map(([name, values]) => [name.slice(prefix.length), values]));
    };
    this.layers = Array.from({ length: arm.config.num_hidden_layers }, (_, layer) => {
      const norms = below(tensors, `blocks.${layer}.`);
      const [attention, feedForward, gate] = ["attention.", "feed_forward.", "gated_shift."].map((part) => below(norms, part));
      return { norms, attention, feedForward, gate };
    });
  }

  /** The state before a text. */
  start() {
    const { hidden_size: channels, head_size: size } = this.config;
    const layers = this.layers.map((w) => ({
      attention: new Float64Array(channels),
      wkv: new Float64Array(w.attention.time_faaaa.length * size),
      feedForward: new Float64Array(channels),
      gate: this.gate && startOfGate(this.gate, channels),
    }));
    return { seen: 0, layers };
  }

  /**
   * Read a token, changing the state.
   *
   * @param {Object} state
   * @param {number} id
   * @param {Object[][]} [clamps] of each layer, from `clampsOf`.
   * @param {(layer: number, values: Float64Array, letIn: number) => void} [watch] sees each layer's gate, and the norm
   *   of what it adds over that of the state that it is added to.
   * @returns {Float64Array} the last hidden state.
   */
  step(state, id, clamps, watch) {
    const { hidden_size: channels, layer_norm_epsilon: epsilon } = this.config;
    let hidden = Float64Array.from(this.tensors["embeddings.weight"].subarray(id * channels, (id + 1) * channels));
    this.layers.forEach(({ norms, attention, feedForward, gate }, layer) => {
      const past = state.layers[layer];
      if (layer === 0) hidden = normed(hidden, norms, "pre_ln", epsilon);
      hidden = sum(hidden, this.attention(attention, normed(hidden, norms, "ln1", epsilon), past));
      hidden = sum(hidden, this.feedForward(feedForward, normed(hidden, norms, "ln2", epsilon), past));
      if (!this.gate) return;
      const result = gated(this.gate, gate, hidden, past.gate, state.seen, clamps?.[layer] ?? []);
      hidden = result.hidden;
      watch?.(layer, result.values, result.letIn);
    });
    state.seen++;
    return normed(hidden, this.tensors, "ln_out", FINAL_EPSILON);
  }

  /** Logits over the next token, from the last hidden state. */
  logits(hidden) {
    return times(this.tensors["head.weight"], hidden);
  }

  /** Time mixing. */
  attention(w, x, past) {
    const delta = difference(past.attention, x);
    past.attention = x;
    const z = mapped(times(w.time_maa_w1, moved(x, delta, w.time_maa_x)), Math.tanh);
    const rank = z.length / MIXES.length;
    const size = rank * x.length;
    const [forDecay, key, value, receptance, gate] = MIXES.map((name, i) => {
      const map = w.time_maa_w2.subarray(i * size, (i + 1) * size);
      return moved(x, delta, sum(times(map, z.subarray(i * rank, (i + 1) * rank)), w[`time_maa_${name}`]));
    });
    const decay = times(w.time_decay_w2, mapped(times(w.time_decay_w1, forDecay), Math.tanh));
    const out = this.wkv(
      times(w["receptance.weight"], receptance),
      times(w["key.weight"], key),
      times(w["value.weight"], value),
      mapped(decay, (shift, i) => Math.exp(-Math.exp(w.time_decay[i] + shift))),
      w.time_faaaa,
      past.wkv,
    );
    affine(out, w["ln_x.weight"], w["ln_x.bias"]);
    const open = times(w["gate.weight"], gate);
    return times(w["output.weight"], mapped(out, (value, i) => value * open[i] * sigmoid(open[i])));
  }

  /** The WKV operator, each head normalised; the state is (head, key channel, value channel). */
  wkv(r, k, v, w, u, state) {
    const { head_size: size, group_norm_epsilon: epsilon } = this.config;
    const out = new Float64Array(v.length);
    for (let head = 0; head < v.length; head += size) {
      for (let i = head; i < head + size; i++) {
        const row = i * size - head;
        const [read, write, keep] = [r[i], k[i], w[i]];
        const bonus = u[i] * write;
        for (let j = head; j < head + size; j++) {
          out[j] += read * (state[row + j] + bonus * v[j]);
          state[row + j] = keep * state[row + j] + write * v[j];
        }
      }
      normalise(out, epsilon, head, head + size);
    }
    return out;
  }

  /** Channel mixing. */
  feedForward(w, x, past) {
    const delta = difference(past.feedForward, x);
    past.feedForward = x;
    const key = mapped(times(w["key.weight"], moved(x, delta, w.time_maa_k)), (value) => Math.max(value, 0) ** 2);
    const receptance = times(w["receptance.weight"], moved(x, delta, w.time_maa_r));
    return mapped(times(w["value.weight"], key), (value, i) => value * sigmoid(receptance[i]));
  }
}
