"""Weak labels of unlabelled text from its punctuation: sentence ends and clause boundaries."""

from __future__ import annotations

import re

from rwkvgate.experiment.corpora.documents import Document

# Full stops of scripts without spaces end a sentence anywhere. The others (Latin, Devanagari, Arabic, Urdu, Armenian,
# Ethiopic, Khmer, Burmese) need a space or the end of the text after them.
_CLOSERS = r"[\"'”’»)\]」』】）]*"
_SENTENCE = re.compile(rf"(?:[。！？｡]+{_CLOSERS}|[.!?…।॥؟۔։።។။]+{_CLOSERS}(?=\s|$))")
_CLAUSE = re.compile(r"(?:[、，；：]|[,;:؛،—–](?=\s))\s*(?=\S)")
_SPACE = re.compile(r"\s*")


def find_sentence_ends(text: str) -> tuple[int, ...]:
    """Offsets just after each sentence's final punctuation, closing quotes included.

    A full stop before a lower-case letter ("e.g. this") ends no sentence.
    """
    ends = []
    for match in _SENTENCE.finditer(text):
        gap = _SPACE.match(text, match.end())
        after = text[gap.end() : gap.end() + 1] if gap else ""
        if not after.islower():
            ends.append(match.end())
    return tuple(ends)


def find_boundaries(text: str) -> tuple[int, ...]:
    """Offsets of the first character after each comma, semicolon, colon or dash."""
    return tuple(match.end() for match in _CLAUSE.finditer(text))


def weak_document(text: str, domain: str, key: str) -> Document:
    """A document with labels from its punctuation, without mentions and owners."""
    return Document(
        text=text,
        domain=domain,
        sentence_ends=find_sentence_ends(text),
        boundaries=find_boundaries(text),
        key=key,
    )
