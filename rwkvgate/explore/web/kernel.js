// The kernel engine: an engine (see engine.js) over the messages of a widget's model.
import { unpacked } from "./numbers.js";

const SILENCE = 15000; // milliseconds after which a kernel that does not answer is spoken of

/** `model` has `get`, `send` and `on`, as anywidget's has. `engine.notify(words)` is called when the kernel falls silent,
 * and with "" when it answers again. */
export function kernelEngine(model, silence = SILENCE) {
  const waiting = new Map();
  let last = Math.floor(Math.random() * 2 ** 50); // every view of the model hears all answers, and knows its own
  const onMessage = (message, buffers) => waiting.get(message?.id)?.(message, buffers ?? []);
  model.on("msg:custom", onMessage);

  let silent = false; // what else is said, such as a refusal, stays when another answer comes
  const fallSilent = () => {
    silent = true;
    engine.notify("The kernel does not answer. It is busy with another cell, or stopped: then run this cell again.");
  };

  function send(content) {
    const answer = waiting.get(content.id);
    clearTimeout(answer.timer);
    answer.timer = setTimeout(fallSilent, silence);
    model.send(content);
  }

  /** Ask, and ask for more until all is there; `part` is called with each part. */
  function ask(content, part = () => {}) {
    const id = ++last;
    return new Promise((resolve, reject) => {
      const answer = (message, buffers) => {
        clearTimeout(answer.timer);
        if (silent) engine.notify("");
        silent = false;
        if (message.error === undefined) part(message);
        if (message.done) waiting.delete(id);
        if (message.error !== undefined) reject(new Error(message.error));
        else if (message.done) resolve([message, buffers]);
        else send({ id, method: "more" });
      };
      waiting.set(id, answer);
      send({ id, ...content });
    });
  }

  const engine = {
    notify() {},
    async about() {
      return model.get("about");
    },
    async arm(name) {
      return (await ask({ method: "arm", arm: name }))[0].arm;
    },
    async read(request, progress = () => {}) {
      const [{ reading }, buffers] = await ask({ method: "read", ...request }, ({ read, total }) => total && progress(read, total));
      return unpacked(reading, buffers);
    },
    async continue(request, onToken = () => {}) {
      const pieces = [];
      const take = ({ tokens }) => tokens.forEach((token) => { pieces.push(token.piece); onToken(token); });
      try {
        await ask({ method: "continue", ...request }, take);
      } catch (error) {
        if (error.message !== "stopped") throw error;
      }
      return { pieces };
    },
    async cards(arm, progress = () => {}) {
      return (await ask({ method: "cards", arm }, ({ read, total }) => total && progress(read, total)))[0].cards;
    },
    /** What is under way ends at its next part, with the error "stopped". */
    async stop() {
      if (waiting.size) model.send({ id: ++last, method: "stop", asked: [...waiting.keys()] });
    },
    close() {
      model.off("msg:custom", onMessage);
      for (const answer of waiting.values()) clearTimeout(answer.timer);
    },
  };
  return engine;
}
