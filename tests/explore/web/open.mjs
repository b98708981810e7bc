/** node open.mjs WEIGHTS ARM...: the arms of a weight file and its number of distinct arrays, or why it is refused. */
import { readFileSync } from "node:fs";
import { openWeights, unembedded } from "../../../rwkvgate/explore/web/weights.js";

const [path, ...wanted] = process.argv.slice(2);
try {
  const data = readFileSync(path);
  const file = path.endsWith(".txt") ? await unembedded(data.toString("utf-8")) : Uint8Array.from(data).buffer;
  const { header, tensors } = openWeights(file, wanted);
  const names = header.arms.map(({ name }) => name);
  const arrays = new Set(names.flatMap((name) => Object.values(tensors(name))));
  console.log(JSON.stringify({ names, arrays: arrays.size }));
} catch (error) {
  console.log(error.message);
}
