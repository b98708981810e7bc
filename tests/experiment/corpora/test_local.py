"""Local files: many scripts, and one clear line for each thing that can be wrong."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from pathlib import Path

import pytest

from rwkvgate.experiment.corpora import local
from rwkvgate.experiment.corpora.local import check_source, content_hash, local_documents
from rwkvgate.gate.validation import SettingsError

TEXTS = [
    "The cat sat on the mat, and it slept. Then it left.",
    "Кот сидел на коврике. Потом он ушёл!",
    "猫がマットの上に座った。それから去った。",
    "القطة جلست على السجادة. ثم غادرت؟",
    "बिल्ली चटाई पर बैठी। फिर वह चली गई।",
    "แมวนั่งบนเสื่อ",
    "2020-01-01",
    "a" * 5000,
    "🐈 🐈" * 20,
    "Η γάτα κάθισε στο χαλί.\nΔεύτερη γραμμή.",
]


def test_a_text_file_has_a_document_a_paragraph(tmp_path: Path) -> None:
    path = tmp_path / "many [1].txt"
    path.write_bytes(("\ufeff" + "\r\n \t\r\n\r\n".join(TEXTS) + "\n\n\n").encode())
    documents = local_documents(path)
    assert [document.text for document in documents] == TEXTS
    assert {document.domain for document in documents} == {"local"}
    assert len({document.key for document in documents}) == len(TEXTS)
    assert documents[2].sentence_ends == (12, 20)
    assert documents[0].boundaries == (24,)  # "and"
    assert documents[0].mentions == ()


def test_a_jsonl_file_has_a_document_a_line(tmp_path: Path) -> None:
    path = tmp_path / "many.jsonl"
    lines = [json.dumps({"text": text, "more": n if n % 2 else "x"}) for n, text in enumerate(TEXTS)]
    path.write_text("\n\n".join(lines) + "\n", encoding="utf-8")
    assert [document.text for document in local_documents(path)] == TEXTS


def test_texts_that_look_like_dates_stay_text(tmp_path: Path) -> None:
    path = tmp_path / "dates.jsonl"
    path.write_text("".join(json.dumps({"text": f"2020-01-{n:02}"}) + "\n" for n in range(1, 13)), encoding="utf-8")
    assert local_documents(str(path))[3].text == "2020-01-04"


def bad(tmp_path: Path, name: str, data: bytes) -> str:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(SettingsError) as error:
        local_documents(path)
    assert "\n" not in str(error.value)
    assert name in str(error.value)
    return str(error.value)


def test_what_is_wrong_with_a_file_is_said(tmp_path: Path) -> None:
    good = b'{"text": "fine"}\n'
    assert "ends in .txt or .jsonl" in bad(tmp_path, "a.csv", b"x")
    assert "is empty" in bad(tmp_path, "b.txt", b"")
    assert "is empty" in bad(tmp_path, "c.txt", b" \n\n ")
    assert "byte 0xff at offset 3" in bad(tmp_path, "d.txt", b"abc\xff")
    assert "line 2" in bad(tmp_path, "e.jsonl", good + b"{oops\n")
    assert 'no "text" string' in bad(tmp_path, "f.jsonl", good + b'{"body": "x"}\n')
    assert 'no "text" string' in bad(tmp_path, "g.jsonl", good + b'{"text": 3}\n')
    assert 'no "text" string' in bad(tmp_path, "h.jsonl", good + b"[1]\n")
    assert "surrogate" in bad(tmp_path, "i.jsonl", good + b'{"text": "\\ud800"}\n')
    assert "holds 1 documents; at least 10" in bad(tmp_path, "j.jsonl", good)
    assert "blank lines" in bad(tmp_path, "k.txt", b"one\n\ntwo")


def test_a_missing_file_and_a_folder_are_said(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"no file .*none\.txt"):
        local_documents(tmp_path / "none.txt")
    with pytest.raises(SettingsError, match="is a folder"):
        local_documents(tmp_path)


def test_what_is_no_file_of_text_is_refused_before_it_is_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "zero.txt").symlink_to("/dev/zero")
    (tmp_path / "loop.jsonl").symlink_to(tmp_path / "loop.jsonl")
    with (tmp_path / "sparse.txt").open("wb") as file:
        file.truncate(10 * 2**30)
    with socket.socket(socket.AF_UNIX) as opened, contextlib.chdir(tmp_path):
        opened.bind("socket.txt")
    for name, words in (
        ("pipe.txt", "is a pipe, socket or device"),
        ("zero.txt", "is a pipe, socket or device"),
        ("socket.txt", "is a pipe, socket or device"),
        ("loop.jsonl", "cannot read .* symbolic links"),
        ("sparse.txt", "holds 10,737,418,240 bytes; at most 1,073,741,824 are read"),
        ("a\0b.txt", "embedded null"),
        ("x" * 300 + ".txt", "File name too long"),
    ):
        for check in (check_source, local_documents):
            with pytest.raises(SettingsError, match=words):
                check(str(tmp_path / name))
    check_source("stories")


def test_a_data_set_of_too_many_files_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "MOST_FILES", 3)
    for number in range(4):
        (tmp_path / str(number)).touch()
    with pytest.raises(SettingsError, match="holds more than 3 files"):
        content_hash(tmp_path)


def test_a_content_hash_changes_with_what_is_read_and_with_nothing_else(tmp_path: Path) -> None:
    file, folder = tmp_path / "one.txt", tmp_path / "set"
    (folder / "data").mkdir(parents=True)
    inner = folder / "data" / "train.jsonl"
    for path in (file, inner):
        path.write_text("first")
    before = content_hash(file), content_hash(folder)
    for path in (file, inner):
        path.write_text("first")  # written anew, the same
    (folder / ".cache").write_text("hidden")
    assert (content_hash(file), content_hash(folder)) == before and None not in before
    for path in (file, inner):
        path.write_text("another")
    assert content_hash(file) != before[0] and content_hash(folder) != before[1]
    inner.write_text("first")
    assert content_hash(folder) == before[1]
    inner.rename(folder / "data" / "test.jsonl")
    assert content_hash(folder) != before[1] and content_hash(tmp_path / "none") is None
