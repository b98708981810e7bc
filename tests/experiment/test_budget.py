"""A budget of minutes: work stops between steps and at a checkpoint, keeps what is done, and goes on later."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from rwkvgate.experiment import budget
from rwkvgate.experiment.budget import VARIABLE, BudgetSpent
from rwkvgate.experiment.open_run import open_run
from rwkvgate.experiment.order import Step
from rwkvgate.experiment.steps.making import making
from rwkvgate.experiment.training import train
from rwkvgate.gate.validation import SettingsError
from rwkvgate.rwkv6.files import write_text
from tests.experiment.training.schedules import short_schedule

ROWS = [[0, 1 + i % 20, 2, 3] for i in range(24)]
SCHEDULE = short_schedule(steps=12, warmup_steps=2, log_every=3, eval_every=6)


@pytest.fixture
def spend(monkeypatch: Any) -> Any:
    """Sets the budget to one minute, and the process's age in seconds."""

    def at(seconds: float) -> None:
        monkeypatch.setenv(VARIABLE, "1")
        monkeypatch.setattr(budget, "_started", budget.time.monotonic() - seconds)

    return at


@pytest.mark.parametrize("text", ["", "0", " "])
def test_there_is_no_limit_by_default(monkeypatch: Any, text: str) -> None:
    monkeypatch.setenv(VARIABLE, text)
    monkeypatch.setattr(budget, "_started", -1e9)
    assert not budget.is_spent()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks")
def test_the_minutes_of_a_forked_process_are_its_own(spend: Any) -> None:
    spend(61)
    assert budget.is_spent()
    if (child := os.fork()) == 0:
        os._exit(int(budget.is_spent()))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("text", ["soon", "-5", "nan", "inf"])
def test_no_number_of_minutes_is_refused_before_any_work(monkeypatch: Any, tmp_path: Path, text: str) -> None:
    monkeypatch.setenv(VARIABLE, text)
    with pytest.raises(SettingsError, match=f"{VARIABLE} is '{text}'; it must be a number of minutes"):
        open_run(profile="smoke", run_dir=str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_spent_budget_stops_before_the_next_step_and_says_how_to_go_on(tmp_path: Path, spend: Any) -> None:
    run = open_run(profile="smoke", run_dir=str(tmp_path / "run"))
    done, next_one = (Step(run, name, run.folder / name, {"name": name}) for name in ("base", "grid"))
    spend(59)
    with making(done) as work:
        assert work
        work.write(lambda folder: write_text(folder / "value.txt", "1"))
    spend(61)
    with making(done) as work:
        assert work is None, "what is finished is read, not made"
    with pytest.raises(BudgetSpent, match=r"budget of 1 minutes.*grid is not begun.*is kept.*To go on") as stop:
        making(next_one).__enter__()
    assert stop.value._render_traceback_() == [str(stop.value)]
    spend(0)
    with making(next_one) as work:
        assert work


def test_a_training_stops_at_a_checkpoint_and_goes_on_as_if_it_had_not(
    tiny_model: Any, tmp_path: Path, spend: Any, monkeypatch: Any
) -> None:
    plain = tiny_model("enhanced", torch.float32)
    train(plain, ROWS, SCHEDULE, label="plain", seed=0)
    spend(61)
    with pytest.raises(BudgetSpent, match=r"training stops after 3 of 12 steps, which a checkpoint .* keeps"):
        train(tiny_model("enhanced", torch.float32), ROWS, SCHEDULE, label="one", seed=0, checkpoints=tmp_path / "kept")
    monkeypatch.delenv(VARIABLE)
    resumed = tiny_model("enhanced", torch.float32)
    log = train(resumed, ROWS, SCHEDULE, label="two", seed=0, checkpoints=tmp_path / "kept")
    assert log.begun == 3
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), resumed.parameters(), strict=True))
