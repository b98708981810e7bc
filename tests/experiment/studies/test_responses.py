"""Planted gates: one that opens at boundaries attends to them, a random one and a detector of commas do not."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from rwkvgate import GateConfig
from rwkvgate.experiment.corpora.documents import Document
from rwkvgate.experiment.corpora.stories import generate_stories
from rwkvgate.experiment.corpora.tokenizer import train_tokenizer
from rwkvgate.experiment.rules import FOLLOWING
from rwkvgate.experiment.studies import responses as study
from rwkvgate.experiment.studies.boundaries import AGAIN, group_effects, label_frame, label_tokens
from rwkvgate.experiment.studies.clamps import channel_means
from rwkvgate.experiment.studies.responses import (
    BEYOND,
    CLAIMS,
    GATE,
    RANDOM,
    RESPONSES,
    THERE,
    attention,
    decide_attention,
    responses,
)
from rwkvgate.explore.interventions import clamp_gate
from rwkvgate.explore.reading import read
from rwkvgate.gate.gating import Sigmoid
from rwkvgate.gate.patch import gates_of

DOCUMENTS, LENGTH, CHANNELS, COMMA = 60, 60, 32, 0


def made_up() -> pd.DataFrame:
    """Tokens of eight kinds; half of those after a comma begin a clause, and few others do."""
    rng, n = np.random.default_rng(0), DOCUMENTS * LENGTH
    token = rng.integers(0, 8, n)
    before = np.concatenate([[-1], token[:-1]])
    boundary = rng.random(n) < np.where(before == COMMA, 0.5, 0.05)
    columns = {"document": np.repeat(np.arange(DOCUMENTS), LENGTH), "position": np.tile(np.arange(LENGTH), DOCUMENTS)}
    labels = {"boundary": boundary, "sentence": False, "mention": False, AGAIN: False}
    return pd.DataFrame(columns | {"token": token, "before": before} | labels)


RANDOM_GATES: dict[int, list[Any]] = {}
"""The random gates of each seed: what these read depends on the seed alone, so `planted` draws them once."""
draw_random_gates = study._random_gates


def planted(kind: str, rise: float, model: Any, monkeypatch: Any, seeds: int = 5) -> pd.DataFrame:
    """The study's table of a gate that reads one direction of hidden states, in which boundaries have another.

    kind: "boundary", "comma" or "random", what the gate opens at. rise: nats by which a clamp at boundaries costs more.
    """
    frame, parts = made_up(), []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        states = torch.tensor(rng.normal(size=(len(frame), CHANNELS)) + rng.normal(size=(8, CHANNELS))[frame["token"]])
        states[:, 0] += torch.tensor(2.0 * frame["boundary"].to_numpy())
        states[:, 1] += torch.tensor(3.0 * (frame["before"] == COMMA).to_numpy())
        torch.manual_seed(100 + seed)
        fresh = Sigmoid(CHANNELS, GateConfig()).double().linear(states).sigmoid().mean(-1).detach()
        own = {"boundary": states[:, 0], "comma": states[:, 1], "random": fresh}[kind].numpy()
        rises = 0.02 + rise * frame["boundary"].to_numpy() + rng.normal(0, 0.02, len(frame))

        def read_rows(model: Any, sequences: Any, rows: Any, own: Any = own, states: Any = states, **_: Any) -> Any:
            values = np.stack([own, np.zeros(len(own)), rng.normal(size=len(own))])  # noqa: B023
            return study._Reading(values[:, rows.index], [states[rows.index.to_list()]] * 3, {})

        def drawn_once(model: Any, states: Any, draws: int, seed: int) -> list[Any]:
            if seed not in RANDOM_GATES:
                RANDOM_GATES[seed] = list(draw_random_gates(model, states, draws, seed))
            return RANDOM_GATES[seed]

        monkeypatch.setattr(study, "_read", read_rows)
        monkeypatch.setattr(study, "_random_gates", drawn_once)
        monkeypatch.setattr(study, "_rises", lambda m, s, rows, *_, rises=rises, **__: rises[rows.index])
        parts.append(responses(model, [], frame, [], batch_size=1, seed=seed).assign(arm="enhanced", seed=seed))
    return pd.concat(parts, ignore_index=True)


@pytest.mark.parametrize(
    ("kind", "rise", "verdict"),
    [
        ("boundary", 0.05, "reproduced"),
        ("boundary", 0.0, "not reproduced"),
        ("boundary", -0.05, "contradicted"),
        ("comma", 0.05, "not reproduced"),
        ("random", 0.05, "undecided here"),
    ],
)
def test_planted_gates(kind: str, rise: float, verdict: str, tiny_model: Any, monkeypatch: Any) -> None:
    table = planted(kind, rise, tiny_model("enhanced"), monkeypatch)
    record = decide_attention(table, "syntactic-boundaries")
    assert record["verdict"] == verdict, record["reason"]
    assert record["seeds"] == 5 and record["low"] < record["ours"] < record["high"]
    (first,) = attention(table).query("measure == @GATE and layer == 1").to_dict("records")
    assert (first["p"] <= 0.05) == (kind == "boundary") and 0 < first["random"] < 1
    assert decide_attention(table, "entity-mentions")["verdict"] == "undecided here"


def test_few_seeds_and_gates_without_a_null_decide_nothing(tiny_model: Any, monkeypatch: Any) -> None:
    table = planted("boundary", 0.05, tiny_model("enhanced"), monkeypatch, seeds=4)
    assert decide_attention(table, "syntactic-boundaries")["verdict"] == "reproduced"
    few = decide_attention(table[table["seed"] < 3], "syntactic-boundaries")
    assert few["verdict"] == "undecided here" and few["reason"].endswith("3 seeds, and fewer than 4 decide nothing")
    one = decide_attention(table[table["seed"] == 0], "syntactic-boundaries")
    assert one["verdict"] == "undecided here" and "1 seed, and" in one["reason"] and np.isnan(one["low"])
    bare = decide_attention(table[table["measure"] != RANDOM], "syntactic-boundaries")
    assert bare["verdict"] == "undecided here" and "not held against 200 random gates" in bare["reason"]


def test_effects_are_means_over_seeds_and_p_counts_random_gates() -> None:
    rows = [
        ("boundary", GATE, 1, d, 0.1 * (1 + seed / 10), 9, 20, "enhanced", seed) for d in range(5) for seed in (0, 1)
    ]
    rows += [
        ("boundary", RANDOM, 1, draw, 0.01 * draw, 9, 20, "enhanced", seed) for draw in range(1, 101) for seed in (0, 1)
    ]
    table = pd.DataFrame(rows, columns=[*study.RESPONSE_COLUMNS, "arm", "seed"])
    (row,) = attention(table).to_dict("records")
    assert row["estimate"] == pytest.approx(0.525) and (row["seeds"], row["n"]) == (2, 5)
    assert row["p"] == row["p_any"] == pytest.approx((1 + 48) / 101)  # draws 53 to 100
    assert row["random"] == pytest.approx(0.9505)


@pytest.fixture(scope="module")
def stories() -> tuple[list[Document], Any]:
    documents = generate_stories(12, seed=0)
    return documents, train_tokenizer([document.text for document in documents], 400)


@pytest.fixture
def measured(stories: Any, tiny_model: Any, monkeypatch: Any) -> Any:
    """A tiny model's table with every token in the standard deviation, its documents and what made it."""
    documents, tokenizer = stories
    monkeypatch.setattr(study, "SAMPLED", 1)
    model = tiny_model("enhanced", torch.float32, vocab_size=len(tokenizer))
    frame = label_frame(tokenizer, documents)
    sequences = tokenizer([d.text for d in documents], add_special_tokens=False)["input_ids"]
    means = channel_means(model, sequences, batch_size=5)
    table = responses(model, sequences, frame, means, batch_size=5, seed=7, draws=3)
    return model, tokenizer, documents, sequences, frame, means, table


