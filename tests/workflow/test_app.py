"""Opening the explorer on a run folder: the newest with a gated arm, each arm by name, and words where none is."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from rwkvgate.experiment.open_run import open_run
from rwkvgate.experiment.steps import ensure_arm, ensure_texts
from rwkvgate.gate.validation import SettingsError
from rwkvgate.workflow.app import explorer_of, finished_arms, main, newest_run, open_finished, write_notebook
from rwkvgate.workflow.release import keep_models

SMALL, FEW = {"pretraining": {"steps": 3}}, {"natural_characters": 20000}


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: Any) -> Path:
    """A folder of two runs: an older one with gated arms, a newer one that was only begun."""
    folder = tmp_path_factory.mktemp("outputs")
    run = open_run(
        profile="smoke",
        run_dir=str(folder / "first"),
        model=SMALL,
        corpus=FEW,
    )
    ensure_arm(run.variant("enhanced-untrained"))
    open_run(profile="smoke", run_dir=str(folder / "second"))
    os.utime(folder / "first" / "manifest.json", (1, 1))
    return folder


def test_the_newest_run_with_a_gate_is_opened(outputs: Path, tmp_path: Path) -> None:
    run = newest_run(outputs)
    assert run.folder == outputs / "first" and "enhanced-untrained, seed 0" in finished_arms(run)
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


@pytest.fixture(scope="module")
def finished(outputs: Path, tmp_path_factory: Any) -> Path:
    """The older run, in a folder of its own, with every arm that a committed run keeps."""
    run = open_finished(shutil.copytree(outputs / "first", tmp_path_factory.mktemp("finished") / "first"))
    with pytest.raises(SettingsError, match=r"arm of enhanced, seed 0 .* is not finished"):
        keep_models(run, run.folder / "never")
    for arm in ("base", "base-tuned", "enhanced"):
        ensure_arm(run.variant(arm))
    return run.folder


@pytest.fixture(scope="module")
def committed(finished: Path, tmp_path_factory: Any) -> Path:
    """A folder of outputs as in a fresh clone: a committed run alone, which keeps its models."""
    target = tmp_path_factory.mktemp("clone") / "reference"
    keep_models(open_finished(finished), target / "models")
    shutil.copy(finished / "manifest.json", target)
    return target


def test_a_fresh_clone_opens_the_committed_models(finished: Path, committed: Path, capsys: Any) -> None:
    run, made = newest_run(committed.parent), open_finished(finished)
    explorer = explorer_of(run)
    named = [f"{arm}, seed 0" for arm in ("enhanced", "enhanced-untrained", "base", "base-tuned")]
    documents = [document.text for document in ensure_texts(made).corpus.test]
    assert explorer.engine.arms == named and explorer.engine.documents == documents
    assert documents[0].startswith(explorer.engine.text) and len(explorer.engine.text) > 100
    assert explorer.engine.beside == "base-tuned, seed 0" and "tuned" in explorer.engine.arm("enhanced, seed 0")["note"]
    ids = torch.tensor([ensure_texts(made).encode_text("Once upon a time")])
    for name in named:
        own, first = explorer.engine.model(name), ensure_arm(made.variant(name.split(",")[0]))
        assert {parameter.dtype for parameter in own.parameters()} == {torch.float32}
        torch.testing.assert_close(own(ids).logits, first(ids).logits, atol=5e-3, rtol=0)  # float16's rounding
    before = {path: path.read_bytes() for path in committed.rglob("*") if path.is_file()}
    opened = open_run(profile="smoke", run_dir=str(committed), model=SMALL, corpus=FEW)
    assert ensure_arm(opened.variant("enhanced")) and not opened.figures.is_relative_to(committed)
    assert "is a committed run: what this notebook writes goes to" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in committed.rglob("*") if path.is_file()} == before
    changed = open_run(profile="smoke", run_dir=str(committed), model=SMALL, corpus=FEW, training={"steps": 13})
    with pytest.raises(SettingsError, match="other settings of training"):
        ensure_arm(changed.variant("enhanced"))
    for arm, seed in (("fixed-gate", 0), ("enhanced", 1)):
        with pytest.raises(SettingsError, match="keeps enhanced, base, base-tuned with seed 0, and not"):
            ensure_arm(run.variant(arm, seed))


def test_a_newer_run_stands_before_the_committed_one(outputs: Path, committed: Path, tmp_path: Path) -> None:
    (tmp_path / "reference").symlink_to(committed)
    (tmp_path / "cpu").symlink_to(outputs / "first")
    os.utime(committed / "manifest.json")
    assert newest_run(tmp_path).folder.name == "first"


@pytest.mark.parametrize("damage", ["cut", "gone", "more", "record"])
def test_damaged_models_are_refused_by_name(committed: Path, tmp_path: Path, damage: str) -> None:
    folder = shutil.copytree(committed, tmp_path / "reference")
    weights = folder / "models" / "enhanced" / "model.safetensors"
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-1])
    elif damage == "gone":
        weights.unlink()
    elif damage == "more":
        weights.with_name("adapter_config.json").write_text("{}")
    else:
        (folder / "models" / "files.json").write_text("{}")
    with pytest.raises(SettingsError, match=r"models is damaged: .*Restore it from git"):
        explorer_of(open_finished(folder))


def test_a_committed_run_without_models_is_said(committed: Path, tmp_path: Path) -> None:
    (tmp_path / "reference").mkdir()
    shutil.copy(committed / "manifest.json", tmp_path / "reference")
    with pytest.raises(SettingsError, match="reference was committed without its models; `make reproduce` makes one"):
        newest_run(tmp_path)


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
