"""The notation of sentence frames, and how they become text with labels.

    {a} gave {x:a} to {b}, | because {a:he} liked {b:him}.

`{a}`, `{b}` are people, `{x}`, `{y}` objects, `{p}` a place; the word after the colon selects a form
(`person`, `thing` and `place` below list them). A slot whose name has two letters or more is
filled from the genre's lexicon. `|` marks where a clause starts inside the sentence; it and the
space after it are removed. The first letter of a sentence becomes a capital.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from rwkvgate.experiment.corpora.documents import Mention
from rwkvgate.experiment.corpora.stories.genre import Character, Place

SLOT = re.compile(r"\{([a-z]+)(?::([a-z]+))?\}|\| ")
_PRONOUNS = {
    "he": {"he": "he", "him": "him", "his": "his"},
    "she": {"he": "she", "him": "her", "his": "her"},
    "it": {"he": "it", "him": "it", "his": "its"},
}


@dataclass(frozen=True)
class Entity:
    """A person, object or place of a story: `forms` maps a form to (words before the mention, mention)."""

    name: str
    kind: str
    forms: Mapping[str, tuple[str, str]]


def with_article(phrase: str) -> str:
    """`phrase` after "a" or "an", by its first letter; no word of the genres starts with a mute h or "eu"."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def person(character: Character, adjective: str, noun: str) -> Entity:
    """Forms: the name; `he`, `him`, `his`; `trade` ("a young weaver"); `the` ("the weaver")."""
    surfaces = {"": character.name, "trade": with_article(f"{adjective} {noun}"), "the": f"the {noun}"}
    surfaces |= _PRONOUNS[character.pronoun]
    return Entity(character.name, character.kind, {form: ("", text) for form, text in surfaces.items()})


def thing(adjective: str, noun: str) -> Entity:
    """Forms: "the silver key"; `a` ("a silver key"); `it`; `short` ("the key")."""
    name = f"{adjective} {noun}"
    surfaces = {"": f"the {name}", "a": with_article(name), "it": "it", "short": f"the {noun}"}
    return Entity(name, "object", {form: ("", text) for form, text in surfaces.items()})


def place(where: Place) -> Entity:
    """Forms: "the deep well"; `in` ("by the deep well", of which "by" is outside the mention)."""
    surface = f"the {where.name}"
    return Entity(where.name, "place", {"": ("", surface), "in": (f"{where.preposition} ", surface)})


@dataclass
class Page:
    """A growing text with its labels; offsets are in characters from its start."""

    text: str = ""
    sentence_ends: list[int] = field(default_factory=list)
    boundaries: list[int] = field(default_factory=list)
    mentions: list[Mention] = field(default_factory=list)

    def add(self, frame: str, cast: Mapping[str, Entity], fill: Callable[[str], str]) -> None:
        """Append a frame as the next sentence; `fill` draws a word for a lexicon slot.

        Raises:
            KeyError: the frame names a role or a form that does not exist.
        """
        if self.text:
            self.text += " "
        start, done = len(self.text), 0
        for match in SLOT.finditer(frame):
            self.text += frame[done : match.start()]
            done = match.end()
            slot, form = match.group(1), match.group(2) or ""
            if slot is None:
                self.boundaries.append(len(self.text))
            elif len(slot) > 1:
                self.text += fill(slot)
            else:
                self._mention(cast[slot], form)
        self.text += frame[done:]
        self.text = self.text[:start] + self.text[start].upper() + self.text[start + 1 :]
        self.sentence_ends.append(len(self.text))

    def _mention(self, entity: Entity, form: str) -> None:
        lead, surface = entity.forms[form]
        self.text += lead
        begin = len(self.text)
        self.text += surface
        self.mentions.append(Mention(begin, len(self.text), entity.name, entity.kind))
