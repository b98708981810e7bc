"""The rating widget in a real browser: it shows texts as text, writes each answer, and goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from rwkvgate.experiment.rating.pairs import ANSWERS, FOLDER
from rwkvgate.experiment.rating.panel import SETTLED
from tests.explore.browsing import CHROMIUM, chromium, keep, opened
from tests.explore.test_browser import served

pytest.importorskip("playwright.sync_api", reason="playwright, of the extra dev, is not installed")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the path; RWKVGATE_CHROMIUM names one"),
    pytest.mark.skipif(find_spec("voila") is None, reason="voila, of the extra notebooks, is not installed"),
    pytest.mark.slow,
]
CELL = """
from types import SimpleNamespace
from rwkvgate.experiment.rating import pairs
from rwkvgate.experiment.rating.panel import RatingPanel
from rwkvgate.experiment.run import Run
from rwkvgate.experiment.settings import resolve

def made_up(variant):
    told = variant.arm.name[::-1] + " <script>alert(1)</script> "
    return SimpleNamespace(samples=[dict(prompt=f"Prompt {i}.", continuation=f"{told}{i}") for i in range(3)])

pairs.ensure_evaluation = made_up
rating = pairs.draw_rating(Run(resolve("smoke", run_dir="FOLDER")), ["base-tuned", "enhanced"], count=3)
RatingPanel(rating, "maria").root
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium."""
    with chromium() as launched:
        yield launched


def answers(folder: Path) -> list[str]:
    """The lines of the rater's file below its heading."""
    files = list(folder.rglob(f"{FOLDER}/maria.csv"))
    return files[0].read_text().splitlines()[1:] if files else []


def test_a_rater_answers_reloads_takes_back_and_finishes(browser: Any, tmp_path: Path) -> None:
    cell = {"cell_type": "code", "id": "a", "metadata": {}, "outputs": [], "execution_count": None}
    cell["source"] = CELL.replace("FOLDER", str(tmp_path / "run"))
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    document = {"cells": [cell], "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    (tmp_path / "rating.ipynb").write_text(json.dumps(document))
    words = list(ANSWERS.values())
    command = ["voila", str(tmp_path / "rating.ipynb"), "--no-browser"]
    with served(command, "/voila/static/require.min.js", tmp_path) as address:
        page = opened(browser, 900)
        page.goto(address)
        page.wait_for_selector("text=Prompt")
        assert page.inner_text("body").count("<script>alert(1)</script>") == 2
        page.get_by_role("button", name=words[0]).click()
        page.wait_for_function("document.body.innerText.includes('2 of 3')")
        keep(page, "rating")
        page.wait_for_timeout(1100 * SETTLED)
        page.get_by_role("button", name=words[1]).focus()
        page.keyboard.press("Space")
        page.wait_for_function("document.body.innerText.includes('3 of 3')")
        assert len(answers(tmp_path)) == 2
        page.reload()  # another kernel: it reads what was written
        page.wait_for_function("document.body.innerText.includes('3 of 3')")
        page.get_by_role("button", name="Undo").click()
        page.wait_for_function("document.body.innerText.includes('2 of 3')")
        assert len(answers(tmp_path)) == 1
        for left in (2, 3):
            page.wait_for_timeout(1100 * SETTLED)
            page.get_by_role("button", name=words[0]).click()
            page.wait_for_function(f"!document.body.innerText.includes('{left} of 3')")
        assert len(answers(tmp_path)) == 3 and page.get_by_role("button", name=words[0]).is_disabled()
        keep(page, "rating-finished")
        assert "1" not in page.trouble  # the dialog of a script that ran
        page.close()
