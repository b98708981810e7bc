"""Effects of both signs and several sizes, planted in the table of documents, through comparisons to verdicts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from rwkvgate.experiment.analysis.comparison import comparisons, is_measured, pooled_times
from rwkvgate.experiment.claims import Evidence, answer, claim_pairs, decide_claims
from rwkvgate.metrics.latency import LATENCY_COLUMNS
from rwkvgate.metrics.measures import BLEU_COLUMNS

DOCUMENTS = 150
GAINS = ("rouge-l-gain", "bleu-gain", "rouge-1-gain")
NO_TIMES = pooled_times(pd.DataFrame(columns=list(LATENCY_COLUMNS)))


def scores(arm: str, seed: int, ratio: float, nats: float, spread: float, repeat: int) -> pd.DataFrame:
    """One arm and seed. Scores are about 0.15 times `ratio`, the loss about 1 lower by `nats`; a seed moves the scores
    by `spread` and the loss by five times as much."""
    shared, own = np.random.default_rng(repeat), np.random.default_rng([repeat, seed, *map(ord, arm)])
    easy, tokens = shared.uniform(0.1, 0.2, DOCUMENTS), shared.integers(80, 160, DOCUMENTS)
    moved = spread * own.normal()
    score = ratio * easy + moved + own.normal(0, 0.01, DOCUMENTS)
    matched = np.outer(tokens * score, [1.0, 1.0, 1.0, 1.0])
    totals = [*[tokens] * 4, tokens, tokens]
    columns = {
        "nll": tokens * (1 + easy - nats - 5 * moved + own.normal(0, 0.02, DOCUMENTS)),
        "tokens": tokens,
        "rouge1": score,
        "rougeL": score,
    } | dict(zip(BLEU_COLUMNS, [*matched.T, *totals], strict=True))
    frame = pd.DataFrame(columns).assign(document=range(DOCUMENTS))
    return frame.melt(id_vars="document", var_name="metric", value_name="value").assign(arm=arm, seed=seed)


def ledger(
    ratio: float = 1.0, nats: float = 0.0, *, seeds: int = 10, spread: float = 0.001, repeat: int = 0
) -> dict[str, dict[str, Any]]:
    """The claims' records, by claim, of an enhanced model that differs from the tuned base by what is planted."""
    planted = {"base": (0.5, -2.0), "base-tuned": (1.0, 0.0), "enhanced": (ratio, nats), "fixed-gate": (1.0, 0.0)}
    frames = [
        scores(arm, seed, *effect, spread, repeat)
        for arm, effect in planted.items()
        for seed in range(1 if arm == "base" else seeds)
    ]
    results = pd.concat(frames, ignore_index=True)
    pairs = [pair for pair in claim_pairs() if is_measured(results, pair.metric)]
    return {row["claim"]: row for row in decide_claims(Evidence(comparisons(results, pairs, resamples=999), NO_TIMES))}


@pytest.mark.parametrize(
    ("ratio", "verdict", "words"),
    [
        (1.965, "reproduced", "better, by +9"),
        (1.6, "not reproduced", "not nearly double"),
        (1.2, "not reproduced", "not nearly double"),
        (1.02, "not reproduced", ""),
        (1.0, "not reproduced", "no more than 0.01 better or worse"),
        (0.8, "contradicted", "worse"),
        (0.5, "contradicted", "worse"),
    ],
)
def test_a_ratio_with_ten_seeds(ratio: float, verdict: str, words: str) -> None:
    found = ledger(ratio)
    for name in GAINS:
        row = found[name]
        assert row["verdict"] == verdict and words in row["reason"], row["reason"]
        assert f"[{'+' if row['low'] > 0 else '−'}" in row["reason"] and "10 seeds, 150 documents" in row["reason"]
        assert row["low"] < 0.15 * (ratio - 1) < row["high"]


@pytest.mark.parametrize(
    ("nats", "verdict"),
    [
        (0.1, "reproduced"),
        (0.03, "reproduced"),
        (0.0, "not reproduced"),
        (-0.03, "contradicted"),
        (-0.1, "contradicted"),
    ],
)
def test_nats_with_ten_seeds(nats: float, verdict: str) -> None:
    found = ledger(nats=nats, spread=0.0003)
    assert {found[name]["verdict"] for name in ("perplexity", "adaptive-beats-fixed")} == {verdict}


def test_zero_with_a_wide_spread_is_undecided() -> None:
    found = ledger(spread=0.04)
    for row in (found[name] for name in GAINS):  # far from a doubling, whatever the spread
        assert row["verdict"] == "not reproduced" and "not nearly double" in row["reason"]
    found = ledger(spread=0.5)
    for row in (found[name] for name in (*GAINS, "perplexity")):
        assert row["verdict"] == "undecided here" and "no difference shown" in row["reason"]
        assert row["smallest"] > 0.01 and row["needed"].endswith(" seeds") and row["needed"] in row["reason"]


def test_a_gain_near_the_limit_that_seeds_blur_is_undecided() -> None:
    row = ledger(1.75, spread=0.02)["rouge-l-gain"]
    assert row["verdict"] == "undecided here" and "too wide to tell" in row["reason"] and "needed" not in row


@pytest.mark.parametrize(
    ("ratio", "seeds"),
    [
        (1.965, 1),
        (1.965, 2),
        (1.965, 3),
        (0.5, 3),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in [(0.5, 1), (0.5, 2), (1.0, 1), (1.0, 2), (1.0, 3)]),
    ],
)
def test_few_seeds_decide_nothing_and_say_how_many_would(ratio: float, seeds: int) -> None:
    found = ledger(ratio, seeds=seeds)
    assert {found[name]["verdict"] for name in (*GAINS, "perplexity")} == {"undecided here"}
    assert "fewer than 4 paired seeds" in found["perplexity"]["reason"]
    assert (found["perplexity"]["low"] is None) == (seeds == 1)
    last = answer(list(found.values()))[-1]
    if seeds == 1:
        assert last == "One seed decides nothing, and shows no spread to tell how many would; it takes at least 4."
        return
    assert last.startswith("Fewer than 4 seeds decide nothing; by the spread seen, to find 0.01 in ROUGE-L takes ")
    assert last.count("seeds") == 3


def test_a_run_with_seeds_enough_says_nothing_of_more() -> None:
    assert len(answer(list(ledger(seeds=4).values()))) == 3
