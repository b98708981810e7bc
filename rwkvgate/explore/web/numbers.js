// Numbers of binary buffers, and readings made of them.

/** Half-precision floats of bytes, as a Float32Array. */
export function halves(bytes) {
  const given = new Uint16Array(aligned(bytes, 2));
  return Float32Array.from(given, half);
}

function half(bits) {
  const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

export function floats(bytes) {
  return new Float32Array(aligned(bytes, 4));
}

/** A copy that begins at a multiple of the numbers' size, as typed arrays need it. */
function aligned(bytes, size) {
  if (bytes instanceof ArrayBuffer) return bytes;
  const { buffer, byteOffset, byteLength } = bytes;
  if (byteLength % size) throw new Error("a message of the kernel is cut off");
  return buffer.slice(byteOffset, byteOffset + byteLength);
}

/** A reading of `kernel.packed`: means, let in, surprisal, ids and probabilities of the likeliest, gates. */
export function unpacked(reading, buffers) {
  const [means, letIn, surprisal, , chances] = buffers.slice(0, 5).map(floats);
  const ids = new Int32Array(aligned(buffers[3], 4));
  const { layers, channels, pieces, likeliest, ...rest } = reading;
  const tokens = pieces.length, each = tokens ? ids.length / tokens : 0;
  const top = pieces.map((_, t) => Array.from({ length: each }, (_, k) => ({ piece: likeliest[ids[t * each + k]], p: chances[t * each + k] })));
  let gates = null;
  if (buffers[5]) {
    const all = halves(buffers[5]), size = tokens * channels;
    gates = Array.from({ length: layers }, (_, layer) => all.subarray(layer * size, (layer + 1) * size));
  }
  return { ...rest, layers, channels, pieces, means: layers ? means : null, letIn, surprisal, top, gates };
}
