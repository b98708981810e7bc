"""The World vocabulary: its file, and greedy longest match over its entries, in Rust where the package is installed."""

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
"""Number of ids: rows of the models' embeddings."""
LARGEST_FILE = 2**22
"""Bytes that are read of a vocabulary file; the longest of those that are published has 1.2 MB."""
END_OF_TEXT = "<|endoftext|>"
"""The name of id 0, the beginning, end, padding and unknown token in one."""

TEXT_SHA256 = "e6dee3d4e31b4d5c40ac99508ac6c701ceef4bed681bf2167ce9a908552bca89"
"""Of the vocabulary file with Unix line ends."""
ENTRIES_SHA256 = "a06de6aa1452a7fbab197658d150bf4ca6aa108702c6aa5ee9ecfdde5df1f8b6"
"""Of the entries, each behind its length, however the file writes them."""


class Vocabulary:
    """The World vocabulary in one process. Each table is built at its first use."""

    pool_owner: ClassVar[int | None] = None
    """The process whose threads encode batches."""

    def __init__(self, text: bytes) -> None:
        self.text = text

    def __reduce__(self) -> tuple[Any, ...]:
        return vocabulary_of, (self.text,)

    @cached_property
    def entries(self) -> tuple[bytes, ...]:
        """The bytes of each id; none for id 0 and from 65530."""
        literals = (line.partition(" ")[2].rpartition(" ")[0] for line in _lines(self.text))
        values = ast.literal_eval(f"[{','.join(literals)}]")  # one call takes half as long as one per line
        return b"", *(x.encode() if isinstance(x, str) else x for x in values), *[b""] * (IDS - ENTRIES - 1)

    @cached_property
    def ids(self) -> dict[bytes, int]:
        """The id of each entry."""
        return {entry: index for index, entry in enumerate(self.entries) if entry}

    @cached_property
    def widths(self) -> np.ndarray:
        """Number of bytes of each id, (id,)."""
        return np.array([len(entry) for entry in self.entries])

    @cached_property
    def lengths(self) -> dict[bytes, list[int]]:
        """For each two bytes, the lengths of the entries that begin with them, longest first."""
        by_start: defaultdict[bytes, set[int]] = defaultdict(set)
        for entry in self.ids:
            if len(entry) > 1:
                by_start[entry[:2]].add(len(entry))
        return {start: sorted(lengths, reverse=True) for start, lengths in by_start.items()}

    @cached_property
    def tokens(self) -> tuple[str, ...]:
        """A printable name for each id, no two alike: the bytes in GPT-2's alphabet, which has no `<|` of ours."""
        alphabet = dict(enumerate(_alphabet()))
        named = [entry.decode("latin-1").translate(alphabet) for entry in self.entries[1 : ENTRIES + 1]]
        return END_OF_TEXT, *named, *(f"<|unused_{index}|>" for index in range(ENTRIES + 1, IDS))

    @cached_property
    def token_ids(self) -> dict[str, int]:
        """The id of each printable name."""
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
        # A forked process inherits the pool without its threads, and would wait for them forever.
        if rust is not None and Vocabulary.pool_owner in (None, os.getpid()):
            Vocabulary.pool_owner = os.getpid()
            with suppress(UnicodeEncodeError):
                return rust.encode_batch(texts)
        return [self.encode(text) for text in texts]

    def match(self, data: bytes) -> list[int]:
        """The ids of any bytes, by greedy longest match."""
        ids, lengths = self.ids, self.lengths
        matched, start = [], 0
        while start < len(data):
            # Near the end a slice may fall short of its length, and is then the longest there can be.
            for length in lengths.get(data[start : start + 2], ()):
                index = ids.get(data[start : start + length])
                if index is not None:
                    break
            else:
                length, index = 1, ids[data[start : start + 1]]
            matched.append(index)
            start += length
        return matched


def _alphabet() -> list[str]:
    """A printable character for each byte: its own in Latin-1, or else the next one from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = count(0x100)
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def _lines(text: bytes) -> list[str]:
    # Not `splitlines`, which would also split at line separators inside literals.
    return text.decode().rstrip("\n").split("\n")


@cache
def vocabulary_of(text: bytes) -> Vocabulary:
    """The vocabulary with this file content, one object per process."""
    return Vocabulary(text)


@cache
def _rust() -> Any:
    """The encoder in Rust; None where the package is missing.

    Its decoder is not used: on bytes that are not UTF-8 it raises an error that is no `Exception`.
    """
    path = package_file()
    if path is None:
        return None
    read_vocabulary(path)
    from pyrwkv_tokenizer import RWKVTokenizer

    return RWKVTokenizer()


def package_file() -> Path | None:
    """The vocabulary file in the package `pyrwkv-tokenizer`; None where it is not installed."""
    try:
        import pyrwkv_tokenizer
    except ImportError:
        return None
    return Path(pyrwkv_tokenizer.__file__).with_name(VOCABULARY_FILE)


def read_vocabulary(path: str | Path) -> Vocabulary:
    """The vocabulary in a file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file cannot be read, or is not the World vocabulary.
    """
    try:
        with Path(path).open("rb") as file:
            content = file.read(LARGEST_FILE + 1)  # a device or a pipe may have no end
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no vocabulary file {path}") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"the vocabulary file {str(path)!r} cannot be read: {error}") from None
    text = content[:LARGEST_FILE].replace(b"\r\n", b"\n").rstrip(b"\n") + b"\n"
    if hashlib.sha256(text).hexdigest() != TEXT_SHA256 and not _has_entries(text):
        raise ValueError(
            f"{path} is not the World vocabulary: its {ENTRIES:,} lines are `id literal length`, ids from 1, and their "
            "content is fixed"
        )
    return vocabulary_of(text)


def _has_entries(text: bytes) -> bool:
    """Whether a file has the World vocabulary's entries under their ids, however it writes the literals."""
    try:
        fields = [(line.partition(" ")[0], line.rpartition(" ")[2]) for line in _lines(text)]
        entries = Vocabulary(text).entries[1 : len(fields) + 1]
        expected = [(str(number), str(len(entry))) for number, entry in enumerate(entries, start=1)]
        digest = hashlib.sha256(b"".join(b"%d:%s" % (len(entry), entry) for entry in entries))
    except (ValueError, SyntaxError, TypeError, AttributeError, MemoryError, RecursionError):
        return False
    return fields == expected and digest.hexdigest() == ENTRIES_SHA256
