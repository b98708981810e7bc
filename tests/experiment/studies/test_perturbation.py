"""Edits change what they say and nothing else; a gate that reacts to commas alone is found out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from rwkvgate.experiment.corpora.documents import Document
from rwkvgate.experiment.corpora.stories import generate_stories
from rwkvgate.experiment.corpora.tokenizer import train_tokenizer
from rwkvgate.experiment.studies.perturbation import KINDS, REACHES, change_table, edits, gate_changes

STORIES = generate_stories(40, 2, "held-out")


def limit_of(story: Document) -> int:
    return story.sentence_ends[5]


def test_every_kind_is_made_and_each_keeps_the_rest_of_the_text() -> None:
    made = dict.fromkeys(KINDS, 0)
    for number, story in enumerate(STORIES):
        limit = limit_of(story)
        for edit in edits(story, limit, number):
            made[edit.kind] += 1
            for text in (edit.edited, edit.neutral):
                assert text != story.text and text.endswith(story.text[limit:])
            if "punctuation" in edit.kind:
                assert sorted(edit.edited.replace(",", "").replace(";", "")) == sorted(story.text.replace(",", ""))
            if edit.kind == "shuffle-names":
                assert sorted(edit.edited.split()) != story.text.split() and len(edit.edited) == len(story.text)
            if edit.kind == "drop-name":
                assert len(edit.edited.split()) == len(story.text.split()) - 1 == len(edit.neutral.split())
    assert min(made.values()) >= 10


def test_the_same_seed_gives_the_same_edits() -> None:
    assert edits(STORIES[0], 400, 1) == edits(STORIES[0], 400, 1)


@pytest.mark.parametrize("text", ["", "word", "狐狸跑了。", "ABC, DEF", "one two three four"])
def test_a_text_without_a_place_for_an_edit_has_none(text: str) -> None:
    assert edits(Document(text, "x"), len(text)) == []


def test_changes_are_those_of_the_shared_tokens(tiny_model: Any) -> None:
    tokenizer = train_tokenizer([story.text for story in STORIES], 400)
    model = tiny_model("enhanced", dtype=torch.float32, vocab_size=len(tokenizer))
    documents = [(story, edits(story, limit_of(story), n)) for n, story in enumerate(STORIES[:6])]
    found = gate_changes(model, tokenizer, documents)
    assert set(found["reach"]) == set(REACHES) and set(found["layer"]) == {1, 2, 3}
    assert (found[["edited", "neutral"]] >= 0).all().all()
    # What an edit does dies away with distance.
    means = found.groupby("reach")["edited"].mean()
    assert means["at the site"] > means["8 to 31 tokens after"]


def test_a_difference_is_told_from_none() -> None:
    rng = np.random.default_rng(0)
    rows = [
        {"kind": kind, "document": d, "layer": 1, "reach": "at the site", "edited": shift + x, "neutral": y}
        for kind, shift in (("drop-name", 0.5), ("swap-name", 0.0))
        for d, (x, y) in enumerate(rng.normal(1, 0.2, (60, 2)))
    ]
    table = change_table(pd.DataFrame(rows)).set_index("kind")
    assert table.loc["drop-name", "low"] > 0.3 and table.loc["swap-name", "low"] < 0 < table.loc["swap-name", "high"]
    assert (table["documents"] == 60).all()
