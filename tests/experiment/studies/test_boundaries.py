"""Effects at labelled tokens: a planted one is detected, a word's own gate is not taken for one, and p is honest."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from rwkvgate.experiment.corpora.documents import Document, Mention
from rwkvgate.experiment.corpora.stories import generate_stories
from rwkvgate.experiment.corpora.tokenizer import train_tokenizer
from rwkvgate.experiment.studies.boundaries import (
    AGAIN,
    LabelledTokens,
    group_effects,
    label_frame,
    label_tokens,
    matched,
    token_starts,
)
from rwkvgate.rwkv6.tokenizer import Rwkv6Tokenizer


def made_up(seed: int, effect: float = 0.0, word: float = 0.0, documents: int = 20, length: int = 60) -> LabelledTokens:
    """Tokens of ten kinds; kind 0 is a boundary more often than not, and may have a gate of its own."""
    rng, n = np.random.default_rng(seed), documents * length
    token = rng.integers(0, 10, n)
    boundary = rng.random(n) < np.where(token == 0, 0.6, 0.1)
    frame = pd.DataFrame(
        {
            "document": np.repeat(np.arange(documents), length),
            "position": np.tile(np.arange(length), documents),
            "token": token,
            "before": 0,
            "boundary": boundary,
            "sentence": False,
            "mention": False,
            AGAIN: False,
        }
    )
    noise = rng.normal(0, 1, (2, n)) + np.repeat(rng.normal(0, 0.3, documents), length)
    planted = effect * boundary + word * (token == 0)
    return LabelledTokens(noise + np.stack([planted, np.zeros(n)]), frame)


def test_a_planted_effect_is_found_in_its_layer_and_no_other() -> None:
    found = group_effects(made_up(0, effect=0.8), "boundary", permutations=300).set_index("layer")
    assert found.loc[1, "p_holm"] < 0.01 and found.loc[1, "low"] > 0.4 and found.loc[1, "effect"] < 0.9
    assert found.loc[2, "p_holm"] > 0.05 and found.loc[2, "low"] < 0 < found.loc[2, "high"]


def test_a_words_own_gate_is_no_effect_of_its_place() -> None:
    labelled = made_up(1, word=3.0)
    raw = labelled.values[0]
    inside = labelled.frame["boundary"].to_numpy()
    assert stats.ttest_ind(raw[inside], raw[~inside]).pvalue < 1e-6  # the conclusion without matching
    assert group_effects(labelled, "boundary", permutations=300)["p"].min() > 0.05


def test_false_positives_come_at_the_nominal_rate() -> None:
    repeats = 200
    p = [
        group_effects(made_up(s, documents=8, length=30), "boundary", permutations=99)["p"].iloc[0]
        for s in range(repeats)
    ]
    low, high = stats.binom.interval(0.999, repeats, 0.05)
    assert low <= sum(x <= 0.05 for x in p) <= high


def test_a_group_without_controls_has_no_effect() -> None:
    labelled = made_up(2)
    alone = labelled.frame.assign(boundary=labelled.frame["token"] == 0, sentence=labelled.frame["token"] == 0)
    found = group_effects(LabelledTokens(labelled.values, alone), "boundary")
    assert found["effect"].isna().all() and (found["strata"] == 0).all() and len(found) == 2
    alone = alone.assign(boundary=False)
    like = group_effects(LabelledTokens(labelled.values, alone), "sentence", permutations=50)
    assert like["effect"].notna().all() and (like["controls"] > 0).all()


def test_a_control_stands_after_the_same_token_at_a_like_position_and_begins_no_sentence() -> None:
    rows = [(15, 7, 1, True, False), (16, 7, 1, False, False), (17, 7, 1, False, True), (18, 7, 2, False, False)]
    rows += [(40, 7, 1, False, False), (19, 8, 1, False, False), (20, 7, 1, False, False)]
    frame = pd.DataFrame(rows, columns=["position", "token", "before", "boundary", "sentence"])
    found = matched(frame.assign(position=frame["position"] - 1), "boundary")
    assert not len(found.rows)  # position 14 is in the octave before
    found = matched(frame, "boundary")
    assert found.rows.tolist() == [0, 1, 6] and found.inside.tolist() == [True, False, False]
    np.testing.assert_allclose(found.contrast(), [1, -0.5, -0.5])


def test_the_second_mention_is_the_second_by_name() -> None:
    text = "Mira met Otto, and she saw that Mira liked Otto. Mira ran."
    spans = [
        (at, at + len(name), who)
        for name, who, at in (
            ("Mira", "Mira", 0),
            ("Otto", "Otto", 9),
            ("she", "Mira", 19),
            ("Mira", "Mira", 32),
            ("Otto", "Otto", 43),
            ("Mira", "Mira", 49),
        )
    ]
    document = Document(text, "local", mentions=tuple(Mention(*span, "person") for span in spans))
    tokenizer = Rwkv6Tokenizer()
    frame = label_frame(tokenizer, [Document("", "local"), document])
    assert (frame["document"] == 1).all() and frame["before"].tolist() == [-1, *frame["token"][:-1]]
    starts = np.array(token_starts(tokenizer, text))
    assert starts[frame[AGAIN].to_numpy()].tolist() == [32, 43] and frame["mention"].sum() == 6


def test_labels_stand_on_the_tokens_they_belong_to(tiny_model: Any) -> None:
    documents = generate_stories(30, seed=0)
    tokenizer = train_tokenizer([d.text for d in documents], 400)
    torch.manual_seed(0)
    model = tiny_model("enhanced", torch.float32, vocab_size=len(tokenizer))
    labelled = label_tokens(model, tokenizer, documents[:3])
    assert labelled.values.shape == (3, len(labelled.frame)) and bool(
        ((labelled.values >= 0) & (labelled.values <= 1)).all()
    )
    for number, document in enumerate(documents[:3]):
        rows = labelled.frame[labelled.frame["document"] == number]
        starts = token_starts(tokenizer, document.text)
        labels = [start for start, flag in zip(starts, rows["boundary"], strict=True) if flag]
        assert labels == list(document.boundaries)
        assert rows["mention"].sum() >= 0.8 * len(document.mentions)
    effects = group_effects(labelled, "boundary", permutations=20)
    assert len(effects) == 3


@pytest.mark.parametrize("text", ["", "猫がいた、犬もいた。", "a", "  x \n y", "🙂🙂 ok", "<script>alert(1)</script>"])
def test_any_text_is_read(text: str, tiny_model: Any) -> None:
    tokenizer = Rwkv6Tokenizer()
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    starts = token_starts(tokenizer, text)
    assert len(starts) == len(ids) and starts == sorted(starts) and all(0 <= s <= len(text) for s in starts)
    model = tiny_model("enhanced", torch.float32, vocab_size=65536)
    document = Document(text, "local", boundaries=(1,), mentions=(Mention(0, 1, "x", "person"),))
    if not ids:
        with pytest.raises(ValueError, match="no document with a token"):
            label_tokens(model, tokenizer, [document])
    else:
        labelled = label_tokens(model, tokenizer, [document])
        assert len(group_effects(labelled, "mention", permutations=10)) == 3


def test_an_unpatched_model_is_refused(tiny_model: Any) -> None:
    with pytest.raises(ValueError, match="carries no gate"):
        label_tokens(tiny_model(vocab_size=65536), Rwkv6Tokenizer(), [Document("A text.", "local")])
