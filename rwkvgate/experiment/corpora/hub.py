"""Documents from data sets of the hub, streamed: only what is used is downloaded."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator
from typing import Any

from rwkvgate.experiment.corpora.documents import Document
from rwkvgate.experiment.corpora.punctuation import weak_document
from rwkvgate.experiment.progress import Progress
from rwkvgate.experiment.settings import HubSet, place_or_name
from rwkvgate.gate.validation import SettingsError

# Room for a prompt of 100 tokens and a reference of 50, in characters of English; and about what a row of 384 holds.
SHORTEST, LONGEST = 700, 1500
# A row of wikitext that opens an article: " = Title = ", where a section has two signs or more.
_TITLE = re.compile(r"\s*= [^=]+ =\s*")


def hub_documents(wanted: HubSet) -> list[Document]:
    """The first documents of a data set that are long enough, cut at a sentence end where they are too long.

    A data set of lines, such as wikitext, is put together into articles first. Labels are from
    punctuation; the domain is the last part of the data set's name.

    Raises:
        SettingsError: the data set or its column is not there, cannot be reached, or has too few documents.
    """
    domain = wanted.name.rstrip("/").rpartition("/")[2].lower()
    progress = Progress(f"streaming {wanted.name}")
    found: list[Document] = []
    where = f"{wanted.name}, revision {wanted.revision or 'newest'}, split {wanted.split}"
    try:
        for text in itertools.islice(_fitting(_texts(wanted)), wanted.documents):
            found.append(weak_document(text, domain, f"{domain}/{len(found)}"))
            progress(len(found), wanted.documents)
    except SettingsError:
        raise
    except Exception as error:  # `datasets` raises its own, httpx's, fsspec's and huggingface_hub's
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SettingsError(
            f"corpus.hub: {where} cannot be read ({type(error).__name__}: {said}). "
            "With no network leave it out: corpus: {hub: []}"
        ) from None
    if len(found) < wanted.documents:
        raise SettingsError(
            f"corpus.hub: {where} has {len(found)} documents of at least {SHORTEST} characters; "
            f"{wanted.documents} are asked for"
        )
    return found


def _texts(wanted: HubSet) -> Iterator[str]:
    import datasets  # here, because importing it takes seconds

    rows: Iterable[dict[str, Any]] = datasets.load_dataset(
        place_or_name(wanted.name),
        wanted.config or None,
        revision=wanted.revision or None,
        split=wanted.split,
        streaming=True,
    )
    lines = _column(rows, wanted)
    first = next(lines, None)
    if first is None:
        return
    lines = itertools.chain([first], lines)
    # wikitext opens with an empty row and a title.
    yield from articles(lines) if not first.strip() or _TITLE.fullmatch(first) else lines


def _column(rows: Iterable[dict[str, Any]], wanted: HubSet) -> Iterator[str]:
    for row in rows:
        if not isinstance(row.get(wanted.column), str):
            raise SettingsError(
                f"corpus.hub: {wanted.name} has no text column {wanted.column!r}; it has {', '.join(row)}"
            )
        yield row[wanted.column]


def articles(lines: Iterable[str]) -> Iterator[str]:
    """Rows of a data set of lines put together into its articles, without headings."""
    parts: list[str] = []
    for line in lines:
        if _TITLE.fullmatch(line) and parts:
            yield "\n".join(parts)
            parts = []
        elif line.strip() and not line.strip().startswith("="):
            parts.append(line.strip())
    if parts:
        yield "\n".join(parts)


def _fitting(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        text = text.strip()
        if len(text) > LONGEST:
            ends = [end for end in weak_document(text[:LONGEST], "", "").sentence_ends if end < LONGEST]
            text = text[: ends[-1]] if ends else text[:LONGEST]
        if len(text) >= SHORTEST:
            yield text
