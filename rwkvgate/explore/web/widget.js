// The explorer as a widget of anywidget.
import { start } from "./app.js";
import { kernelEngine } from "./kernel.js";

export function render({ model, el }) {
  el.dataset.lmSuppressShortcuts = "true"; // else JupyterLab takes the arrow keys
  const engine = kernelEngine(model);
  const remember = (state) => { model.set("state", state); model.save_changes(); };
  const app = start(el, engine, { state: model.get("state"), remember });
  return () => app.then((one) => one.destroy()).then(() => engine.close());
}
