"""The page engine's own numbers at the cpu model's shape, in a headless Chromium, beside their limits. `make bench`.

Three arms are opened from disk, weights included, in a page that is a single file.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from pydoc_data.topics import topics

import torch

from rwkvgate import GateConfig, Rwkv6Config, Rwkv6ForCausalLM, patch
from rwkvgate.experiment.corpora.tokenizer import train_tokenizer
from rwkvgate.explore.bundle import bundle
from rwkvgate.explore.weights import embedded, pack

CHROMIUM = os.environ.get("RWKVGATE_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
VOCABULARY, REPEATS = 2_048, 7
SIZES = {"hidden_size": 128, "num_hidden_layers": 4, "head_size": 32, "time_mix_rank": 16, "time_decay_rank": 16}
PAGE = """<!doctype html><meta charset="utf-8"><script type="text/plain" id="weights">%s</script>
<script type="text/plain" id="worker">%s</script><script type="module">%s
const weights = document.getElementById("weights").textContent;
const worker = $engine.workerOf(document.getElementById("worker").textContent);
const engine = await $engine.pageEngine(weights, { worker });
await engine.read({ arm: "0", text: "Once" });
window.opened = performance.now();
window.measured = async (text, repeats) => {
  const found = { read: [], continued: [] };
  for (let i = 0; i < repeats; i++) {
    const reading = await engine.read({ arm: "0", text });
    found.read.push((1000 * reading.seconds) / reading.pieces.length);
    const started = performance.now();
    const { pieces } = await engine.continue({ arm: "0", text, tokens: 100, temperature: 1, seed: i });
    found.continued.push((performance.now() - started) / (pieces.length + 1));
    found.tokens = reading.pieces.length;
  }
  return found;
};
</script>"""


def main() -> None:
    """Print each number and its limit: the median, and the fastest of the repeats."""
    from playwright.sync_api import sync_playwright

    torch.manual_seed(0)
    models = {}
    for arm in range(3):
        model = patch(
            Rwkv6ForCausalLM(Rwkv6Config(vocab_size=VOCABULARY, **SIZES)).eval(), GateConfig.preset("enhanced")
        )
        for parameter in model.parameters():
            parameter.data += 0.02 * torch.randn_like(parameter)  # so that the arms share no weights
        models[str(arm)] = model
    weights = pack(models, train_tokenizer(list(topics.values()), VOCABULARY))
    text = " ".join(topics["with"].split())[:600]
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        file = Path(folder) / "page.html"
        file.write_text(PAGE % (embedded(weights), bundle("worker"), bundle("engine")), encoding="utf-8")
        print(
            f"three arms: {len(weights) / 1e6:.1f} MB, as a single page {file.stat().st_size / 1e6:.1f} MB, limit 10 MB"
        )
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.goto(file.as_uri())
        page.wait_for_function("window.opened", timeout=60_000)
        print(f"opened from disk and one token read: {page.evaluate('window.opened') / 1000:.2f} s, limit 1.5 s")
        found = page.evaluate("([text, repeats]) => window.measured(text, repeats)", [text, REPEATS])
        browser.close()
    for name in ("read", "continued"):
        times = sorted(found[name])
        print(
            f"{name}, {found['tokens']} tokens of text: {times[REPEATS // 2]:.2f} ms a token, "
            f"the fastest {times[0]:.2f} ms, limit 5 ms"
        )


if __name__ == "__main__":
    main()
