/** node open.mjs WEIGHTS ARM...: the arms of a weight file and its number of distinct arrays, or why it is refused. */
import { readFileSync } from "node:fs";
import { openWeights } from "../../../rwkvgate/explore/web/weights.js";

const [path, ...wanted] = process.argv.slice(2);
try {
  const { header, tensors } = openWeights(Uint8Array.from(readFileSync(path)).buffer, wanted);
  const names = header.arms.map(({ name }) => name);
  const arrays = new Set(names.flatMap((name) => Object.values(tensors(name))));
  console.log(JSON.stringify({ names, arrays: arrays.size }));
} catch (error) {
  console.log(error.message);
}
