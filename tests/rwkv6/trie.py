"""The World vocabulary read one line at a time, and the oracle: greedy matching in a trie, byte by byte."""

from __future__ import annotations

import ast
from functools import cache
from typing import Any

from rwkvgate.rwkv6 import vocabulary as module
from rwkvgate.rwkv6.tokenizer import Rwkv6Tokenizer

TOK = Rwkv6Tokenizer()
PACKAGE_FILE = module.package_file()
assert PACKAGE_FILE is not None
LINES = PACKAGE_FILE.read_text(encoding="utf-8").split("\n")[:-1]


def vocabulary() -> dict[int, bytes]:
    """Id to bytes, read here one line at a time."""
    found = {}
    for line in LINES:
        index, rest = line.split(" ", 1)
        literal, length = rest.rsplit(" ", 1)
        value = ast.literal_eval(literal)
        found[int(index)] = value.encode() if isinstance(value, str) else value
        assert len(found[int(index)]) == int(length)
    return found


BYTES = vocabulary()


@cache
def trie() -> dict[int, Any]:
    """The entries by their bytes; below each its id, under -1."""
    root: dict[int, Any] = {}
    for index, entry in BYTES.items():
        node = root
        for byte in entry:
            node = node.setdefault(byte, {})
        node[-1] = index
    return root


def greedy(data: bytes) -> list[int]:
    """The oracle: from each place the longest entry, one byte at a time."""
    found, start = [], 0
    while start < len(data):
        node, index, end = trie(), 0, start
        for position in range(start, len(data)):
            node = node.get(data[position])
            if node is None:
                break
            if -1 in node:
                index, end = node[-1], position + 1
        found.append(index)
        start = end
    return found
