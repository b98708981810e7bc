"""Colab's first cell: clone the release, install what Colab lacks, show the GPU and what is to come, mount Drive.

Colab brings its own torch, numpy and IPython, and a kernel that has loaded some of them. Nothing here replaces them:
pip gets every installed version as a constraint, adds what is missing at the version pinned in constraints.txt,
and fails rather than replace a library under a running kernel.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from rwkvgate.experiment import budget, order
from rwkvgate.experiment.environment import requirements
from rwkvgate.experiment.places import project_root
from rwkvgate.experiment.run import Run
from rwkvgate.experiment.settings import resolve
from rwkvgate.workflow.drive import mount_drive

ON_COLAB = "COLAB_RELEASE_TAG"
"""An environment variable that is set on Colab's machines."""

WATCHED = ("numpy", "torch", "transformers")
"""Libraries that fail late and obscurely when one version is loaded and another installed."""

BFLOAT16_FROM = (8, 0)
"""The compute capability from which a GPU computes in bfloat16 itself."""

INSTALL_CELL = """\
# @title Start here on Colab: install, GPU, time, Drive (does nothing elsewhere)
# @markdown Clones the project and adds the packages that Colab lacks; it replaces none. Then it shows the GPU, how long
# @markdown each notebook takes and what it downloads, before anything starts.
# @markdown A folder of your Google Drive, such as rwkvgate, keeps the run between sessions. Empty: Drive is not used.
DRIVE = ""  # @param {type:"string"}
# @markdown After so many minutes the work stops at the next step or checkpoint, and keeps what is done. 0: no limit.
BUDGET_MINUTES = 0  # @param {type:"number"}

import os
import subprocess
import sys
from pathlib import Path

if "COLAB_RELEASE_TAG" in os.environ:
    address, tag, checkout = "https://github.com/{slug}", "{release}", Path("/content/rwkvgate-{release}")
    for branch in () if checkout.exists() else (["--branch", tag], []):
        command = ["git", "clone", "--quiet", "--depth", "1", *branch, address, str(checkout)]
        cloned = subprocess.run(command, capture_output=True, text=True)
        if not (branch and cloned.returncode and "not found in upstream" in cloned.stderr):
            break
        print(f"There is no tag {tag} yet: this is the newest state of the default branch.")
    if not checkout.exists():
        raise RuntimeError(f"{address} could not be cloned; is there a network? git said: {cloned.stderr.strip()}")
    os.chdir(checkout)
    sys.path.insert(0, str(checkout))
    from rwkvgate.workflow.colab import prepare

    prepare(drive=DRIVE, budget_minutes=BUDGET_MINUTES)
"""
INSTALL_METADATA: dict[str, Any] = {"cellView": "form", "jupyter": {"source_hidden": True}}
"""Collapses the cell, in Colab to its form and in JupyterLab to its first line."""


def install_cell(slug: str, release: str) -> str:
    """The first code cell of every notebook, for a repository's owner/name and a tag; `make stamp` writes it."""
    return INSTALL_CELL.replace("{slug}", slug).replace("{release}", release).rstrip("\n")


def prepare(drive: str = "", budget_minutes: float = 0) -> None:
    """Prepare Colab's machine for the notebook, and say what it will take; anywhere else, do nothing.

    Args:
        drive: the folder of the user's Drive that keeps the run; empty leaves Drive unmounted.
        budget_minutes: minutes from now after which the work stops politely; 0 for no limit.

    Raises:
        RuntimeError: a package cannot be added, or the session must be restarted first.
        SettingsError: the budget is no number of minutes.
        DriveError: the folder's name is impossible, or Drive is not there.
    """
    if ON_COLAB not in os.environ:
        return
    budget.begin(budget_minutes)
    install_missing()
    check_environment()
    print(gpu_summary(), flush=True)
    if drive:
        mount_drive(drive)
    print(forecasts(), flush=True)


def forecasts() -> str:
    """What each notebook takes here with the parameters as they stand in its cell: a line each, but for the last.

    The last notebook opens on the committed model.
    """
    # Here, for torch may not be loaded before the packages are checked.
    from rwkvgate.experiment.forecast import forecast

    run = Run(resolve())
    notebooks = [*dict.fromkeys(order.NOTEBOOKS.values()), order.ABLATIONS]
    lines = [f"profile auto is {run.settings.profile} here. Alone, and from what the run folder holds now:"]
    return "\n".join([*lines, *(forecast(run, notebook) for notebook in notebooks)])


