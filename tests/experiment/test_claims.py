"""The ledger on results made up for the purpose: a twin is not told apart, a planted arm is, what lacks is said."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rwkvgate.experiment.analysis import paper
from rwkvgate.experiment.claims import FURTHER, Evidence, contrast, ledger, ledger_table
from rwkvgate.experiment.rules import RULES, VERDICTS
from rwkvgate.metrics.measures import BLEU_COLUMNS

ARMS = ("base", "base-tuned", "enhanced", "no-layer-norm", "fixed-gate", "conv-only", "routing-only")
DOCUMENTS = 120
GAINS = ("rouge-l-gain", "bleu-gain", "rouge-1-gain", "perplexity")


def scores(arm: str, seed: int, gain: float = 0.0, repeat: int = 0) -> pd.DataFrame:
    """One arm and seed: documents differ much, seeds a little, arms by the gain alone."""
    shared = np.random.default_rng(1000 * repeat)
    own = np.random.default_rng([repeat, seed, *map(ord, arm)])
    seed_effect = own.normal(0, 0.01)
    difficulty, tokens = shared.normal(0, 0.3, DOCUMENTS), shared.integers(80, 160, DOCUMENTS)
    quality = gain + seed_effect + own.normal(0, 0.05, DOCUMENTS)
    rouge = np.clip(0.3 - difficulty / 10 + quality / 3, 0, 1)
    correct = np.maximum(0, np.outer(tokens, [0.5, 0.3, 0.2, 0.1]) * (1 + quality)[:, None])
    columns = {
        "nll": tokens * np.maximum(0.01, 1 + difficulty - quality),
        "tokens": tokens,
        "bytes": 4 * tokens,
        "rouge1": rouge,
        "rouge2": rouge / 2,
        "rougeL": rouge,
        "entity_claims": tokens // 10,
        "entity_right": np.clip(tokens // 10 * (0.5 + quality), 0, tokens // 10),
    }
    for kind in ("far", "natural", "code"):
        columns |= {f"{kind}_nll": columns["nll"] * 2, f"{kind}_tokens": tokens * 2}
    values = np.column_stack([correct, *[tokens] * 4, tokens, tokens])
    columns |= dict(zip(BLEU_COLUMNS, values.T, strict=True))
    frame = pd.DataFrame(columns).assign(document=range(DOCUMENTS))
    long = frame.melt(id_vars="document", var_name="metric", value_name="value")
    return long.assign(arm=arm, seed=seed)


def times(ratio: float) -> pd.DataFrame:
    """Forward times of every arm at one ratio to the base, and the base's generation."""
    rows = [
        {
            "arm": arm,
            "seed": 0,
            "measure": measure,
            "batch": 1,
            "tokens": 100,
            "seconds_median": 0.01,
            "seconds_low": 0.009,
            "seconds_high": 0.011,
            "ratio": 1.0 if arm == "base" else ratio,
            "ratio_low": 1.0 if arm == "base" else ratio - 0.005,
            "ratio_high": 1.0 if arm == "base" else ratio + 0.005,
            "repeats": 31,
            "dtype": "float32",
            "threads": 2,
            "device": "cpu",
        }
        for arm in ARMS
        for measure in ("forward", "generation")
    ]
    return pd.DataFrame(rows)


def made_up(gains: dict[str, float] | None = None, seeds: int = 5, repeat: int = 0, **changes: Any) -> Evidence:
    """Evidence in which the arms named differ from the tuned base."""
    every = {arm: (gains or {}).get(arm, -0.5 if arm == "base" else 0.0) for arm in ARMS}
    frames = [scores(arm, s, gain, repeat) for arm, gain in every.items() for s in range(1 if arm == "base" else seeds)]
    fields: dict[str, Any] = {
        "results": pd.concat(frames, ignore_index=True),
        "latency": times(1.02),
        "domains": {d: ("fairy-tale", "technology")[d % 2] for d in range(DOCUMENTS)},
        "resamples": 400,
    }
    return Evidence(**fields | changes)


def verdicts(evidence: Evidence) -> dict[str, str]:
    """Claim -> verdict."""
    return {row["claim"]: row["verdict"] for row in ledger(evidence)}


