"""The run folder: where each thing lies, its arms and seeds, and the manifest that says where its numbers came from."""

from __future__ import annotations

import os
import re
import shlex
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from rwkvgate.experiment.arms import ARMS, Arm, find_arm
from rwkvgate.experiment.environment import commit, environment, hardware, versions
from rwkvgate.experiment.inputs import arm_inputs, gate_of
from rwkvgate.experiment.locks import take
from rwkvgate.experiment.records import SEAL, read_sealed, write_sealed
from rwkvgate.experiment.settings import LARGEST_SEED, Settings
from rwkvgate.gate.config import GateConfig
from rwkvgate.gate.validation import SettingsError, shown
from rwkvgate.rwkv6.files import digest, read_json, write_text

RECORD = "step.json"
RECORDS = tuple(f"{place}/{RECORD}" for place in ("*", "arms/*/*", "arms/*/*/*"))
"""Where the records of a run's steps lie, and not those of another run in a folder below."""
MANIFEST = "manifest.json"
ENVIRONMENT = "environment.txt"
SETTINGS = "settings.json"
"""What the results of a run were made with, beside them."""
CHECKPOINT = "checkpoint.json"
MODELS = "models"
"""The folder of models that a committed run keeps; nothing is written into such a run."""
FOLDERS = ("corpus", "base", "checkpoints", "results", "figures", "notebooks", "arms", *(f"arms/{arm}" for arm in ARMS))
"""What lies in a run folder and is a folder itself, but for those of single seeds and studies."""
UNFINISHED = ".failed.ipynb"
"""What follows the name of a notebook while it is executed, and of one that failed."""

LOCK = ".lock"
"""The file that a whole run holds."""

after_step: dict[str, Callable[[Path], object]] = {}
"""Callbacks by name that get the folder of each finished step; the copy to Drive registers one."""


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
    def target(self) -> Path:
        """Where notebooks write: the run folder, or a temporary one where that is read-only or committed."""
        return writable(self.folder)

    @property
    def results(self) -> Path:
        """Tidy tables over all arms and seeds."""
        return self.target / "results"

    @property
    def figures(self) -> Path:
        """Figures as SVG and PNG."""
        return self.target / "figures"

    @property
    def report(self) -> Path:
        """The whole run on one page."""
        return self.folder / "report.html"

    def variant(self, arm: str, seed: int = 0) -> Variant:
        """An arm with a seed, in this run.

        Raises:
            SettingsError: there is no such arm, or the seed is no number from 0.
        """
        if type(seed) is not int or not 0 <= seed <= LARGEST_SEED:
            raise SettingsError(f"seed is {shown(seed)}; it must be a whole number from 0 to {LARGEST_SEED}")
        return Variant(self, find_arm(arm), seed)

    def variants(self) -> list[Variant]:
        """Every arm and seed of the whole run, in the order of `ARMS`; an arm that is not trained has one seed.

        Raises:
            SettingsError: one of the settings' arms is unknown.
        """
        evaluation = self.settings.evaluation
        chosen = {find_arm(name).name for name in evaluation.arms}
        arms = [arm for arm in ARMS.values() if arm.name in chosen]
        return [Variant(self, arm, seed) for arm in arms for seed in range(evaluation.seeds if arm.trained else 1)]

    def command(self) -> str:
        """The command that makes the whole run, for messages."""
        places = f" RUN_DIR={shlex.quote(self.settings.run_dir)}" if self.settings.run_dir else ""
        return f"PROFILE={self.settings.profile} SEEDS={self.settings.evaluation.seeds}{places} make reproduce"


@dataclass(frozen=True)
class Variant:
    """An arm with a training seed, in a run."""

    run: Run
    arm: Arm
    seed: int

    def __str__(self) -> str:
        return f"{self.arm.name}, seed {self.seed}"

    @property
    def gate(self) -> GateConfig | None:
        """The arm's gate under the run's settings; None for an arm without one."""
        return gate_of(self.arm, self.run.settings)

    @property
    def inputs(self) -> dict[str, Any]:
        """What its weights depend on."""
        return arm_inputs(self.run.settings, self.arm, self.seed)

    @property
    def folder(self) -> Path:
        """Weights and training log, and in folders of their own what was measured."""
        return self.run.folder / "arms" / self.arm.name / f"seed{self.seed}"

    @property
    def adapter(self) -> Path:
        """The gate alone, as `save_gate` writes it; beside the folder, which is one step's."""
        return self.run.target / self.folder.relative_to(self.run.folder).with_name(f"{self.folder.name}.gate")


