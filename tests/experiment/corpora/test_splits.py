"""Splits and near-duplicates."""

from __future__ import annotations

import random
import time

import pytest

from rwkvgate.experiment.corpora.documents import Document
from rwkvgate.experiment.corpora.splits import drop_near_duplicates, near_duplicates, split_documents, split_sizes
from rwkvgate.gate.validation import SettingsError

SHARES = (0.8, 0.1, 0.1)


def numbered(count: int) -> list[Document]:
    return [Document(" ".join(f"w{n}x{i}" for i in range(20)), "local", key=str(n)) for n in range(count)]


def test_shares_and_order() -> None:
    documents = numbered(100)
    splits = split_documents(documents, SHARES, seed=3)
    assert {name: len(part) for name, part in splits.items()} == {"train": 80, "validation": 10, "test": 10}
    assert sorted(d.key for part in splits.values() for d in part) == sorted(d.key for d in documents)
    shuffled = random.Random(0).sample(documents, 100)
    assert split_documents(shuffled, SHARES, seed=3) == splits
    assert split_documents(documents, SHARES, seed=4) != splits


@pytest.mark.parametrize("shares", [SHARES, (0.98, 0.01, 0.01), (0.01, 0.01, 0.98), (0.01, 0.98, 0.01)])
@pytest.mark.parametrize("count", [10, 11, 57])
def test_no_split_is_empty(count: int, shares: tuple[float, float, float]) -> None:
    assert sum(split_sizes(count, shares)) == count
    assert min(split_sizes(count, shares)) >= 1


def test_fewer_than_ten_documents_are_refused() -> None:
    with pytest.raises(SettingsError, match="9 documents cannot be split; at least 10"):
        split_documents(numbered(9), SHARES, 0)
    with pytest.raises(SettingsError, match="at least 10"):
        split_sizes(9, SHARES)


def test_a_copy_with_a_few_words_changed_is_found() -> None:
    left = [document.text for document in numbered(20)]
    words = left[7].split()
    edited = " ".join([*words[:16], "other", "words", "here", "now"])
    [(one, two, overlap)] = near_duplicates(left, ["nothing like it", edited])
    assert (one, two) == (7, 1)
    assert 0.5 <= overlap < 1
    assert near_duplicates(left, [" ".join(words[:10] + ["else"] * 10)]) == []


def test_an_excerpt_is_a_near_duplicate_of_the_whole() -> None:
    [whole] = [document.text for document in numbered(1)]
    assert near_duplicates([whole], [" ".join(whole.split()[3:14])]) == [(0, 0, 1.0)]


def test_scripts_without_spaces_are_compared_by_character() -> None:
    text = "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。"
    assert near_duplicates([text], [text[:-6] + "頓と分らぬ。"])
    assert not near_duplicates([text], ["何でも薄暗いじめじめした所で泣いていた事だけは記憶している。"])


@pytest.mark.parametrize("text", ["", "a" * 500, "a " * 500, "...", "one two"])
def test_degenerate_texts_duplicate_only_themselves(text: str) -> None:
    assert near_duplicates([text], [text]) == [(0, 0, 1.0)]
    assert near_duplicates([text], ["an ordinary sentence of more than eight words in all"]) == []


@pytest.mark.parametrize(("n", "threshold"), [(0, 0.5), (8, 0.0), (8, 1.5)])
def test_impossible_arguments_are_refused(n: int, threshold: float) -> None:
    with pytest.raises(ValueError, match="they must be"):
        near_duplicates(["a"], ["a"], n, threshold)


def test_train_and_validation_give_way_to_test() -> None:
    one, two, three, four = numbered(4)
    splits = {"train": [one, two, three], "validation": [two, four], "test": [one]}
    assert drop_near_duplicates(splits) == {"train": [three], "validation": [two, four], "test": [one]}


def test_copies_of_one_document_cannot_be_split() -> None:
    same = [Document("a" * 40, "local", key=str(n)) for n in range(12)]
    with pytest.raises(SettingsError, match="train split is empty"):
        drop_near_duplicates(split_documents(same, SHARES, 0))


def test_it_is_quick(train_stories: list[Document], test_stories: list[Document]) -> None:
    start = time.process_time()
    near_duplicates([d.text for d in train_stories], [d.text for d in test_stories])
    assert time.process_time() - start < 5
