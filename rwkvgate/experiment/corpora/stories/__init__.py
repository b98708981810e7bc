"""Generated stories with labels, in the paper's two genres, in which later sentences follow from earlier ones."""

from __future__ import annotations

from rwkvgate.experiment.corpora.documents import Document
from rwkvgate.experiment.corpora.stories.draw import Draw
from rwkvgate.experiment.corpora.stories.engine import tell
from rwkvgate.experiment.corpora.stories.fairy_tale import FAIRY_TALE
from rwkvgate.experiment.corpora.stories.genre import Genre
from rwkvgate.experiment.corpora.stories.technology import TECHNOLOGY

GENRES: tuple[Genre, ...] = (FAIRY_TALE, TECHNOLOGY)
NAMES = ("train", "held-out")
WORDS = (124, 148)
"""Fewest and most words: 150 to 220 tokens of a byte-level BPE of 2,048 entries, for a prompt of 50 to 100 tokens and a
reference of at least 50."""


def generate_stories(count: int, seed: int, names: str = "train") -> list[Document]:
    """`count` stories, the genres in turn; the same for a seed on every Python and platform.

    Story i depends on `seed`, `names` and i only, so a longer list starts with the shorter one. A
    story whose length is outside `WORDS` is drawn again from the same stream.

    Args:
        count: number of stories, at least 1.
        seed: any integer.
        names: 'train', or 'held-out' for characters that are in no training story.

    Raises:
        ValueError: `count` is below 1, or `names` is neither of the two.
    """
    if count < 1:
        raise ValueError(f"count is {count}; it must be at least 1")
    if names not in NAMES:
        raise ValueError(f"names is {names!r}; allowed: {', '.join(NAMES)}")
    return [_story(seed, names, number) for number in range(count)]


def _story(seed: int, names: str, number: int) -> Document:
    genre = GENRES[number % len(GENRES)]
    people = genre.people if names == "train" else genre.held_out
    draw = Draw(f"{seed}/{names}/{number}")
    while True:
        page, owners = tell(genre, people, draw)
        if WORDS[0] <= len(page.text.split()) <= WORDS[1]:
            break
    return Document(
        text=page.text,
        domain=genre.domain,
        sentence_ends=tuple(page.sentence_ends),
        boundaries=tuple(page.boundaries),
        mentions=tuple(page.mentions),
        owners=owners,
        key=f"{genre.domain}/{names}/{seed}/{number}",
    )
