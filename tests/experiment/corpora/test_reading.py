"""The generator's own stories are the oracle: every sentence is understood, and nothing true is called wrong."""

from __future__ import annotations

import pytest

from rwkvgate.experiment.corpora.stories import GENRES, generate_stories
from rwkvgate.experiment.corpora.stories.reading import Reading, read_continuation, sentences, understood

PROMPT = (
    "Once upon a time, in a distant land, a young miller named Marin lived in the old mill. There he had a friend, "
    "a kind baker named Tola. Marin owned a silver key, which was a gift from his sister. Marin gave {x}"
).replace("Marin gave {x}", "When Tola fell ill, Marin gave her the silver key.")


@pytest.mark.parametrize("names", ["train", "held-out"])
def test_every_sentence_of_a_story_is_understood_and_every_claim_is_right(names: str) -> None:
    claims = 0
    for story in generate_stories(120, 3, names):
        cut = story.sentence_ends[len(story.sentence_ends) // 2]
        found = read_continuation(story.domain, story.text[:cut], story.text[cut:])
        assert found.known == found.sentences and found.right == found.claims
        claims += found.claims
    assert claims > 400


@pytest.mark.parametrize("genre", GENRES, ids=lambda genre: genre.domain)
def test_every_beat_is_told_apart(genre) -> None:  # type: ignore[no-untyped-def]
    stories = [story for story in generate_stories(200, 5) if story.domain == genre.domain]
    beats = [found[0] for story in stories for one in sentences(story.text) if (found := understood(story.domain, one))]
    assert set(beats) == set(genre.frames)


@pytest.mark.parametrize(
    ("continuation", "right", "claims", "known", "total"),
    [
        ("So Tola had both the silver key and the blue ring.", 1, 2, 1, 1),  # nobody ever had a blue ring
        ("At the end of the year, Tola still had the silver key.", 1, 1, 1, 1),
        ("At the end of the year, Marin still had the silver key.", 0, 1, 1, 1),
        ("At the end of the year, Kelin still had the silver key.", 0, 1, 1, 1),  # a stranger
        ("Tola put the key in her bag and smiled at Marin.", 1, 1, 1, 1),
        ("The silver key was still in the old mill.", 0, 1, 0, 1),  # no such frame: says nothing
        ("Tola left the silver key behind.", 0, 0, 0, 1),
        ("At the end of the year, Tola still had", 0, 0, 0, 0),  # cut off
        ("", 0, 0, 0, 0),
        ("狐狸跑了。 क्या? !!!", 0, 0, 0, 2),
        ("x" * 5000, 0, 0, 0, 0),
    ],
)
def test_claims_are_held_against_the_prompt(continuation: str, right: int, claims: int, known: int, total: int) -> None:
    found = read_continuation("fairy-tale", PROMPT, continuation)
    if not known:
        right = claims = 0
    assert found == Reading(right, claims, known, total)


def test_a_hand_over_in_the_continuation_changes_what_is_true() -> None:
    told = "Marin needed the silver key, so he fetched it from the deep well. "  # it never lay there
    told += "Tola gave the silver key to Marin. All winter long, Marin took care of the silver key."
    found = read_continuation("fairy-tale", PROMPT, told)
    assert found.claims >= 1 and found.right < found.claims


def test_an_unknown_genre_is_refused() -> None:
    with pytest.raises(KeyError, match="natural"):
        read_continuation("natural", "", "Something.")
