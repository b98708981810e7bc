"""Runs that were killed, damaged or stopped end as if nothing had happened, or say what is wrong."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from rwkvgate.experiment.training import checkpointing, train
from rwkvgate.experiment.training.checkpointing import SEAL, WEIGHTS, is_sound
from tests.experiment.training.schedules import short_schedule

KILLS = 30
"""`make test-kills` does 100."""
SCHEDULE = short_schedule(steps=12, length=16, warmup_steps=2, log_every=1, eval_every=4)


def rows() -> list[list[int]]:
    """Rows for every step."""
    return [[0, *[1 + (3 * i + k) % 11 for k in range(12)]] for i in range(SCHEDULE.steps * SCHEDULE.batch_size)]


class Interrupted(Exception):
    """What stops a training in the middle."""


@pytest.fixture
def every_step(monkeypatch: Any) -> None:
    """A checkpoint after each step."""
    monkeypatch.setattr(checkpointing, "SAVE_SECONDS", 0.0)


def trained(model: Any, folder: Path | None, stop: int | None = None, monkeypatch: Any = None) -> Any:
    """The log of a training that may be stopped after a step."""
    if stop is not None:
        plain = checkpointing.Saver.on_save

        def on_save(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            plain(self, args, state, control, **kwargs)
            if state.global_step == stop:
                raise Interrupted

        monkeypatch.setattr(checkpointing.Saver, "on_save", on_save)
    try:
        return train(model, rows(), SCHEDULE, label="test", seed=0, validation=rows()[:3], checkpoints=folder)
    finally:
        if stop is not None:
            monkeypatch.setattr(checkpointing.Saver, "on_save", plain)


@pytest.fixture(scope="module")
def left_alone(tiny_model: Any) -> Any:
    """Model and log of the training without an interruption."""
    model = tiny_model("enhanced", torch.float32)
    return model, trained(model, None)


def equal(one: Any, other: Any) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.usefixtures("every_step")
@pytest.mark.parametrize("stop", [1, 4, 7, 12])
def test_an_interrupted_training_goes_on_and_ends_the_same(
    tiny_model: Any, left_alone: Any, stop: int, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    with pytest.raises(Interrupted):
        trained(tiny_model("enhanced", torch.float32), tmp_path, stop, monkeypatch)
    model = tiny_model("enhanced", torch.float32)
    log = trained(model, tmp_path)
    assert f"resumes from step {stop}" in capsys.readouterr().out
    assert equal(model, left_alone[0]) and log.history == left_alone[1].history
    assert log.begun == stop and log.tokens == left_alone[1].tokens
    done = log.tokens * (SCHEDULE.steps - stop) / SCHEDULE.steps
    assert math.isnan(log.tokens_per_second) if not done else log.tokens_per_second == done / log.seconds


@pytest.mark.usefixtures("every_step")
@pytest.mark.parametrize("damage", ["cut", "changed", "unsealed", "missing"])
def test_a_broken_checkpoint_is_said_and_the_one_before_is_used(
    tiny_model: Any, left_alone: Any, damage: str, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    with pytest.raises(Interrupted):
        trained(tiny_model("enhanced", torch.float32), tmp_path, 7, monkeypatch)
    newest = tmp_path / "checkpoint-7"
    path = newest / "optimizer.pt"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:100])
    elif damage == "changed":
        data = bytearray((newest / WEIGHTS).read_bytes())
        data[-1] ^= 1
        (newest / WEIGHTS).write_bytes(bytes(data))
    else:
        (newest / SEAL if damage == "unsealed" else path).unlink()
    assert not is_sound(newest) and is_sound(tmp_path / "checkpoint-6")
    model = tiny_model("enhanced", torch.float32)
    log = trained(model, tmp_path)
    printed = capsys.readouterr().out
    assert "checkpoint-7 is incomplete or damaged" in printed and "resumes from step 6" in printed
    assert equal(model, left_alone[0]) and log.history == left_alone[1].history


@pytest.mark.usefixtures("every_step")
def test_checkpoints_of_another_training_are_not_taken(
    tiny_model: Any, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    with pytest.raises(Interrupted):
        trained(tiny_model("enhanced", torch.float32, seed=5), tmp_path, 3, monkeypatch)
    log = trained(tiny_model("enhanced", torch.float32), tmp_path)
    said = capsys.readouterr().out
    assert "resumes" not in said and "checkpoint-3 is of another training" in said and log.begun == 0


def test_checkpoints_are_rare_and_only_two_are_kept(tiny_model: Any, tmp_path: Path, monkeypatch: Any) -> None:
    trained(tiny_model("enhanced", torch.float32), tmp_path)
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-12"]  # 20 seconds had not passed
    monkeypatch.setattr(checkpointing, "SAVE_SECONDS", 0.0)
    trained(tiny_model("no-layer-norm", torch.float32), tmp_path)
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-11", "checkpoint-12"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)], capture_output=True)
    if mount.returncode:
        pytest.skip("a file system can be mounted by root alone")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.skipif(sys.platform != "linux" or not shutil.which("mount"), reason="mounts a file system")
@pytest.mark.usefixtures("every_step")
def test_a_full_disk_is_said_and_costs_neither_the_training_nor_what_was_kept(
    tiny_model: Any, left_alone: Any, small_disk: Path, monkeypatch: Any, capsys: Any
) -> None:
    checkpoints, filler = small_disk / "checkpoints", small_disk / "filler"
    with pytest.raises(Interrupted):
        trained(tiny_model("enhanced", torch.float32), checkpoints, 4, monkeypatch)
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        while True:
            file.write(bytes(4096))
    model = tiny_model("enhanced", torch.float32)
    log = trained(model, checkpoints)
    said = capsys.readouterr().out
    assert "resumes from step 4" in said and equal(model, left_alone[0]) and log.history == left_alone[1].history
    assert "step 12 could not be written" in said and "it would resume from step 4" in said
    assert {path.name for path in checkpoints.glob("checkpoint-*")} == {"checkpoint-3", "checkpoint-4"}
    filler.unlink()
    trained(tiny_model("enhanced", torch.float32), checkpoints)
    said = capsys.readouterr().out
    assert "resumes from step 4" in said and "could not be written" not in said


def test_several_processes_say_where_they_go_on_when_the_disk_is_full(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "checkpoint-4").mkdir()
    checkpointing._give_up(tmp_path, 4, OSError("No space left on device"), stops=True)
    said = capsys.readouterr().out
    assert "step 4 could not be written" in said and "Training stops, and resumes from the beginning" in said
    assert not (tmp_path / "checkpoint-4").exists()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="kills by fork")
def test_kills_at_random_moments_change_nothing(tmp_path: Path) -> None:
    command = [sys.executable, str(Path(__file__).with_name("kills.py")), str(tmp_path), str(KILLS), "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(re.search(r"(\d+) kills", done.stdout).group(1)) >= KILLS  # type: ignore[union-attr]
