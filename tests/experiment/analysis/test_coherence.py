"""Entity scores: references are right, other stories' endings are not, and other domains have no score."""

from __future__ import annotations

import numpy as np
import pytest

from rwkvgate.experiment.analysis.coherence import ENTITY_COLUMNS, entity_scores
from rwkvgate.experiment.corpora.stories import generate_stories

STORIES = generate_stories(20, 1, "held-out")
DOMAINS = [story.domain for story in STORIES]
CUTS = [story.sentence_ends[4] for story in STORIES]
PROMPTS = [story.text[:cut] for story, cut in zip(STORIES, CUTS, strict=True)]
ENDINGS = [story.text[cut:] for story, cut in zip(STORIES, CUTS, strict=True)]


def test_references_are_always_right_and_other_stories_endings_are_not() -> None:
    own = entity_scores(DOMAINS, PROMPTS, ENDINGS)
    assert (own["entity_right"] == own["entity_claims"]).all() and own["entity_claims"].sum() > 60
    other = entity_scores(DOMAINS, PROMPTS, [*ENDINGS[2:], *ENDINGS[:2]])
    assert other["entity_right"].sum() < 0.4 * other["entity_claims"].sum()


def test_other_domains_are_not_scored() -> None:
    found = entity_scores(["natural", "fairy-tale"], ["a", "b"], ["c", ""])
    assert found.loc[0, list(ENTITY_COLUMNS)].isna().all() and (found.loc[1, list(ENTITY_COLUMNS)] == 0).all()
    assert found["document"].dtype == np.int64


def test_lists_of_other_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="1 domains, 2 prompts and 1 continuations"):
        entity_scores(["natural"], ["a", "b"], ["c"])
