"""Trivial baselines: systems that write text without a model, scored like the arms, so that scores have a scale."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pandas as pd

from rwkvgate.metrics.inference import refuse_one_string
from rwkvgate.metrics.overlap import document_overlap
from rwkvgate.metrics.sentences import find_sentence_ends

SYSTEMS = {
    "last-sentence": "the prompt's last sentence, repeated",
    "other-document": "another document's reference",
    "commonest-word": "the training text's most frequent word, repeated",
}


def last_sentence(prompt: str) -> str:
    """The last sentence of a text, by punctuation; the whole text where it has none.

    Example:
        >>> last_sentence('One day. A fox said: "Run!"')
        'A fox said: "Run!"'
    """
    text = prompt.strip()
    before = [end for end in find_sentence_ends(text) if end < len(text)]
    return text[before[-1] :].lstrip() if before else text


def commonest_word(texts: Sequence[str]) -> str:
    """The most frequent word, alphabetically first among equals; empty where there are no words.

    Raises:
        ValueError: one string in place of a list.

    Example:
        >>> commonest_word(["the cat", "the dog"])
        'the'
    """
    refuse_one_string(texts=texts)
    counts = Counter(word for text in texts for word in text.split())
    return min(counts, key=lambda word: (-counts[word], word)) if counts else ""


def repeated(unit: str, like: str) -> str:
    """A unit repeated to about as many characters as another text.

    Example:
        >>> repeated("ha", like="nine more")
        'ha ha ha'
    """
    if not unit:
        return ""
    return " ".join([unit] * max(1, round(len(like) / (len(unit) + 1))))


def trivial_overlap(prompts: Sequence[str], references: Sequence[str], training: Sequence[str]) -> pd.DataFrame:
    """`document_overlap` of every trivial system, with a column `system`.

    Where there is only one document, the system `other-document` writes nothing.

    Raises:
        ValueError: prompts and references differ in number.

    Example:
        >>> frame = trivial_overlap(["A fox."], ["It ran."], training=["it it is"])
        >>> frame.set_index("system")["rouge1"].round(3).to_dict()
        {'last-sentence': 0.0, 'other-document': 0.0, 'commonest-word': 0.5}
    """
    if len(prompts) != len(references):
        raise ValueError(f"{len(prompts)} prompts for {len(references)} references; the counts must be equal")
    word = commonest_word(training)
    others = [*references[1:], *references[:1]] if len(references) > 1 else [""] * len(references)
    written = {
        "last-sentence": [repeated(last_sentence(p), r) for p, r in zip(prompts, references, strict=True)],
        "other-document": others,
        "commonest-word": [repeated(word, r) for r in references],
    }
    frames = [document_overlap(texts, references).assign(system=name) for name, texts in written.items()]
    return pd.concat(frames, ignore_index=True)