def test_every_claim_has_a_row_that_json_can_hold() -> None:
    rows = ledger(made_up())
    assert [row["claim"] for row in rows] == list(RULES) and {row["verdict"] for row in rows} <= set(VERDICTS)
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    assert all(row["reason"] and row["rule"] and row["rules"] for row in rows)
    assert len(ledger_table(rows)) == len(RULES)


def test_twins_of_the_control_are_not_told_apart() -> None:
    found = [verdicts(made_up(repeat=repeat)) for repeat in range(12)]
    shown = [v for one in found for claim, v in one.items() if claim in GAINS and v != "not reproduced"]
    assert len(shown) <= 2
    assert all(one["adaptive-beats-fixed"] == "not reproduced" for one in found[:4])


def test_a_planted_better_arm_is_found_and_a_worse_one_contradicts() -> None:
    found = verdicts(made_up({"enhanced": 0.2}))
    decided = (*GAINS, *FURTHER, "layer-norm-stabilises", "adaptive-beats-fixed", "domains")
    assert {found[claim] for claim in decided} == {"reproduced"}
    assert found["component-contributions"] == "not reproduced"
    found = verdicts(made_up({"enhanced": -0.2, "conv-only": 0.2, "routing-only": 0.2}))
    assert {found[claim] for claim in (*GAINS, *FURTHER, "adaptive-beats-fixed", "domains")} == {"contradicted"}
    assert found["component-contributions"] == "reproduced"


def test_a_domain_that_gets_worse_contradicts_and_is_named() -> None:
    evidence = made_up({"enhanced": 0.2})
    results = evidence.results
    code = (results["metric"] == "code_nll") & (results["arm"] == "enhanced")
    worse = results.assign(value=np.where(code, results["value"] * 2, results["value"]))
    row = {row["claim"]: row for row in ledger(made_up(results=worse))}["domains"]
    assert row["verdict"] == "contradicted" and "Perplexity of code" in row["reason"]
    assert all(name in row["reason"] for name in ("fairy-tale:", "technology:", "Perplexity of natural text"))


def test_what_was_not_measured_is_undecided() -> None:
    results = made_up().results
    bare = results[~results["metric"].str.startswith(("far", "entity", "natural", "code"))]
    found = verdicts(made_up(results=bare))
    assert {found[claim] for claim in FURTHER} == {"undecided here"}
    one = verdicts(made_up(results=bare, domains={}))
    assert one["domains"] == "undecided here"


def test_rows_that_a_verdict_rests_on_are_named() -> None:
    rows = {row["claim"]: row for row in ledger(made_up())}
    assert rows["rouge-l-gain"]["rests_on"] == ["ROUGE-L/enhanced/base-tuned"]
    assert rows["long-range"]["rests_on"] == ["Loss beyond the trained length/enhanced/base-tuned"]
    assert rows["forward-latency"]["rests_on"] == ["figure2"]


def test_the_papers_comparison_stands_beside_and_decides_nothing() -> None:
    row = ledger(made_up())[list(RULES).index("rouge-l-gain")]
    assert "+" in row["against_base"] and row["verdict"] == "not reproduced"
    assert "no difference shown" in row["reason"] and "the smallest that would have been" in row["reason"]
    assert row["smallest"] > 0 and row["seeds"] == 5 and row["n"] == DOCUMENTS


def test_one_seed_decides_nothing() -> None:
    row = ledger(made_up({"enhanced": 0.5}, seeds=1))[0]
    assert row["verdict"] == "undecided here" and "one training seed" in row["reason"] and row["p"] is None


def test_noise_between_seeds_alone_can_undo_a_difference_between_documents() -> None:
    evidence = made_up({"enhanced": 0.0})
    results = evidence.results
    own = (results["arm"] == "enhanced") & (results["metric"] == "rougeL")
    swing = results["seed"].map({0: 0.2, 1: -0.15, 2: 0.2, 3: -0.15, 4: 0.1})
    moved = results.assign(value=results["value"] + np.where(own, swing, 0.0))
    found = contrast(made_up(results=moved), "enhanced", "base-tuned", "rougeL")
    assert found.p_documents < 0.01 < found.p_seeds and found.p == found.p_seeds


