/** The worker behind `pageEngine`: it answers one message for each question, and one for each thing told on the way. */
import { PageEngine } from "./reading.js";
import { unembedded } from "./weights.js";

let engine;

onmessage = async ({ data: { question, method, args } }) => {
  try {
    let result;
    if (method === "open") {
      const [weights, arms] = args;
      engine = new PageEngine(typeof weights === "string" ? await unembedded(weights) : weights, arms);
    } else {
      result = await engine[method](...args, (...told) => postMessage({ question, told }));
    }
    postMessage({ question, result });
  } catch (error) {
    postMessage({ question, error: error.message });
  }
};