def installed_versions() -> dict[str, str]:
    """The version of every installed package by normalised name; of two by one name, the one that is imported."""
    found: dict[str, str] = {}
    for distribution in metadata.distributions():
        name, version = distribution.metadata["Name"], distribution.version
        if name and version:
            found.setdefault(canonicalize_name(name), version)
    return found


def pins() -> dict[str, str]:
    """The lines of the checkout's constraints.txt, by normalised name."""
    lines = (project_root() / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return {canonicalize_name(line.partition("==")[0]): line for line in lines if "==" in line}


def constraints(installed: dict[str, str]) -> list[str]:
    """The constraints for pip: every installed version as it is, and the checkout's pins for the rest."""
    live = [f"{name}=={version}" for name, version in installed.items() if _is_version(version)]
    return sorted(live + [pin for name, pin in pins().items() if name not in installed])


def _is_version(text: str) -> bool:
    try:
        Version(text)
    except InvalidVersion:  # of a system package; pip would refuse the whole file for it
        return False
    return True


def install_missing() -> list[str]:
    """Install the required packages that are absent, and nothing else; returns their pins.

    Raises:
        RuntimeError: pip failed, for instance because a missing package needs another version of one that is there.
    """
    installed, pinned = installed_versions(), pins()
    names = [canonicalize_name(requirement.name) for requirement in requirements("experiment")]
    missing = [pinned[name] for name in names if name not in installed]
    if not missing:
        return []
    print("installing", ", ".join(missing), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "constraints.txt"
        path.write_text("\n".join(constraints(installed)) + "\n", encoding="utf-8")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        done = subprocess.run([*pip, "--constraint", str(path), *missing], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"pip could not add {', '.join(missing)} to what is installed:\n{done.stderr[-2000:]}")
    importlib.invalidate_caches()  # the running kernel has listed the folder before
    return missing


def check_environment() -> None:
    """Refuse libraries that are loaded at another version than installed; name those outside the tested versions.

    Raises:
        RuntimeError: a loaded library differs from the installed one, so the session must be restarted.
    """
    installed = installed_versions()
    stale = []
    for name in WATCHED:
        loaded = str(getattr(sys.modules.get(name), "__version__", ""))
        if loaded and name in installed and _public(loaded) != _public(installed[name]):
            stale.append(f"{name} {loaded} is loaded and {installed[name]} is installed")
    if stale:
        raise RuntimeError(
            f"{'; '.join(stale)}. Restart the session once (Runtime > Restart session), then run all cells again"
        )
    for requirement in requirements("experiment"):
        version = installed.get(canonicalize_name(requirement.name))
        if version and not requirement.specifier.contains(version, prereleases=True):
            print(
                f"{requirement.name} {version} is installed; the package is tested with {requirement.specifier}. If it"
                f' fails: %pip install "{requirement.name}{requirement.specifier}", and restart the session'
            )


def _public(version: str) -> str:
    # The local label after "+" names a build, such as one for CUDA 12.8, of the same version.
    return version.partition("+")[0]


def gpu_summary() -> str:
    """The GPU that torch finds, in one or two lines: name, capability, memory in GiB, versions, half precision.

    The compute capability decides on bfloat16: `torch.cuda.is_bf16_supported()` also counts emulation, which is slow.
    """
    import torch  # here, so that everything else in this module works before torch is loaded

    if not torch.cuda.is_available():
        return (
            f"No GPU: torch {torch.__version__} finds no CUDA device. Profile cpu fits. "
            "On Colab a GPU comes with Runtime > Change runtime type > T4 GPU."
        )
    capability = torch.cuda.get_device_capability()
    shown = ".".join(map(str, capability))
    memory = torch.cuda.get_device_properties(0).total_memory / 2**30
    least = ".".join(map(str, BFLOAT16_FROM))
    if capability >= BFLOAT16_FROM:
        half = f"bfloat16: the compute capability is {least} or more"
    else:
        half = f"float16: bfloat16 needs compute capability {least}"
    return (
        f"GPU: {torch.cuda.get_device_name()}, compute capability {shown}, {memory:.1f} GiB; "
        f"torch {torch.__version__}, CUDA {torch.version.cuda}\n"
        f"Half precision here is {half}."
    )
