"""An arm trained by `accelerate launch` into the run folder: killed, taken up by notebook 02's call, found done."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import yaml

from rwkvgate.experiment import locks, order
from rwkvgate.experiment.open_run import open_run
from rwkvgate.experiment.run import Run, Variant, lock_folder
from rwkvgate.experiment.settings import resolve
from rwkvgate.experiment.steps import ensure_arm, ensure_base, ensure_evaluation, ensure_probes, making
from rwkvgate.experiment.steps.base import read_log
from rwkvgate.experiment.steps.making import complete
from rwkvgate.experiment.training import launching
from rwkvgate.experiment.training import worker as distributed
from rwkvgate.experiment.training.launching import config_path, launch_command
from rwkvgate.gate.validation import SettingsError

STEPS = {"steps": 40, "log_every": 2, "eval_every": 20}
ROUNDING = 1e-4
"""Relative difference of losses: forty steps of a small network at a high rate spread what rounding began."""


def run_in(folder: Path, **training: Any) -> Run:
    """A run at profile smoke."""
    return open_run(profile="smoke", run_dir=str(folder), training=STEPS | training)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose arm one process trained."""
    folder = tmp_path_factory.mktemp("launched") / "alone"
    ensure_base(run_in(folder))
    shutil.copytree(folder, folder.with_name("together"))
    ensure_arm(run_in(folder).variant("enhanced"))
    return folder


