"""Files and folders appear whole or not at all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rwkvgate.rwkv6.files import digest, read_json, restore_folder, write_file, write_folder, write_json, write_text


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
        if Path(target) == folder and Path(source).name.startswith(".") and "replaced" not in Path(source).name:
            raise OSError("no")
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="no"), write_folder(folder) as fresh:
        (fresh / "new").write_text("new")
    assert names(folder) == ["old"] and names(tmp_path) == ["arm"]


WRITER = """
import os, sys
from pathlib import Path
from rwkvgate.rwkv6 import files
kind, path = sys.argv[1], Path(sys.argv[2])
if kind == "file":
    with files.write_file(path) as fresh:
        fresh.write_text("half")
        os._exit(9)
if kind == "between":
    whole = files.os.replace
    def replace(source, target):
        if Path(target) == path:
            os._exit(9)
        whole(source, target)
    files.os.replace = replace
with files.write_folder(path) as fresh:
    (fresh / "new").write_text("half")
    if kind == "folder":
        os._exit(9)
"""


def killed_writer(kind: str, path: Path) -> None:
    """A process that ends as if it were killed: while it writes a file or a folder, or between the two renames."""
    assert subprocess.run([sys.executable, "-c", WRITER, kind, str(path)], check=False).returncode == 9


def test_a_folder_killed_between_its_two_renames_is_found_again(tmp_path: Path) -> None:
    folder = tmp_path / "arm"
    fill(folder, "old")
    killed_writer("between", folder)
    assert not folder.exists()
    restore_folder(folder)
    assert names(folder) == ["old"]
    killed_writer("between", folder)
    with write_folder(folder) as fresh:
        (fresh / "new").write_text("new")
        assert names(folder) == ["old"]  # until the end
    assert names(folder) == ["new"] and names(tmp_path) == ["arm"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_a_killed_writer_left_is_removed_by_the_next(tmp_path: Path, kind: str) -> None:
    killed_writer(kind, tmp_path / "arm")
    killed_writer(kind, tmp_path / "arm.b")
    with write_folder(tmp_path / "arm") as living:
        (living / "new").write_text("new")
        write_text(tmp_path / "arm", "a file of the same name")
        assert living.is_dir()
    left = names(tmp_path)
    assert len(left) == 2 and left[0].startswith(".arm.b.") and left[1] == "arm"


def test_a_folder_that_a_reader_moves_back_while_it_is_replaced_is_replaced_all_the_same(
    tmp_path: Path, monkeypatch: Any
) -> None:
    folder, replace, moved = tmp_path / "arm", os.replace, []
    fill(folder, "old")

    def interfere(source: Any, target: Any) -> None:
        replace(source, target)
        if Path(source) == folder and not moved:
            moved.append(target)
            restore_folder(folder)

    monkeypatch.setattr(os, "replace", interfere)
    with write_folder(folder) as fresh:
        (fresh / "new").write_text("new")
    assert moved and names(folder) == ["new"] and names(tmp_path) == ["arm"]


def test_a_reader_removes_nothing_beside_a_folder(tmp_path: Path) -> None:
    fill(tmp_path / "model", "weights")
    fill(tmp_path / ".model.old", "mine")
    fill(tmp_path / ".model.replaced-by-rwkvgate", "left by a kill")
    restore_folder(tmp_path / "model")
    assert names(tmp_path) == [".model.old", ".model.replaced-by-rwkvgate", "model"]
    fill(tmp_path / "model", "new")  # a writer clears what is its own
    assert names(tmp_path) == [".model.old", "model"]


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


@pytest.mark.parametrize("write", [write_file, write_folder])
def test_a_full_disk_is_named_whoever_writes(tmp_path: Path, write: Any) -> None:
    class Foreign(Exception):
        pass

    said = rf"No space left on device: .* written to {tmp_path}/x, where .* MiB are free"
    with pytest.raises(OSError, match=said), write(tmp_path / "x"):
        raise Foreign("Error while serializing: No space left on device (os error 28)")
    assert not names(tmp_path)


@pytest.mark.parametrize("target", ["nowhere", "arm", "other"])
def test_a_link_is_replaced_and_not_what_it_leads_to(tmp_path: Path, target: str) -> None:
    fill(tmp_path / "other", "mine")
    (tmp_path / "arm").symlink_to(target)
    with write_folder(tmp_path / "arm") as fresh:
        fill(fresh, "new")
    assert names(tmp_path) == ["arm", "other"] and not (tmp_path / "arm").is_symlink()
    assert names(tmp_path / "arm") == ["new"] and names(tmp_path / "other") == ["mine"]


def test_json_of_a_pipe_or_device_is_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "link.json").symlink_to("/dev/zero")
    assert [read_json(tmp_path / name) for name in ("pipe.json", "link.json", "x" * 300)] == [None] * 3
