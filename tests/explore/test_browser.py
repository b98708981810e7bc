"""The explorer in a real browser over a model: the kernel engine, the page without a kernel, voila and JupyterLab.

Each server listens on a free port of the loopback. `make test-browser` keeps screenshots in build/screenshots.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from rwkvgate.explore import GateExplorer
from rwkvgate.explore.bundle import bundle, web_file
from rwkvgate.explore.page import live_page
from rwkvgate.explore.weights import embedded, pack
from tests.explore.browsing import CHROMIUM, ROOT, chromium, faults, keep, opened, press

pytest.importorskip("playwright.sync_api", reason="playwright, of the extra dev, is not installed")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the path; RWKVGATE_CHROMIUM names one")
PREPARE = """
import torch
from rwkvgate import GateConfig, Rwkv6Config, Rwkv6ForCausalLM, Rwkv6Tokenizer, patch
from rwkvgate.explore import GateExplorer
torch.manual_seed(0)
sizes = dict(hidden_size=32, num_hidden_layers=3, head_size=16, time_mix_rank=4, time_decay_rank=4)
model = Rwkv6ForCausalLM(Rwkv6Config(vocab_size=65536, **sizes)).eval()
patch(model, GateConfig.preset("enhanced"))
for parameter in model.parameters():
    parameter.data += 0.2 * torch.randn_like(parameter)
plain = Rwkv6ForCausalLM(Rwkv6Config(vocab_size=65536, **sizes)).eval()
documents = ["Once <b>upon</b> a time", "a fox"]
explorer = GateExplorer(
    model, Rwkv6Tokenizer(), "Once <script>upon</script> a time", arms={"plain": lambda: plain}, documents=documents
)
"""
BRIDGE = """
const handlers = [];
const buffer = (text) => new DataView(Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer);
const model = {
    get: (name) => data[name],
    set(name, value) { data[name] = value; },
    save_changes() {},
    on(name, handler) { handlers.push(handler); },
    off() {},
    async send(content) {
        const [message, buffers] = await window.kernel(content);
        if (message) handlers.forEach((handler) => handler(message, buffers.map(buffer)));
    },
};
window.kernelEngine = $kernel.kernelEngine(model, 1000);
window.app = await $app.start(document.getElementById("root"), window.kernelEngine, {});
"""
"""What stands for anywidget's model: its messages go to the engine in the test's own process."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium."""
    with chromium() as launched:
        yield launched


@pytest.fixture(scope="module")
def explorer() -> Any:
    """An explorer of a small model, and of one without a gate that is loaded at its first use."""
    space: dict[str, Any] = {}
    exec(PREPARE, space)
    return space["explorer"]


