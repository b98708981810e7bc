"""The search from end to end at profile smoke: stopped, resumed, shared between processes, and tabled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from rwkvgate.experiment.search import __main__ as search
from rwkvgate.experiment.search.candidates import CANDIDATES
from rwkvgate.experiment.search.trials import RecallTask, Trial, ensure_trial, known_trial


@pytest.fixture
def task() -> RecallTask:
    """A recall task of a few steps."""
    return RecallTask("copying", steps=3, rates=(3e-3,), batch_size=4)


def test_a_trial_is_run_once_and_kept(task: RecallTask, tmp_path: Path, monkeypatch: Any) -> None:
    first = ensure_trial(tmp_path, task, CANDIDATES["enhanced"], 3e-3, 1)
    monkeypatch.setattr(RecallTask, "run", lambda *_: pytest.fail("run again"))
    assert ensure_trial(tmp_path, task, CANDIDATES["enhanced"], 3e-3, 1) == first
    assert known_trial(tmp_path, task, CANDIDATES["enhanced"], 3e-3, 1) == first
    assert known_trial(tmp_path, task, CANDIDATES["enhanced"], 3e-3, 2) is None
    longer = RecallTask("copying", steps=4, rates=(3e-3,), batch_size=4)
    assert known_trial(tmp_path, longer, CANDIDATES["enhanced"], 3e-3, 1) is None


def test_the_same_trial_gives_the_same_numbers(task: RecallTask) -> None:
    for name in ("base-tuned", "lora-tuned", "conv-routing"):
        first, again = (task.run(CANDIDATES[name], 3e-3, 7) for _ in range(2))
        assert first == again


def test_a_diverged_trial_is_kept_as_infinite(task: RecallTask, tmp_path: Path, monkeypatch: Any) -> None:
    def diverge(*_: Any) -> Trial:
        raise FloatingPointError("the loss is nan at step 2")

    monkeypatch.setattr(RecallTask, "run", diverge)
    trial = ensure_trial(tmp_path, task, CANDIDATES["enhanced"], 3e-3, 1)
    assert trial.loss == float("inf")
    assert known_trial(tmp_path, task, CANDIDATES["enhanced"], 3e-3, 1) == trial


def test_a_search_screens_confirms_and_tells(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(search, "project_root", lambda: tmp_path)
    monkeypatch.setattr(search, "CONFIRMING", (200, 201))
    monkeypatch.setattr(RecallTask, "SCORED", (8, 16))
    tasks: list[Any] = [RecallTask("copying", 3, (3e-3,), 4)]
    search.search("smoke", tasks)
    folder = tmp_path / "outputs" / "smoke" / "search"
    trials, verdicts = pd.read_csv(folder / "trials.csv"), pd.read_csv(folder / "verdicts.csv")
    # A grid of one rate has that at both of its edges.
    assert len(trials) == 4 + 4 * 2 + 4 * 2
    assert {"screening", "screening, beyond the grid", "confirmation"} == set(trials["stage"])
    assert set(verdicts["control"]) == {"base-tuned", "lora-tuned"} and (verdicts["seeds"] == 2).all()
    assert set(verdicts["candidate"]) == {"enhanced", "identity-start"}
    told = (folder / "search.md").read_text(encoding="utf-8")
    assert told.count("## ") == 1 and "on 2 fresh seeds" in told and "base-tuned (control)" in told
