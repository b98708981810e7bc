"""Opening the explorer on a run folder: the newest with a gated arm, each arm by name, and words where none is."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from rwkvgate.experiment.open_run import open_run
from rwkvgate.experiment.steps import ensure_arm
from rwkvgate.gate.validation import SettingsError
from rwkvgate.workflow.app import explorer_of, finished_arms, main, newest_run, open_finished, write_notebook


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: Any) -> Path:
    """A folder of two runs: an older one with gated arms, a newer one that was only begun."""
    folder = tmp_path_factory.mktemp("outputs")
    run = open_run(
        profile="smoke",
        run_dir=str(folder / "first"),
        model={"pretraining": {"steps": 3}},
        corpus={"natural_characters": 20000},
    )
    ensure_arm(run.variant("enhanced-untrained"))
    open_run(profile="smoke", run_dir=str(folder / "second"))
    os.utime(folder / "first" / "manifest.json", (1, 1))
    return folder


def test_the_newest_run_with_a_gate_is_opened(outputs: Path, tmp_path: Path) -> None:
    run = newest_run(outputs)
    assert run.folder == outputs / "first" and list(finished_arms(run)) == ["enhanced-untrained, seed 0"]
    explorer = explorer_of(run, "Once upon a time")
    assert explorer.engine.arms == ["enhanced-untrained, seed 0"]
    explorer.to_html(tmp_path / "page.html")
    assert "Once" in (tmp_path / "page.html").read_text(encoding="utf-8")
    cell = "".join(json.loads(write_notebook(tmp_path, run).read_text())["cells"][0]["source"])
    assert str(run.folder) in cell
    compile(cell, "cell", "exec")


def test_where_there_is_nothing_to_open_it_is_said(outputs: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="holds no run with a gated arm"):
        newest_run(tmp_path)
    with pytest.raises(SettingsError, match="it is no run folder"):
        open_finished(tmp_path)
    with pytest.raises(SettingsError, match="has no finished arm with a gate"):
        explorer_of(open_finished(outputs / "second"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{outputs}/none"], "it is no run folder"),
        (["{outputs}/\udcff"], "it is no run folder"),
        (["~nobody-at-all/run"], "no home folder"),
        (["{outputs}/loop"], "it is no run folder"),
        (["{outputs}/first", "--page", "/proc/none/page.html"], "No such file or directory"),
        (["{outputs}/first", "--page", "x.html", "--text", "x" * 200_001], "at most 200,000 are read"),
        (["--port", "70000"], "it must be 0 to 65535"),
    ],
)
def test_the_command_answers_in_words(
    outputs: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, words: list[str], message: str
) -> None:
    loop = outputs / "loop"
    if not loop.is_symlink():
        loop.symlink_to(loop)
    monkeypatch.setattr("sys.argv", ["app", *(word.replace("{outputs}", str(outputs)) for word in words)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert message in f"{ended.value}{capsys.readouterr().err}" and ended.value.code not in (0, None)