def test_parts_sum_to_the_effect_of_the_gate_and_of_a_fresh_one(measured: Any) -> None:
    model, tokenizer, documents, *_, table = measured
    assert set(table["group"]) == set(CLAIMS.values())
    own = label_tokens(model, tokenizer, documents)
    torch.manual_seed(7)
    gates_of(model)[0].gating = Sigmoid(32, GateConfig())  # the first draw of the first layer, which reads the same
    drawn = label_tokens(model, tokenizer, documents)
    for group in CLAIMS.values():
        part = table[table["group"] == group]
        found = part[part["measure"] == GATE].groupby("layer")["effect"].sum()
        expected = group_effects(own, group, permutations=1)
        np.testing.assert_allclose(found, expected["effect"], atol=2e-3)
        gates = part[part["measure"] == GATE]
        assert set(gates["tokens"]) == set(expected["tokens"]) and set(gates["controls"]) == set(expected["controls"])
        first = part[(part["measure"] == RANDOM) & (part["layer"] == 1) & (part["item"] == 1)]["effect"].item()
        assert first == pytest.approx(group_effects(drawn, group, permutations=1)["effect"][0], abs=2e-3)


def test_a_rise_is_that_of_a_clamp_at_one_token(measured: Any) -> None:
    model, _, _, sequences, frame, means, table = measured
    rows = frame.sample(12, random_state=0)
    plain, expected = {}, []
    for document, position in rows[["document", "position"]].itertuples(index=False):
        ids = torch.tensor([[0, *sequences[document]]])
        losses = []
        for tokens in ([], [position + 1]):
            with ExitStack() as held:
                for layer, mean in enumerate(means, start=1):
                    held.enter_context(clamp_gate(model, layer, mean, tokens=tokens))
                losses.append(read(model, ids, losses=True)[0].numpy())  # type: ignore[index]
        plain[document] = losses[0]
        after = slice(position + 2, position + 2 + FOLLOWING)
        expected.append(losses[1][after].mean() - losses[0][after].mean())
    found = study._rises(model, sequences, rows, plain, means, batch_size=5, prefix_id=0)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(found).min() > 1e-4
    losses = table[table["measure"].isin([THERE, BEYOND])]
    assert set(losses["layer"]) == {0} and (losses["effect"].abs() > 0).any()


