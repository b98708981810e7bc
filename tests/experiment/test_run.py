"""A run folder has one run at a time, and says afterwards what failed in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rwkvgate.experiment import order
from rwkvgate.experiment.run import MANIFEST, Run, failures, lock_folder, open_folder, writable, write_manifest
from rwkvgate.experiment.settings import resolve
from rwkvgate.experiment.steps.making import making
from rwkvgate.gate.validation import SettingsError
from rwkvgate.rwkv6.files import read_json
from tests.experiment.holder import holding

ROOT = Path(__file__).resolve().parents[2]
HOLD = """
import pathlib, sys
from rwkvgate.experiment.run import lock_folder
held = lock_folder(pathlib.Path(sys.argv[1]))
"""


@pytest.fixture
def first(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the folder."""
    yield from holding(HOLD, tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="no file locks")
def test_a_second_run_is_refused(first: subprocess.Popen[str], tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=f"another run works in {tmp_path}"):
        lock_folder(tmp_path)
    first.kill()  # a lock dies with its holder
    first.wait()
    held = lock_folder(tmp_path)
    assert held is not None
    held.release()


@pytest.mark.skipif(sys.platform == "win32", reason="no file locks")
@pytest.mark.parametrize("mode", ["default", "remote"])
def test_the_head_takes_the_folder_and_its_jobs_do_not(mode: str, tmp_path: Path, request: Any) -> None:
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "01_setup.ipynb").write_text("{}")
    request.getfixturevalue("first")
    # As snakemake starts a job on a cluster: the same Snakefile, one target, no hooks. Here it only marks it as done.
    job = ["--mode", mode, "--force", "--target-jobs", "setup:", *(["--no-hooks"] if mode == "remote" else [])]
    command = [sys.executable, "-m", "snakemake", "--nolock", "--cores", "1", *job, "--touch"]
    done = subprocess.run(
        [*command, "--config", "profile=smoke", f"run_dir={tmp_path}"], cwd=ROOT, capture_output=True, text=True
    )
    refused = f"another run works in {tmp_path}" in done.stdout + done.stderr
    assert refused == (mode == "default") and (done.returncode != 0) == refused, done.stderr[-2000:]


def test_nothing_is_written_into_a_folder_that_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    assert lock_folder(tmp_path) is None and lock_folder(tmp_path / "thesis.txt") is None
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def opened(folder: Path, profile: str = "smoke") -> Run:
    return open_folder(resolve(profile=profile, run_dir=str(folder)))


@pytest.mark.parametrize(
    "text", ["", '{"settings": {"prof', "[]", "{}", '{"settings": {"profile": 3}}', "\0", "[" * 9999]
)
def test_a_damaged_or_foreign_manifest_is_refused_with_what_to_do(tmp_path: Path, text: str, capsys: Any) -> None:
    with making(order.corpus(opened(tmp_path))) as work:
        assert work
        work.write(lambda folder: None)
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(SettingsError, match=r"manifest.json is damaged, or was not written by a run"):
        opened(tmp_path)
    assert (tmp_path / MANIFEST).read_text() == text
    (tmp_path / MANIFEST).unlink()
    with pytest.raises(SettingsError, match="holds a run of profile 'smoke'; this one is 'cpu'"):
        opened(tmp_path, "cpu")
    run = opened(tmp_path)
    assert f"{tmp_path / MANIFEST} is missing and is written anew" in capsys.readouterr().out
    assert read_json(tmp_path / MANIFEST)["settings"]["profile"] == "smoke" and order.corpus(run).is_finished


def test_what_is_shown_of_a_read_only_run_is_written_elsewhere(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    opened(tmp_path)
    before = (tmp_path / MANIFEST).read_bytes()
    writable.cache_clear()
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    run = opened(tmp_path)
    assert run.target == run.results.parent == run.figures.parent != tmp_path
    assert run.variant("enhanced").adapter == run.target / "arms" / "enhanced" / "seed0.gate"
    assert capsys.readouterr().out == f"{tmp_path} is read-only: what this notebook writes goes to {run.target}\n"
    assert write_manifest(run)["settings"]["profile"] == "smoke"
    assert (run.target / MANIFEST).is_file() and (tmp_path / MANIFEST).read_bytes() == before
    writable.cache_clear()


def test_failed_notebooks_are_listed_with_their_errors(tmp_path: Path) -> None:
    error = {"output_type": "error", "ename": "SettingsError", "evalue": "unknown arm 'x'\nmore"}
    cells = [{"outputs": [{"output_type": "stream", "text": "fine"}]}, {"outputs": [error]}, {"source": "text"}]
    (tmp_path / "02_finetune.x.seed0.ipynb.failed.ipynb").write_text(json.dumps({"cells": cells}))
    (tmp_path / "03_evaluate.y.seed1.ipynb.failed.ipynb").write_text("cut off {")
    (tmp_path / "01_setup.ipynb").write_text("{}")
    told = failures(tmp_path).splitlines()
    assert told[0] == "failed:" and len(told) == 4 and "leave their arms out" in told[3]
    assert told[1].startswith("  02_finetune.x.seed0.ipynb: SettingsError: unknown arm 'x' (")
    assert "03_evaluate.y.seed1.ipynb: it was stopped" in told[2]
    assert failures(tmp_path / "none") == ""
