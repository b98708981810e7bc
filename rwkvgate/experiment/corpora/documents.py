"""Labelled texts, and the JSON lines that store them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rwkvgate.gate.validation import SettingsError
from rwkvgate.rwkv6.files import write_file


@dataclass(frozen=True)
class Mention:
    """A stretch of text that refers to an entity: `text[start:end]`, in characters.

    `entity` is the canonical name ("Mira", "silver key"), also where the text has a pronoun.
    `kind` is 'person', 'machine', 'object' or 'place'.
    """

    start: int
    end: int
    entity: str
    kind: str


@dataclass(frozen=True)
class Document:
    """One text and its labels; every offset counts characters of `text`.

    Attributes:
        text: the text itself.
        domain: 'fairy-tale', 'technology', 'natural' or 'local'.
        sentence_ends: offsets just after each sentence's final punctuation, ascending.
        boundaries: offsets of the first character of every clause that starts *inside* a sentence,
            ascending. A sentence's own start is a boundary too, and is not repeated here.
        mentions: ascending by start, never overlapping; empty where nothing is known.
        owners: (entity, object) as they stand at the end of a story. The entity is the holder, or
            the place where the object was left.
        key: identifies the document within its corpus.
    """

    text: str
    domain: str
    sentence_ends: tuple[int, ...] = ()
    boundaries: tuple[int, ...] = ()
    mentions: tuple[Mention, ...] = ()
    owners: tuple[tuple[str, str], ...] = ()
    key: str = ""


def dump_document(document: Document) -> str:
    """A document as one line of JSON, without the newline; equal documents give equal lines."""
    fields = asdict(document)
    fields["mentions"] = [[m.start, m.end, m.entity, m.kind] for m in document.mentions]
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))


def parse_document(line: str) -> Document:
    """The document of a line from `dump_document`.

    Raises:
        ValueError, TypeError, KeyError: the line is not such a document.
    """
    fields: dict[str, Any] = json.loads(line)
    fields["mentions"] = tuple(Mention(*mention) for mention in fields["mentions"])
    fields["owners"] = tuple((entity, thing) for entity, thing in fields["owners"])
    for name in ("sentence_ends", "boundaries"):
        fields[name] = tuple(fields[name])
    return Document(**fields)


def write_documents(path: str | Path, documents: Iterable[Document]) -> None:
    """Write documents as JSON lines in UTF-8, atomically."""
    with write_file(path) as fresh, fresh.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(dump_document(document) + "\n" for document in documents)


def read_documents(path: str | Path) -> list[Document]:
    """The documents of a file from `write_documents`.

    Raises:
        SettingsError: there is no such file, or one of its lines is not a document.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise SettingsError(f"cannot read the documents {path}: {error.strerror}") from None
    documents = []
    # Not splitlines(): a text may contain U+2028 and the like, which do not end a line of JSON lines.
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line:
            continue
        try:
            documents.append(parse_document(line.decode("utf-8")))
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise SettingsError(f"line {number} of {path} is not a document: {error}") from None
    return documents


def digest(documents: Iterable[Document]) -> str:
    """SHA-256, in hex, of the bytes that `write_documents` would write."""
    total = hashlib.sha256()
    for document in documents:
        total.update((dump_document(document) + "\n").encode("utf-8", errors="surrogatepass"))
    return total.hexdigest()
