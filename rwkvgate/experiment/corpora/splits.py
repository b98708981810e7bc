"""Splits of documents into train, validation and test, without near-duplicates between them.

Two documents are near-duplicates when at least half of the word 8-grams of the shorter one occur in
the other *single* document. Stories share sentence frames by design, but hardly a frame has eight words
in a row between two slots: a shared 8-gram means a sentence with the same fillers, and half of them
means the same story. For ordinary prose eight words are the usual choice too: it ignores a quoted
sentence and finds a copy.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Sequence

from rwkvgate.experiment.corpora.documents import Document
from rwkvgate.gate.validation import SettingsError

FEWEST_DOCUMENTS = 10
# Scripts written without spaces count a character as a word: kana, Han, Thai, Lao, Burmese, Khmer.
_WORD = re.compile("[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]|\\w+")


def split_documents(
    documents: Sequence[Document], shares: tuple[float, float, float], seed: int
) -> dict[str, list[Document]]:
    """Documents by split: 'train', 'validation', 'test', each with at least one.

    The order is that of SHA-256 over seed, key and text, so it depends neither on the given order
    nor on Python's hashing.

    Raises:
        SettingsError: there are fewer than ten documents.
    """
    if len(documents) < FEWEST_DOCUMENTS:
        raise SettingsError(f"{len(documents)} documents cannot be split; at least {FEWEST_DOCUMENTS} are needed")
    ordered = sorted(documents, key=lambda document: _rank(document, seed))
    train, validation, _ = split_sizes(len(ordered), shares)
    return {
        "train": ordered[:train],
        "validation": ordered[train : train + validation],
        "test": ordered[train + validation :],
    }


def split_sizes(count: int, shares: tuple[float, float, float]) -> tuple[int, int, int]:
    """Numbers of documents in train, validation and test; they sum to `count`, none is zero.

    Raises:
        SettingsError: `count` is below ten.
    """
    if count < FEWEST_DOCUMENTS:
        raise SettingsError(f"{count} documents cannot be split; at least {FEWEST_DOCUMENTS} are needed")
    validation = max(1, min(round(count * shares[1]), count - 2))
    test = max(1, min(round(count * shares[2]), count - validation - 1))
    return count - validation - test, validation, test


def _rank(document: Document, seed: int) -> bytes:
    text = f"{seed}\n{document.key}\n{document.text}"
    return hashlib.sha256(text.encode("utf-8", errors="surrogatepass")).digest()


def word_ngrams(text: str, n: int) -> set[str]:
    """The distinct `n`-grams of the lower-cased words of `text`; a text of fewer words is one n-gram."""
    words = _WORD.findall(text.lower()) or [text]
    if len(words) <= n:
        return {" ".join(words)}
    return {" ".join(words[start : start + n]) for start in range(len(words) - n + 1)}


def near_duplicates(
    left: Sequence[str], right: Sequence[str], n: int = 8, threshold: float = 0.5
) -> list[tuple[int, int, float]]:
    """Pairs (index in `left`, index in `right`, overlap) whose overlap is at least `threshold`.

    The overlap, from 0 to 1, is the number of shared distinct word `n`-grams over the number in the text
    that has fewer. An inverted index of `right` makes the time nearly linear in the text; put the smaller
    side there.

    Raises:
        ValueError: `n` is below 1 or `threshold` is not in (0, 1].
    """
    if n < 1 or not 0 < threshold <= 1:
        raise ValueError(f"n is {n} and threshold {threshold}; they must be at least 1, and in (0, 1]")
    index: defaultdict[str, list[int]] = defaultdict(list)
    sizes = []
    for number, text in enumerate(right):
        grams = word_ngrams(text, n)
        sizes.append(len(grams))
        for gram in grams:
            index[gram].append(number)
    pairs = []
    for number, text in enumerate(left):
        grams = word_ngrams(text, n)
        shared: Counter[int] = Counter()
        for gram in grams:
            shared.update(index.get(gram, ()))
        for other, count in sorted(shared.items()):
            overlap = count / min(len(grams), sizes[other])
            if overlap >= threshold:
                pairs.append((number, other, overlap))
    return pairs


def drop_near_duplicates(splits: dict[str, list[Document]]) -> dict[str, list[Document]]:
    """The splits without near-duplicates between them: test keeps all its documents.

    Validation loses near-duplicates of test, then train loses near-duplicates of both.

    Raises:
        SettingsError: a split is left empty, because the documents are copies of one another.
    """
    test = splits["test"]
    validation = without_duplicates(splits["validation"], test)
    train = without_duplicates(splits["train"], test + validation)
    for name, rest in (("train", train), ("validation", validation)):
        if not rest:
            raise SettingsError(
                f"the {name} split is empty once near-duplicates of the test documents are dropped; "
                "the documents must differ from one another"
            )
    return {"train": train, "validation": validation, "test": test}


def without_duplicates(documents: Sequence[Document], kept: Sequence[Document]) -> list[Document]:
    """`documents` without near-duplicates of `kept`."""
    pairs = near_duplicates([document.text for document in documents], [document.text for document in kept])
    gone = {number for number, _, _ in pairs}
    return [document for number, document in enumerate(documents) if number not in gone]
