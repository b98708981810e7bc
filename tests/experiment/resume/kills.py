"""Kill a run with SIGKILL at random moments until it has ended, and compare with one that was left alone.

    python tests/experiment/resume/kills.py FOLDER KILLS SEED

The work is an arm of a smoke run: its training, the writing of its weights, its evaluation. The parent imports
everything and computes nothing, so that each child starts at once, by fork. Prints how many kills there were.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

os.environ |= {"RWKVGATE_SAVE_SECONDS": "0", "OMP_NUM_THREADS": "1"}

import torch
from safetensors.torch import load_file

from rwkvgate.experiment import order
from rwkvgate.experiment.open_run import open_run
from rwkvgate.experiment.run import Run
from rwkvgate.experiment.steps import ensure_base, ensure_evaluation
from rwkvgate.experiment.steps.arm import WEIGHTS
from rwkvgate.experiment.steps.base import read_log
from rwkvgate.experiment.steps.evaluation import METRICS

ARM = "enhanced"
SETTINGS = {"training": {"steps": 24, "warmup_steps": 2}, "evaluation": {"documents": 4, "new_tokens": 4}}
TIMES = ("seconds_median", "seconds_low", "seconds_high", "ratio", "ratio_low", "ratio_high", "peak_mib")


def run_in(folder: Path) -> Run:
    """The run of a folder."""
    return open_run(profile="smoke", run_dir=str(folder), arm=ARM, **SETTINGS)


def forked(work: object) -> int:
    """A child that does the work; its process id."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
            work()  # type: ignore[operator]
        code = 0
    finally:
        os._exit(code)


def finished(child: int) -> None:
    """Wait for a child that is left alone."""
    _, status = os.waitpid(child, 0)
    assert status == 0, f"a run that nobody killed ended with status {status}"


def killed(child: int, after: float) -> bool:
    """Kill a child after so many seconds; whether it had not ended by itself."""
    until = time.monotonic() + after
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            assert status == 0, f"a resumed run ended with status {status}"
            return False
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


def same(one: Run, other: Run) -> None:
    """Weights, losses and scores must be equal to the last bit."""
    left, right = (load_file(str(run.variant(ARM).folder / WEIGHTS)) for run in (one, other))
    assert left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
    first, second = (read_log(order.arm(run.variant(ARM))).history for run in (one, other))
    assert first == second
    assert all(order.evaluation(run.variant(ARM)).is_finished for run in (one, other))
    a, b = (ensure_evaluation(run.variant(ARM)) for run in (one, other))
    assert a.documents.equals(b.documents) and a.samples == b.samples
    scores = [(order.evaluation(run.variant(ARM)).folder / METRICS).read_text() for run in (one, other)]
    assert scores[0] == scores[1]
    assert not list(one.folder.rglob("checkpoint-*")), "checkpoints of a finished training are left"


def main(folder: Path, kills: int, seed: int) -> None:
    """The plain run, then rounds of killed ones."""
    rng, plain = random.Random(seed), folder / "plain"
    finished(forked(lambda: ensure_base(run_in(plain))))
    shutil.copytree(plain, folder / "start")
    started = time.monotonic()
    finished(forked(lambda: ensure_evaluation(run_in(plain).variant(ARM))))
    alone, done, rounds = time.monotonic() - started, 0, 0
    while done < kills:
        rounds += 1
        shutil.copytree(folder / "start", folder / "killed")
        while True:
            # Short and long waits, so that every part of the work is hit.
            wait = alone * rng.random() ** 2 if done < kills else 600.0
            if not killed(forked(lambda: ensure_evaluation(run_in(folder / "killed").variant(ARM))), wait):
                break
            done += 1
        same(run_in(folder / "killed"), run_in(plain))
        shutil.rmtree(folder / "killed")
    print(f"{done} kills in {rounds} runs, all ended as the one left alone ({alone:.1f} s)")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
