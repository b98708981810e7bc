"""Reads stories back: which frame a sentence is, who and what it names, and whether what it says of owners is so.

The generator knows who holds what. Here that knowledge judges any continuation, whoever wrote it: the prompt is read
for the facts, then each sentence of the continuation that follows a frame is held against them, and changes them where
it tells of a hand-over. A sentence that follows no frame says nothing, and is counted as such.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import chain

from rwkvgate.experiment.corpora.stories.genre import Genre
from rwkvgate.experiment.corpora.stories.template import SLOT

Roles = Mapping[str, str]
"""Names by role: `a` and `b` people, `x` and `y` objects, `p` a place."""

CLAIMS: dict[str, tuple[tuple[str, str], ...]] = {
    "give": (("x", "a"),),
    "swap": (("x", "a"), ("y", "b")),
    "leave": (("x", "a"),),
    "fetch": (("x", "p"),),
    "back": (("x", "a"),),
    "why": (("x", "b"),),
    "recall": (("x", "a"),),
    "recall-place": (("x", "p"),),
    "holds": (("x", "a"),),
    "moved": (("x", "a"),),
    "lies": (("x", "p"),),
    "sum": (("x", "a"), ("y", "b")),
    "sum-one": (("x", "a"), ("y", "a")),
    "sum-place": (("x", "a"), ("y", "p")),
}
"""What a beat takes for granted: the object of the first role is with the holder, or at the place, of the second."""

MOVES: dict[str, tuple[tuple[str, str], ...]] = {
    "own": (("x", "a"),),
    "give": (("x", "b"),),
    "swap": (("x", "b"), ("y", "a")),
    "leave": (("x", "p"),),
    "fetch": (("x", "b"),),
    "back": (("x", "b"),),
}
"""Where objects are after a beat."""

_SENTENCE = re.compile(r"[^.!?]*[.!?]+")


@dataclass(frozen=True)
class Reading:
    """How a continuation keeps to the facts: `right` of `claims` about holders, `known` of `sentences` understood."""

    right: int
    claims: int
    known: int
    sentences: int


@cache
def patterns(genre_domain: str) -> list[tuple[str, re.Pattern[str]]]:
    """The frames of a genre as (beat, pattern); roles are the patterns' groups, the short form of x is `short`.

    Raises:
        KeyError: there is no genre of that domain.
    """
    from rwkvgate.experiment.corpora.stories import GENRES  # which imports the engine, and it the frames

    genre = {genre.domain: genre for genre in GENRES}[genre_domain]
    return [(beat, _pattern(genre, frame)) for beat, frames in genre.frames.items() for frame in frames]


def understood(domain: str, sentence: str) -> tuple[str, Roles] | None:
    """The beat and the roles of a sentence; None where it follows no frame of the genre."""
    lowered = sentence[:1].lower() + sentence[1:]
    for beat, pattern in patterns(domain):
        # A sentence that starts with "the", "his" or a filler had its first letter made a capital.
        for text in (sentence, lowered):
            found = pattern.fullmatch(text)
            if found is not None:
                return beat, {role: name for role, name in found.groupdict().items() if name is not None}
    return None


def sentences(text: str) -> Iterator[str]:
    """The whole sentences of a text; what follows the last full stop is none."""
    for found in _SENTENCE.finditer(text):
        yield " ".join(found.group().split())


def read_continuation(domain: str, prompt: str, continuation: str) -> Reading:
    """Hold a continuation against the facts of its prompt.

    An object or a person that the story never introduced makes the claim about it wrong.

    Raises:
        KeyError: there is no genre of that domain.
    """
    holder: dict[str, str] = {}
    told = [*sentences(prompt)]
    right = claims = known = 0
    written = [*sentences(continuation)]
    for number, sentence in enumerate(chain(told, written)):
        found = understood(domain, sentence)
        if found is None:
            continue
        beat, roles = found[0], _resolved(found[1], holder)
        held = [
            (roles[thing], roles[where]) for thing, where in CLAIMS.get(beat, ()) if thing in roles and where in roles
        ]
        if number >= len(told):
            known += 1
            claims += len(held)
            right += sum(holder.get(thing) == where for thing, where in held)
        holder |= {
            roles[thing]: roles[where] for thing, where in MOVES.get(beat, ()) if thing in roles and where in roles
        }
    return Reading(right, claims, known, len(written))


def _resolved(roles: Roles, holder: Mapping[str, str]) -> dict[str, str]:
    """Roles with "the key" replaced by the one key of the story; one that could be several, or none, is left out."""
    found = {role: name for role, name in roles.items() if role != "short"}
    if "short" in roles and "x" not in found:
        like = [name for name in holder if name.endswith(" " + roles["short"])]
        if len(like) == 1:
            found["x"] = like[0]
    return found


def _pattern(genre: Genre, frame: str) -> re.Pattern[str]:
    parts, done, seen = [], 0, set[str]()
    for match in SLOT.finditer(frame):
        parts.append(re.escape(frame[done : match.start()]))
        done = match.end()
        slot, form = match.group(1), match.group(2) or ""
        if slot is None:
            continue
        if len(slot) > 1:
            parts.append(_any(genre.lexicon[slot]))
            continue
        named = "short" if form == "short" else slot if form in ("", "a", "in") else ""
        surface, name = _surface(genre, slot, form)
        parts.append(surface.format(_group(named, name, seen)))
    parts.append(re.escape(frame[done:]))
    return re.compile("".join(parts))


def _group(name: str, pattern: str, seen: set[str]) -> str:
    """The pattern as the group of a role, or a reference to it where the role was named before."""
    if not name:
        return pattern
    if name in seen:
        return f"(?P={name})"
    seen.add(name)
    return f"(?P<{name}>{pattern})"


def _surface(genre: Genre, slot: str, form: str) -> tuple[str, str]:
    """How a role is written in a form, `{}` where its name stands, and the pattern of the name."""
    pronouns = {"he": "(?:he|she|it)", "him": "(?:him|her|it)", "his": "(?:his|her|its)", "it": "it"}
    if form in pronouns:
        return "{}", pronouns[form]
    if slot in "xy":
        thing = f"{_any(genre.adjectives)} {_any(genre.nouns)}"
        return {"a": "an? {}", "short": "the {}"}.get(form, "the {}"), _any(genre.nouns) if form == "short" else thing
    if slot == "p":
        surface = f"{_any(sorted({where.preposition for where in genre.places}))} the {{}}" if form else "the {}"
        return surface, _any([where.name for where in genre.places])
    adjectives = _any(sorted({word for trades in genre.trades.values() for word in trades.adjectives}))
    nouns = _any(sorted({word for trades in genre.trades.values() for word in trades.nouns}))
    return {"trade": ("{}", f"an? {adjectives} {nouns}"), "the": ("{}", f"the {nouns}")}.get(
        form, ("{}", "[A-Z][a-z]+")
    )


def _any(words: tuple[str, ...] | list[str]) -> str:
    return f"(?:{'|'.join(re.escape(word) for word in sorted(words, key=len, reverse=True))})"
