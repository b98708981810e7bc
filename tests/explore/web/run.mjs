/** node run.mjs WEIGHTS < cases > answers */
import { readFileSync, writeSync } from "node:fs";
import { PageEngine } from "../../../rwkvgate/explore/web/reading.js";
import { answers } from "./answers.js";

const weights = Uint8Array.from(readFileSync(process.argv[2])).buffer;
const engine = new PageEngine(weights);
const text = JSON.stringify(await answers(engine, engine, JSON.parse(readFileSync(0, "utf-8"))));
for (let left = Buffer.from(text); left.length; ) left = left.subarray(writeSync(1, left));
