"""Weak labels of unlabelled text from its punctuation: sentence ends and clause boundaries."""

from __future__ import annotations

import re

from rwkvgate.experiment.corpora.documents import Document
from rwkvgate.metrics.sentences import find_sentence_ends

_CLAUSE = re.compile(r"(?:[、，；：]|[,;:؛،—–](?=\s))\s*(?=\S)")


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
