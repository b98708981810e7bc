"""The run graph killed and interrupted in the middle of its notebooks: the next run goes on, and ends the same."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import psutil
import pytest
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]
TARGET = "notebooks/03_evaluate.enhanced.seed0.ipynb"
TUNED = "notebooks/02_finetune.enhanced.seed0.ipynb"
PATIENCE = 120.0
"""Seconds after which a process that was told to stop is taken to hang."""


def is_kernel(process: psutil.Process) -> bool:
    """Whether a process is a kernel: one that was started, or a fork of the warm process, whose words it has."""
    words, parents = (" ".join(one.cmdline()) for one in (process, process.parent()))
    return "ipykernel" in words or ("rwkvgate.workflow.warm" in words and words == parents)


class Graph:
    """The run graph up to one arm's evaluation, started as `make reproduce` starts it."""

    def __init__(self, folder: Path) -> None:
        config = ["profile=smoke", "studies=off", f"run_dir={folder}"]
        plainly = ["--cores", "1", "--nolock", "--rerun-incomplete"]
        command = [sys.executable, "-m", "snakemake", *plainly, str(folder / TARGET), "--config", *config]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "RWKVGATE_SAVE_SECONDS": "0"}
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: list[str] = []
        self.said = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self.said:
                self.lines.append(line)
                self.said.notify_all()

    def wait_for(self, text: str) -> None:
        """Until a line holds the text."""
        with self.said:
            assert self.said.wait_for(lambda: any(text in line for line in self.lines), PATIENCE), self.lines

    def stop(self, kind: signal.Signals, alone: bool = False) -> None:
        """Signal it as a terminal would, or the head alone; wait until it and all that it started, kernels too, end."""
        family = [*psutil.Process(self.process.pid).children(recursive=True)]
        assert not alone or any(is_kernel(process) for process in family)
        (os.kill if alone else os.killpg)(self.process.pid, kind)
        assert self.process.wait(PATIENCE) != 0
        _, alive = psutil.wait_procs(family, timeout=PATIENCE)
        assert not alive, [process.cmdline() for process in alive]

    def finish(self) -> str:
        """Wait for its end; what it printed."""
        assert self.process.wait(900) == 0, "".join(self.lines[-60:])
        return "".join(self.lines)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    Graph(folder).finish()
    yield folder
    shutil.rmtree(folder)


@pytest.mark.slow
def test_killed_and_interrupted_it_ends_as_one_left_alone(alone: Path, tmp_path: Path) -> None:
    rng, folder = random.Random(0), tmp_path / "run"
    stops = {
        "pretraining:": signal.SIGINT,
        "fine-tuning enhanced, seed 0:": signal.SIGKILL,
        "generating for": signal.SIGINT,
    }
    for text, kind in stops.items():
        graph = Graph(folder)
        graph.wait_for(text)
        threading.Event().wait(rng.random())
        graph.stop(kind, alone=text == "fine-tuning enhanced, seed 0:")
        assert not (folder / TARGET).exists()
        assert "tuning" not in text or not (folder / TUNED).exists()  # its kernel was stopped too
    printed = Graph(folder).finish()
    assert "resumes from step" in printed or "fine-tuning" not in printed
    left, right = (load_file(str(place / "arms/enhanced/seed0/weights.safetensors")) for place in (alone, folder))
    assert left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
    one, other = (pd.read_parquet(p / "arms/enhanced/seed0/evaluation/documents.parquet") for p in (alone, folder))
    assert one.equals(other)
    assert not [*folder.rglob("checkpoint-*"), *folder.rglob("*.failed.ipynb")]
