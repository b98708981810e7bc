"""The World tokenizer beside a plain trie in Python, on documents of 2 kB, from one run. `make bench`."""

from __future__ import annotations

import os
import platform
import random
from pydoc_data.topics import topics
from typing import Any

from wkv import medians

from rwkvgate.rwkv6.tokenizer import Rwkv6Tokenizer

DOCUMENT = 2_000
"""Characters."""
MB = 1e6
END = -1


def plain_trie(vocabulary: dict[bytes, int]) -> dict[int, Any]:
    """Nested dictionaries, one a byte; under `END` the id of what ends there."""
    root: dict[int, Any] = {}
    for entry, index in vocabulary.items():
        node = root
        for byte in entry:
            node = node.setdefault(byte, {})
        node[END] = index
    return root


def plain_encode(root: dict[int, Any], data: bytes) -> list[int]:
    """Greedy longest match, one byte at a time."""
    found, start = [], 0
    while start < len(data):
        node, index, end = root, 0, start
        for position in range(start, len(data)):
            node = node.get(data[position])
            if node is None:
                break
            if END in node:
                index, end = node[END], position + 1
        found.append(index)
        start = end
    return found


def cut(text: str, least: int) -> list[str]:
    """The text as documents of `DOCUMENT` characters, repeated until there are `least` characters."""
    text *= -(-least // len(text))
    return [text[start : start + DOCUMENT] for start in range(0, len(text), DOCUMENT)]


def main() -> None:
    """Print MB of UTF-8 a second of each way to encode, and its ratio to the plain trie."""
    tok = Rwkv6Tokenizer()
    vocabulary = {tok.decode_bytes([index]): index for index in range(1, 65_530)}
    root = plain_trie(vocabulary)
    texts = [entry.decode() for entry in vocabulary if entry.isascii() or len(entry.decode(errors="ignore")) > 1]
    mixed = "".join(random.Random(0).choices(texts, k=400_000))
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, which encode_batch uses")
    for name, documents in (
        ("Python's own manual", cut("\n\n".join(topics.values()), 4_000_000)),
        ("mixed scripts", cut(mixed, 1)),
    ):
        data = [text.encode() for text in documents]
        size = sum(map(len, data)) / MB
        assert tok.encode_batch(documents) == [plain_encode(root, x) for x in data]
        ways = {
            "plain trie in Python": lambda d=data: [plain_encode(root, x) for x in d],
            "encode_batch": lambda d=documents: tok.encode_batch(d),
            "the call": lambda d=documents: tok(d),
            "the call, padded, tensors": lambda d=documents: tok(d, padding=True, return_tensors="pt"),
            "encode, one at a time": lambda d=documents: [tok.encode(x) for x in d],
        }
        print(f"{name}, {len(documents):,} documents, {size:.1f} MB")
        seconds = medians(ways, rounds=3)
        for way, own in seconds.items():
            print(f"  {way}: {size / own:.2f} MB/s, {next(iter(seconds.values())) / own:.1f} times")


if __name__ == "__main__":
    main()
