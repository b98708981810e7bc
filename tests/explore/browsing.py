"""What the tests in a browser share: a headless Chromium, patient pages, screenshots, and an audit of a page.

RWKVGATE_CHROMIUM names a Chromium that is not on the path, RWKVGATE_AXE a copy of axe-core's axe.min.js.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SHOTS = ROOT / "build" / "screenshots"
WANTED = "RWKVGATE_SCREENSHOTS"
"""The environment variable with which `make test-browser` asks for screenshots."""
CHROMIUM = os.environ.get("RWKVGATE_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
AXE = os.environ.get("RWKVGATE_AXE")
PATIENCE = 90_000
"""Milliseconds that a page is waited for."""

NAMELESS = """() => [...document.querySelectorAll("button, input, select, textarea, summary, [tabindex]")]
    .filter((one) => one.checkVisibility())
    .filter((one) => !(one.ariaLabel || one.textContent.trim() || one.labels?.[0]?.textContent.trim()))
    .map((one) => one.outerHTML.slice(0, 200))"""
FAINT = """() => {
    const numbers = (text) => text.match(/[\\d.]+/g).map(Number);
    const light = (parts) => parts.slice(0, 3).map((part) => part / 255)
        .map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
        .reduce((sum, part, i) => sum + part * [0.2126, 0.7152, 0.0722][i], 0);
    const ground = (one) => {
        for (; one; one = one.parentElement) {
            const parts = numbers(getComputedStyle(one).backgroundColor);
            if (parts.length < 4 || parts[3] > 0) return light(parts);
        }
        return 1;
    };
    const texts = [...document.querySelectorAll("*")].filter((one) => one.checkVisibility() && !one.disabled &&
        [...one.childNodes].some((child) => child.nodeType === 3 && child.data.trim()));
    return texts.map((one) => {
        const pair = [light(numbers(getComputedStyle(one).color)), ground(one)].sort((a, b) => b - a);
        return [(pair[0] + 0.05) / (pair[1] + 0.05), one.className + ": " + one.textContent.slice(0, 40)];
    }).filter(([ratio]) => ratio < 4.5);
}"""


@contextmanager
def chromium() -> Iterator[Any]:
    """A headless Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield launched
        launched.close()


def opened(browser: Any, width: int = 1280, height: int = 900, **options: Any) -> Any:
    """A new page, patient on a busy machine. `page.trouble` lists its errors, dialogs, and requests to a host."""
    page = browser.new_page(viewport={"width": width, "height": height}, **options)
    page.set_default_timeout(PATIENCE)
    page.trouble = []
    page.on("console", lambda message: page.trouble.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: page.trouble.append(str(error)))
    page.on("dialog", lambda dialog: (page.trouble.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda asked: page.trouble.append(asked.url) if asked.url.startswith(("http", "ws")) else None)
    return page


def keep(page: Any, name: str) -> None:
    """Keep a screenshot of the whole page, where it is wanted, under the version of ipywidgets that made it."""
    if not os.environ.get(WANTED):
        return
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=str(SHOTS / f"{name}-ipywidgets-{metadata.version('ipywidgets')}.png"), full_page=True)


def press(page: Any, value: str) -> None:
    """Press the segment of that value, the first that is shown."""
    page.locator(f".gx label:has(input[value={value}])").locator("visible=true").first.click()


def faults(page: Any) -> list[Any]:
    """The controls without a name, and the texts that do not contrast with what they stand on, by WCAG's AA."""
    found = [*page.evaluate(NAMELESS), *page.evaluate(FAINT)]
    if AXE:
        page.evaluate(Path(AXE).read_text(encoding="utf-8"))
        for one in page.evaluate("axe.run(document)")["violations"]:
            found.append((one["id"], [node["html"][:200] for node in one["nodes"]]))
    return found
