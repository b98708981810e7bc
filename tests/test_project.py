"""The checkout's own consistency: versions in three files, packages in order."""

from __future__ import annotations

import ast
import re
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from rwkvgate import __version__
from rwkvgate.workflow.release import COMPILE, hashed, slug

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PACKAGES = ("rwkv6", "gate", "metrics", "explore", "experiment", "workflow")
"""Each imports from itself and from those before it; the first four are the library."""
COLAB = dict(re.findall(r"^([\w.-]+)==([\d.]+\d)$", (ROOT / "tests/workflow/colab/requirements.txt").read_text(), re.M))
"""The versions of Colab that `make test-colab` runs the notebooks with."""

APART = ("cluster", "docs")
"""Extras that targets of their own install."""
OWN = [
    Requirement(line)
    for group in PROJECT["optional-dependencies"].values()
    for line in group
    if line.startswith("rwkvgate[")
]
"""Requirements by which an extra brings others."""


def pins() -> dict[str, str]:
    """constraints.txt as name -> version."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


def requirements() -> list[Requirement]:
    """Every requirement of pyproject.toml, extras too."""
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    return [needed for group in groups for needed in map(Requirement, group) if needed.name != "rwkvgate"]


@pytest.mark.parametrize("requirement", requirements(), ids=lambda r: r.name)
def test_every_requirement_is_pinned_within_its_range(requirement: Requirement) -> None:
    version = pins()[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(version), f"{requirement} does not admit {version}"


@pytest.mark.parametrize("requirement", requirements(), ids=lambda r: r.name)
def test_no_requirement_admits_a_series_of_releases_that_no_test_runs_with(requirement: Requirement) -> None:
    tested = [pins()[canonicalize_name(requirement.name)], COLAB.get(canonicalize_name(requirement.name), "0")]
    major, minor, *_ = max(map(Version, tested)).release
    following = f"{major + 1}.0" if major else f"0.{minor + 1}"
    assert not requirement.specifier.contains(following), f"{requirement} admits {following}; tested: {tested}"


def locked() -> dict[str, str]:
    """requirements.lock as name -> version."""
    text = (ROOT / "requirements.lock").read_text()
    entries = re.findall(
        r"^([\w.-]+)==(\S+)(?: ; [^\n]*?)? \\\n(?: {4}--hash=sha256:[0-9a-f]{64}(?: \\)?\n)+", text, re.M
    )
    assert len(entries) == len(re.findall(r"^\w", text, re.M)), "an entry has no hash"
    return dict(entries)


def test_the_lock_has_the_pinned_versions_and_all_that_is_installed_but_torch() -> None:
    lock, pinned = locked(), pins()
    assert not {name: version for name, version in lock.items() if pinned.get(name, version) != version}
    apart = {Requirement(line).name for extra in APART for line in PROJECT["optional-dependencies"][extra]}
    named = {canonicalize_name(requirement.name) for requirement in requirements()} - apart
    assert named - set(lock) == {"torch"}


def test_the_lock_leaves_out_what_torch_brings() -> None:
    compiled = "# made by uv\ntorch==2.13.0 \\\n    --hash=sha256:1\ntorchmetrics==1 \\\n    --hash=sha256:2\n"
    assert hashed(compiled + "triton==3\nnvidia-nvtx==13\n") == ["torchmetrics==1 \\\n    --hash=sha256:2\n"]


def test_no_pin_carries_a_local_label() -> None:
    assert not [name for name, version in pins().items() if "+" in version]


def test_environment_yml_agrees() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python = next(line for line in environment["dependencies"] if isinstance(line, str) and line.startswith("python"))
    assert Requirement(python).specifier == Requirement(f"python{PROJECT['requires-python']}").specifier
    installed = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    within = {name for requirement in OWN for name in requirement.extras} | set(APART)
    extras = ",".join(name for name in PROJECT["optional-dependencies"] if name not in within)
    assert installed == ["--constraint constraints.txt", f"--editable .[{extras}]"]
    assert f"--constraint constraints.txt --editable '.[{extras}]'" in (ROOT / "Makefile").read_text()
    assert [f"--extra={name}" for name in extras.split(",")] == [word for word in COMPILE if "--extra" in word]


def test_versions_agree() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert __version__ == PROJECT["version"] == citation["version"]
    assert citation["repository-code"] == f"https://github.com/{slug(ROOT)}"


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    paths = sorted((ROOT / "rwkvgate").rglob("*.py"))
    parts = {path: path.relative_to(ROOT).with_suffix("").parts for path in paths}
    return {".".join(part for part in dotted if part != "__init__"): path for path, dotted in parts.items()}


def imports(path: Path, known: dict[str, Path]) -> set[str]:
    """The package's modules that a module imports, at its top or later, but for those that only type checkers read."""
    found: set[str] = set()
    tree = ast.parse(path.read_text())
    for block in ast.walk(tree):
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING":
            block.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "rwkvgate":
            inner = {f"{node.module}.{name.name}" for name in node.names}
            found |= inner & set(known) or {str(node.module)}
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names} & set(known)
    return found


def test_nothing_lies_loose_at_the_top_of_the_package() -> None:
    names = {path.name for path in (ROOT / "rwkvgate").iterdir() if path.name != "__pycache__"}
    assert names == {*PACKAGES, "__init__.py", "__main__.py", "py.typed"}


def test_a_package_imports_only_from_those_before_it() -> None:
    known = modules()
    for name, path in known.items():
        part = name.partition(".")[2].partition(".")[0]
        home = PACKAGES.index(part) if part in PACKAGES else len(PACKAGES)
        for imported in imports(path, known):
            if imported != "rwkvgate":
                assert PACKAGES.index(imported.split(".")[1]) <= home, f"{name} imports {imported}"


def test_no_import_goes_round_in_a_circle() -> None:
    known = modules()
    TopologicalSorter({name: imports(path, known) - {name} for name, path in known.items()}).prepare()


def test_no_module_is_longer_than_400_lines() -> None:
    long = {name: lines for name, path in modules().items() if (lines := len(path.read_text().splitlines())) > 400}
    assert not long


def test_tests_mirror_the_folders() -> None:
    ours = {path.parent.relative_to(ROOT / "tests").parts[0] for path in (ROOT / "tests").glob("*/**/test_*.py")}
    assert ours <= {*PACKAGES, "notebooks"}


def test_the_import_is_cheap() -> None:
    source = (ROOT / "rwkvgate" / "__init__.py").read_text()
    top = [node for node in ast.parse(source).body if isinstance(node, ast.ImportFrom)]
    assert not [node for node in top if str(node.module).startswith(("torch", "transformers", "rwkvgate"))]
