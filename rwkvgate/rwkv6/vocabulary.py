"""The World vocabulary: what its file must say, and greedy longest match over it, in Rust if it can."""

from __future__ import annotations

import ast
import hashlib
import os
from collections import defaultdict
from contextlib import suppress
from functools import cache, cached_property
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

VOCABULARY_FILE = "rwkv_vocab_v20230424.txt"
ENTRIES = 65_529
"""Lines of the vocabulary file, and its highest id."""
IDS = 65_536
"""Ids there are: rows of the models' embeddings."""
END_OF_TEXT = "<|endoftext|>"
"""How id 0 is written; it is beginning, end, padding and unknown token in one."""

TEXT_SHA256 = "e6dee3d4e31b4d5c40ac99508ac6c701ceef4bed681bf2167ce9a908552bca89"
"""Of the vocabulary file with Unix line ends."""
ENTRIES_SHA256 = "a06de6aa1452a7fbab197658d150bf4ca6aa108702c6aa5ee9ecfdde5df1f8b6"
"""Of the entries, each with its length before it: the same however the literals are written."""


class Vocabulary:
    """The World vocabulary in one process. Each table is made when it is first asked for."""

    pool_owner: ClassVar[int | None] = None
    """The process whose threads encode batches."""

    def __init__(self, text: bytes) -> None:
        self.text = text

    def __reduce__(self) -> tuple[Any, ...]:
        return vocabulary_of, (self.text,)

    @cached_property
    def entries(self) -> tuple[bytes, ...]:
        """Per id its bytes; none for id 0 and from 65530."""
        literals = (line.partition(" ")[2].rpartition(" ")[0] for line in _lines(self.text))
        values = ast.literal_eval(f"[{','.join(literals)}]")  # one call for all takes half as long as one a line
        return b"", *(x.encode() if isinstance(x, str) else x for x in values), *[b""] * (IDS - ENTRIES - 1)

    @cached_property
    def ids(self) -> dict[bytes, int]:
        """Per entry its id."""
        return {entry: index for index, entry in enumerate(self.entries) if entry}

    @cached_property
    def widths(self) -> np.ndarray:
        """(id,), bytes of each."""
        return np.array([len(entry) for entry in self.entries])

    @cached_property
    def lengths(self) -> dict[bytes, list[int]]:
        """Per first two bytes the lengths of the entries that begin so, longest first."""
        found: defaultdict[bytes, set[int]] = defaultdict(set)
        for entry in self.ids:
            if len(entry) > 1:
                found[entry[:2]].add(len(entry))
        return {start: sorted(lengths, reverse=True) for start, lengths in found.items()}

    @cached_property
    def tokens(self) -> tuple[str, ...]:
        """Per id a printable name, no two alike: the bytes in GPT-2's alphabet, which has no `<|` of ours."""
        alphabet = dict(enumerate(_alphabet()))
        named = [entry.decode("latin-1").translate(alphabet) for entry in self.entries[1 : ENTRIES + 1]]
        return END_OF_TEXT, *named, *(f"<|unused_{index}|>" for index in range(ENTRIES + 1, IDS))

    @cached_property
    def token_ids(self) -> dict[str, int]:
        """Per printable name its id."""
        return {token: index for index, token in enumerate(self.tokens)}

    def encode(self, text: str) -> list[int]:
        """The ids of a text; a lone surrogate counts as the three bytes that UTF-8 would give it."""
        rust = _rust()
        if rust is not None:
            with suppress(UnicodeEncodeError):
                return rust.encode(text)
        return self.match(text.encode("utf-8", "surrogatepass"))

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """The ids of many texts, on all cores."""
        rust = _rust()
        # A forked process inherits the pool without its threads, and would wait for them for ever.
        if rust is not None and Vocabulary.pool_owner in (None, os.getpid()):
            Vocabulary.pool_owner = os.getpid()
            with suppress(UnicodeEncodeError):
                return rust.encode_batch(texts)
        return [self.encode(text) for text in texts]

    def match(self, data: bytes) -> list[int]:
        """The ids of any bytes, by greedy longest match."""
        ids, lengths = self.ids, self.lengths
        found, start = [], 0
        while start < len(data):
            # Near the end a slice may fall short of its length, and is then the longest there can be.
            for length in lengths.get(data[start : start + 2], ()):
                index = ids.get(data[start : start + length])
                if index is not None:
                    break
            else:
                length, index = 1, ids[data[start : start + 1]]
            found.append(index)
            start += length
        return found


def _alphabet() -> list[str]:
    """Per byte a printable character: its own in Latin-1, or else the next one from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = count(0x100)
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def _lines(text: bytes) -> list[str]:
    # Not `splitlines`, which would also cut at the line separators that other writers leave in literals.
    return text.decode().rstrip("\n").split("\n")


@cache
def vocabulary_of(text: bytes) -> Vocabulary:
    """The vocabulary whose file holds `text`, one object a process."""
    return Vocabulary(text)


@cache
def _rust() -> Any:
    """The encoder in Rust with its own copy of the vocabulary, or None where the package is missing.

    Its decoder is not used: it fails on bytes that are not UTF-8, with an error that is no `Exception`.
    """
    path = package_file()
    if path is None:
        return None
    read_vocabulary(path)
    from pyrwkv_tokenizer import RWKVTokenizer

    return RWKVTokenizer()


def package_file() -> Path | None:
    """The vocabulary file in the package `pyrwkv-tokenizer`; None where that is missing."""
    try:
        import pyrwkv_tokenizer
    except ImportError:
        return None
    return Path(pyrwkv_tokenizer.__file__).with_name(VOCABULARY_FILE)


def read_vocabulary(path: str | Path) -> Vocabulary:
    """The vocabulary in a file, or a ValueError that says what is wrong with it."""
    text = Path(path).read_bytes().replace(b"\r\n", b"\n")
    if hashlib.sha256(text).hexdigest() != TEXT_SHA256:
        fault = _fault(text)
        if fault is not None:
            raise ValueError(
                f"{path} is not the World vocabulary: {fault}; "
                f"allowed are its {ENTRIES:,} lines `id literal length`, ids from 1"
            )
    return vocabulary_of(text)


def _fault(text: bytes) -> str | None:
    """What is wrong with a vocabulary file; None if only the literals are written in another way."""
    try:
        lines = _lines(text)
    except UnicodeDecodeError as error:
        return f"byte {error.start} is not UTF-8"
    seen = hashlib.sha256()
    for number, line in enumerate(lines, 1):
        index, _, rest = line.partition(" ")
        literal, _, length = rest.rpartition(" ")
        try:
            entry = ast.literal_eval(literal)
            entry = entry.encode() if isinstance(entry, str) else entry
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            entry = None
        if not isinstance(entry, bytes):
            return f"line {number} is {line[:60]!r}"
        if (index, length) != (str(number), str(len(entry))):
            return f"line {number} is {line[:60]!r}, which has id {index} and {len(entry)} bytes"
        seen.update(b"%d:%s" % (len(entry), entry))
    if len(lines) != ENTRIES:
        return f"it has {len(lines):,} lines"
    return None if seen.hexdigest() == ENTRIES_SHA256 else "its entries are others"