@contextmanager
def served(command: list[str], ready: str, folder: Path) -> Iterator[str]:
    """A server's address, from when it answers at `ready` until the block ends."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = (folder / "server.log").open("w")
    paths = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH", ""), str(ROOT)]))
    environment = os.environ | {"PYTHONPATH": paths, "JUPYTER_CONFIG_DIR": str(folder / "config")}
    process = subprocess.Popen(
        [sys.executable, "-m", *command, f"--port={port}"], cwd=folder, env=environment, stdout=log, stderr=log
    )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            assert process.poll() is None, (folder / "server.log").read_text()
            try:
                urllib.request.urlopen(address + ready, timeout=60).close()
                break
            except OSError:
                time.sleep(0.25)
        yield address
    finally:
        process.terminate()
        process.wait(20)
        log.close()


def test_the_kernel_engine_answers_the_front_end(browser: Any, explorer: Any, tmp_path: Path) -> None:
    page, alive = opened(browser), [True]

    def kernel(content: Any) -> Any:
        if not alive[0]:
            return [None, []]
        message, buffers = explorer.engine.handle(content)
        return [message, [base64.b64encode(each).decode() for each in buffers]]

    page.expose_function("kernel", kernel)
    data = json.dumps({"about": explorer.engine.about(), "state": {}}).replace("<", "\\u003c")
    source = f"{bundle('app', 'kernel')}const data = {data};{BRIDGE}"
    (tmp_path / "kernel.html").write_text(
        '<!DOCTYPE html><html lang="en"><meta charset="utf-8"><title>Kernel</title>'
        f"<style>{web_file('app.css')}</style>"
        f'<main id="root"></main><script type="module">{source}</script></html>',
        encoding="utf-8",
    )
    page.goto((tmp_path / "kernel.html").as_uri())
    page.wait_for_selector(".token")
    shown = "[...app.result.shown.gates[1]].slice(0, 32)"
    reply, buffers = explorer.engine.handle({"id": 0, "method": "read", "arm": "model", "text": explorer.engine.text})
    import numpy as np

    gates = np.frombuffer(buffers[5], np.float16).reshape(3, len(reply["reading"]["pieces"]), 32)
    assert page.evaluate(shown) == gates[1, 0].astype(float).tolist()
    page.click(".channels .plot canvas", position={"x": 25, "y": 8})
    page.wait_for_selector("text=model, gate on, layer 1, channel 1, over 2 documents")
    press(page, "replace")
    page.wait_for_selector("text=model, gate of “In the realm of artific…” in every layer")
    press(page, "off")
    page.wait_for_selector("text=model, gate off in every layer")
    assert page.evaluate(shown) == [0] * 32 and page.evaluate("app.result.reference.surprisal[2]") > 0
    page.wait_for_function("document.querySelectorAll('.written span:last-child').length === 2")
    page.get_by_label("Network (arm)").select_option("plain")  # loaded now, and found to have no gate
    page.wait_for_function("app.result?.shown.arm === 'plain'")
    assert "This arm has no gate" in page.inner_text(".controls") and not page.is_visible("input[value=off]")
    page.get_by_label("Network (arm)").select_option("model")
    page.fill("textarea", "x" * 200_001)
    page.wait_for_selector("text=at most 200,000 are read")
    alive[0] = False
    page.fill("textarea", "anybody there?")
    page.wait_for_selector("text=The kernel does not answer")
    alive[0] = True
    page.fill("textarea", "yes")
    page.wait_for_function("app.result?.shown.text === 'yes'")
    assert not page.is_visible(".message")
    keep(page, "kernel")
    assert not page.trouble
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_works_without_kernel_and_network(browser: Any, explorer: Any, tmp_path: Path, scheme: str) -> None:
    explorer.to_html(tmp_path / "page.html", title="A recorded gate")
    page = opened(browser, color_scheme=scheme)
    page.goto((tmp_path / "page.html").as_uri())
    page.wait_for_selector(".token")
    assert page.inner_text("h1") == "A recorded gate" and page.locator("main > img").count() == 0
    press(page, "off")
    page.wait_for_selector("text=model, gate off in every layer")
    press(page, "one")
    page.wait_for_selector("text=model, gate off in layer 1")
    page.locator(".tokens").focus()
    page.keyboard.press("ArrowDown")
    page.wait_for_selector("text=model, gate off in layer 2")
    page.wait_for_function("document.querySelectorAll('.written span:last-child').length === 2")
    assert page.get_attribute("textarea", "readonly") is not None and "recorded readings" in page.inner_text(
        ".controls"
    )
    assert "This reading keeps no single channels" in page.inner_text(".channels")
    press(page, "value")
    page.wait_for_selector("text=model, gate at 1.00 in layer 2")
    page.wait_for_url("**gate=value**")
    page.reload()
    page.wait_for_selector("text=model, gate at 1.00 in layer 2")  # of the address
    keep(page, f"page-{scheme}")
    assert faults(page) == []
    assert not page.trouble
    page.close()


def test_the_live_page_runs_the_model_by_itself(browser: Any, tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import PreTrainedTokenizerFast

    from rwkvgate import GateConfig, Rwkv6Config, Rwkv6ForCausalLM, patch

    bpe = Tokenizer(models.BPE({letter: number for number, letter in enumerate(sorted(ByteLevel.alphabet()))}, []))
    bpe.pre_tokenizer = ByteLevel(add_prefix_space=False)
    sizes = {"vocab_size": 256, "hidden_size": 32, "num_hidden_layers": 2, "head_size": 16}
    arms = {"enhanced": patch(Rwkv6ForCausalLM(Rwkv6Config(**sizes)), GateConfig.preset("enhanced"))}
    arms["base"] = Rwkv6ForCausalLM(Rwkv6Config(**sizes))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe)
    documents = ["Once </script><b>upon</b> a time", "a fox"]
    explorer = GateExplorer(arms.pop("enhanced"), tokenizer, "Once", name="enhanced", arms=arms, documents=documents)
    explorer.to_html(tmp_path / "live.html", title="A live gate")
    page = opened(browser)
    page.goto((tmp_path / "live.html").as_uri())
    page.wait_for_selector("text=enhanced, gate on. “Once”")
    assert "Loading the networks (" in (tmp_path / "live.html").read_text("utf-8")
    assert not page.locator("#loading").count()
    page.fill("textarea", "a key <b>")
    page.wait_for_selector("text=“a key <b>”")
    page.click(".channels .plot canvas", position={"x": 25, "y": 8})
    page.wait_for_selector("text=enhanced, gate on, layer 1, channel 1, over 2 documents")
    assert page.locator(".documents li").count() == 2 and page.locator("#root .documents b").count() == 0
    press(page, "replace")
    page.wait_for_selector("text=enhanced, gate of “In the realm of artific…” in every layer")
    press(page, "off")
    page.wait_for_selector("text=enhanced, gate off in every layer")
    page.wait_for_function("[...document.querySelectorAll('.written span:last-child')].every((one) => one.textContent)")
    page.select_option("select >> nth=-2", "base")
    page.wait_for_selector("text=base, no gate")
    keep(page, "live")
    cut = embedded(pack(arms, tokenizer)[:-9])
    (tmp_path / "cut.html").write_text(live_page(cut, "A live gate", {"text": "Once"}), encoding="utf-8")
    page.goto((tmp_path / "cut.html").as_uri())
    assert "cut off" in page.inner_text("[role=alert]") and not page.is_visible("text=Loading the networks")
    assert not page.trouble
    page.close()


def use(page: Any, name: str) -> None:
    """Move the controls as a user would, and look at what is shown."""
    page.wait_for_selector(".gx .token")
    assert "<script>" in page.inner_text(".gx .tokens").replace("\n", "")
    press(page, "off")
    page.wait_for_selector("text=model, gate off in every layer")
    page.wait_for_function("document.querySelectorAll('.gx .written span:last-child').length === 2")
    keep(page, name)
    page.get_by_role("textbox", name="Text", exact=True).fill("")
    page.wait_for_selector("text=The text is empty")
    keep(page, f"{name}-empty")


needs_anywidget = pytest.mark.skipif(
    find_spec("anywidget") is None, reason="anywidget, of the extra notebooks, is not installed"
)


def notebook(path: Path) -> Path:
    """A notebook of one cell that shows the explorer."""
    cell = {"cell_type": "code", "id": "a", "metadata": {}, "outputs": [], "execution_count": None}
    cell["source"] = f"{PREPARE}\nexplorer.widget"
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    document = {"cells": [cell], "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    path.write_text(json.dumps(document))
    return path


@needs_anywidget
@pytest.mark.skipif(find_spec("voila") is None, reason="voila, of the extra notebooks, is not installed")
@pytest.mark.slow
def test_voila_shows_the_explorer(browser: Any, tmp_path: Any) -> None:
    path = notebook(tmp_path / "explorer.ipynb")
    with served(["voila", str(path), "--no-browser"], "/voila/static/require.min.js", tmp_path) as address:
        page = opened(browser, 1100)
        page.goto(address)
        use(page, "voila")
        page.close()


@needs_anywidget
@pytest.mark.skipif(find_spec("jupyterlab") is None, reason="jupyterlab, of the extra notebooks, is not installed")
@pytest.mark.slow
def test_jupyterlab_shows_the_explorer(browser: Any, tmp_path: Any) -> None:
    notebook(tmp_path / "explorer.ipynb")
    options = ["--no-browser", "--allow-root", "--IdentityProvider.token=", f"--ServerApp.root_dir={tmp_path}"]
    with served(["jupyterlab", *options], "/api", tmp_path) as address:
        page = opened(browser, 1400, 1100)
        page.goto(f"{address}/lab/tree/explorer.ipynb?reset")
        page.wait_for_selector("text=Python 3 (ipykernel) | Idle")
        page.wait_for_timeout(2000)  # earlier than that, running the cells does nothing
        page.click("text=Run")
        page.click("text=Run All Cells")
        use(page, "jupyterlab")
        page.close()