def test_of_many_tokens_those_of_every_second_document_are_clamped() -> None:
    frame = made_up()
    every = study._thinned(frame, "boundary", 700)
    some = study._thinned(frame, "boundary", 1400)
    assert len(every.rows) > 700 and set(frame["document"][every.rows]) == set(range(DOCUMENTS))
    assert set(frame["document"][some.rows]) == set(range(0, DOCUMENTS, 2))
    assert frame["boundary"][some.rows].to_numpy().tolist() == some.inside.tolist()


def test_a_token_that_nothing_follows_costs_nothing(tiny_model: Any) -> None:
    model = tiny_model("enhanced", torch.float32)
    rows = pd.DataFrame({"document": [0, 0], "position": [1, 2]})
    means = channel_means(model, [[3, 4, 5]], batch_size=1)
    nats = {0: read(model, torch.tensor([[0, 3, 4, 5]]), losses=True)[0].numpy()}  # type: ignore[index]
    found = study._rises(model, [[3, 4, 5]], rows, nats, means, batch_size=2, prefix_id=0)
    assert found[0] != 0 and found[1] == 0


def test_without_a_control_there_is_no_row(stories: Any, tiny_model: Any) -> None:
    frame = label_frame(stories[1], stories[0][:1]).assign(**{"boundary": False, AGAIN: False})
    assert responses(tiny_model("enhanced"), [], frame, [], batch_size=1).empty
    record = decide_attention(RESPONSES.table([]), "entity-mentions")
    assert record["verdict"] == "undecided here" and record["reason"].startswith("second mentions of a name: ")


@pytest.mark.parametrize("arm", ["conv-routing", "attention-gate", "per-head"])
def test_other_gates_are_clamped_and_have_no_null(arm: str, stories: Any, tiny_model: Any) -> None:
    documents, tokenizer = stories
    model = tiny_model(arm, torch.float32, vocab_size=len(tokenizer))
    sequences = tokenizer([d.text for d in documents], add_special_tokens=False)["input_ids"]
    means = channel_means(model, sequences, batch_size=6)
    table = responses(model, sequences, label_frame(tokenizer, documents), means, batch_size=6)
    assert set(table["measure"]) == {GATE, THERE, BEYOND} and np.isfinite(table["effect"]).all()
