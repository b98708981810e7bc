"""A run folder has one run at a time, and says afterwards what failed in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rwkvgate.runs import LOCK_VARIABLE, failures, lock_folder
from rwkvgate.settings import SettingsError

HOLD = """
import pathlib, sys
from rwkvgate.runs import lock_folder
held = lock_folder(pathlib.Path(sys.argv[1]))
print("held", flush=True)
input()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no file locks")
def test_a_second_run_is_refused_and_jobs_of_the_first_are_not(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.delenv(LOCK_VARIABLE, raising=False)
    first = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert first.stdout is not None and first.stdout.readline() == "held\n"
    with pytest.raises(SettingsError, match=f"another run works in {tmp_path}"):
        lock_folder(tmp_path)
    monkeypatch.setenv(LOCK_VARIABLE, str(tmp_path))  # as a job of the first run has it
    assert lock_folder(tmp_path) is None
    monkeypatch.delenv(LOCK_VARIABLE)
    first.kill()  # a lock dies with its holder
    first.wait()
    held = lock_folder(tmp_path)
    assert held is not None and os.environ[LOCK_VARIABLE] == str(tmp_path)
    held.close()


def test_nothing_is_written_into_a_folder_that_is_no_run(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.delenv(LOCK_VARIABLE, raising=False)
    (tmp_path / "thesis.txt").write_text("mine")
    assert lock_folder(tmp_path) is None and lock_folder(tmp_path / "thesis.txt") is None
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_failed_notebooks_are_listed_with_their_errors(tmp_path: Path) -> None:
    error = {"output_type": "error", "ename": "SettingsError", "evalue": "unknown arm 'x'\nmore"}
    cells = [{"outputs": [{"output_type": "stream", "text": "fine"}]}, {"outputs": [error]}, {"source": "text"}]
    (tmp_path / "02_finetune.x.seed0.ipynb.failed.ipynb").write_text(json.dumps({"cells": cells}))
    (tmp_path / "03_evaluate.y.seed1.ipynb.failed.ipynb").write_text("cut off {")
    (tmp_path / "01_setup.ipynb").write_text("{}")
    told = failures(tmp_path).splitlines()
    assert told[0] == "failed:" and len(told) == 3
    assert told[1].startswith("  02_finetune.x.seed0.ipynb: SettingsError: unknown arm 'x' (")
    assert "03_evaluate.y.seed1.ipynb: it was stopped" in told[2]
    assert failures(tmp_path / "none") == ""
