"""Tokens as a reader can see them: white space, halves of a character, any script, and no control over the page."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

VISIBLE = {" ": "·", "\n": "⏎", "\t": "⇥"}
JOINERS = "\u200c\u200d\ufe0e\ufe0f"
"""Characters that cannot be seen but shape their neighbours, in Persian or in emoji; kept beside others."""


def token_texts(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[str]:
    """The text of each token; a token that holds a part of a character is written as its bytes, ⟨e7 8c⟩."""
    return [_text(tokenizer, int(index)) for index in ids]


def token_labels(tokens: Sequence[str]) -> list[str]:
    """Tokens as one can read them: visible spaces and line ends, no control characters."""
    return ["".join(VISIBLE.get(c, c if c.isprintable() else "□") for c in token) for token in tokens]


def readable(token: str) -> str:
    """A token inside running text: spaces between letters stay, for their colour shows them."""
    if not token.strip(" "):
        return "·" * len(token)
    shown = "".join(" " if c == " " else _letter(c, token) for c in token)
    # A combining mark that begins a token would stand on the token before.
    return f"◌{shown}" if unicodedata.combining(token[0]) else shown


def direction(tokens: Sequence[str]) -> str:
    """The direction that most letters of a text have, "ltr" or "rtl"."""
    kinds = [unicodedata.bidirectional(c) for token in tokens for c in token]
    right = sum(kind in ("R", "AL") for kind in kinds)
    return "rtl" if right > sum(kind == "L" for kind in kinds) else "ltr"


def aggregate(
    tokens: Sequence[str], values: NDArray[np.float32], most: int
) -> tuple[list[str], NDArray[np.float32], int]:
    """Tokens and values (..., time) in at most `most` equal groups, the last maybe shorter: joined texts, means that
    pass over nan, and how many tokens a group has; 1 where nothing had to be joined."""
    size = -(-len(tokens) // most) if tokens else 1
    if size == 1:
        return list(tokens), values, 1
    edges = np.arange(0, len(tokens), size)
    texts = ["".join(tokens[start : start + size]) for start in edges.tolist()]
    counts = np.add.reduceat(~np.isnan(values), edges, axis=-1)
    sums = np.add.reduceat(np.nan_to_num(values), edges, axis=-1)
    means = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
    return texts, means.astype(np.float32), size


def _letter(letter: str, token: str) -> str:
    if letter in JOINERS and len(token) > 1:
        return letter
    return VISIBLE.get(letter, letter if letter.isprintable() else "□")


def _text(tokenizer: Any, index: int) -> str:
    text = str(tokenizer.decode([index], skip_special_tokens=False, clean_up_tokenization_spaces=False))
    if text and "\ufffd" not in text:
        return text
    data = _bytes(tokenizer, index)
    if data is None:
        return text
    try:
        return data.decode()
    except UnicodeDecodeError:
        return f"⟨{data.hex(' ')}⟩"


def _bytes(tokenizer: Any, index: int) -> bytes | None:
    """The bytes of a token of the World vocabulary or of a byte-level BPE; None where they cannot be told."""
    if hasattr(tokenizer, "decode_bytes"):
        found: bytes = tokenizer.decode_bytes([index])
        return found
    token, table = tokenizer.convert_ids_to_tokens(index), _byte_table()
    if token is None or any(c not in table for c in token):
        return None
    return bytes(table[c] for c in token)


@cache
def _byte_table() -> dict[str, int]:
    """The character that byte-level BPE writes for each byte: itself where it can be printed, else from U+0100 up."""
    printed = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printed]
    return {chr(byte): byte for byte in printed} | {chr(0x100 + i): byte for i, byte in enumerate(others)}
