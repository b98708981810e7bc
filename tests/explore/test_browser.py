"""The explorer in a real browser: the page without a kernel, voila's page, and JupyterLab; screenshots are kept.

Needs playwright and a Chromium; RWKVGATE_CHROMIUM names one that is not on the path. Each server listens on a free port
of the loopback. Screenshots go to build/screenshots.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright, of the extra dev, is not installed")
ROOT = Path(__file__).resolve().parents[2]
SHOTS = ROOT / "build" / "screenshots"
CHROMIUM = os.environ.get("RWKVGATE_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
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
explorer = GateExplorer(model, Rwkv6Tokenizer(), "Once <script>upon</script> a time")
"""
PATIENCE = 90_000
"""Milliseconds that a page is waited for."""
SPANS = ".rg .tokens span"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium."""
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield launched
        launched.close()


def opened(browser: Any, viewport: dict[str, int]) -> Any:
    """A new page, patient on a busy machine."""
    page = browser.new_page(viewport=viewport)
    page.set_default_timeout(PATIENCE)
    return page


def classes(page: Any, selector: str = SPANS) -> list[str]:
    """The colours of the tokens that are shown."""
    return list(page.eval_on_selector_all(selector, "found => found.map(one => one.className)"))


def keep(page: Any, name: str) -> None:
    """Keep a screenshot, under the version of ipywidgets that it was made with."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=str(SHOTS / f"{name}-ipywidgets-{metadata.version('ipywidgets')}.png"))


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


def test_the_page_works_without_kernel_and_network(browser: Any, tmp_path: Any) -> None:
    space: dict[str, Any] = {}
    exec(PREPARE, space)
    space["explorer"].to_html(tmp_path / "page.html")
    page, trouble = opened(browser, viewport={"width": 1100, "height": 1600}), []
    page.on("console", lambda message: trouble.append(message.text) if message.type == "error" else None)
    page.on("request", lambda request: trouble.append(request.url) if not request.url.startswith("file:") else None)
    page.on("dialog", lambda dialog: trouble.append(dialog.message))
    page.goto((tmp_path / "page.html").as_uri())
    tokens = "#text .tokens span"
    first = classes(page, tokens)
    page.focus("#layer")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#layer-name") == "layer 2" and classes(page, tokens) != first
    page.keyboard.press("[")
    assert page.inner_text("#layer-name") == "layer 1" and classes(page, tokens) == first
    page.focus("#text .tokens")
    page.keyboard.press("End")
    last = space["explorer"].session.reading("model", "Once <script>upon</script> a time")
    assert f"{last.measure('mean')[0, -1]:.3f}" in page.inner_text("#readout")
    page.hover(f"{tokens}:nth-child(2)")
    assert f"token 1: “{last.tokens[1].replace(' ', '·')}”" in page.inner_text("#readout")
    page.select_option("#measure", index=3)
    assert "share of channels" in page.inner_text("#text .legend")
    page.click("#layers g[data-row='2'] rect")
    assert page.inner_text("#layer-name") == "layer 3"
    keep(page, "page")
    assert not trouble
    page.close()


def choose(page: Any, entry: str) -> None:
    """Choose an entry of the list that has it."""
    page.locator("select", has=page.locator("option", has_text=entry)).select_option(label=entry)


def use(page: Any, name: str) -> None:
    """Move the controls as a user would, and look at what is shown."""
    page.wait_for_selector(SPANS)
    assert "<script>" in page.inner_text(".rg .tokens").replace("\n", "")
    first = classes(page)
    handle = page.locator(".noUi-handle, .ui-slider-handle").first
    handle.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("text=layer 2, mean gate")
    assert classes(page) != first
    keep(page, f"{name}-layer")
    choose(page, "layers and tokens")
    page.wait_for_selector(".rg svg rect")
    page.get_by_role("button", name="Undo").click()
    page.wait_for_selector(SPANS)
    choose(page, "every layer")
    page.wait_for_function("document.querySelector('.rg .tokens span').title.endsWith(' 0.000')")
    page.get_by_role("button", name="Continue").click()
    page.wait_for_selector("text=Continuation, every layer clamped to 0.00")
    page.locator("textarea").first.fill("")
    page.locator("textarea").first.blur()
    page.wait_for_selector("text=The text is empty")
    keep(page, f"{name}-empty")


def notebook(path: Path) -> Path:
    """A notebook of one cell that shows the explorer."""
    cell = {"cell_type": "code", "id": "a", "metadata": {}, "outputs": [], "execution_count": None}
    cell["source"] = f"{PREPARE}\nexplorer.widget"
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    document = {"cells": [cell], "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    path.write_text(json.dumps(document))
    return path


@pytest.mark.skipif(find_spec("voila") is None, reason="voila, of the extra notebooks, is not installed")
def test_voila_shows_the_explorer(browser: Any, tmp_path: Any) -> None:
    path = notebook(tmp_path / "explorer.ipynb")
    with served(["voila", str(path), "--no-browser"], "/voila/static/require.min.js", tmp_path) as address:
        page = opened(browser, viewport={"width": 1100, "height": 900})
        page.goto(address)
        use(page, "voila")
        page.close()


@pytest.mark.skipif(find_spec("jupyterlab") is None, reason="jupyterlab, of the extra notebooks, is not installed")
def test_jupyterlab_shows_the_explorer(browser: Any, tmp_path: Any) -> None:
    notebook(tmp_path / "explorer.ipynb")
    options = ["--no-browser", "--allow-root", "--IdentityProvider.token=", f"--ServerApp.root_dir={tmp_path}"]
    with served(["jupyterlab", *options], "/api", tmp_path) as address:
        page = opened(browser, viewport={"width": 1400, "height": 1100})
        page.goto(f"{address}/lab/tree/explorer.ipynb?reset")
        page.wait_for_selector("text=Python 3 (ipykernel) | Idle")
        page.wait_for_timeout(2000)  # earlier than that, running the cells does nothing
        page.click("text=Run")
        page.click("text=Run All Cells")
        use(page, "jupyterlab")
        page.close()
