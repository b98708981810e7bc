"""Documents on disk, and labels from punctuation."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rwkvgate.experiment.corpora.documents import (
    Document,
    dump_document,
    parse_document,
    read_documents,
    write_documents,
)
from rwkvgate.experiment.corpora.punctuation import find_boundaries, find_sentence_ends
from rwkvgate.experiment.corpora.stories import generate_stories
from rwkvgate.gate.validation import SettingsError


def test_a_file_comes_back_byte_for_byte(tmp_path: Path) -> None:
    documents = [
        *generate_stories(6, 1),
        Document("line\u2028separator\r\n\x85 and \x00", "local", key="odd"),
    ]
    write_documents(tmp_path / "a.jsonl", documents)
    assert read_documents(tmp_path / "a.jsonl") == documents
    write_documents(tmp_path / "b.jsonl", read_documents(tmp_path / "a.jsonl"))
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "b.jsonl"]


@given(st.text())
def test_any_text_survives_a_line(text: str) -> None:
    document = Document(text, "local")
    line = dump_document(document)
    assert "\n" not in line
    assert parse_document(line) == document


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    write_documents(path, generate_stories(2, 0))
    before = path.read_bytes()
    with pytest.raises(UnicodeEncodeError):
        write_documents(path, [Document("\ud800", "local")])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_file_and_a_bad_line_are_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none\.jsonl"):
        read_documents(tmp_path / "none.jsonl")
    path = tmp_path / "bad.jsonl"
    for line in ("{", "[]", '{"text": "a"}'):
        path.write_text(dump_document(Document("a", "local")) + "\n" + line + "\n", encoding="utf-8")
        with pytest.raises(SettingsError, match=r"line 2 of .*bad\.jsonl is not a document"):
            read_documents(path)


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        ("One. Two! Three?", [4, 9, 16]),
        ('He said "no." Then left.', [13, 24]),
        ("See e.g. this one.", [18]),
        ("Version 1.5 is out.", [19]),
        ("今日は。明日も！", [4, 8]),
        ("यह है। वह भी।", [6, 13]),
        ("нет. да.", [8]),
        ("no full stop", []),
        ("", []),
    ],
)
def test_sentence_ends(text: str, ends: list[int]) -> None:
    assert list(find_sentence_ends(text)) == ends


def test_boundaries_are_where_the_next_clause_begins() -> None:
    assert find_boundaries("One, two; three") == (5, 10)
    assert find_boundaries("一、二，三") == (2, 4)
    assert find_boundaries("1,000 and 12:30") == ()
