"""The report is the executed notebook without code: it stands alone, and nothing shown in it can become markup."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from rwkvgate.experiment.analysis.tables import shown
from rwkvgate.gate.validation import SettingsError
from rwkvgate.workflow.report import NOT_SHOWN, NOTEBOOK, main, render_report

EVIL = '<script>alert("x")</script><img src="https://evil.example/x.png" onerror="alert(1)"> & "'
BADGE = "[![Open in Colab](https://colab.example/badge.svg)](https://colab.example/x)"
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


class Tags(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def executed(path: Path, count: int | None = 1) -> Path:
    """An executed notebook that shows hostile text in every way that a notebook can."""
    table = shown(pd.DataFrame({"arm": ["base", EVIL], EVIL: [0.12345, float("nan")]})).to_html()
    outputs = [
        new_output("stream", text="fine-tuning enhanced, seed 0: 3 of 12"),
        new_output("display_data", {"text/html": table}),
        new_output("display_data", {"text/html": EVIL, "application/javascript": "alert(2)", "text/plain": "fallback"}),
        new_output("display_data", {"image/svg+xml": f"<svg>{EVIL}</svg>", "text/plain": "a drawing"}),
        new_output("display_data", {"image/png": PIXEL}),
        new_output("execute_result", {"text/markdown": f"**bold** {EVIL} [a](javascript:alert(3))"}),
        new_output("execute_result", {"text/plain": EVIL}),
    ]
    cells = [
        new_markdown_cell(f"# Title\n\n{BADGE}\n\nWords {EVIL}"),
        new_code_cell("secret_code()", metadata={"tags": [NOT_SHOWN]}, outputs=outputs[:1], execution_count=1),
        new_markdown_cell("## Running it", metadata={"tags": [NOT_SHOWN]}),
        new_markdown_cell("## Figure & <b>one</b>"),
        new_code_cell("draw()", outputs=outputs, execution_count=count),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=cells), path)
    return path


@pytest.fixture
def page(tmp_path: Path) -> str:
    path = render_report(executed(tmp_path / "executed.ipynb"), tmp_path / "deep" / "report.html")
    assert [found.name for found in path.parent.iterdir()] == ["report.html"]
    return path.read_text(encoding="utf-8")


def test_nothing_shown_becomes_markup(page: str) -> None:
    tags = Tags(page)
    assert {"script", "link", "iframe", "object", "svg", "form"}.isdisjoint(tag for tag, _ in tags.seen)
    assert not [name for _, attributes in tags.seen for name in attributes if name.startswith("on")]
    assert "alert" not in str([(tag, {k: v for k, v in a.items() if k != "alt"}) for tag, a in tags.seen])
    assert "&lt;script&gt;" in page and "Words" in tags.text and "fallback" not in tags.text


def test_nothing_is_loaded(page: str) -> None:
    tags = Tags(page)
    sources = [a[name] for _, a in tags.seen for name in ("src", "href", "srcset") if name in a]
    assert sources and all(source and source.startswith(("data:", "#")) for source in sources)
    assert not re.search(r"@import|url\(|cdn|mathjax|require", page, flags=re.I)
    policy = next(a["content"] for tag, a in tags.seen if a.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_code_and_progress_are_left_out_and_pictures_are_named(page: str) -> None:
    assert not re.search(r"secret_code|draw\(\)|3 of 12|Running it|Colab", page)
    tags = Tags(page)
    assert [a["alt"] for tag, a in tags.seen if tag == "img" and "src" in a] == ["Figure & <b>one</b>"]
    assert "0.1235" in tags.text and "–" in tags.text
    anchors = {a["id"] for _, a in tags.seen if a.get("id")}
    assert all((a["href"] or "")[1:] in anchors for tag, a in tags.seen if tag == "a" and "href" in a)


def test_characters_that_act_unseen_are_shown(tmp_path: Path) -> None:
    hostile = "a\u202eb\u2066c\x07d\ud800e&#8238;f&rlm;g&#x202e h\u200di\u00a0j"
    table = shown(pd.DataFrame({"text": [hostile.replace("\ud800", "\x1b")]})).to_html()  # pandas takes no half pair
    assert not re.search("[\u202e\u2066\x07]", table)
    kinds = [("text/html", hostile), ("text/plain", hostile), ("text/markdown", hostile), ("text/html", table)]
    outputs = [new_output("display_data", {kind: text}) for kind, text in kinds]
    cells = [new_markdown_cell(f"# T{hostile}"), new_code_cell("x", outputs=outputs, execution_count=1)]
    (tmp_path / "n.ipynb").write_text(json.dumps(new_notebook(cells=cells)))  # with escapes: UTF-8 has no surrogates
    page = render_report(tmp_path / "n.ipynb", tmp_path / "report.html").read_text(encoding="utf-8")
    assert not re.search("[\u202a-\u202e\u2066-\u2069\u200e\u200f\x00-\x08\x0b-\x1f]|&rlm|&#(8238|x202e)", page)
    assert page.count("a□b□c□d□e") >= 4 and "h\u200di" in page


@pytest.mark.parametrize(
    "content", ["", "[]", "3", "\0", "[" * 10**5, '{"nbformat": 4}', '{"nbformat": 99, "cells": []}']
)
def test_a_damaged_notebook_is_answered_in_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "n.ipynb").write_text(content)
    with pytest.raises(SettingsError, match=r"n\.ipynb is no notebook .*`make reproduce` executes it") as error:
        render_report(tmp_path / "n.ipynb", tmp_path / "report.html")
    assert len(str(error.value).replace(str(tmp_path), "")) < 300


def test_wide_tables_scroll(page: str) -> None:
    assert re.search(r"\.output_html[^}]*overflow-x: auto", page) and 'class="output_html' in page


def test_a_notebook_that_was_not_executed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="not executed to its end"):
        render_report(executed(tmp_path / "half.ipynb", count=None), tmp_path / "report.html")
    with pytest.raises(SettingsError, match="cannot be read"):
        render_report(tmp_path / "none.ipynb", tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_the_command_finds_a_runs_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    executed(tmp_path / NOTEBOOK)
    monkeypatch.setattr("sys.argv", ["report", str(tmp_path)])
    main()
    assert (tmp_path / "report.html").stat().st_size > 1000
