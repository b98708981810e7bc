"""Opening a run: what the file system or a setting does not allow is answered in one sentence."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from rwkvgate.experiment.open_run import open_run
from rwkvgate.experiment.run import read_manifest
from rwkvgate.gate.validation import SettingsError
from rwkvgate.rwkv6.files import write_json


def refused(words: str, **parameters: Any) -> None:
    with pytest.raises(SettingsError, match=words) as error:
        open_run(**({"profile": "smoke"} | parameters))
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT])
def test_a_disk_that_takes_nothing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def full(*_: object) -> None:
        raise OSError(code, os.strerror(code), str(tmp_path / "run"))

    monkeypatch.setattr("rwkvgate.rwkv6.files.tempfile.mkstemp", lambda **_: full())
    refused(
        rf"run_dir .*cannot be used: {os.strerror(code)}.*a folder that can be written", run_dir=str(tmp_path / "run")
    )


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "file").touch()
    refused("cannot be used: ", run_dir=str(tmp_path / "loop"))
    refused("is a file; it must be a folder", run_dir=str(tmp_path / "file"))
    refused("cannot be used: Not a directory", run_dir=str(tmp_path / "file" / "run"))
    refused("there is no home folder for ~nobody-at-all", run_dir="~nobody-at-all/run")


def test_a_corpus_is_checked_before_the_folder_is_made(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    run = tmp_path / "run"
    for source, words in (("pipe.txt", "a pipe, socket or device"), ("none.txt", "no file"), ("", "is a folder")):
        refused(words, run_dir=str(run), corpus={"source": str(tmp_path / source)})
    assert not run.exists()


@pytest.mark.parametrize("seed", [-1, 2**32, 10**30, 1.0, True, "1", None])
def test_a_seed_is_a_whole_number_below_two_to_the_32(seed: Any) -> None:
    refused("seed is .*; it must be a whole number from 0 to 4294967295", seed=seed)


@pytest.mark.parametrize("arm", [["enhanced"], None, "x" * 10**6, 3])
def test_an_arm_that_is_no_name_is_refused(arm: Any) -> None:
    refused("unknown arm", arm=arm)


def test_a_notebook_shows_the_message_alone() -> None:
    assert SettingsError("seed is -1")._render_traceback_() == ["SettingsError: seed is -1"]


@pytest.mark.parametrize("place", ["smoke", "smoke/arms", "deep/er/smoke", "smoke/arms/enhanced"])
def test_a_folder_of_runs_is_no_run(tmp_path: Path, place: str) -> None:
    (tmp_path / place / "base").mkdir(parents=True)
    write_json(tmp_path / place / "base" / "step.json", {"profile": "smoke", "step": "base"})
    refused("and no manifest.json: it is no run folder", run_dir=str(tmp_path))
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("place", ["corpus", "base", "arms/enhanced/seed0", "arms/enhanced/seed0/evaluation"])
def test_a_run_without_a_manifest_is_known_by_its_steps(tmp_path: Path, place: str) -> None:
    (tmp_path / place).mkdir(parents=True)
    write_json(tmp_path / place / "step.json", {"profile": "smoke"})
    refused("holds a run of profile 'smoke'", run_dir=str(tmp_path), profile="cpu")
    open_run(profile="smoke", run_dir=str(tmp_path))
    assert list(read_manifest(tmp_path)["steps"]) == [place]


@pytest.mark.parametrize("place", ["corpus", "results", "arms", "arms/enhanced", "notebooks"])
def test_a_file_where_the_run_has_a_folder_is_refused(tmp_path: Path, place: str) -> None:
    open_run(profile="smoke", run_dir=str(tmp_path))
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).write_text("mine")
    refused(f"{tmp_path / place} is no folder, and the run writes into one", run_dir=str(tmp_path))
    (tmp_path / place).unlink()
    (tmp_path / place).symlink_to(place)
    refused(f"{tmp_path / place} is no folder, and the run writes into one", run_dir=str(tmp_path))


@pytest.mark.parametrize("name", ["environment.txt", "manifest.json"])
def test_a_folder_where_the_run_has_a_file_is_refused(tmp_path: Path, name: str) -> None:
    open_run(profile="smoke", run_dir=str(tmp_path))
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    refused(f"{tmp_path / name} is a folder, and the run writes a file", run_dir=str(tmp_path))
