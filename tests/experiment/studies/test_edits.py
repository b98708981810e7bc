"""Edits change what they name and nothing else; differences from neutral edits have intervals over documents."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from rwkvgate.experiment.corpora.documents import Document
from rwkvgate.experiment.corpora.stories import generate_stories
from rwkvgate.experiment.corpora.tokenizer import train_tokenizer
from rwkvgate.experiment.studies.edits import (
    KINDS,
    REACHES,
    UNEDITED,
    changes_by_kind,
    claims_right,
    edits,
    gate_changes,
)
from rwkvgate.metrics.measures import ratio_of_sums
from rwkvgate.metrics.statistics import interval

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


def changes(kinds: tuple[str, ...] = KINDS, documents: int = 5) -> pd.DataFrame:
    rng = np.random.default_rng(4)
    rows = [
        (arm, seed, kind, document, layer, reach, rng.normal(0.5, 0.2), rng.normal(0.2, 0.1))
        for arm in ("enhanced", "enhanced-untrained")
        for seed in (0, 1)
        for kind in kinds
        for document in range(documents)
        for layer in range(3)
        for reach in REACHES
    ]
    return pd.DataFrame(rows, columns=["arm", "seed", "kind", "document", "layer", "reach", "edited", "neutral"])


def test_differences_are_means_over_layers_and_seeds_with_an_interval_over_documents() -> None:
    frame = changes()
    table = changes_by_kind(frame)
    assert len(table) == 2 * len(KINDS) * len(REACHES) and list(table["kind"].unique()) == list(KINDS)
    row = table.set_index(["arm", "kind", "reach"]).loc["enhanced", "swap-name", "at the site"]
    part = frame[(frame["arm"] == "enhanced") & (frame["kind"] == "swap-name") & (frame["reach"] == "at the site")]
    means = (part["edited"] - part["neutral"]).groupby(part["document"]).mean().to_numpy()
    assert tuple(row[["estimate", "low", "high", "n"]]) == interval(means)
    np.testing.assert_allclose(row["edited"] - row["neutral"], row["estimate"])


def test_gaps_stay_gaps() -> None:
    frame = changes(documents=1)
    frame.loc[frame["kind"] == "swap-name", "edited"] = np.nan
    table = changes_by_kind(frame).set_index("kind")
    assert table.loc["swap-name", "estimate"].isna().all() and table.loc["drop-name", "estimate"].notna().all()
    assert table[["low", "high"]].isna().all(axis=None)  # one document has no interval


def test_a_difference_is_distinguished_from_none() -> None:
    rng = np.random.default_rng(0)
    rows = [
        {"arm": "enhanced", "kind": kind, "document": d, "reach": "at the site", "edited": shift + x, "neutral": y}
        for kind, shift in (("drop-name", 0.5), ("swap-name", 0.0))
        for d, (x, y) in enumerate(rng.normal(1, 0.2, (60, 2)))
    ]
    table = changes_by_kind(pd.DataFrame(rows)).set_index("kind")
    assert table.loc["drop-name", "low"] > 0.3 and table.loc["swap-name", "low"] < 0 < table.loc["swap-name", "high"]
    assert (table["n"] == 60).all()


def test_claims_are_pooled_and_the_unedited_are_those_of_the_same_documents() -> None:
    rows = [
        (UNEDITED, UNEDITED, 0, 1.0, 1.0),
        (UNEDITED, UNEDITED, 1, 0.0, 4.0),
        ("drop-name", "edited", 0, 0.0, 2.0),
        ("drop-name", "neutral", 0, 0.0, 0.0),
        ("swap-name", "edited", 0, 1.0, 3.0),
        ("swap-name", "edited", 1, 1.0, 1.0),
    ]
    names = ["kind", "edit", "document", "entity_right", "entity_claims"]
    table = claims_right(pd.DataFrame(rows, columns=names).assign(arm="enhanced")).set_index(["kind", "edit"])
    assert table.loc[("drop-name", UNEDITED), "estimate"] == 1 and table.loc[("drop-name", UNEDITED), "n"] == 1
    assert table.loc[("swap-name", UNEDITED), "estimate"] == 0.2 and table.loc[("swap-name", UNEDITED), "n"] == 2
    assert np.isnan(table.loc[("drop-name", "neutral"), "estimate"])  # no claim was made
    found = table.loc[("swap-name", "edited"), ["estimate", "low", "high", "n"]]
    assert tuple(found) == interval([[1, 3], [1, 1]], ratio_of_sums)