@pytest.mark.parametrize(
    ("ratio", "verdict"), [(1.0, "reproduced"), (1.033, "reproduced"), (1.06, "contradicted"), (0.9, "reproduced")]
)
def test_latency_is_held_against_the_papers_ratio(ratio: float, verdict: str) -> None:
    row = {row["claim"]: row for row in ledger(made_up(latency=times(ratio)))}["forward-latency"]
    assert row["verdict"] == verdict and "100 tokens, batch 1" in row["reason"]
    stated = paper.FORWARD_SECONDS["enhanced"] / paper.FORWARD_SECONDS["base"]
    assert f"{stated:.4f}" in row["reason"]


def test_times_too_unsteady_to_tell_reproduce_nothing() -> None:
    wide = times(1.02).assign(ratio_low=0.95, ratio_high=1.3)
    assert verdicts(made_up(latency=wide))["forward-latency"] == "undecided here"


def test_what_is_missing_failed_or_no_number_is_said() -> None:
    full = made_up()
    without = full.results[full.results["arm"] != "fixed-gate"]
    rows = {row["claim"]: row for row in ledger(made_up(results=without))}
    assert rows["adaptive-beats-fixed"]["verdict"] == "undecided here"
    assert "fixed-gate not run" in rows["adaptive-beats-fixed"]["reason"]
    rows = {row["claim"]: row for row in ledger(made_up(results=without, failures={"fixed-gate": "loss is nan"}))}
    assert "fixed-gate failed: loss is nan" in rows["adaptive-beats-fixed"]["reason"]
    broken = full.results["metric"].eq("nll") & full.results["arm"].eq("enhanced") & full.results["document"].eq(3)
    nan = full.results.assign(value=full.results["value"].where(~broken, np.nan))
    row = {row["claim"]: row for row in ledger(made_up(results=nan))}["perplexity"]
    assert row["verdict"] == "undecided here" and "Perplexity is not a finite number" in row["reason"]
    empty = pd.DataFrame(columns=full.results.columns)
    assert set(verdicts(Evidence(empty, times(1.0).iloc[:0])).values()) == {"undecided here"}


def effects(*by_seed: tuple[float, float], p: float = 0.001, before: float | None = 0.05) -> pd.DataFrame:
    """Effects at boundaries of two layers for each seed, and before training."""
    gates = [("enhanced", seed, values) for seed, values in enumerate(by_seed)]
    gates += [] if before is None else [("enhanced-untrained", 0, (before, before))]
    rows = [
        {"group": "boundary", "layer": layer + 1, "arm": arm, "seed": seed, "tokens": 90, "controls": 300}
        | {"effect": value, "low": value - 0.05, "high": value + 0.05, "p_holm": p}
        for arm, seed, values in gates
        for layer, value in enumerate(values)
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (effects((0.3, 0.0), (0.4, 0.0)), "reproduced"),
        (effects((-0.3, 0.0), (-0.4, 0.1)), "reproduced"),
        (effects((0.3, 0.0), (-0.4, 0.0)), "not reproduced"),  # the seeds disagree
        (effects((0.3, 0.0), (0.1, 0.0)), "not reproduced"),  # too small in one
        (effects((0.3, 0.0), (0.4, 0.0), p=0.2), "not reproduced"),
        (effects((0.3, 0.0), (0.4, 0.0), before=0.3), "not reproduced"),  # no more than before training
        (effects((0.3, 0.0), (0.4, 0.0), before=None), "undecided here"),
        (effects((np.nan, np.nan)), "undecided here"),
        (None, "undecided here"),
    ],
)
def test_boundaries_are_decided_by_every_seed(found: Any, verdict: str) -> None:
    row = {row["claim"]: row for row in ledger(made_up(effects=found))}["syntactic-boundaries"]
    assert row["verdict"] == verdict and row["reason"]


def test_the_device_decides_what_fits_a_t4() -> None:
    assert verdicts(made_up(device="Tesla T4"))["fits-one-t4"] == "reproduced"
    assert verdicts(made_up(device="cpu"))["fits-one-t4"] == "undecided here"


def test_rules_cover_the_papers_claims() -> None:
    assert {item.claim for item in paper.statements()} <= set(RULES)
    assert len(RULES) == 18
