"""Make a step once: after the steps it requires, by one process at a time, atomically, with a record of its inputs.

A step writes its folder under a temporary name, with a record, and renames it. The record holds the hash of the inputs,
of every file, and of what the required steps wrote. A folder that agrees with all of these is finished; any other is
made again, and the reason printed. Files of a step are read in the folder that `complete` returns, and nowhere else.
Processes that were launched together make a step together: all of them compute, and the main one alone decides what is
finished, and writes.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from rwkvgate.experiment.budget import stop_if_spent
from rwkvgate.experiment.environment import commit, environment
from rwkvgate.experiment.locks import hold
from rwkvgate.experiment.order import Step
from rwkvgate.experiment.records import files_below, marks, reading, write_sealed
from rwkvgate.experiment.run import RECORD, after_step, write_manifest
from rwkvgate.experiment.training import ranks
from rwkvgate.experiment.training.launching import launch
from rwkvgate.rwkv6.files import digest, raise_on_full_disk, restore_folder, write_folder, write_json

Write = Callable[[Path], object]
"""A function that writes a step's outputs into a folder."""
MAKERS: dict[str, Callable[[Step], Write]] = {}
"""By a step's name the function that makes it: it computes the outputs and returns the function that writes them."""


def makes(name: str) -> Callable[[Callable[[Step], Write]], Callable[[Step], Write]]:
    """Decorator that registers the function that makes the steps of that name."""

    def register(maker: Callable[[Step], Write]) -> Callable[[Step], Write]:
        MAKERS[name] = maker
        return maker

    return register


def complete(step: Step) -> Path:
    """The folder of a finished step, whose files are verified; an unfinished one is made first, and what it requires.

    Raises:
        FloatingPointError: its training diverged, now or earlier. The record of this is kept, because the same inputs
            would diverge again.
        RuntimeError: one of the processes that it was launched in failed; the next call resumes from their checkpoint.
        SettingsError: another process is making it.
        BudgetSpent: the minutes are spent (`rwkvgate.experiment.budget`); what is finished is kept.
        OSError: the disk is full.
    """
    if ranks.from_main(lambda: check_finished(step)):
        return step.folder
    if step.processes > 1 and ranks.count() == 1:
        _launch(step)
        return step.folder
    for required in step.requires:
        complete(required)
    with making(step) as work:
        if work:
            work.write(MAKERS[step.name](step))
    return step.folder


@dataclass
class Work:
    """A step while it is made, by this process or by processes that were launched together."""

    step: Step

    def __post_init__(self) -> None:
        self.started, self.sources = time.monotonic(), self.step.sources

    def write(self, outputs: Write) -> None:
        """Write the step's folder and its record atomically; after an error the earlier folder is unchanged.

        Args:
            outputs: writes into the temporary folder that it is given; only the main process calls it.

        Raises:
            OSError: the disk is full.
        """
        ranks.from_main(lambda: _write(self, outputs))


@contextmanager
def making(step: Step) -> Iterator[Work | None]:
    """Context manager that locks a step while it is made, and yields its `Work`, or None if it is finished.

    The lock is held by this process, or by the main one of those launched together. A training that diverges inside is
    recorded.

    Raises:
        FloatingPointError, SettingsError, BudgetSpent: as `complete`.
    """
    if ranks.from_main(lambda: check_finished(step)):
        yield None  # without the lock, which a read-only disk cannot give
        return
    ranks.from_main(lambda: stop_if_spent(str(step)))
    with ranks.on_main(lambda: hold(step.run.folder, step.folder)):
        finished = ranks.from_main(lambda: check_finished(step))  # another process may just have finished it
        if not finished:
            ranks.from_main(lambda: _say_why(step))
        try:
            yield None if finished else Work(step)
        except FloatingPointError as error:
            message = f"{step.variant or step.name}: {error}"
            record = {"inputs": step.trained_on, "error": message}
            ranks.from_main(lambda: write_json(step.failure, record))
            raise FloatingPointError(message) from error


def _launch(step: Step) -> None:
    """Make a step, and what it requires, in several processes, and wait for them."""
    assert step.variant is not None
    try:
        launch(step.variant)
    except RuntimeError:
        check_finished(step)  # raises the reason, if training diverged
        raise


def check_finished(step: Step) -> bool:
    """Whether a step is finished. Removes what earlier attempts left, and completes what a kill left half done.

    Raises:
        FloatingPointError: an earlier training on these inputs diverged.
    """
    restore_folder(step.folder)
    if reason := step.divergence:
        raise FloatingPointError(f"{reason} (recorded in {step.failure}; remove it to try again)")
    if step.failure.exists():
        with suppress(OSError):  # a folder of that name, or a read-only disk: it is not this step's
            step.failure.unlink(missing_ok=True)  # a record of other inputs
    if step.is_finished:
        _remove(step.checkpoints)  # a process may have been killed after finishing the step and before removing them
        return True
    return False


def _say_why(step: Step) -> None:
    """Print why a step that was made before is made again.

    Raises:
        SettingsError: that would remove files that are not the step's.
    """
    step.refuse_unknown()
    if step.folder.is_dir():
        print(f"{step} in {step.folder} is made again: {step.fault}", flush=True)


def read_frame(step: Step, name: str) -> pd.DataFrame:
    """A table of a step, which is made first if need be, from the parquet file `name` in its folder."""
    with reading(complete(step) / name) as path:
        return pd.read_parquet(path)


def read_value(step: Step, name: str) -> Any:
    """The value of the JSON file `name` in the folder of a step, which is made first if need be."""
    with reading(complete(step) / name) as path:
        return json.loads(path.read_text(encoding="utf-8"))


def _write(work: Work, outputs: Write) -> None:
    step, folder = work.step, work.step.folder
    try:
        with write_folder(folder) as fresh:
            outputs(fresh)
            record = {
                "step": step.name,
                "profile": step.run.settings.profile,
                "inputs": step.digest,
                "seconds": round(time.monotonic() - work.started, 2),
                "finished": datetime.now(UTC).isoformat(timespec="seconds"),
                "commit": commit(),
                "environment": digest(environment()),
                "requires": work.sources,
                "files": marks(fresh, files_below(fresh)),
            }
            write_sealed(fresh / RECORD, record)
    except Exception as error:
        advice = "Make room and run again; what was finished is kept, and training goes on from its last checkpoint"
        raise_on_full_disk(error, folder, step.name, advice)
        raise
    _remove(step.checkpoints)
    for call in after_step.values():
        call(folder)
    write_manifest(step.run)


def _remove(checkpoints: Path) -> None:
    """Remove a folder of checkpoints, and its parent if that is then empty."""
    if checkpoints.is_dir():
        shutil.rmtree(checkpoints, ignore_errors=True)
        with suppress(OSError):
            checkpoints.parent.rmdir()
