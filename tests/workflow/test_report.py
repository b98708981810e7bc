"""The report: an executed notebook without its code, escaped, asking no host."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from rwkvgate.workflow.report import main, render

BADGE = "[![Open in Colab](https://example.org/badge.svg)](https://example.org/notebook)"
TABLE = "<table><thead><tr><th>Arm</th></tr></thead><tbody><tr><td>enhanced</td></tr></tbody></table>"


@pytest.fixture
def executed() -> NotebookNode:
    """A notebook as papermill leaves it: prose, a hidden cell, a table, a picture and printed lines."""
    return new_notebook(
        cells=[
            new_markdown_cell(f"# 4. All arms & figures\n\n{BADGE}\n\nThe answer."),
            new_markdown_cell("## Parameters", metadata={"tags": ["not-in-report"]}),
            new_code_cell("secret = 1", metadata={"tags": ["parameters"]}),
            new_code_cell(
                "table",
                outputs=[
                    new_output("stream", name="stdout", text="step 3 of 12\n"),
                    new_output("execute_result", data={"text/html": TABLE, "text/plain": "Arm"}),
                    new_output("display_data", data={"image/png": "iVBORw0KGgo=", "text/plain": "<Figure>"}),
                    new_output("display_data", data={"text/plain": "<script>alert(1)</script>"}),
                ],
            ),
        ]
    )


def test_prose_tables_and_figures_are_shown_and_code_is_not(executed: NotebookNode) -> None:
    page = render(executed)
    assert "The answer." in page and TABLE in page and "data:image/png;base64,iVBORw0KGgo=" in page
    assert "<title>4. All arms &amp; figures</title>" in page
    for hidden in ("secret", "Parameters", "step 3 of 12", "badge.svg"):
        assert hidden not in page


def test_the_page_asks_no_host_and_runs_no_script(executed: NotebookNode) -> None:
    page = render(executed)
    assert "default-src 'none'" in page and "<script" not in page
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", page)


def test_the_command_writes_the_page(executed: NotebookNode, tmp_path: Path) -> None:
    nbformat.write(executed, tmp_path / "04.ipynb")
    assert main([str(tmp_path / "04.ipynb"), str(tmp_path / "report.html")]) == 0
    assert "The answer." in (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"cells": []}'])
def test_what_cannot_be_rendered_is_named_and_nothing_is_written(
    content: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "04.ipynb"
    if content is not None:
        path.write_text(content)
    assert main([str(path), str(tmp_path / "report.html")]) == 2
    assert f"{path} cannot be rendered" in capsys.readouterr().err and not (tmp_path / "report.html").exists()


def test_a_notebook_that_was_not_executed_is_refused() -> None:
    with pytest.raises(ValueError, match="no outputs; execute it first"):
        render(new_notebook(cells=[new_code_cell("1")]))
