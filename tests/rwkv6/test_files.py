"""Files and folders appear whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from rwkvgate.rwkv6.files import digest, write_file, write_folder, write_json, write_text


def names(folder: Path) -> list[str]:
    """What lies in a folder, hidden entries too."""
    return sorted(path.name for path in folder.iterdir())


class Interrupted(BaseException):
    """Stands for a keyboard interrupt."""


@pytest.mark.parametrize("old", [None, "old"])
@pytest.mark.parametrize("error", [RuntimeError, Interrupted])
def test_a_file_whose_writing_fails_is_what_it_was(tmp_path: Path, old: str | None, error: type) -> None:
    path = tmp_path / "table.json"
    if old:
        path.write_text(old)
    with pytest.raises(error), write_file(path) as fresh:
        fresh.write_text("half")
        raise error
    assert names(tmp_path) == (["table.json"] if old else [])
    assert not old or path.read_text() == old


def test_a_file_is_replaced_whole_and_not_before_the_end(tmp_path: Path) -> None:
    path = tmp_path / "made" / "on" / "the way" / "table.json"
    write_text(path, "old, and longer than what comes")
    with write_file(path) as fresh:
        assert fresh.parent == path.parent and fresh.suffix == ".json"
        fresh.write_text("new")
        assert path.read_text().startswith("old")
    assert path.read_text() == "new" and names(path.parent) == ["table.json"]
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("error", [RuntimeError, Interrupted])
def test_a_folder_whose_filling_fails_is_what_it_was(tmp_path: Path, old: bool, error: type) -> None:
    folder = tmp_path / "arm"
    if old:
        fill(folder, "old")
    with pytest.raises(error), write_folder(folder) as fresh:
        (fresh / "new").write_text("half")
        raise error
    assert names(tmp_path) == (["arm"] if old else [])
    assert not old or names(folder) == ["old"]


def fill(folder: Path, name: str) -> None:
    with write_folder(folder) as fresh:
        (fresh / "deep").mkdir()
        (fresh / "deep" / name).write_text(name)
        (fresh / name).write_text(name)
    # What is left is a plain tree, so that later checks compare names alone.
    (folder / "deep" / name).unlink()
    (folder / "deep").rmdir()


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "arm"
    fill(folder, "old")
    with write_folder(folder) as fresh:
        (fresh / "new").write_text("new")
        assert names(folder) == ["old"]
    assert names(folder) == ["new"] and names(folder.parent) == ["arm"]
    assert folder.stat().st_mode & 0o777 == 0o755


def test_a_folder_that_cannot_take_its_place_leaves_the_old_one(tmp_path: Path, monkeypatch: Any) -> None:
    folder, replace = tmp_path / "arm", os.replace
    fill(folder, "old")

    def refuse(source: Any, target: Any) -> None:
        # The new folder arrives under a hidden name; the old one stepping aside and back are let through.
        if Path(target) == folder and Path(source).name.startswith("."):
            raise OSError("no")
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="no"), write_folder(folder) as fresh:
        (fresh / "new").write_text("new")
    assert names(folder) == ["old"] and names(tmp_path) == ["arm"]


def test_a_file_in_the_way_of_a_folder_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "arm").write_text("a file")
    with write_folder(tmp_path / "arm") as fresh:
        (fresh / "new").write_text("new")
    assert names(tmp_path / "arm") == ["new"] and names(tmp_path) == ["arm"]


def test_json_is_readable_utf8_in_the_order_given(tmp_path: Path) -> None:
    value = {"b": [1, 2.5], "a": "naïve 中"}
    write_json(tmp_path / "x.json", value)
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    assert json.loads(text) == value and list(json.loads(text)) == ["b", "a"]
    assert "naïve 中" in text and text.endswith("}\n")


def test_what_is_no_json_leaves_the_old_file(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"a": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "x.json", {"a": object()})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": 1} and names(tmp_path) == ["x.json"]


def test_a_digest_knows_values_and_not_the_order_of_keys() -> None:
    assert digest({"a": 1, "b": {"c": [1, 2], "d": None}}) == digest({"b": {"d": None, "c": [1, 2]}, "a": 1})
    assert len({digest(x) for x in ({"a": 1}, {"a": 1.5}, {"a": "1"}, {"a": [1]}, {"b": 1}, [1, 2], [2, 1])}) == 7
    assert len(digest("")) == 16
