"""A notebook opened alone from its Colab badge: what is installed, the GPU, and secrets.

Colab brings its own torch, numpy and IPython, and a kernel that has loaded some of them. Nothing here moves them:
pip gets every installed version as a constraint, adds what is missing at the version pinned in constraints.txt,
and fails rather than replace a library under a live kernel. The copy of a run in Drive is `rwkvgate.workflow.drive`.
"""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from rwkvgate.experiment.settings import project_root
from rwkvgate.workflow.drive import mount_drive

ON_COLAB = "COLAB_RELEASE_TAG"
"""An environment variable that Colab's machines have, and their child processes inherit."""

WATCHED = ("numpy", "torch", "transformers")
"""Compiled, or deep inside each other: loaded at one version and installed at another, they fail late and oddly."""

BFLOAT16_FROM = (8, 0)

INSTALL_CELL = """\
import os
import subprocess
import sys
from pathlib import Path

DRIVE = ""  # a folder of your Google Drive, such as "rwkvgate", keeps the run between sessions; "" leaves Drive alone

if "COLAB_RELEASE_TAG" in os.environ:  # anywhere but on Colab this cell does nothing
    address, tag = "https://github.com/{slug}", "{release}"
    checkout = Path("/content/rwkvgate-{release}")
    if not checkout.exists():
        command = ["git", "clone", "--quiet", "--depth", "1", "--branch", tag, address, str(checkout)]
        cloned = subprocess.run(command, capture_output=True, text=True)
        if cloned.returncode:
            raise RuntimeError(f"{address} at {tag} could not be cloned: {cloned.stderr}")
    os.chdir(checkout)
    sys.path.insert(0, str(checkout))
    from rwkvgate.workflow.colab import prepare

    prepare(drive=DRIVE)  # adds what Colab lacks, moves nothing that it has, and shows the GPU
"""


def install_cell(slug: str, release: str) -> str:
    """The first code cell of every notebook, for a repository's owner/name and a tag; `make stamp` writes it."""
    return INSTALL_CELL.replace("{slug}", slug).replace("{release}", release).rstrip("\n")


def prepare(drive: str = "") -> None:
    """Make Colab's machine ready for the notebook; anywhere else, do nothing.

    Args:
        drive: a folder of the user's Drive to keep the run in; empty leaves Drive unmounted.

    Raises:
        RuntimeError: a package cannot be added, or the session must be restarted first.
        DriveError: the folder's name is impossible, or Drive is not there.
    """
    if ON_COLAB not in os.environ:
        return
    install_missing(project_root())
    check_environment(project_root())
    print(gpu_summary())
    if drive:
        mount_drive(drive)


def installed_versions() -> dict[str, str]:
    """Every installed distribution, by its normalised name; the first on the path, as an import would find it."""
    found: dict[str, str] = {}
    for distribution in metadata.distributions():
        name, version = distribution.metadata["Name"], distribution.version
        if name and version:
            found.setdefault(canonicalize_name(name), version)
    return found


def requirements(root: Path) -> list[Requirement]:
    """What pyproject.toml of the checkout needs, without its extras."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [Requirement(line) for line in project["dependencies"]]


def pins(root: Path) -> dict[str, str]:
    """The lines of the checkout's constraints.txt, by normalised name."""
    lines = (root / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return {canonicalize_name(line.partition("==")[0]): line for line in lines if "==" in line}


def constraints(root: Path, installed: dict[str, str]) -> list[str]:
    """What pip must keep to: every installed version as it is, and the checkout's pins for the rest."""
    live = [f"{name}=={version}" for name, version in installed.items() if _is_version(version)]
    return sorted(live + [pin for name, pin in pins(root).items() if name not in installed])


def _is_version(text: str) -> bool:
    try:
        Version(text)
    except InvalidVersion:  # a system package's; pip would refuse the whole file for it
        return False
    return True


def install_missing(root: Path) -> list[str]:
    """Install the required packages that are absent, and nothing else; their pins.

    Raises:
        RuntimeError: pip failed, for instance because a missing package needs another version of one that is there.
    """
    installed, pinned = installed_versions(), pins(root)
    names = [canonicalize_name(requirement.name) for requirement in requirements(root)]
    missing = [pinned[name] for name in names if name not in installed]
    if not missing:
        return []
    print("installing", ", ".join(missing), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "constraints.txt"
        path.write_text("\n".join(constraints(root, installed)) + "\n", encoding="utf-8")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        done = subprocess.run([*pip, "--constraint", str(path), *missing], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"pip could not add {', '.join(missing)} to what is installed:\n{done.stderr[-2000:]}")
    importlib.invalidate_caches()  # the running kernel has listed the folder before
    return missing


def check_environment(root: Path) -> None:
    """Compare what is loaded with what is installed, and what is installed with what the package was tested on.

    Raises:
        RuntimeError: a library is loaded at another version than is installed now, so a restart is needed.
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
    for requirement in requirements(root):
        version = installed.get(canonicalize_name(requirement.name))
        if version and not requirement.specifier.contains(version, prereleases=True):
            print(f"{requirement.name} {version} is installed; the package is tested with {requirement.specifier}")


def _public(version: str) -> str:
    # The local label after "+" names a build, such as one for CUDA 12.8, of the same version.
    return version.partition("+")[0]


def gpu_summary() -> str:
    """The device that torch sees, in one or two lines: name, capability, memory in GiB, versions, half precision.

    bfloat16 goes by the compute capability: `torch.cuda.is_bf16_supported()` also counts emulation, which is slow.
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


def secret(name: str, seconds: float = 20) -> str | None:
    """A secret's value from the environment, else from Colab's secrets, else None: then go on anonymously.

    The value is never printed. Colab answers only a cell of its own page; elsewhere it raises, or waits for an
    answer that cannot come.

    Args:
        name: of the environment variable and of the secret.
        seconds: how long Colab may take, the user's leave included.
    """
    value = os.environ.get(name, "").strip()
    if value:
        return value
    if threading.current_thread() is not threading.main_thread():
        return None  # Colab's reply is read from the kernel's main thread, and only there can it be given up
    try:
        from google.colab import userdata

        with _deadline(seconds):
            found = userdata.get(name)
    except Exception:  # its errors are classes that only Colab has; each means that the secret is not to be had
        return None
    return str(found).strip() or None if found else None


@contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    """A TimeoutError in the main thread where the block takes longer."""

    def stop(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
