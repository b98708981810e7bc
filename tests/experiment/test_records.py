"""Records of files: a reader of results, figures and trials gets what was written, or one sentence."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from rwkvgate.experiment.arms import ARMS
from rwkvgate.experiment.compare import TABLES, read_run
from rwkvgate.experiment.records import (
    KEPT,
    difference,
    intact,
    keep_record,
    kept_difference,
    marks,
    read_sealed,
    reading,
    write_sealed,
)
from rwkvgate.experiment.search.trials import RecallTask, Trial, known_trial, trial_path
from rwkvgate.gate.validation import SettingsError
from rwkvgate.rwkv6.files import write_json, write_text


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A file with a record."""
    write_text(tmp_path / "results" / "table.txt", "1.5\n")
    keep_record(tmp_path / "results", tmp_path / "results" / "table.txt")
    return tmp_path / "results" / "table.txt"


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def linked(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_text("1.50\n"), "table.txt has 5 bytes and not the 4 that were written"),
        (lambda path: path.write_text("1.6\n"), "the content of table.txt is not what was written"),
        (lambda path: path.unlink(), "table.txt is missing"),
        (fifo, "table.txt is no file"),
        (linked, "table.txt is no file"),
        (lambda path: write_json(path.parent / KEPT, {"files": {}}), "files.json is damaged"),
        (lambda path: (path.parent / KEPT).write_bytes(b"\xff"), "files.json is damaged"),
        (lambda path: write_sealed(path.parent / KEPT, {"files": {}}), "does not name table.txt"),
    ],
)
def test_a_damaged_file_is_named_and_not_read(table: Path, damage: Callable[[Path], object], message: str) -> None:
    assert intact(table) == table and not kept_difference(table.parent)
    damage(table)
    with pytest.raises(SettingsError, match=f"{table.parent} is damaged: .*{message}"):
        intact(table)


def test_a_folder_of_an_earlier_version_is_read_and_that_is_said_once(table: Path, capsys: Any) -> None:
    (table.parent / KEPT).unlink()
    assert intact(table) == intact(table) == table
    assert capsys.readouterr().out.count("holds no files.json") == 1


def test_a_file_that_is_gone_since_it_was_verified_is_named(table: Path) -> None:
    with (
        pytest.raises(SettingsError, match=f"{table} cannot be read: No such file or directory. Run the run's"),
        reading(intact(table)) as path,
    ):
        path.unlink()
        path.read_text()


def test_a_folder_in_place_of_the_record_is_said(tmp_path: Path) -> None:
    (tmp_path / KEPT).mkdir()
    (tmp_path / "table.txt").write_text("1")
    with pytest.raises(SettingsError, match="is a folder; a file of that name"):
        keep_record(tmp_path, tmp_path / "table.txt")
    with pytest.raises(SettingsError, match="is damaged, or does not name"):
        intact(tmp_path / "table.txt")


def test_writers_at_the_same_time_lose_no_entry(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.txt" for i in range(12)]
    for path in paths:
        path.write_text(path.name)
    threads = [threading.Thread(target=keep_record, args=(tmp_path, path)) for path in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(intact(path) for path in paths)


@pytest.mark.parametrize("position", range(0, 120, 7))
def test_every_flipped_bit_of_a_record_is_noticed(tmp_path: Path, position: int) -> None:
    path, record = tmp_path / "step.json", {"inputs": "ab", "seconds": 0.25, "files": marks(tmp_path, [])}
    write_sealed(path, record)
    assert read_sealed(path) == record
    data = bytearray(path.read_bytes())
    data[position % len(data)] ^= 1 << position % 7
    path.write_bytes(bytes(data))
    assert read_sealed(path) in (None, record)  # white space between keys says nothing


def test_a_difference_is_found_without_reading_where_sizes_differ(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "a").write_text("1"), (tmp_path / "b").write_text("2")
    files = marks(tmp_path, ["a", "b"])
    (tmp_path / "b").write_text("22")
    monkeypatch.setattr("rwkvgate.experiment.records.file_hash", lambda path: pytest.fail("was read"))
    assert difference(tmp_path, files).startswith("b has 2 bytes")


def test_a_comparison_refuses_damaged_results(tmp_path: Path) -> None:
    write_json(tmp_path / "manifest.json", {})
    (tmp_path / "results").mkdir()
    paths = [tmp_path / "results" / f"{name}.parquet" for name in TABLES]
    for path in paths:
        pd.DataFrame([[1.5] * len(TABLES[path.stem])], columns=TABLES[path.stem]).to_parquet(path)
    write_json(tmp_path / "results" / "claims.json", [])
    keep_record(tmp_path / "results", *paths, tmp_path / "results" / "claims.json")
    assert len(read_run(tmp_path).documents) == 1
    pd.DataFrame([[1.25] * 5], columns=TABLES["documents"]).to_parquet(paths[0])
    with pytest.raises(SettingsError, match=r"results is damaged: the content of documents\.parquet"):
        read_run(tmp_path)


def test_a_damaged_trial_of_the_search_is_said_and_not_used(tmp_path: Path, capsys: Any) -> None:
    task, arm = RecallTask("copying", 3, (0.1,)), ARMS["base"]
    trial = Trial("copying", "base", 0.1, 0, validation=float("inf"), test=[1.5], weights=[1])
    path = trial_path(tmp_path, task, arm, 0.1, 0)
    write_sealed(path, asdict(trial))
    assert known_trial(tmp_path, task, arm, 0.1, 0) == trial
    whole = path.read_text()
    write_text(path, re.sub("1.5", "1.4", whole))
    assert known_trial(tmp_path, task, arm, 0.1, 0) is None and "is damaged" in capsys.readouterr().out
    write_text(trial_path(tmp_path, task, arm, 0.1, 1), whole)
    assert known_trial(tmp_path, task, arm, 0.1, 1) is None and "of another trial" in capsys.readouterr().out
