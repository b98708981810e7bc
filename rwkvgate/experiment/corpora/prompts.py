"""Where a document's prompt ends and its reference begins."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence

from rwkvgate.experiment.corpora.documents import Document
from rwkvgate.gate.validation import SettingsError

Encode = Callable[[str], list[int]]

_WORD_END = re.compile(r"(?<=\S)(?=\s)")


def split_prompt(document: Document, encode: Encode, fewest: int, most: int) -> int:
    """The offset, in characters, at which the prompt ends: `text[:offset]`, the rest is reference.

    The prompt has `fewest` to `most` tokens and ends, in order of preference, at the latest sentence end, the latest
    word end or the latest character that fits (for scripts without spaces). The reference is more than white space, and
    begins with the space before its first word.

    Args:
        encode: token ids of a string, without special tokens.

    Raises:
        ValueError: not 1 <= `fewest` <= `most`.
        SettingsError: the document is no longer than the shortest prompt, or no cut is within the range because a
            character takes several tokens.
    """
    if not 1 <= fewest <= most:
        raise ValueError(f"fewest is {fewest} and most {most}; needed: 1 <= fewest <= most")
    text = document.text
    limit = len(text.rstrip())
    total = len(encode(text))
    if total <= fewest or not limit:
        raise SettingsError(
            f"prompt longer than its document: {document.key!r} has {total} tokens, and corpus.prompt_tokens "
            f"asks for {fewest} to {most} and at least one more as reference"
        )
    words = [match.start() for match in _WORD_END.finditer(text, 0, limit)]
    letters = [at for at in range(1, limit) if not unicodedata.combining(text[at])]
    for cuts in (document.sentence_ends, words, letters):
        cut = _latest([cut for cut in cuts if 0 < cut < limit], text, encode, fewest, most)
        if cut is not None:
            return cut
    raise SettingsError(
        f"no cut of document {document.key!r} gives a prompt of {fewest} to {most} tokens; widen corpus.prompt_tokens"
    )


def _latest(cuts: Sequence[int], text: str, encode: Encode, fewest: int, most: int) -> int | None:
    # The token count of a prefix grows with its length, except for a merge at its end: bisection finds the
    # neighbourhood of the latest fit, and a few steps around it decide.
    low, high = 0, len(cuts)
    while low < high:
        middle = (low + high) // 2
        if len(encode(text[: cuts[middle]])) <= most:
            low = middle + 1
        else:
            high = middle
    for position in range(min(low + 3, len(cuts)) - 1, max(low - 4, -1), -1):
        if fewest <= len(encode(text[: cuts[position]])) <= most:
            return cuts[position]
    return None
