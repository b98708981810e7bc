"""README.md and docs/: Python runs when copied, numbers are committed; commands, files and parameters named exist."""

from __future__ import annotations

import inspect
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from rwkvgate.experiment.arms import find_arm
from rwkvgate.experiment.settings import resolve
from rwkvgate.experiment.study.committed import committed_arms, committed_verdicts
from rwkvgate.workflow.release import release, slug
from rwkvgate.workflow.results import FIGURES, PAGE, REFERENCE, STUDY, answer_part, read_claims, study_part

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)

FOLDERS = "benchmarks|docs|notebooks|params|profiles|rwkvgate|tests"
PYTHON = re.compile(r"^```python\n(.*?)^```", flags=re.M | re.S)
INDENTED = re.compile(r"(?:^ {4,}\S.*\n)+", flags=re.M)


def commands(text: str) -> Iterator[list[str]]:
    """Papermill's command lines in indented blocks, as words."""
    for block in INDENTED.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            if "papermill" in line:
                yield shlex.split(line, comments=True)


@pytest.mark.parametrize("page", [README, ROOT / "docs" / "library.md"], ids=lambda page: page.name)
def test_python_runs_when_copied(page: Path, tmp_path: Path) -> None:
    script = "\n".join(PYTHON.findall(page.read_text(encoding="utf-8")))
    assert script.count("import") >= 2
    (tmp_path / "outputs").symlink_to(ROOT / "outputs")
    # A fresh process defines nothing; the hub's client is told that there is no network.
    code = f"import os; os.environ['HF_HUB_OFFLINE'] = '1'; os.environ['CUDA_VISIBLE_DEVICES'] = ''\n{script}"
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "", "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    written = sorted(path.name for path in tmp_path.iterdir() if path.name[0] != ".")
    assert written == ["gate.html", "my-gate", "outputs"]


def test_the_readme_is_short_and_says_what_is_committed() -> None:
    text = README.read_text(encoding="utf-8")
    assert len(text.split()) <= 1200
    claims = read_claims(ROOT / REFERENCE)
    page = (ROOT / PAGE).read_text(encoding="utf-8")
    for part in answer_part(ROOT / REFERENCE, claims):
        assert part in text and part in page
    verdicts, arms = committed_verdicts(ROOT), committed_arms(ROOT)
    told, beside = (study_part(verdicts, path, arms) for path in (STUDY, Path(STUDY.name)))
    assert told and all(part in text for part in told) and all(part in page for part in beside)
    assert study_part([], STUDY) == []
    assert all(claim["reason"] in page and claim["rule"] in page for claim in claims)
    assert all(f"outputs/reference/figures/{name}" in text for name in FIGURES)


def test_the_readme_names_both_commands_and_every_notebook() -> None:
    readme = README.read_text(encoding="utf-8")
    assert "    make reproduce" in readme and "    make test" in readme
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        assert f"colab.research.google.com/github/{slug(ROOT)}/blob/{release(ROOT)}/notebooks/{path.name}" in readme


@pages
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.M))
    named = set(re.findall(r"(?:`|^ {4})(?:[A-Z]+=\S+ )*make ([a-z-]+)", page.read_text(encoding="utf-8"), flags=re.M))
    assert named <= targets


@pages
def test_modules_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    started = re.findall(r"-m (rwkvgate[\w.]*)", text)
    assert all(find_spec(name) for name in started), started
    for module, names in re.findall(r"from (rwkvgate[\w.]*) import ([\w, ]+)", text):
        public = __import__(module, fromlist=["_"])
        assert all(hasattr(public, name.strip()) for name in names.split(","))
    for name in re.findall(r"`(rwkvgate(?:\.\w+)+)`", text):
        module, _, attribute = name.rpartition(".")
        assert find_spec(name) or hasattr(__import__(module, fromlist=["_"]), attribute), name


@pages
def test_files_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    paths = re.findall(rf"(?<![\w./-])((?:{FOLDERS})/[\w./+-]*\w)", text)
    linked = re.findall(r"\]\((?!https?:|#)([^)#]+)", text)
    missing = [path for path in paths if not (ROOT / path).exists()]
    missing += [path for path in linked if not (page.parent / path).exists()]
    assert not missing


@pages
def test_links_inside_a_page_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    headings = {
        re.sub(r"[^\w -]", "", line).strip().lower().replace(" ", "-") for line in re.findall(r"^#+ (.*)", text, re.M)
    }
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= headings


@pages
def test_papermill_is_given_parameters_that_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    known = {"arm", "seed", *inspect.signature(resolve).parameters}
    given = [yaml.safe_load(part) for part in re.findall(r"`-y '([^']*)'`", text)]
    for words in commands(text):
        assert (ROOT / words[1]).is_file(), words[1]
        for flag, value, *rest in zip(words, words[1:], [*words[2:], ""], strict=False):
            if flag == "-p":
                assert value in known, value
            if (flag, value) == ("-p", "arm"):
                find_arm(rest[0])
            if flag == "-y":
                given.append(yaml.safe_load(value))
    for parameters in given:
        assert set(parameters) <= known
        resolve(profile="cpu", **parameters)  # refuses a setting that does not exist


def test_the_changelog_names_the_places_that_modules_moved_to() -> None:
    rows = re.findall(r"^\| `(.*)` \| (`.*`).* \|$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.M)
    assert rows
    for before, now in rows:
        assert not (ROOT / before.split("`")[0].replace(".", "/")).with_suffix(".py").exists()
        assert all(find_spec(name) for name in re.findall(r"rwkvgate[\w.]*\w", now)), now
