"""Clamps that must change nothing change nothing; shares and means as computed by hand; verdicts on planted changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from rwkvgate import GateConfig
from rwkvgate.experiment.run import Run
from rwkvgate.experiment.settings import resolve
from rwkvgate.experiment.studies.clamps import (
    ALL_LAYERS,
    ALONE,
    CHANNEL_MEANS,
    CLAMPS,
    LET_IN,
    NONE,
    OTHER_TEXT,
    TOGETHER,
    channel_means,
    clamped_losses,
    gate_claims,
    let_in,
    loss_changes,
    seed_changes,
)
from rwkvgate.explore.observing import observing
from rwkvgate.gate.patch import gates_of
from rwkvgate.metrics.likelihood import token_losses

LENGTHS = (9, 4, 13, 6, 1)
EVERY = [(ALL_LAYERS, name) for name in (NONE, *TOGETHER)] + [(layer, name) for layer in (1, 2, 3) for name in ALONE]


@pytest.fixture
def texts(tokens: Any) -> list[list[int]]:
    return [tokens(1, length, seed)[0].tolist() for seed, length in enumerate(LENGTHS)]


def losses(model: Any, texts: list[list[int]], batch_size: int = 2) -> pd.DataFrame:
    """nll of each text, one column a layer and clamp."""
    found = clamped_losses(model, texts, EVERY, channel_means(model, texts, batch_size=3), batch_size=batch_size)
    return found.pivot(index="document", columns=["layer", "clamp"], values="nll")


def constant(model: Any, bias: float | None = None) -> Any:
    """The model with gates that do not read the text."""
    for gate in gates_of(model):
        gate.gating.linear.weight.data.zero_()
        if bias is not None:
            gate.gating.linear.bias.data.fill_(bias)
    return model


def test_without_a_clamp_losses_are_those_of_the_measurement(tiny_model: Any, texts: Any) -> None:
    model = tiny_model("enhanced")
    found = losses(model, texts)
    expected = [float(nll.sum()) for nll in token_losses(model, texts, batch_size=1)]
    np.testing.assert_allclose(found[ALL_LAYERS, NONE], expected, rtol=1e-5)
    moved = found.sub(found[ALL_LAYERS, NONE], axis=0).drop(columns=[(ALL_LAYERS, NONE)])
    assert (moved.abs().max() > 1e-3).all() and len(found) == len(texts)  # every clamp does something
    pd.testing.assert_frame_equal(found, losses(model, texts, batch_size=5), rtol=1e-5)
    assert all(gate.override is None and gate.observer is None for gate in gates_of(model))


def test_the_gate_of_the_same_text_changes_nothing(tiny_model: Any, texts: Any) -> None:
    found = losses(tiny_model("enhanced"), [texts[0]] * 3)
    np.testing.assert_allclose(found[ALL_LAYERS, OTHER_TEXT], found[ALL_LAYERS, NONE], rtol=1e-6)
    assert (found[ALL_LAYERS, CHANNEL_MEANS] - found[ALL_LAYERS, NONE]).abs().min() > 1e-3


def test_the_means_of_a_constant_gate_change_nothing(tiny_model: Any, texts: Any) -> None:
    found = losses(constant(tiny_model("enhanced")), texts)
    for clamp in ((ALL_LAYERS, CHANNEL_MEANS), (ALL_LAYERS, OTHER_TEXT), (2, CHANNEL_MEANS)):
        np.testing.assert_allclose(found[clamp], found[ALL_LAYERS, NONE], rtol=1e-5)
    assert (found[2, "mean"] - found[ALL_LAYERS, NONE])[:4].abs().min() > 1e-4  # its channels differ


def test_a_closed_gate_lets_nothing_in(tiny_model: Any, texts: Any) -> None:
    plain = GateConfig.preset("no-layer-norm")
    closed = constant(tiny_model(plain), bias=-1e4)
    assert (let_in(closed, texts, batch_size=2)["share"] == 0).all()
    base = [float(nll.sum()) for nll in token_losses(tiny_model(), texts, batch_size=1)]
    np.testing.assert_allclose(losses(closed, texts)[ALL_LAYERS, NONE], base, rtol=1e-5)
    np.testing.assert_allclose(losses(tiny_model(plain), texts)[ALL_LAYERS, "0"], base, rtol=1e-5)


def test_means_and_shares_are_those_computed_text_by_text(tiny_model: Any, texts: Any) -> None:
    model, gates, shares, by_channel = tiny_model("enhanced"), [], [], [[], [], []]
    hidden: list[torch.Tensor] = []
    for gate in gates_of(model):
        gate.register_forward_hook(lambda _, inputs, output: hidden.append(inputs[0][0]))
    for number, text in enumerate(texts):
        gates.clear()
        hidden.clear()
        with torch.no_grad(), observing(model, lambda _, values: gates.append(values[0])):
            model(torch.tensor([[0, *text]]))
        for layer, (g, h) in enumerate(zip(gates, hidden, strict=True)):
            by_channel[layer].append(g)
            share = (g[1:] * h[:-1]).norm(dim=-1) / h[1:].norm(dim=-1)
            shares.append((layer + 1, number, float(share.mean())))
    expected = pd.DataFrame(shares, columns=["layer", "document", "share"]).sort_values(["layer", "document"])
    found = let_in(model, texts, batch_size=2).sort_values(["layer", "document"])
    pd.testing.assert_frame_equal(found.reset_index(drop=True), expected.reset_index(drop=True), rtol=1e-6)
    for mean, values in zip(channel_means(model, texts, batch_size=2), by_channel, strict=True):
        torch.testing.assert_close(mean.double(), torch.cat(values).mean(0), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("arm", ["conv-routing", "attention-gate", "per-head", "hierarchical"])
def test_other_gates_are_clamped_as_well(arm: str, tiny_model: Any, texts: Any) -> None:
    model = tiny_model(arm)
    assert np.isfinite(losses(model, texts)).all(axis=None)
    assert (let_in(model, texts, batch_size=3)["share"] > 0).all()


def test_a_layer_with_two_gates_is_refused_and_its_arm_left_out(tiny_model: Any, texts: Any, tmp_path: Path) -> None:
    model = tiny_model(GateConfig(site="mixers"))
    with pytest.raises(ValueError, match="6 gates in 3 layers; this study clamps one a layer"):
        channel_means(model, texts, batch_size=2)
    settings = resolve(profile="smoke", run_dir=str(tmp_path / "run"), gate={"site": "mixers"})
    assert CLAMPS.variants(Run(settings)) == LET_IN.variants(Run(settings)) == []


def table(
    changes: dict[str, float], seeds: int = 5, documents: int = 40, spread: float = 0.002, arm: str = "enhanced"
) -> pd.DataFrame:
    """A study's table in which clamps of all layers raise the loss by so many nats per token."""
    rng, rows = np.random.default_rng(3), []
    tokens = rng.integers(50, 200, documents)
    for seed in range(seeds):
        own = 2 * tokens + rng.normal(0, 5, documents)
        for clamp, change in {NONE: 0.0, **changes}.items():
            rises = (0 if clamp == NONE else 1) * tokens * rng.normal(change + rng.normal(0, spread), 0.01, documents)
            rows += [(arm, seed, ALL_LAYERS, clamp, d, own[d] + rises[d], tokens[d]) for d in range(documents)]
    return pd.DataFrame(rows, columns=list(CLAMPS.columns))


