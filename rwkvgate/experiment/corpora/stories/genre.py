"""The data of a genre of stories: people, objects, places, words, sentence frames and orders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Character:
    """Someone who can act. `pronoun` is 'he', 'she', or 'it' for a machine."""

    name: str
    pronoun: str

    @property
    def kind(self) -> str:
        """The kind of the character's mentions: 'machine' or 'person'."""
        return "machine" if self.pronoun == "it" else "person"


@dataclass(frozen=True)
class Trades:
    """Trades of one kind of character: any adjective before any noun ("a young weaver")."""

    adjectives: tuple[str, ...]
    nouns: tuple[str, ...]


@dataclass(frozen=True)
class Place:
    """A place; `preposition` goes before "the" and the name: "by the deep well"."""

    name: str
    preposition: str


@dataclass(frozen=True)
class Genre:
    """The data of one genre; the engine draws who did what.

    Attributes:
        domain: the genre's name, which its documents carry.
        people: characters of training and validation stories.
        held_out: characters of test stories; no name is in both.
        trades: by the character's kind.
        adjectives, nouns: any adjective before any noun is an object.
        places: each story draws a few of them.
        lexicon: fillers of the slots with long names, such as `{weather}`.
        frames: for each beat its sentence frames, in the notation of `template`.
        orders: narrative orders by name; each a string of beats, `?` after one that may be left out.
    """

    domain: str
    people: tuple[Character, ...]
    held_out: tuple[Character, ...]
    trades: Mapping[str, Trades]
    adjectives: tuple[str, ...]
    nouns: tuple[str, ...]
    places: tuple[Place, ...]
    lexicon: Mapping[str, tuple[str, ...]]
    frames: Mapping[str, tuple[str, ...]]
    orders: Mapping[str, str]


def coined(pronoun: str, starts: str, ends: str) -> tuple[tuple[Character, ...], tuple[Character, ...]]:
    """Characters that share a pronoun, for training and held out: every start joined with every end.

    Every fifth pair is held out. A held-out name is new, but its two pieces occur in training, so that a model can know
    it from the story alone: a memorised list of names does not help, and a memory of the story is enough.
    """
    train: list[Character] = []
    held_out: list[Character] = []
    for row, start in enumerate(starts.split()):
        for column, end in enumerate(ends.split()):
            (held_out if (row + 2 * column) % 5 == 0 else train).append(Character(start + end, pronoun))
    return tuple(train), tuple(held_out)
