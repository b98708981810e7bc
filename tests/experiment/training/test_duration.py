"""Predicted training time: it grows with the work, and taking it changes nothing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from rwkvgate.experiment.training import train
from rwkvgate.experiment.training.duration import step_seconds, training_seconds
from rwkvgate.experiment.training.rows import collate_for_loss
from tests.experiment.training.schedules import short_schedule

SCHEDULE = short_schedule(length=16)


def test_measuring_a_step_leaves_everything_as_it_was(tiny_model: Any) -> None:
    model = tiny_model("enhanced", torch.float32).eval()
    before, drawn = [p.clone() for p in model.parameters()], torch.random.get_rng_state()
    assert step_seconds(model, collate_for_loss([{"input_ids": [0, 3, 4]}, {"input_ids": [0, 5]}])) > 0
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert all(p.grad is None for p in model.parameters()) and not model.training
    assert torch.equal(drawn, torch.random.get_rng_state())


def test_seconds_follow_from_the_steps_and_what_is_read_between() -> None:
    assert training_seconds(0.5, 100, 8, validation_rows=0, validations=3) == 50.0
    assert training_seconds(0.5, 100, 8, validation_rows=24, validations=2) == pytest.approx(51.0)


def test_a_training_says_what_it_will_take_and_what_it_took(tiny_model: Any, tmp_path: Path, capsys: Any) -> None:
    rows = [[0, 1 + i, 2, 3] for i in range(8)]
    log = train(tiny_model(None, torch.float32), rows, SCHEDULE, label="tiny", seed=0, checkpoints=tmp_path)
    said = capsys.readouterr().out
    assert re.search(r"tiny: about \d+:\d\d for 4 steps", said) and re.search(r"predicted \d+:\d\d", said)
    assert log.predicted_seconds > 0 and log.seconds > 0
