"""Verdicts on planted results: twins show no difference, a planted gain is found, and what is missing is named."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rwkvgate.experiment.analysis import paper
from rwkvgate.experiment.analysis.comparison import Pair, comparisons, is_measured, pooled_times
from rwkvgate.experiment.claims import (
    Evidence,
    answer,
    claim_pairs,
    claims_summary,
    claims_table,
    decide_claims,
)
from rwkvgate.experiment.rules import RULES, VERDICTS
from rwkvgate.experiment.studies import no_studies
from rwkvgate.metrics.measures import BLEU_COLUMNS

ARMS = ("base", "base-tuned", "enhanced", "no-layer-norm", "fixed-gate", "conv-only", "routing-only")
DOCUMENTS = 120
DOMAINS = {d: ("fairy-tale", "technology")[d % 2] for d in range(DOCUMENTS)}
SHAPE = paper.SHAPE
GAINS = ("rouge-l-gain", "bleu-gain", "rouge-1-gain", "perplexity")


@cache
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
        "entity_right": np.clip(tokens // 10 * (0.7 + quality), 0, tokens // 10),
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


def planted(gains: dict[str, float] | None = None, seeds: int = 5, repeat: int = 0) -> pd.DataFrame:
    """Scores in which the arms named differ from the tuned base."""
    every = {arm: (gains or {}).get(arm, -0.5 if arm == "base" else 0.0) for arm in ARMS}
    frames = [scores(arm, s, gain, repeat) for arm, gain in every.items() for s in range(1 if arm == "base" else seeds)]
    return pd.concat(frames, ignore_index=True)


def evidence(
    gains: dict[str, float] | None = None,
    seeds: int = 5,
    repeat: int = 0,
    *,
    results: pd.DataFrame | None = None,
    latency: pd.DataFrame | None = None,
    domains: dict[int, str] | None = None,
    failures: dict[str, str] | None = None,
    **more: Any,
) -> Evidence:
    """Evidence from planted scores, or from those given."""
    if results is None and domains is None and failures is None:
        compared = compared_once(tuple((gains or {}).items()), seeds, repeat).copy()
    else:
        rows = planted(gains, seeds, repeat) if results is None else results
        compared = compare(rows, DOMAINS if domains is None else domains, failures)
    return Evidence(compared, pooled_times(times(1.02) if latency is None else latency), **more)


def compare(rows: pd.DataFrame, domains: dict[int, str], failures: dict[str, str] | None = None) -> pd.DataFrame:
    """The comparisons that the claims ask for, where they were measured."""
    pairs = [pair for pair in claim_pairs(domains.values()) if is_measured(rows, pair.metric)]
    return comparisons(rows, pairs, domains=domains, failures=failures, resamples=400)


@cache
def compared_once(gains: tuple[tuple[str, float], ...], seeds: int, repeat: int) -> pd.DataFrame:
    """Those of planted scores, which many tests read."""
    return compare(planted(dict(gains), seeds, repeat), DOMAINS)


def decided(found: Evidence) -> dict[str, dict[str, Any]]:
    """Claim -> record."""
    return {row["claim"]: row for row in decide_claims(found)}


def verdicts(found: Evidence) -> dict[str, str]:
    """Claim -> verdict."""
    return {claim: row["verdict"] for claim, row in decided(found).items()}


def test_every_claim_has_a_row_that_json_can_hold() -> None:
    rows = decide_claims(evidence())
    assert [row["claim"] for row in rows] == list(RULES) and {row["verdict"] for row in rows} <= set(VERDICTS)
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    assert all(row["reason"] and row["rule"] and row["rules"] for row in rows)
    assert len(claims_table(rows)) == len(RULES)


def test_twins_of_the_control_are_not_told_apart() -> None:
    found = [verdicts(evidence(repeat=repeat)) for repeat in range(6)]
    wrong = [any(one[claim] in ("reproduced", "contradicted") for claim in GAINS) for one in found]
    assert sum(wrong) <= 1


def test_a_planted_better_arm_is_found_and_a_worse_one_contradicts() -> None:
    found = verdicts(evidence({"enhanced": 0.9}))
    decided = (*GAINS, "entity-coherence", "adaptive-beats-fixed", "domains")
    assert {found[claim] for claim in decided} == {"reproduced"}
    assert found["component-contributions"] in ("not reproduced", "undecided here")
    found = verdicts(evidence({"enhanced": -0.2, "conv-only": 0.2, "routing-only": 0.2}))
    assert {found[claim] for claim in decided} == {"contradicted"}
    assert found["component-contributions"] == "reproduced"


def test_a_claim_of_two_parts_fails_with_either() -> None:
    assert verdicts(evidence({"conv-only": 0.2, "routing-only": -0.2}))["component-contributions"] == "contradicted"


def test_a_domain_that_gets_worse_contradicts_and_is_named() -> None:
    results = planted({"enhanced": 0.2})
    code = (results["metric"] == "code_nll") & (results["arm"] == "enhanced")
    worse = results.assign(value=np.where(code, results["value"] * 2, results["value"]))
    row = decided(evidence(results=worse))["domains"]
    assert row["verdict"] == "contradicted" and "Log perplexity of code" in row["reason"]
    assert all(name in row["reason"] for name in ("fairy-tale:", "technology:", "Log perplexity of natural text"))


def test_what_was_not_measured_is_undecided() -> None:
    results = planted()
    bare = results[~results["metric"].str.startswith(("far", "entity", "natural", "code"))]
    assert verdicts(evidence(results=bare))["entity-coherence"] == "undecided here"
    assert verdicts(evidence(results=bare, domains={}))["domains"] == "undecided here"


@pytest.mark.parametrize(
    ("claim", "words"),
    [
        ("layer-norm-stabilises", "a run does not measure the learning rate at which training breaks"),
        ("long-range", "docs/study.md is about texts whose parts belong together"),
        ("state-of-the-art", "no benchmark"),
    ],
)
def test_a_claim_that_asks_for_an_experiment_of_its_own_waits_for_it(claim: str, words: str) -> None:
    row = decided(evidence({"enhanced": 0.9}, seeds=4))[claim]
    assert row["verdict"] == "undecided here" and words in row["reason"]


def test_rows_that_a_verdict_rests_on_are_named() -> None:
    rows = decided(evidence())
    assert rows["rouge-l-gain"]["rests_on"] == ["ROUGE-L/enhanced/base-tuned"]
    assert rows["perplexity"]["rests_on"] == ["Log perplexity/enhanced/base-tuned"]
    assert rows["forward-latency"]["rests_on"] == ["figure2"]


def test_the_papers_comparison_stands_beside_and_decides_nothing() -> None:
    row = decided(evidence())["rouge-l-gain"]
    assert "+" in row["against_base"] and row["verdict"] == "not reproduced"
    assert "no more than 0.01 better or worse" in row["reason"]
    assert row["smallest"] > 0 and row["seeds"] == 5 and row["n"] == DOCUMENTS


def test_noise_between_seeds_alone_can_undo_a_difference_between_documents() -> None:
    results = planted({"enhanced": 0.0})
    own = (results["arm"] == "enhanced") & (results["metric"] == "rougeL")
    swing = results["seed"].map({0: 0.2, 1: -0.15, 2: 0.2, 3: -0.15, 4: 0.1})
    moved = results.assign(value=results["value"] + np.where(own, swing, 0.0))
    found = comparisons(moved, [Pair("enhanced", "base-tuned", "rougeL")], resamples=400).iloc[0]
    assert found["p_documents"] < 0.01 < found["p"]


@pytest.mark.parametrize(
    ("spread", "verdict", "words"),
    [(0.1, "not reproduced", "not nearly double"), (2, "undecided here", "minimum detectable effect")],
)
def test_a_doubling_that_is_excluded_is_not_reproduced_without_a_difference_shown(
    spread: float, verdict: str, words: str
) -> None:
    results = planted()
    factors = np.exp(spread * np.random.default_rng(0).normal(size=5))
    noisy = (results["metric"] == "rougeL") & (results["arm"] == "enhanced")
    value = np.where(noisy, results["value"] * factors[results["seed"]], results["value"])
    row = decided(evidence(results=results.assign(value=value)))["rouge-l-gain"]
    assert row["verdict"] == verdict and words in row["reason"]


@pytest.mark.parametrize("gain", [-0.2, 0.0, 0.9])
def test_networks_that_do_no_better_than_a_guess_are_not_told_apart(gain: float) -> None:
    results = planted({"enhanced": gain})
    rare = results.assign(value=results["value"].where(results["metric"] != "entity_right", results["value"] / 2))
    row = decided(evidence(results=rare, vocabulary=2))
    assert row["entity-coherence"]["verdict"] == row["domains"]["verdict"] == "undecided here"
    assert "no more than the half that naming one of two people" in row["entity-coherence"]["reason"]
    assert "guessing among 2 tokens" in row["domains"]["reason"]
    known = decided(evidence({"enhanced": gain}, vocabulary=65_536))
    assert "guess" not in known["domains"]["reason"] and "half" not in known["entity-coherence"]["reason"]


def test_the_answer_tells_what_a_system_without_a_model_scores() -> None:
    trivial = pd.DataFrame(
        [("one word, repeated", "rougeL", 0.1), ("another text", "rougeL", 0.3), ("another text", "bleu", 0.2)],
        columns=["system", "metric", "value"],
    )
    claims = decide_claims(evidence(trivial=trivial))
    assert answer(claims)[1].endswith(" A system without a model has 0.3000 (another text).")
    assert [c["without_model"] for c in claims if "without_model" in c] == [
        f"{score} (another text)" for score in ("0.3000", "0.2000")
    ]


def test_seeds_are_paired_and_an_untrained_arm_stands_against_all() -> None:
    results = planted()
    pair = Pair("enhanced", "base-tuned", "rougeL")
    without = results[(results["arm"] != "base-tuned") | (results["seed"] != 2)]
    found = comparisons(without, [pair, Pair("enhanced", "base", "rougeL")], resamples=99)
    assert found[["seeds", "reference_seeds"]].to_numpy().tolist() == [[4, 4], [5, 1]]
    shared = comparisons(results[results["seed"] != 2], [pair], resamples=99).iloc[0]
    assert found.iloc[0]["seed_deviation"] == pytest.approx(shared["seed_deviation"])
    apart = results[(results["arm"] == "enhanced") == (results["seed"] > 2)]
    assert comparisons(apart, [pair], resamples=99)["status"].tolist() == ["no seeds or documents in common"]


@pytest.mark.parametrize(
    ("ratio", "verdict"), [(1.0, "reproduced"), (1.033, "reproduced"), (1.06, "contradicted"), (0.9, "reproduced")]
)
def test_latency_is_held_against_the_papers_ratio(ratio: float, verdict: str) -> None:
    there, here = (pooled_times(times(ratio).assign(device=device)) for device in ("Tesla T4", "cpu"))
    found = replace(evidence(seeds=1), times=there, shape=SHAPE)
    row = decided(found)["forward-latency"]
    assert row["verdict"] == verdict and "24 layers of 2,048 channels, 100 tokens, batch 1" in row["reason"]
    for elsewhere in (replace(found, times=here), replace(found, shape=(4, 128))):
        other = decided(elsewhere)["forward-latency"]
        assert other["verdict"] == "undecided here" and other["ours"] == row["ours"]
        assert "of 24 layers of 2,048 channels on a T4" in other["reason"]
    assert "at 4 layers of 128 channels" in other["reason"]
    stated = paper.FORWARD_SECONDS["enhanced"] / paper.FORWARD_SECONDS["base"]
    assert f"{stated:.4f}" in row["reason"]


def test_times_too_unsteady_to_tell_reproduce_nothing() -> None:
    wide = times(1.02).assign(ratio_low=0.95, ratio_high=1.3, device="Tesla T4")
    assert verdicts(evidence(latency=wide, shape=SHAPE))["forward-latency"] == "undecided here"


def test_what_is_missing_failed_or_no_number_is_said() -> None:
    full = planted()
    without = full[full["arm"] != "fixed-gate"]
    rows = decided(evidence(results=without))
    assert rows["adaptive-beats-fixed"]["verdict"] == "undecided here"
    assert "fixed-gate not run" in rows["adaptive-beats-fixed"]["reason"]
    rows = decided(evidence(results=without, failures={"fixed-gate": "loss is nan"}))
    assert "fixed-gate failed: loss is nan" in rows["adaptive-beats-fixed"]["reason"]
    broken = full["metric"].eq("nll") & full["arm"].eq("enhanced") & full["document"].eq(3)
    nan = full.assign(value=full["value"].where(~broken, np.nan))
    row = decided(evidence(results=nan))["perplexity"]
    assert row["verdict"] == "undecided here" and "Log perplexity is not a finite number" in row["reason"]
    empty = pd.DataFrame(columns=full.columns)
    assert set(verdicts(evidence(results=empty, latency=times(1.0).iloc[:0], domains={})).values()) == {
        "undecided here"
    }


@pytest.mark.parametrize("claim", ["syntactic-boundaries", "entity-mentions"])
@pytest.mark.parametrize("found", [None, no_studies().responses])
def test_a_gate_that_was_not_read_attends_to_nothing_known(claim: str, found: Any) -> None:
    row = decided(evidence(responses=found))[claim]
    assert row["verdict"] == "undecided here" and "was not read there" in row["reason"]


def test_device_and_network_decide_what_fits_a_t4() -> None:
    assert verdicts(evidence(device="Tesla T4", shape=SHAPE))["fits-one-t4"] == "reproduced"
    assert verdicts(evidence(device="cpu", shape=SHAPE))["fits-one-t4"] == "undecided here"
    assert verdicts(evidence(device="Tesla T4", shape=(4, 128)))["fits-one-t4"] == "undecided here"


def test_rules_cover_the_papers_claims() -> None:
    assert set(paper.CHANGES) <= set(RULES) and len(RULES) == 19


def test_the_papers_arithmetic() -> None:
    changes = {claim: paper.relative_change(claim) for claim in paper.CHANGES}
    assert changes["rouge-l-gain"] == pytest.approx(95.65, abs=0.01)
    assert changes["bleu-gain"] == pytest.approx(96.47, abs=0.01)
    assert changes["perplexity"] == 0
    assert changes["forward-latency"] == pytest.approx(2.979, abs=0.001)


def test_a_pair_that_tables_and_claims_share_is_computed_once() -> None:
    pairs = [Pair("enhanced", "base-tuned", "rougeL")]
    assert len(comparisons(planted(), [*pairs, *claim_pairs(), *pairs], resamples=50)) == len(set(claim_pairs()))


@pytest.mark.parametrize(
    ("gain", "words"), [(0.9, "is better as claimed in"), (-0.2, "is worse in"), (0.0, "is not better as claimed in")]
)
def test_the_answer_follows_the_verdicts(gain: float, words: str) -> None:
    claims = decide_claims(evidence({"enhanced": gain}))
    second, first, third = answer(claims)
    assert re.search(r"goes from 0\.\d+ to 0\.\d+ \(\+\d+\.\d %\); the paper reports 0\.115 to 0\.225\.$", first)
    assert f"the gate {words} ROUGE-L, BLEU" in second and "log perplexity: ROUGE-L differs by" in second
    sign = {True: "+", False: "−"}[claims[0]["ours"] > 0]
    assert f"differs by {sign}" in second and "minimum detectable effect" in second
    counted = sum(row["verdict"] == "undecided here" for row in claims if row["claim"] != "domains")
    assert (
        third.startswith("Of the paper's 18 claims, ")
        and "; of 1 that it does not make, 1 is " in third
        and f"{counted} are undecided here" in third
    )
    assert "differs from the base's by +2.00 % [+1.50, +2.50] here, +2.95 % stated" in third


def test_an_answer_that_cannot_be_given_says_why() -> None:
    second, _, _, fourth = answer(decide_claims(evidence({"enhanced": 0.5}, seeds=1)))
    assert "cannot be judged in ROUGE-L" in second and "without an interval over seeds" in second
    assert fourth == "One seed decides nothing, and shows no spread to tell how many would; it takes at least 4."
    gone = planted()[lambda rows: ~rows["arm"].isin(["base", "enhanced"])]
    claims = decide_claims(evidence(results=gone, latency=times(1.0).iloc[:0], failures={"enhanced": "loss is nan"}))
    second, first, third = answer(claims)
    assert "cannot be compared (enhanced failed: loss is nan)" in first and "enhanced failed: loss is nan" in second
    assert third.endswith("the time of a forward pass was not measured.")
    assert claims_summary(claims)["Ours"].iloc[0] == "–"
