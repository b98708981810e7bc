/** Vector arithmetic of one token. Weights are float32, everything else is float64. */

/** A matrix (out, in) times a vector, four rows at once. */
export function times(matrix, x) {
  const columns = x.length;
  const rows = matrix.length / columns;
  const out = new Float64Array(rows);
  let row = 0;
  for (; row + 4 <= rows; row += 4) {
    const p = row * columns;
    const q = p + columns;
    const r = q + columns;
    const s = r + columns;
    let a = 0;
    let b = 0;
    let c = 0;
    let d = 0;
    for (let i = 0; i < columns; i++) {
      const value = x[i];
      a += matrix[p + i] * value;
      b += matrix[q + i] * value;
      c += matrix[r + i] * value;
      d += matrix[s + i] * value;
    }
    out[row] = a;
    out[row + 1] = b;
    out[row + 2] = c;
    out[row + 3] = d;
  }
  for (; row < rows; row++) {
    for (let i = 0; i < columns; i++) out[row] += matrix[row * columns + i] * x[i];
  }
  return out;
}

/** x with f(value, place) of each number: several times as fast as a typed array's own map. */
export function mapped(x, f) {
  const out = new Float64Array(x.length);
  for (let i = 0; i < out.length; i++) out[i] = f(x[i], i);
  return out;
}

export const sigmoid = (x) => 1 / (1 + Math.exp(-x));

/** (x - mean) / sqrt(variance + epsilon), in place, of the numbers from `start` to before `end`. */
export function normalise(x, epsilon, start = 0, end = x.length) {
  let mean = 0;
  for (let i = start; i < end; i++) mean += x[i];
  mean /= end - start;
  let variance = 0;
  for (let i = start; i < end; i++) variance += (x[i] - mean) ** 2;
  const scale = 1 / Math.sqrt(variance / (end - start) + epsilon);
  for (let i = start; i < end; i++) x[i] = (x[i] - mean) * scale;
}

/** x weight + bias, in place. */
export function affine(x, weight, bias) {
  for (let i = 0; i < x.length; i++) x[i] = x[i] * weight[i] + bias[i];
  return x;
}

export function layerNorm(x, weight, bias, epsilon) {
  const out = x.slice();
  normalise(out, epsilon);
  return affine(out, weight, bias);
}

/** The Euclidean norm. */
export function norm(x) {
  let squares = 0;
  for (let i = 0; i < x.length; i++) squares += x[i] * x[i];
  return Math.sqrt(squares);
}
