"""Documents from a local .txt or .jsonl file, and the hash of what local files hold."""

from __future__ import annotations

import hashlib
import json
import re
import stat
from itertools import islice
from pathlib import Path
from typing import Any

from rwkvgate.experiment.corpora.documents import Document
from rwkvgate.experiment.corpora.punctuation import weak_document
from rwkvgate.experiment.corpora.splits import FEWEST_DOCUMENTS
from rwkvgate.experiment.places import place
from rwkvgate.gate.validation import SettingsError
from rwkvgate.rwkv6.files import file_hash

SUFFIXES = (".txt", ".jsonl")
LARGEST = 2**30
"""Bytes of a local file, at most: its text is held in memory, and its words several times."""
MOST_FILES = 10_000
"""Files of a local data set, at most."""
_BLANK_LINES = re.compile(r"\n[^\S\n]*\n\s*")


def local_documents(path: str | Path) -> list[Document]:
    """The documents of a file, in its order, with domain 'local' and labels from punctuation.

    In a `.txt` file blank lines separate documents, so each paragraph is one. In a `.jsonl` file each line is an object
    whose "text" is a document; other keys are ignored. Space around a document is dropped, and so are empty documents.

    Raises:
        SettingsError: in one line: there is no such file, it is a folder, has another suffix, is empty or not UTF-8,
            has a bad line, or fewer than ten documents.
    """
    file = place(str(path))
    check_source(str(path))
    text = _checked_text(file)
    is_plain = file.suffix.lower() == ".txt"
    if is_plain:
        texts = _BLANK_LINES.split(text.replace("\r\n", "\n").replace("\r", "\n"))
    else:
        lines = enumerate(text.removeprefix("\ufeff").split("\n"), start=1)
        texts = [_text_of(line, f"line {number} of {file}") for number, line in lines if line.strip()]
    texts = [text.strip().removeprefix("\ufeff").strip() for text in texts]
    documents = [weak_document(text, "local", f"{file.name}/{number}") for number, text in enumerate(texts) if text]
    if len(documents) < FEWEST_DOCUMENTS:
        raise SettingsError(
            f"{file} holds {len(documents)} documents; at least {FEWEST_DOCUMENTS} are needed to split them"
            + (" (blank lines separate documents)" if is_plain else "")
        )
    return documents


def check_source(source: str) -> None:
    """Refuse, before anything is read, a `corpus.source` that is no file of text.

    Raises:
        SettingsError: it is missing, a folder, a pipe or a device, too large, or has another suffix.
    """
    if source == "stories":
        return
    file = place(source)
    try:
        state = file.stat()
    except FileNotFoundError:
        state = None
    except (OSError, ValueError) as error:
        raise SettingsError(f"corpus.source: cannot read {file}: {_reason(error)}") from None
    if state is not None and stat.S_ISDIR(state.st_mode):
        raise SettingsError(f"corpus.source: {file} is a folder; it must be a {' or '.join(SUFFIXES)} file")
    if file.suffix.lower() not in SUFFIXES:
        raise SettingsError(
            f"corpus.source is {str(file)!r}; allowed: 'stories', or a file that ends in {' or '.join(SUFFIXES)}"
        )
    if state is None:
        raise SettingsError(f"corpus.source: no file {file}")
    if not stat.S_ISREG(state.st_mode):
        raise SettingsError(f"corpus.source: {file} is a pipe, socket or device; it must be a file of text")
    if state.st_size > LARGEST:
        raise SettingsError(f"corpus.source: {file} holds {state.st_size:,} bytes; at most {LARGEST:,} are read")


def content_hash(path: Path) -> str | None:
    """SHA-256 of a file, or of a folder's files with their names; None where there is neither.

    Hidden files are left out, as `datasets` does.

    Raises:
        SettingsError: a file cannot be read, or the folder holds more than `MOST_FILES`.
    """
    try:
        if not path.is_dir():
            return file_hash(path) if path.is_file() else None
        total = hashlib.sha256()
        files = (file for file in path.rglob("*") if file.is_file())
        names = {file.relative_to(path): file for file in islice(files, MOST_FILES + 1)}
        if len(names) > MOST_FILES:
            raise SettingsError(f"{path} holds more than {MOST_FILES:,} files: it is no data set, or too large a one")
        for name, file in sorted(names.items()):
            if not any(part.startswith(".") for part in name.parts):
                total.update(f"{name.as_posix()}\n{file_hash(file)}\n".encode(errors="surrogateescape"))
        return total.hexdigest()
    except SettingsError:
        raise
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path} cannot be read: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _checked_text(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            data = opened.read(LARGEST + 1)
    except OSError as error:
        raise SettingsError(f"corpus.source: cannot read {file}: {error.strerror}") from None
    if len(data) > LARGEST:
        raise SettingsError(f"corpus.source: {file} holds more than {LARGEST:,} bytes")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise SettingsError(f"{file} is not UTF-8: byte 0x{data[error.start]:02x} at offset {error.start}") from None
    if not text.removeprefix("\ufeff").strip():
        raise SettingsError(f"{file} is empty")
    return text


def _text_of(line: str, where: str) -> str:
    try:
        fields: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise SettingsError(f"{where} is not valid JSON: {reason}") from None
    if not isinstance(fields, dict) or not isinstance(fields.get("text"), str):
        raise SettingsError(f'{where} has no "text" string; each line must be an object with one')
    try:
        fields["text"].encode("utf-8")
    except UnicodeEncodeError:
        raise SettingsError(f"{where}: its text holds half of a surrogate pair") from None
    return str(fields["text"])
