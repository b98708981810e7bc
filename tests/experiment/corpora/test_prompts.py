"""Where prompts end, for stories and for awkward documents."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from transformers import PreTrainedTokenizerFast

from rwkvgate.experiment.corpora.documents import Document
from rwkvgate.experiment.corpora.prompts import split_prompt
from rwkvgate.experiment.corpora.punctuation import weak_document
from rwkvgate.gate.validation import SettingsError

Encode = Callable[[str], list[int]]


@pytest.fixture(scope="module")
def encode(tokenizer: PreTrainedTokenizerFast) -> Encode:
    return lambda text: list(tokenizer(text)["input_ids"])


def characters(text: str) -> list[int]:
    return [ord(letter) for letter in text]


def test_stories_split_at_sentence_ends(
    encode: Encode, train_stories: list[Document], test_stories: list[Document]
) -> None:
    for document in train_stories[:600] + test_stories:
        cut = split_prompt(document, encode, 50, 100)
        assert cut in document.sentence_ends
        prompt, rest = encode(document.text[:cut]), encode(document.text[cut:])
        assert 50 <= len(prompt) <= 100
        assert 40 <= len(rest) <= 150
        assert 135 <= len(prompt) + len(rest) <= 240
        assert prompt + rest == encode(document.text)


def test_it_takes_the_latest_sentence_end_that_fits() -> None:
    document = weak_document("Aa. Bb. Cc. Dd. Ee.", "local", "d")
    assert split_prompt(document, characters, 3, 12) == 11
    assert split_prompt(document, characters, 3, 100) == 15


def test_a_long_sentence_is_cut_between_words() -> None:
    document = weak_document("one two three four five six seven.", "local", "d")
    cut = split_prompt(document, characters, 6, 10)
    assert document.text[:cut] == "one two"


@pytest.mark.parametrize("text", ["a" * 300, "吾輩は猫である名前はまだ無い" * 20, "ไม่มีช่องว่าง" * 30, "🐈" * 200])
def test_text_without_spaces_is_cut_between_characters(text: str, encode: Encode) -> None:
    document = weak_document(text, "local", "d")
    cut = split_prompt(document, encode, 10, 20)
    assert 10 <= len(encode(text[:cut])) <= 20
    assert 0 < cut < len(text)


@pytest.mark.parametrize("text", ["", "   ", "Aa. Bb."])
def test_a_document_too_short_is_named(text: str) -> None:
    with pytest.raises(SettingsError, match=r"prompt longer than its document: 'shelf/7' has \d tokens"):
        split_prompt(weak_document(text, "local", "shelf/7"), characters, 7, 9)


def test_a_range_no_cut_can_hit_is_named() -> None:
    with pytest.raises(SettingsError, match="no cut of document 'd'"):
        split_prompt(weak_document("é" * 20, "local", "d"), lambda text: list(text.encode()), 5, 5)


@pytest.mark.parametrize(("fewest", "most"), [(0, 5), (6, 5)])
def test_an_impossible_range_is_refused(fewest: int, most: int) -> None:
    with pytest.raises(ValueError, match="1 <= fewest <= most"):
        split_prompt(weak_document("abc", "local", "d"), characters, fewest, most)
