/** The weight file, which `rwkvgate.explore.weights.pack` writes: its layout is described there. */
import { sha256 } from "./sha256.js";

const MAGIC = "rwkvgat1";
const PRELUDE = 48;

/**
 * Check a weight file and read its header.
 *
 * @param {ArrayBuffer} buffer
 * @param {string[]} [wanted] arms that it must hold.
 * @returns {{header: Object, tensors: (arm: string) => Object<string, Float32Array>}} tensors by name; those that arms
 *   share are one array.
 * @throws {Error} a file that is none of ours, cut off, damaged, or of other arms.
 */
export function openWeights(buffer, wanted = []) {
  const text = (start, end) => new TextDecoder().decode(new Uint8Array(buffer, start, end - start));
  if (buffer.byteLength < PRELUDE || text(0, 8) !== MAGIC) {
    throw new Error(`this is no weight file of this version: it has ${buffer.byteLength} bytes and must begin ${MAGIC}`);
  }
  const view = new DataView(buffer);
  const body = PRELUDE + view.getUint32(8, true);
  const size = body + view.getUint32(12, true);
  if (buffer.byteLength !== size) {
    const state = buffer.byteLength < size ? "cut off" : "too long";
    throw new Error(`the weight file is ${state}: it has ${buffer.byteLength} bytes and must have ${size}`);
  }
  const digest = sha256(new Uint8Array(buffer, PRELUDE));
  if (digest.some((byte, i) => byte !== view.getUint8(16 + i))) {
    throw new Error("the weight file is damaged: its SHA-256 is not the one that it was written with");
  }
  const header = JSON.parse(text(PRELUDE, body));
  const names = header.arms.map((arm) => arm.name);
  const missing = wanted.filter((name) => !names.includes(name));
  if (missing.length) {
    throw new Error(`the weight file is of other arms: it holds ${names.join(", ")}, and not ${missing.join(", ")}`);
  }
  const arrays = new Map();
  const tensor = ({ type, offset, length }) => {
    const key = `${offset} ${length} ${type}`;
    if (!arrays.has(key)) {
      const start = body + offset;
      arrays.set(key, type === "float32" ? new Float32Array(buffer, start, length) : widened(buffer, start, length));
    }
    return arrays.get(key);
  };
  const tensors = (name) => {
    const entries = Object.entries(header.arms.find((arm) => arm.name === name).tensors);
    return Object.fromEntries(entries.map(([key, entry]) => [key, tensor(entry)]));
  };
  return { header, tensors };
}

/** The weight file in the text of `rwkvgate.explore.weights.embedded`. */
export async function unembedded(text) {
  const packed = new Uint8Array(Math.floor((text.length * 7) / 8));
  for (let i = 0, at = 0, held = 0, bits = 0; i < text.length; i++) {
    held = (held << 7) | (text.charCodeAt(i) & 127);
    bits += 7;
    if (bits < 8) continue;
    bits -= 8;
    packed[at++] = held >> bits;
    held &= (1 << bits) - 1;
  }
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  const inflated = await new Response(stream).arrayBuffer().catch(() => {
    throw new Error("the networks in this page are damaged: they cannot be unpacked; get the page again");
  });
  const halves = new Uint8Array(inflated);
  const bytes = new Uint8Array(halves.length);
  const odd = Math.ceil(halves.length / 2);
  for (let i = 0; i < odd; i++) bytes[2 * i] = halves[i];
  for (let i = odd; i < bytes.length; i++) bytes[2 * (i - odd) + 1] = halves[i];
  return bytes.buffer;
}

/** Float16 numbers as float32, by a table of all 65,536. */
function widened(buffer, start, length) {
  const halves = new Uint16Array(buffer, start, length);
  const out = new Float32Array(length);
  for (let i = 0; i < length; i++) out[i] = HALVES[halves[i]];
  return out;
}

const HALVES = Float32Array.from({ length: 65536 }, (_, bits) => {
  const sign = bits >> 15 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : (2 ** -14 * fraction) / 1024);
});