@cache
def writable(folder: Path) -> Path:
    """The folder itself, which need not exist yet; or a new temporary one for a read-only folder or a committed run."""
    is_committed = (folder / MODELS).is_dir()
    if not folder.exists() or (os.access(folder, os.W_OK) and not is_committed):
        return folder
    aside = Path(tempfile.mkdtemp(prefix=f"{folder.name}-"))
    state = "is a committed run" if is_committed else "is read-only"
    print(f"{folder} {state}: what this notebook writes goes to {aside}", flush=True)
    return aside


def open_folder(settings: Settings) -> Run:
    """The run in the settings' folder, which need not exist yet.

    Raises:
        SettingsError: as `check_folder`.
    """
    run = Run(settings)
    check_folder(run)
    if not (run.folder / MANIFEST).exists():
        if _steps(run.folder):
            print(
                f"{run.folder / MANIFEST} is missing and is written anew, with the commit and machine of now",
                flush=True,
            )
        write_manifest(run)
    return run


def check_folder(run: Run) -> None:
    """Refuse a run folder that holds anything but a run of the same profile. Nothing is written.

    Raises:
        SettingsError: the folder holds a run of another profile, or something that is no run, or a file where the run
            has a folder, or the other way round.
    """
    settings = run.settings
    if run.folder.exists() and not run.folder.is_dir():
        raise SettingsError(f"run_dir {run.folder} is a file; it must be a folder")
    for path in [run.folder / name for name in FOLDERS]:
        if os.path.lexists(path) and not path.is_dir():
            raise SettingsError(f"{path} is no folder, and the run writes into one of that name. Move it away")
    for path in [run.folder / name for name in (MANIFEST, ENVIRONMENT)]:
        if path.is_dir():
            raise SettingsError(f"{path} is a folder, and the run writes a file of that name. Move it away")
    profile = _profile_of(run.folder)
    if profile is not None and profile != settings.profile:
        raise SettingsError(
            f"run_dir {run.folder} holds a run of profile {profile!r}; this one is {settings.profile!r}. "
            "Choose another run_dir, or that profile"
        )
    if profile is None and (foreign := _foreign(run.folder)):
        raise SettingsError(
            f"run_dir {run.folder} holds {', '.join(foreign[:3])} and no {MANIFEST}: it is no run "
            "folder. Choose an empty or a new one"
        )


def _profile_of(folder: Path) -> str | None:
    """The profile of the run in a folder, by its manifest or, where that was removed, by its steps; None without any.

    Raises:
        SettingsError: the manifest is damaged, or no run's.
    """
    if (folder / MANIFEST).exists():
        settings = read_manifest(folder).get("settings")
        profile = settings.get("profile") if isinstance(settings, dict) else None
        if not isinstance(profile, str):
            raise _not_a_manifest(folder / MANIFEST)
        return profile
    own = [
        record for place, record in _steps(folder).items() if place in ("corpus", "base") or place.startswith("arms/")
    ]
    profiles = [record["profile"] for record in own if isinstance(record.get("profile"), str)]
    return profiles[0] if profiles else None


def _foreign(folder: Path) -> list[str]:
    """Names of files that no run wrote, in a folder without a manifest.

    The run graph puts notebooks there before the first step.
    """
    return sorted(path.name for path in folder.glob("[!.]*") if path.name != "notebooks")


