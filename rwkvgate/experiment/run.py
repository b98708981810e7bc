"""The run folder: where each thing lies, which steps are finished, and where the numbers came from.

A step writes its folder under a temporary name, puts a record of its inputs' hash in it and renames it.
A folder whose record carries the hash at hand is finished and is not made again; any other is.
"""

from __future__ import annotations

import errno
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rwkvgate.experiment.environment import commit, environment, hardware, versions
from rwkvgate.experiment.locks import hold, take
from rwkvgate.experiment.settings import Settings
from rwkvgate.gate.validation import SettingsError
from rwkvgate.rwkv6.files import digest, read_json, write_folder, write_json, write_text

RECORD = "step.json"
MANIFEST = "manifest.json"
ENVIRONMENT = "environment.txt"
CHECKPOINT = "checkpoint.json"

NO_ROOM = "No space left on device"
"""A full disk in the words of the system."""
LOCK = ".lock"
"""The file that a whole run holds."""

after_step: dict[str, Callable[[Path], object]] = {}
"""Called with the folder of each step just finished, by who asked: the copy to Drive does."""


@dataclass(frozen=True)
class Run:
    """One run folder and the settings it is opened with."""

    settings: Settings

    @property
    def folder(self) -> Path:
        """The run folder, absolute."""
        return self.settings.folder

    @property
    def corpus(self) -> Path:
        """Texts and tokenizer."""
        return self.folder / "corpus"

    @property
    def base(self) -> Path:
        """The base model pretrained here."""
        return self.folder / "base"

    @property
    def results(self) -> Path:
        """Tidy tables over all arms and seeds."""
        return self.folder / "results"

    @property
    def figures(self) -> Path:
        """Figures as SVG and PNG."""
        return self.folder / "figures"

    @property
    def report(self) -> Path:
        """The whole run on one page."""
        return self.folder / "report.html"

    def arm(self, arm: str, seed: int) -> Path:
        """One arm of one seed: weights, training log, metrics."""
        return self.folder / "arms" / arm / f"seed{seed}"

    def failure(self, arm: str, seed: int) -> Path:
        """Why the arm's training with that seed failed, where it did; beside the folder, which is made whole or not."""
        return self.folder / "arms" / arm / f"seed{seed}.failed.json"

    def checkpoints(self, arm: str | None = None, seed: int = 0) -> Path:
        """Checkpoints of an arm's training, or of the base's, while it runs."""
        return self.folder / "checkpoints" / ("base" if arm is None else f"{arm}.seed{seed}")

    def evaluation(self, arm: str, seed: int) -> Path:
        """What was measured on that arm and seed."""
        return self.arm(arm, seed) / "evaluation"

    def probes(self, arm: str, seed: int) -> Path:
        """What that arm and seed did on long texts, other domains and probes of memory."""
        return self.arm(arm, seed) / "probes"

    def command(self) -> str:
        """The command that makes the whole run, for messages."""
        return f"PROFILE={self.settings.profile} make reproduce"


def open_folder(settings: Settings) -> Run:
    """The run in the settings' folder, which need not exist yet.

    Raises:
        SettingsError: the folder holds a run of another profile, or something that is no run.
    """
    run = Run(settings)
    if run.folder.exists() and not run.folder.is_dir():
        raise SettingsError(f"run_dir {run.folder} is a file; it must be a folder")
    manifest = read_json(run.folder / MANIFEST)
    if manifest is None:
        if foreign := _foreign(run.folder):
            raise SettingsError(
                f"run_dir {run.folder} holds {', '.join(foreign[:3])} and no {MANIFEST}: it is no run "
                "folder. Choose an empty or a new one"
            )
        write_manifest(run)
    elif (profile := manifest.get("settings", {}).get("profile")) != settings.profile:
        raise SettingsError(
            f"run_dir {run.folder} holds a run of profile {profile!r}; this one is {settings.profile!r}. "
            "Choose another run_dir, or that profile"
        )
    return run


def _foreign(folder: Path) -> list[str]:
    """Names of what is somebody's own in a folder without a manifest.

    The run graph puts notebooks there before the first step; those are ours.
    """
    return sorted(path.name for path in folder.glob("[!.]*") if path.name != "notebooks")


def failures(notebooks: Path) -> str:
    """The notebooks of a run that failed, each with its cell's error, as lines to print; "" where none did."""
    lines = []
    for path in sorted(notebooks.glob("*.failed.ipynb")):
        cells = (read_json(path) or {}).get("cells", [])
        errors = [
            f"{output.get('ename')}: {output.get('evalue')}"
            for cell in cells
            for output in cell.get("outputs", [])
            if output.get("output_type") == "error"
        ]
        said = errors[-1].splitlines()[0] if errors else "it was stopped before a cell failed"
        lines.append(f"  {path.name.removesuffix('.failed.ipynb')}: {said} ({path})")
    rest = "Tables and report wait for these: mend them and run again, or leave their arms out."
    return "\n".join(["failed:", *lines, rest]) if lines else ""


