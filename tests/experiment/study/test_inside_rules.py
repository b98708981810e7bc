"""Verdicts on the discussion's claims, on planted readings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rwkvgate.experiment.rules import CONTRADICTED, NOT_REPRODUCED, REPRODUCED, UNDECIDED
from rwkvgate.experiment.study.inside_rules import (
    CLAIMS,
    READINGS,
    breaking_rate,
    breaking_rates,
    compared,
    drifts,
    gap,
    gradient_spread,
    grown,
    verdicts,
)
from rwkvgate.experiment.study.trials import Trial
from tests.experiment.study.planted import LAYERS, NETWORKS, planted, stages


def verdict(claim: str, found: dict[str, list[Trial]]) -> str:
    decided = verdicts(compared(found)).set_index("claim")
    return str(decided.loc[claim, "verdict"])


def test_readings_are_the_planted_ones() -> None:
    one = planted("base", 0, jitter=0.0)
    mean, spread = drifts(one)
    pooled = np.exp(0.1 * np.array([0, 1, 2])) * np.sqrt((1 + np.exp(0.2)) / 2)
    np.testing.assert_allclose(mean, (0.5 / pooled)[:, None] * np.ones(LAYERS))
    np.testing.assert_allclose(spread, 0.1)
    np.testing.assert_allclose(gradient_spread(one), 0.2 * np.sqrt(8 / 7))
    np.testing.assert_allclose(grown(one, "state")[[0, -1]], [np.zeros((4, 4)), np.ones((4, 4))], atol=1e-12)
    np.testing.assert_allclose(gap(one), 0.4)
    assert all(np.isfinite(reading.of([one])).all() for name, reading in READINGS.items() if name != "breaking rate")


def test_nothing_is_decided_without_trials_or_with_few_seeds() -> None:
    assert set(verdicts(compared({}))["verdict"]) == {UNDECIDED}
    few = verdicts(compared(stages(3, no_layer_norm={"gradient": 0.9})))
    assert set(few["verdict"]) == {UNDECIDED}
    assert "fewer than 4" in few.set_index("claim").loc["steady-gradients", "reason"]


@pytest.mark.parametrize(
    ("claim", "network", "better", "worse"),
    [
        ("covariate-shift", "no_layer_norm", {"drift": 0.7, "spread": 0.2}, {"drift": 0.3, "spread": 0.2}),
        ("steady-gradients", "no_layer_norm", {"gradient": 0.3}, {"gradient": 0.1}),
        ("stable-recurrence", "enhanced", {"jacobian": 0.3, "state": 0.9}, {"state": 1.2}),
        ("filters-noise", "enhanced", {"noise": 0.2, "distractor": 0.2}, {"noise": 0.2, "distractor": 0.4}),
        ("regularises", "enhanced", {"gap": 0.3, "test": 3.9}, {"gap": 0.5}),
    ],
)
def test_planted_verdicts(claim: str, network: str, better: dict[str, float], worse: dict[str, float]) -> None:
    assert verdict(claim, stages(**{network: better})) == REPRODUCED
    assert verdict(claim, stages(**{network: worse})) == CONTRADICTED


def test_equal_networks_are_shown_to_be_so_and_noisy_ones_are_not() -> None:
    equal = verdicts(compared(stages())).set_index("claim")["verdict"].to_dict()
    assert equal.pop("layer-norm-stabilises") == UNDECIDED  # the sweep has not run
    assert equal.pop("stable-recurrence") == REPRODUCED  # no more than the base
    assert set(equal.values()) == {NOT_REPRODUCED}
    noisy = stages(jitter=0.08)  # 8 times what is worth knowing
    assert verdict("covariate-shift", noisy) == verdict("regularises", noisy) == UNDECIDED


@pytest.mark.parametrize(("jitter", "reading"), [(0.01, "test loss"), (0.02, "gradient spread"), (0.05, "distractor")])
def test_the_absence_of_a_gain_is_corrected_as_its_presence_is(jitter: float, reading: str) -> None:
    """An interval that excludes the gain is enough for a test alone, and not for one of ten."""
    label, worth = READINGS[reading].label, READINGS[reading].worth
    found = compared(stages(jitter=jitter)).set_index("measure")
    assert -worth < found.loc[label, "low"] and found.loc[label, "says"] == UNDECIDED
    shown = found[(found["role"] == "less") & (found["says"] == NOT_REPRODUCED)]
    assert (shown["absent"] < 0.05).all() and found.loc[label, "absent"] > 0.05


def test_a_guard_turns_a_success_into_undecided() -> None:
    """A network that reads no past loses nothing to noise; one that learns less has a smaller gap, and regularises
    nothing."""
    deaf = verdicts(compared(stages(enhanced={"noise": 0.1, "distractor": 0.1, "kept": 0.05}))).set_index("claim")
    assert deaf.loc["filters-noise", "verdict"] == UNDECIDED
    assert deaf.loc["filters-noise", "reason"].startswith("worse in: worth of the context behind noise")
    assert verdict("regularises", stages(enhanced={"gap": 0.2, "test": 4.3})) == CONTRADICTED
    assert verdict("regularises", stages(enhanced={"gap": 0.2})) == NOT_REPRODUCED


def test_a_diverged_training_leaves_its_claims_undecided() -> None:
    found = stages(no_layer_norm={"gradient": 0.9})
    assert verdict("steady-gradients", found) == REPRODUCED
    found["inside"] = [
        replace(t, diverged=30, measures={}) if (t.plan.network, t.plan.seed) == ("no-layer-norm", 2) else t
        for t in found["inside"]
    ]
    decided = verdicts(compared(found)).set_index("claim")
    assert decided.loc["steady-gradients", ["verdict", "reason"]].tolist() == [UNDECIDED, "a training diverged"]
    assert decided.loc["stable-recurrence", "verdict"] == REPRODUCED


def sweep(network: str, seed: int, breaks: float, broken: float = 9.0) -> list[Trial]:
    one = planted(network, seed)
    return [
        replace(one, plan=replace(one.plan, rate=rate), validation={300: broken if rate >= breaks else 4.0 - rate})
        for rate in (4e-3, 8e-3, 1.6e-2, 3.2e-2)
    ]


@pytest.mark.parametrize(
    ("with_norm", "said"), [(3.2e-2, REPRODUCED), (8e-3, CONTRADICTED), (1.6e-2, NOT_REPRODUCED), (1.0, REPRODUCED)]
)
def test_stability_is_the_rate_that_breaks(with_norm: float, said: str) -> None:
    # Best 3.996, so it breaks at 4.496: a tenth of the way from 3.996 to 9.
    assert breaking_rate(sweep("base", 0, 8e-3)) == pytest.approx(np.log2(4e-3) + 0.5 / (9 - 3.996))
    assert breaking_rate(sweep("base", 0, 1.0)) == np.log2(3.2e-2)
    assert breaking_rate(sweep("base", 0, 8e-3, np.inf)) == pytest.approx(np.log2(4e-3) + 0.5)
    assert breaking_rate(sweep("base", 0, 8e-3, np.nan)[::-1]) == pytest.approx(np.log2(4e-3) + 0.5)
    for loss in (np.inf, np.nan):  # at every rate
        assert breaking_rate(sweep("base", 0, 0.0, loss)) == np.log2(4e-3)
    rates = {"enhanced": with_norm, "no-layer-norm": 1.6e-2}
    trials = [trial for name, rate in rates.items() for seed in range(4) for trial in sweep(name, seed, rate)]
    assert verdict("layer-norm-stabilises", {"breaking": trials}) == said
    assert verdict("layer-norm-stabilises", {"breaking": trials[:-4]}) == UNDECIDED  # a seed less


def test_rates_at_which_training_breaks_stand_beside_the_bases() -> None:
    trials = [
        one
        for seed in range(3)
        for name, at in (("base", 1.6e-2), ("enhanced", 8e-3))
        for one in sweep(name, seed, at, 9.0 + seed)
    ]
    found = breaking_rates(trials).set_index("network")
    assert found.loc["enhanced", "estimate"] == pytest.approx(-1, abs=0.02) and found.loc["enhanced", "seeds"] == 3
    assert found.loc["enhanced", "low"] <= found.loc["enhanced", "estimate"] <= found.loc["enhanced", "high"]
    lacking = breaking_rates(trials[:-1]).set_index("network")  # a rate of the last seed
    assert lacking["seeds"].to_dict() == {"base": 3, "enhanced": 2}
    apart = found.loc["enhanced", "log2"] - found.loc["base", "log2"]
    assert apart == pytest.approx(found.loc["enhanced", "estimate"]) and np.isnan(found.loc["base", "estimate"])


def test_no_effect_is_rarely_called_one() -> None:
    """Of 30 experiments in which all networks are alike, any claim is shown in about 5 % after Holm's correction."""
    shown = 0
    for i in range(30):
        rows = {(name, seed): planted(name, 1000 * i + seed, jitter=0.02) for name in NETWORKS for seed in range(5)}
        found = compared({"inside": list(rows.values()), "data 1/64": list(rows.values())})
        shown += bool((found["adjusted"] < 0.05).any())
    assert shown <= 5  # 99 % of binomial(30, 0.05)


def test_every_claim_names_readings_that_exist() -> None:
    assert all(test.reading in READINGS for _, own in CLAIMS.values() for test in own)
    assert all(any(test.role != "guard" for test in own) for _, own in CLAIMS.values())