def failures(notebooks: Path) -> str:
    """The notebooks of a run that failed, each with its cell's error, as lines to print; "" where none did."""
    lines = []
    for path in sorted(notebooks.glob(f"*{UNFINISHED}")):
        cells = (read_json(path) or {}).get("cells", [])
        errors = [
            f"{output.get('ename')}: {output.get('evalue')}"
            for cell in cells
            for output in cell.get("outputs", [])
            if output.get("output_type") == "error"
        ]
        reason = errors[-1].splitlines()[0] if errors else "it was stopped before a cell failed"
        lines.append(f"  {path.name.removesuffix(UNFINISHED)}: {reason} ({path})")
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


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a run folder; empty where there is none. That of an earlier version has no seal.

    Raises:
        SettingsError: the manifest is damaged, or no run's.
    """
    path = folder / MANIFEST
    if not path.exists():
        return {}
    manifest = read_json(path)
    if isinstance(manifest, dict) and SEAL in manifest:
        manifest = read_sealed(path)
    if not isinstance(manifest, dict):
        raise _not_a_manifest(path)
    return manifest


def trained_with(settings: Settings) -> dict[str, Any]:
    """The settings that models depend on, as JSON has them: kept beside tables and figures."""
    return settings.model_dump(mode="json", include={"model", "corpus", "gate", "training"})


def check_results(folder: Path) -> None:
    """Refuse a run folder whose results were made with other settings than its manifest's, as after a kill.

    Raises:
        SettingsError: names a part of the settings that differs.
    """
    made, settings = read_json(folder / "results" / SETTINGS), read_manifest(folder).get("settings", {})
    other = [name for name, value in made.items() if settings.get(name) != value] if isinstance(made, dict) else []
    if other:
        raise SettingsError(
            f"{folder} holds results of other settings of {', '.join(other)} than its {MANIFEST} has: the run has not "
            "finished since they were changed. Run its command again"
        )


def _not_a_manifest(path: Path) -> SettingsError:
    return SettingsError(
        f"{path} is damaged, or was not written by a run. Choose another run_dir; or, if this folder is a run's, "
        "remove that file and run again: finished steps are kept"
    )


def read_environment(folder: Path) -> str:
    """The packages of a run's `environment.txt`, verified by the manifest; "" where the run has no such file.

    Raises:
        SettingsError: the file or the manifest is damaged, or the file is missing.
    """
    mark, path = read_manifest(folder).get("environment"), folder / ENVIRONMENT
    text = path.read_bytes().decode("utf-8", "replace") if path.is_file() else ""
    if mark is not None and digest(text) != mark:
        state = "damaged: it is not what the manifest beside it names" if path.exists() else "missing"
        raise SettingsError(f"{path} is {state}. Run the run's command again, which writes it")
    return text


def write_manifest(run: Run) -> dict[str, Any]:
    """Write and return the run's manifest: settings, versions, commit, hardware, texts, seeds, finished steps.

    Beside it, `environment.txt` gets every installed package. Both describe the last process that wrote them; each
    step's record describes its own, with the environment's hash. Those of a read-only run folder stay as they are.
    """
    # Imported here, so that the run graph can import this module cheaply.
    from rwkvgate.experiment.corpora.build import SUMMARY_FILE

    steps = _steps(run.folder)
    seeds = {int(match[1]) for name in steps if (match := re.fullmatch(r"arms/[^/]+/seed(\d+)", name))}
    manifest: dict[str, Any] = {
        "settings": run.settings.model_dump(mode="json", exclude={"run_dir"}),
        "versions": versions(),
        "commit": commit(),
        "hardware": hardware(),
        "corpus": read_json(run.corpus / SUMMARY_FILE) or {},
        "seeds": sorted(seeds),
        "steps": steps,
    }
    checkpoint = read_json(run.base / CHECKPOINT)
    manifest |= {"checkpoint": checkpoint} if checkpoint else {}
    packages = environment()
    write_sealed(run.target / MANIFEST, manifest | {"environment": digest(packages)})
    write_text(run.target / ENVIRONMENT, packages)  # after it: a folder without a manifest is no run's
    return manifest


def _steps(folder: Path) -> dict[str, Any]:
    found = {}
    for path in sorted(path for place in RECORDS for path in folder.glob(place)):
        record = read_json(path)
        if isinstance(record, dict) and not any(part.startswith(".") for part in path.relative_to(folder).parts):
            found[path.parent.relative_to(folder).as_posix()] = record
    return found
