"""Two processes train as one: the same losses, checkpoints that either goes on from, an end for all where one fails."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rwkvgate.experiment.training import checkpointing
from rwkvgate.experiment.training.launching import config_path

WORK = Path(__file__).with_name("work.py")
ROUNDING = 2e-6
"""Relative difference of a loss, in float32, that another order of summation may make over eight steps."""
HALF_ROUNDING = 2e-3
"""The same with a bfloat16 base, whose products depend on how many rows are multiplied at once."""
WEIGHT = 1e-3
"""Absolute difference of a weight. Adam divides a gradient by its own size, so one that is nothing but rounding moves
its weight by up to a whole step, 1e-2."""


@pytest.fixture(scope="session")
def work() -> Any:
    """The trainings that the processes run too."""
    spec = importlib.util.spec_from_file_location("work", WORK)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def folder(work: Any, tmp_path_factory: Any) -> Path:
    """What one process and then two left, in one launch for all tests."""
    path: Path = tmp_path_factory.mktemp("together")
    before, checkpointing.SAVE_SECONDS = checkpointing.SAVE_SECONDS, 0.0
    try:
        for kind in ("whole", "spread"):
            assert work.trained(work.new_model(), path / f"begun-by-one-{kind}", stop=True) is None
        model = work.new_model()
        work.keep(path, "alone", model, work.trained(model))
        model = work.new_model(torch.bfloat16, "gate-and-norms")
        work.keep(path, "frozen-alone", model, work.trained(model, gradient_checkpointing=True, steps=4))
    finally:
        checkpointing.SAVE_SECONDS = before
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config_path(False))]
    command += ["--num_processes", "2", "--num_cpu_threads_per_process", "1", str(WORK), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    return path


def told(folder: Path, name: str) -> Any:
    return json.loads((folder / f"{name}.json").read_text())


def same(one: list[dict[str, float]], other: list[dict[str, float]], rounding: float) -> None:
    """Two histories: the same records, and each number the same but for rounding."""
    assert [sorted(record) for record in one] == [sorted(record) for record in other]
    for left, right in zip(one, other, strict=True):
        for key, value in left.items():
            # The gradient's length sums squares: twice the relative error, and more.
            assert right[key] == pytest.approx(value, rel=rounding * (10 if key == "gradient_norm" else 1)), (key, left)


@pytest.mark.parametrize("kind", ["whole", "spread"])
@pytest.mark.parametrize("name", ["plain", "taken-up"])
def test_two_processes_have_the_losses_of_one(folder: Path, name: str, kind: str) -> None:
    alone, together = told(folder, "alone"), told(folder, f"{name}-{kind}")
    assert together["processes"] == 2 and together["sharded"] == (kind == "spread")
    same(alone["history"], together["history"], ROUNDING)
    one, two = load_file(folder / "alone.safetensors"), load_file(folder / f"{name}-{kind}.safetensors")
    assert one.keys() == two.keys()
    assert all(torch.allclose(one[n], two[n], rtol=0, atol=WEIGHT) for n in one)


def test_validation_counts_every_row_once(folder: Path) -> None:
    # Eleven rows in batches of eight: the last batch has three, of which two processes read two and one.
    losses, wanted = (
        [record["validation_loss"] for record in told(folder, name)["history"] if "validation_loss" in record]
        for name in ("plain-whole", "alone")
    )
    assert len(losses) == 2 and losses == pytest.approx(wanted, rel=ROUNDING)


@pytest.mark.parametrize("kind", ["whole", "spread"])
def test_a_training_left_by_two_is_ended_by_one(work: Any, folder: Path, kind: str, capsys: Any) -> None:
    model = work.new_model()
    log = work.trained(model, folder / f"stopped-{kind}")
    assert f"resumes from step {work.STOP}" in capsys.readouterr().out
    assert log.processes == 1 and not log.sharded
    same(told(folder, "alone")["history"], log.history, ROUNDING)
    wanted = load_file(folder / "alone.safetensors")
    assert all(torch.allclose(p, wanted[n], rtol=0, atol=WEIGHT) for n, p in model.named_parameters())


def test_a_checkpoint_of_a_spread_model_serves_processes_that_hold_it_whole(folder: Path) -> None:
    mixed = told(folder, "mixed")
    assert mixed["processes"] == 2 and not mixed["sharded"]
    same(told(folder, "alone")["history"], mixed["history"], ROUNDING)


def test_checkpoints_of_several_are_sealed_whole(folder: Path) -> None:
    whole, spread = (sorted(folder.glob(f"stopped-{kind}/checkpoint-3/*")) for kind in ("whole", "spread"))
    assert [path.name for path in whole] == [path.name for path in spread]
    assert {"rng_state_0.pth", "rng_state_1.pth", "sealed.json"} <= {path.name for path in whole}
    left, right = (torch.load(p[0].parent / "optimizer.pt", weights_only=True) for p in (whole, spread))
    for i, entry in left["state"].items():
        assert all(right["state"][i][name].shape == x.shape for name, x in entry.items())


@pytest.mark.parametrize("kind", ["whole", "spread"])
def test_a_frozen_half_base_under_float32_gates(folder: Path, kind: str) -> None:
    same(told(folder, "frozen-alone")["history"], told(folder, f"frozen-{kind}")["history"], HALF_ROUNDING)


@pytest.mark.parametrize("kind", ["whole", "spread"])
def test_a_loss_of_one_that_is_no_number_stops_all(folder: Path, kind: str) -> None:
    said = [(folder / f"diverging-{kind}.{rank}").read_text() for rank in (0, 1)]
    assert said[0] == said[1] and said[0].startswith("the loss is nan at step 3")


def test_a_grid_of_rates_on_a_spread_model(work: Any, folder: Path) -> None:
    grid = told(folder, "grid")
    assert list(grid["tried"]) == [f"{rate:g}" for rate in work.RATES] and grid["sharded"]
    best = max(work.RATES, key=lambda rate: -grid["tried"][f"{rate:g}"])
    assert best == work.SCHEDULE.learning_rate  # so that its history is the one trained alone
    same(told(folder, "alone")["history"], grid["history"], ROUNDING)


def test_a_gradient_that_overflows_in_one_part_is_skipped_by_all(folder: Path) -> None:
    said = [json.loads((folder / f"overflowing.{rank}").read_text()) for rank in (0, 1)]
    assert said[0] == said[1] == [[512.0, False], [512.0, True]]