def workers(launcher: int) -> list[int]:
    """The processes that a launcher has started."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    return [int(child) for child in children]


@pytest.mark.skipif(sys.platform != "linux", reason="finds children in /proc")
@pytest.mark.slow
def test_a_launch_trains_with_the_settings_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with a rate that JSON writes without a point, as 5e-05, which YAML takes for a string."""
    rates = {"learning_rate": 5e-5, "learning_rates": [1e-5], "weight_decay": 1e-7, "processes": 2}
    run = Run(resolve("smoke", run_dir=str(tmp_path / "run with a 'quote', ünï"), training=rates))
    given = distributed._parser().parse_args(launch_command(run.variant("enhanced"))[9:])
    monkeypatch.setattr("rwkvgate.experiment.training.ranks.count", lambda: 2)
    assert resolve(**distributed._parameters(given, sharded=False)) == run.settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("{training: {steps: 010}}", "'010' .* is no plain whole number"),
        ("{training: {steps: 5, steps: 7}}", "'steps' stands twice"),
        ("{training: 5}", "--settings holds training 5; it must be a mapping"),
        ("{1: 2, a: 3}", "--settings holds 1; it must be a mapping of"),
        ("[1]", r"--settings holds \[1\]; it must be a mapping of"),
        ("{", "--settings is not valid YAML"),
    ],
)
def test_settings_of_a_launch_that_are_none_are_refused(settings: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        distributed._parameters(distributed._parser().parse_args(["--settings", settings]), sharded=False)


def test_a_killed_process_ends_the_launch_and_the_next_goes_on(
    alone: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RWKVGATE_SAVE_SECONDS", "0")
    together = run_in(alone.with_name("together"), processes=2)
    held = lock_folder(together.folder)  # as the run graph has it, whose job this may be
    checkpoints = order.arm(together.variant("enhanced")).checkpoints
    command = launch_command(together.variant("enhanced"))
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as launcher:
        while launcher.poll() is None and not list(checkpoints.rglob("sealed.json")):
            time.sleep(0.02)
        if launcher.poll() is None:
            monkeypatch.setattr(locks, "PATIENCE", 0.2)
            with pytest.raises(SettingsError, match="another process makes arms/enhanced/seed0 in"):
                complete(order.arm(run_in(together.folder).variant("enhanced")))
            os.kill(workers(launcher.pid)[1], signal.SIGKILL)
        printed, _ = launcher.communicate(timeout=200)
    assert launcher.returncode != 0 and "SIGKILL" in printed, printed[-3000:]
    assert held is not None
    assert not order.arm(together.variant("enhanced")).is_finished

    # Notebook 02's call takes it up, the model spread over the processes now.
    spread = run_in(together.folder, processes=2, sharded=True)
    model = ensure_arm(spread.variant("enhanced"))
    printed = capfd.readouterr().out
    assert "2 processes train together" in printed and printed.count("resumes from step") == 1
    assert printed.count("fine-tuning enhanced, seed 0: 40 of 40") == 1  # the main process alone tells
    assert not checkpoints.exists() and model.device.type == ("cuda" if torch.cuda.is_available() else "cpu")

    # With one process the same settings find it done, and the losses are those of one.
    single = run_in(together.folder)
    assert order.arm(single.variant("enhanced")).is_finished
    log, wanted = (read_log(order.arm(run.variant("enhanced"))) for run in (single, run_in(alone)))
    assert (log.processes, log.sharded, log.tokens) == (2, True, wanted.tokens)
    assert len(log.history) == len(wanted.history)
    for mine, theirs in zip(log.history, wanted.history, strict=True):
        for key in ("loss", "validation_loss"):
            assert mine.get(key, 0) == pytest.approx(theirs.get(key, 0), rel=ROUNDING)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process does not learn of its parent's end")
@pytest.mark.slow
def test_no_process_outlives_a_killed_launcher(alone: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(alone, tmp_path / "run"))
    shutil.rmtree(folder / "arms")
    run = run_in(folder, processes=2, steps=4000)
    with subprocess.Popen(launch_command(run.variant("enhanced")), stdout=subprocess.PIPE, text=True) as launcher:
        assert launcher.stdout is not None and any(" of 4000" in line for line in launcher.stdout)
        family = [psutil.Process(pid) for pid in workers(launcher.pid)]
        launcher.kill()
    assert len(family) == 2 and not psutil.wait_procs(family, timeout=60)[1]


def test_a_failed_launch_says_what_to_do(alone: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    command = [sys.executable, "-c", "print('the reason'); raise SystemExit(7)"]
    monkeypatch.setattr(launching, "launch_command", lambda *arguments: command)
    with pytest.raises(RuntimeError, match=r"in 2 processes ended with status 7; the same call resumes.*\nthe reason"):
        launching.launch(run_in(alone, processes=2).variant("enhanced"))
    assert "the reason" in capsys.readouterr().out


@pytest.mark.parametrize("ensure", [ensure_arm, ensure_evaluation, ensure_probes])
def test_whoever_asks_first_launches_the_training(
    ensure: Callable[[Variant], object], alone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched: list[str] = []

    def launch(variant: Variant) -> None:
        launched.append(str(variant))
        raise RuntimeError("a process was killed")

    monkeypatch.setattr(making, "launch", launch)
    run = run_in(alone, processes=2)
    with pytest.raises(RuntimeError, match="a process was killed"):
        ensure(run.variant("fixed-gate", 1))
    assert launched == ["fixed-gate, seed 1"]
    ensure_arm(run.variant("enhanced-untrained"))  # nothing is trained, and nothing launched
    assert len(launched) == 1


def test_what_cannot_be_shared_is_refused_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match=r"batch_size is 4.*3 processes.*must be 1, 2 or 4"):
        run_in(tmp_path, processes=3)
    with pytest.raises(SettingsError, match="sharded needs more than one"):
        run_in(tmp_path, sharded=True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(SettingsError, match=r"training\.processes is 2, one for each GPU, and this machine has 1 "):
        launching.launch(Run(resolve("smoke", str(tmp_path), training={"processes": 2})).variant("enhanced"))
    assert not list(tmp_path.iterdir())


def test_bad_settings_end_the_command_with_status_2(tmp_path: Path, capsys: Any) -> None:
    for given, said in (
        ("{trainng: {}}", "trainng"),
        ("[1]", "a mapping"),
        ("{training: {stpes: 3}}", "training.steps"),
    ):
        assert distributed.main(["--profile", "smoke", "--run-dir", str(tmp_path), "--settings", given]) == 2
        assert said in capsys.readouterr().err


@pytest.mark.parametrize(("sharded", "kind"), [(False, "MULTI_GPU"), (True, "FSDP")])
def test_the_files_for_accelerate_are_whole(sharded: bool, kind: str) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    path = config_path(sharded)
    config = load_config_from_file(str(path))
    assert config.distributed_type == kind and config.mixed_precision == "no"
    assert (yaml.safe_load(path.read_text()).get("fsdp_config") is not None) == sharded