def test_changes_are_sums_over_documents_with_an_interval_over_seeds_and_documents() -> None:
    frame = table({"0": 0.5}, seeds=3)
    (row,) = loss_changes(frame).to_dict("records")
    sums = frame.groupby(["seed", "clamp"])[["nll", "tokens"]].sum()
    by_seed = (sums["nll"] / sums["tokens"]).unstack().eval("`0` - none")
    np.testing.assert_allclose(seed_changes(frame)["change"], by_seed)
    np.testing.assert_allclose(row["estimate"], by_seed.mean())
    assert (row["seeds"], row["n"]) == (3, 40)
    student = 4.302653 * by_seed.std() / np.sqrt(3)
    assert row["high"] - row["estimate"] > student  # documents add to it
    (fewer,) = loss_changes(frame[frame["document"] < 10]).to_dict("records")
    assert fewer["n"] == 10 and fewer["high"] - fewer["low"] > row["high"] - row["low"]
    (single,) = loss_changes(frame[frame["seed"] == 0]).to_dict("records")
    assert np.isfinite(single["estimate"]) and np.isnan(single["low"]) and single["seeds"] == 1


@pytest.mark.parametrize(
    ("changes", "matters", "content"),
    [
        ((0.5, 0.3, 0.3), "reproduced", "reproduced"),
        ((0.5, 0.001, 0.3), "reproduced", "not reproduced"),
        ((0.001, 0.001, 0.3), "not reproduced", "not reproduced"),
        ((0.001, 0.3, 0.010), "reproduced", "undecided here"),
        ((-0.2, -0.1, 0.3), "contradicted", "contradicted"),
        ((-0.2, 0.001, -0.1), "not reproduced", "contradicted"),
    ],
)
def test_verdicts_follow_planted_changes(changes: tuple[float, ...], matters: str, content: str) -> None:
    frame = table(dict(zip(("0", CHANNEL_MEANS, OTHER_TEXT), changes, strict=True)))
    records = gate_claims(frame)
    assert [(row["claim"], row["verdict"]) for row in records] == [
        ("gate-matters", matters),
        ("gate-content", content),
    ]
    assert all(row["n"] == 40 and row["seeds"] == 5 and row["low"] < row["ours"] < row["high"] for row in records)


def test_few_seeds_and_no_measurement_decide_nothing() -> None:
    large = dict.fromkeys(("0", CHANNEL_MEANS, OTHER_TEXT), 0.5)
    for seeds, reason in ((1, "40 documents, 1 seed, and"), (3, "3 seeds, and fewer than 4 decide nothing")):
        records = gate_claims(table(large, seeds=seeds))
        assert all(row["verdict"] == "undecided here" and reason in row["reason"] for row in records)
    assert records[0]["ours"] is not None and gate_claims(table(large, seeds=1))[0]["low"] is None
    for frame in (CLAMPS.table([]), table(large, arm="conv-routing")):
        records = gate_claims(frame)
        assert [row["reason"] for row in records] == ["this run does not measure it"] * 2


def test_a_recurrent_gate_is_clamped_and_its_share_refused(tiny_model: Any, texts: Any, tmp_path: Path) -> None:
    model = tiny_model("enhanced-recurrent")
    found = losses(model, [texts[0]] * 3)
    np.testing.assert_allclose(found[ALL_LAYERS, OTHER_TEXT], found[ALL_LAYERS, NONE], rtol=1e-6)
    with pytest.raises(ValueError, match="shift is 'recurrent'"):
        let_in(model, texts, batch_size=2)
    evaluation = {"arms": ["base", "enhanced-recurrent"]}
    run = Run(resolve(profile="smoke", run_dir=str(tmp_path / "run"), evaluation=evaluation))
    assert [len(study.variants(run)) for study in (CLAMPS, LET_IN)] == [1, 0]
