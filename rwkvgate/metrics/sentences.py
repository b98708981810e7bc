"""Where the sentences of a text end, by its punctuation."""

from __future__ import annotations

import re

# Full stops of scripts without spaces end a sentence anywhere. The others (Latin, Devanagari, Arabic, Urdu, Armenian,
# Ethiopic, Khmer, Burmese) need a space or the end of the text after them.
_CLOSERS = r"[\"'”’»)\]」』】）]*"
_SENTENCE = re.compile(rf"(?:[。！？｡]+{_CLOSERS}|[.!?…।॥؟۔։።។။]+{_CLOSERS}(?=\s|$))")
_SPACE = re.compile(r"\s*")


def find_sentence_ends(text: str) -> tuple[int, ...]:
    """Offsets just after each sentence's final punctuation, closing quotes included.

    A full stop before a lower-case letter ("e.g. this") ends no sentence.
    """
    ends = []
    for match in _SENTENCE.finditer(text):
        gap = _SPACE.match(text, match.end())
        after = text[gap.end() : gap.end() + 1] if gap else ""
        if not after.islower():
            ends.append(match.end())
    return tuple(ends)
