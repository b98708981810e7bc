"""Documents from data sets, by `datasets`: streamed from the hub, so that only what is used is downloaded, or local."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator
from typing import Any

from rwkvgate.experiment.corpora.documents import Document
from rwkvgate.experiment.corpora.punctuation import weak_document
from rwkvgate.experiment.places import place_or_name
from rwkvgate.experiment.progress import Progress
from rwkvgate.experiment.settings import HubSet
from rwkvgate.gate.validation import SettingsError

SHORTEST, LONGEST = 700, 1500
"""Characters of a document: enough English for a prompt of 100 tokens and a reference of 50; at most a row of 384."""
# A row of wikitext that begins an article: " = Title = "; a section has two signs or more.
_TITLE = re.compile(r"\s*= [^=]+ =\s*")


def hub_documents(data_set: HubSet) -> list[Document]:
    """The first documents of a data set that are long enough, cut at a sentence end where they are too long.

    The lines of a data set such as wikitext are joined into articles first. Labels are from punctuation; the domain is
    the last part of the data set's name.

    Raises:
        SettingsError: the data set or its column does not exist, cannot be reached, or has too few documents.
    """
    domain = data_set.name.rstrip("/").rpartition("/")[2].lower()
    progress = Progress(f"streaming {data_set.name}")
    documents: list[Document] = []
    where = f"{data_set.name}, revision {data_set.revision or 'newest'}, split {data_set.split}"
    try:
        for text in itertools.islice(_fitting(_texts(data_set)), data_set.documents):
            documents.append(weak_document(text, domain, f"{domain}/{len(documents)}"))
            progress(len(documents), data_set.documents)
    except SettingsError:
        raise
    except Exception as error:  # `datasets` raises its own, httpx's, fsspec's and huggingface_hub's
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SettingsError(
            f"corpus.hub: {where} cannot be read ({type(error).__name__}: {reason}). "
            "With no network leave it out: corpus: {hub: []}"
        ) from None
    if len(documents) < data_set.documents:
        raise SettingsError(
            f"corpus.hub: {where} has {len(documents)} documents of at least {SHORTEST} characters; "
            f"{data_set.documents} are asked for"
        )
    return documents


def _texts(data_set: HubSet) -> Iterator[str]:
    import datasets  # here, because importing it takes seconds

    rows: Iterable[dict[str, Any]] = datasets.load_dataset(
        place_or_name(data_set.name),
        data_set.config or None,
        revision=data_set.revision or None,
        split=data_set.split,
        streaming=True,
    )
    lines: Iterator[str] = itertools.dropwhile(lambda line: not line.strip(), _column(rows, data_set))
    first = next(lines, None)
    if first is None:
        return
    lines = itertools.chain([first], lines)
    # wikitext begins with an empty row and a title.
    yield from articles(lines) if _TITLE.fullmatch(first) else lines


def _column(rows: Iterable[dict[str, Any]], data_set: HubSet) -> Iterator[str]:
    for row in rows:
        if not isinstance(row.get(data_set.column), str):
            raise SettingsError(
                f"corpus.hub: {data_set.name} has no text column {data_set.column!r}; it has {', '.join(row)}"
            )
        yield row[data_set.column]


def articles(lines: Iterable[str]) -> Iterator[str]:
    """Articles joined from the rows of a data set of lines, without headings."""
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
            ends = [end for end in weak_document(text[:LONGEST], "", "").sentence_ends if SHORTEST <= end < LONGEST]
            text = text[: ends[-1]] if ends else text[:LONGEST]
        if len(text) >= SHORTEST:
            yield text
