"""Tokens as legible text: parts of characters, invisible ones, direction, groups."""

from __future__ import annotations

import re
from typing import Any

import pytest

from rwkvgate.experiment.corpora.tokenizer import train_tokenizer
from rwkvgate.explore.tokens import direction, readable, token_labels, token_texts
from tests.explore.hostile import TEXTS


def test_tokens_with_a_part_of_a_character_are_their_bytes(reader: Any) -> None:
    for tokenizer in (reader()[1], train_tokenizer(["plain English text"], 300)):
        for text in TEXTS.values():
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            data = b""
            for token in token_texts(tokenizer, ids):
                split = re.fullmatch(r"⟨([0-9a-f ]+)⟩", token)
                data += bytes.fromhex(split[1]) if split else token.encode()
            assert data.decode() == text


def test_readable_tokens() -> None:
    shown = {" ": "·", " a": " a", "\n": "⏎", "a\t": "a⇥", "\x07": "□", "\u0301": "◌\u0301", "\u200d": "□"}
    assert {token: readable(token) for token in shown} == shown
    assert readable("👩\u200d") == "👩\u200d" and readable("") == ""
    assert direction(["שלום", " hi"]) == "rtl" and direction(["hello", " ש"]) == "ltr" and direction(["1"]) == "ltr"


@pytest.mark.parametrize("index", [-1, 2**31, 10**30])
def test_ids_that_no_vocabulary_has_are_refused(reader: Any, index: int) -> None:
    for tokenizer in (reader()[1], train_tokenizer(["plain English text"], 300)):
        with pytest.raises(ValueError, match=f"id {index} is no token"):
            token_texts(tokenizer, [index])


def test_labels_show_white_space() -> None:
    assert token_labels([" a", "\n", "\x07"]) == ["·a", "⏎", "□"]
