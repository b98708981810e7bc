"""Documents from a local .txt or .jsonl file, read through `datasets`, with no network."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rwkvgate.experiment.corpora.documents import Document
from rwkvgate.experiment.corpora.punctuation import weak_document
from rwkvgate.experiment.corpora.splits import FEWEST_DOCUMENTS
from rwkvgate.gate.validation import SettingsError

SUFFIXES = (".txt", ".jsonl")
# The JSON reader takes a column of "2020-01-04" for dates, even where it is told that it is text, and
# gives back "2020-01-04 00:00:00"; nothing that starts with this is a date.
_MARK = "="
_BLANK_LINES = re.compile(r"\n[^\S\n]*\n\s*")


def local_documents(path: str | Path) -> list[Document]:
    """The documents of a file, in its order, with domain 'local' and labels from punctuation.

    In a `.txt` file documents are set apart by one or more blank lines, so each paragraph is one.
    In a `.jsonl` file each line is an object whose "text" is a document; other keys are ignored.
    Space around a document is dropped, and so are empty documents.

    Raises:
        SettingsError: one line that says what is wrong: no such file, a folder, another suffix, an
            empty file, bytes that are not UTF-8, a bad line, fewer than ten documents.
    """
    file = Path(path).expanduser()
    text = _checked_text(file)
    if file.suffix.lower() == ".txt":
        texts = [part for whole in _load("text", file) for part in _BLANK_LINES.split(whole)]
    else:
        texts = _load_json(file, text)
    texts = [text.strip().removeprefix("\ufeff").strip() for text in texts]
    documents = [weak_document(text, "local", f"{file.name}/{number}") for number, text in enumerate(texts) if text]
    if len(documents) < FEWEST_DOCUMENTS:
        raise SettingsError(
            f"{file} holds {len(documents)} documents; at least {FEWEST_DOCUMENTS} are needed to split them"
            + (" (blank lines set documents apart)" if file.suffix.lower() == ".txt" else "")
        )
    return documents


def _checked_text(file: Path) -> str:
    if file.suffix.lower() not in SUFFIXES and not file.is_dir():
        raise SettingsError(
            f"corpus.source is {str(file)!r}; allowed: 'stories', or a file that ends in {' or '.join(SUFFIXES)}"
        )
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        raise SettingsError(f"corpus.source: no file {file}") from None
    except IsADirectoryError:
        raise SettingsError(f"corpus.source: {file} is a folder; it must be a {' or '.join(SUFFIXES)} file") from None
    except OSError as error:
        raise SettingsError(f"corpus.source: cannot read {file}: {error.strerror}") from None
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise SettingsError(f"{file} is not UTF-8: byte 0x{data[error.start]:02x} at offset {error.start}") from None
    if not text.removeprefix("\ufeff").strip():
        raise SettingsError(f"{file} is empty")
    return text


def _load_json(file: Path, text: str) -> list[str]:
    lines = []
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), start=1):
        if line.strip():
            lines.append(_text_of(line, f"line {number} of {file}"))
    # Only the checked "text" goes on: other columns may differ in type from line to line, which is
    # legal here but not in a table.
    with tempfile.TemporaryDirectory(prefix="rwkvgate-") as folder:
        copy = Path(folder) / "texts.jsonl"
        with copy.open("w", encoding="utf-8") as output:
            output.writelines(json.dumps({"text": _MARK + line}) + "\n" for line in lines)
        return [line.removeprefix(_MARK) for line in _load("json", copy)]


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


def _load(kind: str, file: Path) -> list[str]:
    import datasets  # here, because importing it takes seconds and only local files need it

    options: dict[str, Any] = {"sample_by": "document"} if kind == "text" else {}
    with tempfile.TemporaryDirectory(prefix="rwkvgate-") as cache, _quiet(datasets):
        table = datasets.load_dataset(
            kind,
            data_files=_literal(file),
            split="train",
            cache_dir=cache,
            keep_in_memory=True,
            **options,
        )
        return [str(text) for text in table["text"]]


def _literal(file: Path) -> str:
    # `datasets` reads data_files as a pattern: brackets and stars in a name must stand for themselves.
    return re.sub(r"([*?\[\]])", r"[\1]", str(file.resolve()))


@contextmanager
def _quiet(datasets: Any) -> Iterator[None]:
    silent = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not silent:
            datasets.enable_progress_bars()
