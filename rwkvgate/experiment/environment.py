"""What a run's numbers depend on besides its settings: packages, commit and hardware."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import tomllib
from collections.abc import Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from rwkvgate.experiment.places import project_root

NOT_INSTALLED = "not installed"
MARK = Path("rwkvgate") / "experiment" / "environment.py"
"""A file that only a checkout of this project has."""


def requirements(*extras: str) -> list[Requirement]:
    """The packages that this one depends on, with those of extras, and of the extras that these name."""
    try:
        lines = metadata.requires("rwkvgate") or []
    except metadata.PackageNotFoundError:  # a checkout on the path, as on Colab
        project = tomllib.loads((project_root() / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        optional = project["optional-dependencies"].items()
        lines = project["dependencies"] + [f"{line}; extra == '{name}'" for name, group in optional for line in group]
    found = [
        needed
        for needed in map(Requirement, lines)
        if needed.marker is None or any(needed.marker.evaluate({"extra": name}) for name in ("", *extras))
    ]
    if inner := {name for needed in found if needed.name == "rwkvgate" for name in needed.extras} - set(extras):
        return requirements(*extras, *inner)
    return [needed for needed in found if needed.name != "rwkvgate"]


@cache
def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that numbers depend on; `environment` lists every package."""
    needed = [canonicalize_name(requirement.name) for requirement in requirements("notebooks")]
    installed = {name: _version(name) for name in ("rwkvgate", *needed, "flash-linear-attention")}
    present = {name: version for name, version in installed.items() if version != NOT_INSTALLED}
    return {"python": platform.python_version()} | present


def environment() -> str:
    """Every installed package with its exact version, below comments on Python, platform, device and commit.

    `pip install --requirement` accepts it. What no index has (this package, one from a folder or an address, a build
    label such as +cpu) is a comment, without the folder or address.
    """
    checkout, machine = commit(), hardware()
    state = {None: "", False: ", clean", True: ", with changes"}[checkout["dirty"]]
    libc = " ".join(platform.libc_ver()).strip()
    header = [
        f"Python {platform.python_version()} ({platform.python_implementation()})",
        f"{platform.system()} {platform.machine()}{', ' + libc if libc else ''}",
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_mib']} MiB",
        f"GPU: {machine['gpu'] or 'none'}",
        f"rwkvgate {_version('rwkvgate')}, commit {checkout['id'] or 'unknown'}{state}",
    ]
    return "".join(f"# {line}\n" for line in header) + "".join(f"{line}\n" for line in packages())


@cache
def packages() -> list[str]:
    """Lines `name==version` in alphabetical order, without this package; a comment where no index has that version."""
    lines = {}
    for package in metadata.distributions():
        given = package.metadata["Name"]
        name = re.sub(r"[-_.]+", "-", given).lower() if given else ""
        # Of two with one name, the first on the path is the one that is imported.
        if name and package.version and name != "rwkvgate" and name not in lines:
            public, _, build = package.version.partition("+")
            origin = _origin(package)
            notes = ", ".join(note for note in (f"build {build}" if build else "", origin) if note)
            lines[name] = ("# " if origin else "") + f"{name}=={public}" + (f"  # {notes}" if notes else "")
    return [lines[name] for name in sorted(lines)]


def _origin(package: metadata.Distribution) -> str:
    """What a package was installed from if not from an index, without the path or address."""
    try:
        record = json.loads(package.read_text("direct_url.json") or "{}")
    except ValueError:
        return ""
    if "vcs_info" in record:
        return f"{record['vcs_info'].get('vcs', 'vcs')} commit {record['vcs_info'].get('commit_id', 'unknown')}"
    if "dir_info" in record:
        return "an editable folder" if record["dir_info"].get("editable") else "a folder"
    return "a file" if record else ""


def _version(name: str) -> str:
    """A package's version, or `NOT_INSTALLED`, also where it runs from a folder that pip does not know."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return NOT_INSTALLED


@cache
def commit() -> dict[str, Any]:
    """The checkout's commit, and whether files differ from it; both None outside a checkout of this project.

    As they are when a process first asks: the code that it has loaded does not change with the checkout.
    """
    unknown = {"id": None, "dirty": None}
    try:
        mark = Path(_git("rev-parse", "--show-toplevel")) / MARK
        if not (mark.is_file() and mark.samefile(__file__)):
            return unknown  # an installed package, or another checkout's, used inside this repository
        head = _git("rev-parse", "HEAD")
        return {"id": head, "dirty": bool(_git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return unknown


def _git(*arguments: str) -> str:
    command: Sequence[str] = ("git", "-C", str(project_root()), *arguments)
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()


def hardware() -> dict[str, Any]:
    """Processor, cores, memory in MiB, the GPU where there is one, and the form of the WKV operator on it."""
    import torch  # here, so that the Snakefile imports this module quickly

    from rwkvgate.rwkv6.kernels import describe_backend

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20 if hasattr(os, "sysconf") else None
    return {
        "machine": platform.machine(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "memory_mib": memory,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "wkv": describe_backend(torch.device("cuda" if torch.cuda.is_available() else "cpu")),
    }


def processor() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
