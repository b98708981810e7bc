"""Tokens as legible text: visible white space, parts of characters as bytes, no control characters."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

VISIBLE = {" ": "·", "\n": "⏎", "\t": "⇥"}
JOINERS = "\u200c\u200d\ufe0e\ufe0f"
"""Invisible characters that shape their neighbours, in Persian or in emoji; kept inside longer tokens."""
UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
"""Unicode categories of characters without a shape of their own."""


def token_texts(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[str]:
    """The text of each token; a part of a character is shown as its bytes, ⟨e7 8c⟩.

    Raises:
        ValueError: an id is negative, or so large that no vocabulary has it.
    """
    if bad := [int(index) for index in ids if not 0 <= int(index) < 2**31]:
        raise ValueError(f"id {bad[0]} is no token; allowed are ids of the vocabulary, from 0")
    return [_text(tokenizer, int(index)) for index in ids]


def token_labels(tokens: Sequence[str]) -> list[str]:
    """Tokens with visible spaces and line ends, without control characters.

    >>> token_labels([" a", "\\n"])
    ['·a', '⏎']
    """
    return ["".join(VISIBLE.get(c, c if c.isprintable() else "□") for c in token) for token in tokens]


def visible(text: str) -> str:
    """A text without characters that act unseen: controls, and those that turn the direction of others, become □.

    Line ends, tabs and spaces stay, and so do `JOINERS`.

    >>> visible("a\\u202eb\\x07")
    'a□b□'
    """
    return "".join("□" if unicodedata.category(c) in UNSEEN and c not in f"\n\t{JOINERS}" else c for c in text)


def readable(token: str) -> str:
    """A token for running text, where its background makes the spaces between letters visible."""
    if not token.strip(" "):
        return "·" * len(token)
    shown = "".join(" " if c == " " else _letter(c, token) for c in token)
    # A combining mark that begins a token would stand on the token before.
    return f"◌{shown}" if unicodedata.combining(token[0]) else shown


def direction(tokens: Sequence[str]) -> str:
    """The direction of most letters of a text, "ltr" or "rtl"."""
    classes = [unicodedata.bidirectional(c) for token in tokens for c in token]
    right = sum(each in ("R", "AL") for each in classes)
    return "rtl" if right > classes.count("L") else "ltr"


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
    """The bytes of a token of the World vocabulary or of a byte-level BPE; None for any other tokenizer."""
    if hasattr(tokenizer, "decode_bytes"):
        return bytes(tokenizer.decode_bytes([index]))
    token, table = tokenizer.convert_ids_to_tokens(index), _byte_table()
    if token is None or any(c not in table for c in token):
        return None
    return bytes(table[c] for c in token)


@cache
def _byte_table() -> dict[str, int]:
    """The byte of each character of a byte-level BPE: a printable byte is itself, the others count from U+0100."""
    printed = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printed]
    return {chr(byte): byte for byte in printed} | {chr(0x100 + i): byte for i, byte in enumerate(others)}