def lock_folder(folder: Path) -> Any:
    """Take a run folder for this process, which starts the jobs; what is returned must be kept until the end.

    Jobs do not ask: those of one run work side by side, some of them on other machines. None where there are no file
    locks, or the folder is no run's.

    Raises:
        SettingsError: another process works in the folder.
    """
    if folder.is_file() or (not (folder / MANIFEST).is_file() and _foreign(folder)):
        return None  # somebody's own: nothing is written there, and the first step says what is wrong
    return take(folder / LOCK, f"another run works in {folder}. Wait for it, stop it, or give another run_dir")


def is_finished(folder: Path, inputs: Mapping[str, Any]) -> bool:
    """Whether the folder holds the finished step of these inputs."""
    record = read_json(folder / RECORD)
    return isinstance(record, dict) and record.get("inputs") == digest(inputs)


def make_once(run: Run, folder: Path, inputs: Mapping[str, Any], make: Callable[[], object]) -> None:
    """Call `make` where the step is not finished, with the step to this process alone.

    Raises:
        SettingsError: another process makes it.
    """
    if is_finished(folder, inputs):
        return
    with hold(run.folder, folder):
        if not is_finished(folder, inputs):  # while we waited
            make()


@contextmanager
def step(
    folder: Path, name: str, inputs: Mapping[str, Any], started: float, obsolete: Path | None = None
) -> Iterator[Path]:
    """A temporary folder for a step's outputs; on success it gets a record and takes its place.

    On an error, what stood there before stays.

    Args:
        started: `time.monotonic()` when the step's work began, for the record's wall time.
        obsolete: a folder that is removed when the step is finished.

    Raises:
        OSError: the disk is full.
    """
    try:
        with write_folder(folder) as fresh:
            yield fresh
            record = {
                "step": name,
                "inputs": digest(inputs),
                "seconds": round(time.monotonic() - started, 2),
                "finished": datetime.now(UTC).isoformat(timespec="seconds"),
                "commit": commit(),
                "environment": digest(environment()),
            }
            write_json(fresh / RECORD, record)
    except Exception as error:
        if NO_ROOM not in str(error):
            raise
        # safetensors, parquet and json each say it in their own words, and not of which disk.
        free = shutil.disk_usage(next(path for path in folder.parents if path.is_dir())).free / 2**20
        raise OSError(
            errno.ENOSPC,
            f"{NO_ROOM}: {name} could not be written to {folder}, where {free:,.1f} MiB are free. Make room and run "
            "again; what was finished is kept, and training goes on from its last checkpoint",
        ) from error
    remove(obsolete)
    for call in after_step.values():
        call(folder)


def remove(obsolete: Path | None) -> None:
    """Remove a folder that is not needed any more, and the one that it lies in if that is empty then."""
    if obsolete is not None and obsolete.is_dir():
        shutil.rmtree(obsolete, ignore_errors=True)
        with suppress(OSError):
            obsolete.parent.rmdir()


def write_manifest(run: Run) -> dict[str, Any]:
    """Write and return the run's manifest: settings, versions, commit, hardware, texts, seeds, finished steps.

    Beside it, `environment.txt` gets every installed package. Both are the last writer's; what each step was made
    with stands in its own record, which has the environment's hash.
    """
    from rwkvgate.experiment.corpora.build import (
        SUMMARY_FILE,  # here, so that the run graph can import this module cheaply
    )

    steps = _steps(run.folder)
    seeds = {int(match[1]) for name in steps if (match := re.fullmatch(r"arms/[^/]+/seed(\d+)", name))}
    manifest: dict[str, Any] = {
        "settings": run.settings.model_dump(mode="json", exclude={"run_dir", "arm", "seed"}),
        "versions": versions(),
        "commit": commit(),
        "hardware": hardware(),
        "corpus": read_json(run.corpus / SUMMARY_FILE) or {},
        "seeds": sorted(seeds),
        "steps": steps,
    }
    checkpoint = read_json(run.base / CHECKPOINT)
    manifest |= {"checkpoint": checkpoint} if checkpoint else {}
    write_json(run.folder / MANIFEST, manifest)
    write_text(run.folder / ENVIRONMENT, environment())  # after it: a folder without a manifest is no run's
    return manifest


def _steps(folder: Path) -> dict[str, Any]:
    found = {}
    for path in sorted(folder.glob(f"**/{RECORD}")):
        record = read_json(path)
        if isinstance(record, dict) and not any(part.startswith(".") for part in path.relative_to(folder).parts):
            found[path.parent.relative_to(folder).as_posix()] = record
    return found
