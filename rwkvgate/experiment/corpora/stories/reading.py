"""Parses stories: which frame a sentence has, whom and what it names, and whether its claims on owners are true.

It judges any continuation: the facts are parsed from the prompt, then each sentence of the continuation that matches a
frame is checked against them, and changes them if it is a hand-over. A sentence that matches no frame makes no claim;
such sentences are counted.
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
"""The claims of a beat: the object of the first role is with the holder, or at the place, of the second."""

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
    """How a continuation agrees with the facts: `right` of `claims` on holders, and `known` of `sentences` parsed."""

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
    from rwkvgate.experiment.corpora.stories import GENRES

    genre = {genre.domain: genre for genre in GENRES}[genre_domain]
    return [(beat, _pattern(genre, frame)) for beat, frames in genre.frames.items() for frame in frames]


def understood(domain: str, sentence: str) -> tuple[str, Roles] | None:
    """The beat and the roles of a sentence; None where it matches no frame of the genre."""
    lowered = sentence[:1].lower() + sentence[1:]
    for beat, pattern in patterns(domain):
        # The first letter of "the", "his" or a filler became a capital at the start of a sentence.
        for text in (sentence, lowered):
            match = pattern.fullmatch(text)
            if match is not None:
                return beat, {role: name for role, name in match.groupdict().items() if name is not None}
    return None


def sentences(text: str) -> Iterator[str]:
    """The complete sentences of a text; the rest after the last full stop is left out."""
    for match in _SENTENCE.finditer(text):
        yield " ".join(match.group().split())


def read_continuation(domain: str, prompt: str, continuation: str) -> Reading:
    """Check a continuation against the facts of its prompt.

    A claim on an object or a person that the story never introduced is wrong.

    Raises:
        KeyError: there is no genre of that domain.
    """
    holder: dict[str, str] = {}
    right = claims = known = 0
    given, written = [*sentences(prompt)], [*sentences(continuation)]
    for number, sentence in enumerate(chain(given, written)):
        parsed = understood(domain, sentence)
        if parsed is None:
            continue
        beat, roles = parsed[0], _resolved(parsed[1], holder)
        claimed, moved = (
            [(roles[x], roles[place]) for x, place in table.get(beat, ()) if x in roles and place in roles]
            for table in (CLAIMS, MOVES)
        )
        if number >= len(given):
            known += 1
            claims += len(claimed)
            right += sum(holder.get(thing) == where for thing, where in claimed)
        holder |= dict(moved)
    return Reading(right, claims, known, len(written))


def _resolved(roles: Roles, holder: Mapping[str, str]) -> dict[str, str]:
    """Roles with "the key" replaced by the only key of the story; left out where there are several, or none."""
    resolved = {role: name for role, name in roles.items() if role != "short"}
    if "short" in roles and "x" not in resolved:
        like = [name for name in holder if name.endswith(" " + roles["short"])]
        if len(like) == 1:
            resolved["x"] = like[0]
    return resolved


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
