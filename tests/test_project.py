"""The checkout's own consistency: versions in three files, rooms in order, the README's commands."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from rwkvgate import __version__
from rwkvgate.cli import release, slug

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ROOMS = ["refusals", "settings", "files", "progress", "rwkv6", "gate", "corpora", "training", "evaluation", "explore"]
STEPS = ["injected", "inputs", "needs", "environment", "planning", "locks", "processes", "runs", "launching", "bases"]
STEPS += ["pipeline", "distributed", "scoring", "probing", "studies", "results", "reporting"]
ABOVE = [*ROOMS, *STEPS, "compare", "execute", "search", "drive", "colab", "cli", "app"]


def pins() -> dict[str, str]:
    """constraints.txt as name -> version."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


def requirements() -> list[Requirement]:
    """Every requirement of pyproject.toml, extras too."""
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    return [Requirement(line) for group in groups for line in group]


@pytest.mark.parametrize("requirement", requirements(), ids=lambda r: r.name)
def test_every_requirement_is_pinned_within_its_range(requirement: Requirement) -> None:
    version = pins()[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(version), f"{requirement} does not admit {version}"


def test_no_pin_carries_a_local_label() -> None:
    assert not [name for name, version in pins().items() if "+" in version]


def test_environment_yml_agrees() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python = next(line for line in environment["dependencies"] if isinstance(line, str) and line.startswith("python"))
    assert Requirement(python).specifier == Requirement(f"python{PROJECT['requires-python']}").specifier
    installed = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    extras = ",".join(name for name in PROJECT["optional-dependencies"] if name != "cluster")  # for clusters alone
    assert installed == ["--constraint constraints.txt", f"--editable .[{extras}]"]
    assert f"--constraint constraints.txt --editable '.[{extras}]'" in (ROOT / "Makefile").read_text()


def test_versions_agree() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert __version__ == PROJECT["version"] == citation["version"]
    assert citation["repository-code"] == f"https://github.com/{slug(ROOT)}"


def test_every_room_is_in_the_list_and_in_contributing() -> None:
    parts = [path.relative_to(ROOT / "rwkvgate").parts[0] for path in (ROOT / "rwkvgate").rglob("*.py")]
    assert {part.removesuffix(".py") for part in parts} - {"__init__"} == set(ABOVE)
    contributing = (ROOT / "CONTRIBUTING.md").read_text()
    assert not [room for room in ABOVE if f"`{room}`" not in contributing and f"`{room}/`" not in contributing]


def test_a_room_imports_only_from_rooms_above_it() -> None:
    for path in sorted((ROOT / "rwkvgate").rglob("*.py")):
        room = path.relative_to(ROOT / "rwkvgate").parts[0].removesuffix(".py")
        if room == "__init__":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rwkvgate."):
                imported = str(node.module).split(".")[1]
                assert ABOVE.index(imported) <= ABOVE.index(room), f"{path.name} imports {node.module}"


def test_the_readme_names_commands_and_notebooks_that_exist() -> None:
    readme = (ROOT / "README.md").read_text()
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    named = set(re.findall(r"\bmake ([a-z-]+)", readme))
    assert {"reproduce", "test"} <= named <= targets
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        assert f"colab.research.google.com/github/{slug(ROOT)}/blob/{release(ROOT)}/notebooks/{path.name}" in readme
    for figure in re.findall(r"\]\((outputs/[^)]+)\)", readme):
        assert (ROOT / figure).is_file()


def test_the_import_is_cheap() -> None:
    source = (ROOT / "rwkvgate" / "__init__.py").read_text()
    top = [node for node in ast.parse(source).body if isinstance(node, ast.ImportFrom)]
    assert not [node for node in top if str(node.module).startswith(("torch", "transformers", "rwkvgate"))]
