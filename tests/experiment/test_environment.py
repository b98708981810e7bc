"""The record of a run's environment is exact, can be installed, and says nothing of where things lie."""

from __future__ import annotations

import json
import re
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from rwkvgate.experiment import environment as module
from rwkvgate.experiment.environment import commit, environment, packages
from rwkvgate.experiment.open_run import open_run
from rwkvgate.experiment.run import ENVIRONMENT


def distribution(folder: Path, name: str, version: str, origin: dict[str, Any] | None = None) -> None:
    """A package as pip leaves its record."""
    record = folder / f"{name}-{version}.dist-info"
    record.mkdir(parents=True)
    (record / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    if origin:
        (record / "direct_url.json").write_text(json.dumps(origin))


def test_every_package_is_there_with_its_version() -> None:
    lines = [line.partition("  #")[0] for line in packages() if not line.startswith("# ")]
    wanted = {Requirement(line).name: Requirement(line).specifier for line in lines}
    for name in ("torch", "transformers", "numpy", "papermill", "pytest"):
        assert wanted[name].contains(metadata.version(name).partition("+")[0])
    assert lines == sorted(lines, key=lambda line: line.partition("==")[0]) and "rwkvgate" not in wanted


def test_what_is_not_from_an_index_is_named_without_its_place(tmp_path: Path, monkeypatch: Any) -> None:
    place = "https://user:secret@git.example.org/team/tool"
    distribution(tmp_path, "My.Local_Tool", "1.0", {"url": tmp_path.as_uri(), "dir_info": {"editable": True}})
    distribution(tmp_path, "copied", "2.0", {"url": tmp_path.as_uri(), "dir_info": {}})
    distribution(tmp_path, "wheel-file", "3.0+cu130", {"url": f"{tmp_path.as_uri()}/a.whl", "archive_info": {}})
    distribution(tmp_path, "fork", "4.0", {"url": place, "vcs_info": {"vcs": "git", "commit_id": "abc123"}})
    distribution(tmp_path, "plain", "5.0")
    monkeypatch.setattr(metadata, "distributions", lambda: metadata.Distribution.discover(path=[str(tmp_path)]))
    assert packages.__wrapped__() == [
        "# copied==2.0  # a folder",
        "# fork==4.0  # git commit abc123",
        "# my-local-tool==1.0  # an editable folder",
        "plain==5.0",
        "# wheel-file==3.0  # build cu130, a file",
    ]


def test_a_repository_of_somebody_else_is_not_taken_for_ours(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "project_root", lambda: tmp_path)
    now = commit.__wrapped__  # what the process remembers left aside
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "--message", "theirs"], check=True)
    assert now() == {"id": None, "dirty": None}
    (tmp_path / module.MARK).parent.mkdir(parents=True)
    (tmp_path / module.MARK).write_text("")  # another checkout's, in whose folder this one's code is run
    assert now() == {"id": None, "dirty": None}
    (tmp_path / module.MARK).unlink()
    (tmp_path / module.MARK).symlink_to(module.__file__)
    assert len(str(now()["id"])) == 40 and now()["dirty"] is False
    assert (Path(module.__file__).parents[2] / module.MARK).samefile(module.__file__)


def test_the_run_folder_has_it_beside_the_manifest(tmp_path: Path) -> None:
    run = open_run(profile="smoke", run_dir=str(tmp_path / "run"))
    text = (run.folder / ENVIRONMENT).read_text(encoding="utf-8")
    assert text == environment()
    about = [line for line in text.splitlines() if line.startswith("# ")]
    assert re.fullmatch(r"# Python 3\.\d+\.\d+ \(\w+\)", about[0]) and any("GPU: " in line for line in about)
    assert any(line.startswith("# rwkvgate ") and "commit" in line for line in about)
    for secret in ("://", "/home", "/opt", "/usr", "/tmp", str(Path.home()), str(tmp_path)):
        assert secret not in text


def test_the_requirements_are_those_of_pyproject_where_only_a_checkout_is_on_the_path(monkeypatch: Any) -> None:
    def absent(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", absent)
    names = [[requirement.name for requirement in module.requirements(*extras)] for extras in ((), ("experiment",))]
    assert {"torch", "transformers"} <= set(names[0]) and "filelock" not in names[0]
    assert {"torch", "filelock", "evaluate"} <= set(names[1]) and "snakemake" not in names[1], "extras of an extra too"


def test_the_manifest_has_the_versions_of_what_is_required() -> None:
    versions = module.versions()
    assert {"python", "rwkvgate", "torch", "rouge-score", "snakemake"} <= set(versions) and "pytest" not in versions
