"""The run folder: where each thing lies, which steps are finished, and where the numbers came from.

A step writes its folder under a temporary name, puts a record of its inputs' hash in it and renames it.
A folder whose record carries the hash at hand is finished and is not made again; any other is.
"""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

from rwkvgate.files import digest, read_json, write_folder, write_json
from rwkvgate.settings import Settings, SettingsError, project_root

RECORD = "step.json"
MANIFEST = "manifest.json"
CHECKPOINT = "checkpoint.json"
PACKAGES = (
    "rwkvgate", "torch", "transformers", "tokenizers", "datasets", "accelerate", "evaluate", "sacrebleu",
    "rouge-score", "numpy", "scipy", "pandas", "matplotlib", "seaborn", "papermill", "snakemake",
)  # fmt: skip

LOCK, LOCK_VARIABLE = ".lock", "RWKVGATE_LOCKED"
"""The file that a whole run holds, and the variable that tells its jobs so."""

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
        # The run graph puts notebooks there before the first step; anything else is somebody's own.
        foreign = [path.name for path in run.folder.glob("[!.]*") if path.name != "notebooks"]
        if foreign:
            raise SettingsError(
                f"run_dir {run.folder} holds {', '.join(sorted(foreign)[:3])} and no {MANIFEST}: it is no run "
                "folder. Choose an empty or a new one"
            )
        write_manifest(run)
    elif (profile := manifest.get("settings", {}).get("profile")) != settings.profile:
        raise SettingsError(
            f"run_dir {run.folder} holds a run of profile {profile!r}; this one is {settings.profile!r}. "
            "Choose another run_dir, or that profile"
        )
    return run


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
    return "\n".join(["failed:", *lines]) if lines else ""


def lock_folder(folder: Path) -> Any:
    """Take a run folder for this process; what is returned must be kept until the end.

    Its children share it, through an environment variable: jobs of one run work side by side. None where the platform
    has no file locks.

    Raises:
        SettingsError: another process works in the folder.
    """
    if fcntl is None or os.environ.get(LOCK_VARIABLE) == str(folder):
        return None
    if folder.exists() and not (folder / MANIFEST).is_file() and (folder.is_file() or any(folder.glob("[!.]*"))):
        return None  # somebody's own: nothing is written there, and the first step says what is wrong
    folder.mkdir(parents=True, exist_ok=True)
    handle = (folder / LOCK).open("a")  # which leaves the time of a file that is there
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        handle.close()
        raise SettingsError(f"another run works in {folder}. Wait for it, stop it, or give another run_dir") from None
    os.environ[LOCK_VARIABLE] = str(folder)
    return handle


def is_finished(folder: Path, inputs: Mapping[str, Any]) -> bool:
    """Whether the folder holds the finished step of these inputs."""
    record = read_json(folder / RECORD)
    return isinstance(record, dict) and record.get("inputs") == digest(inputs)


@contextmanager
def step(folder: Path, name: str, inputs: Mapping[str, Any], started: float) -> Iterator[Path]:
    """A temporary folder for a step's outputs; on success it gets a record and takes its place.

    On an error, what stood there before stays.

    Args:
        started: `time.monotonic()` when the step's work began, for the record's wall time.
    """
    with write_folder(folder) as fresh:
        yield fresh
        record = {
            "step": name,
            "inputs": digest(inputs),
            "seconds": round(time.monotonic() - started, 2),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        write_json(fresh / RECORD, record)
    for call in after_step.values():
        call(folder)


def write_manifest(run: Run, extra: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Write and return the run's manifest: settings, versions, commit, hardware, finished steps."""
    manifest: dict[str, Any] = {
        "settings": run.settings.model_dump(mode="json", exclude={"run_dir", "arm", "seed"}),
        "versions": versions(),
        "commit": commit(),
        "hardware": hardware(),
        "steps": _steps(run.folder),
    }
    checkpoint = read_json(run.base / CHECKPOINT)
    manifest |= ({"checkpoint": checkpoint} if checkpoint else {}) | dict(extra or {})
    write_json(run.folder / MANIFEST, manifest)
    return manifest


def _steps(folder: Path) -> dict[str, Any]:
    found = {}
    for path in sorted(folder.glob(f"**/{RECORD}")):
        record = read_json(path)
        if isinstance(record, dict) and not any(part.startswith(".") for part in path.relative_to(folder).parts):
            found[path.parent.relative_to(folder).as_posix()] = record
    return found


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that numbers depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def commit() -> dict[str, Any]:
    """The checkout's commit, and whether files differ from it; both None outside a checkout."""
    try:
        head = _git("rev-parse", "HEAD")
        return {"id": head, "dirty": bool(_git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return {"id": None, "dirty": None}


def _git(*arguments: str) -> str:
    command: Sequence[str] = ("git", "-C", str(project_root()), *arguments)
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()


def hardware() -> dict[str, Any]:
    """Processor, cores, memory in MiB, the GPU where there is one, and the form of the WKV operator on it."""
    import torch  # here, so that the run graph can import this module cheaply

    from rwkvgate.rwkv6.kernels import describe_backend

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20 if hasattr(os, "sysconf") else None
    return {
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_mib": memory,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "wkv": describe_backend(torch.device("cuda" if torch.cuda.is_available() else "cpu")),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
