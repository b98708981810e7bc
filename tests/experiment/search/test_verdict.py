"""Verdicts on trials made up for the purpose: what is planted is found, and nothing else is."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from rwkvgate.experiment.search.candidates import CANDIDATES, MATCHED_CONTROLS
from rwkvgate.experiment.search.page import outcome
from rwkvgate.experiment.search.trials import Trial
from rwkvgate.experiment.search.verdict import best_rates, compared, trial_frame
from rwkvgate.metrics.statistics import minimum_detectable_effect


def trial(candidate: str, seed: int, loss: float, rate: float = 1e-3, noise: float = 0.0, n: int = 40) -> Trial:
    """A trial whose documents have losses around one number, the same documents' difficulty in all."""
    rng = np.random.default_rng(seed)
    difficulty = np.random.default_rng(0).normal(0, 0.3, n)
    test = loss + difficulty + rng.normal(0, noise)
    return Trial("made up", candidate, rate, seed, validation=loss, test=test.tolist(), weights=[10] * n)


def test_the_rate_is_chosen_by_validation_and_the_ranking_is_at_it() -> None:
    trials = [trial("a", 0, loss, rate) for loss, rate in ((2.0, 1e-3), (1.8, 2e-3), (1.9, 4e-3))]
    trials += [trial("b", 0, loss, rate) for loss, rate in ((1.7, 1e-3), (np.inf, 2e-3))]
    rates = best_rates(trials)
    assert rates == {"a": 2e-3, "b": 1e-3} and list(rates) == ["b", "a"]


def test_a_planted_winner_and_loser_are_found_and_a_twin_is_not() -> None:
    losses = {"base-tuned": 2.0, "lora-tuned": 2.0, "winner": 1.9, "loser": 2.1, "twin": 2.0}
    trials = [
        trial(name, seed, loss + 0.004 * np.sin(7 * seed + len(name)), noise=0.0)
        for name, loss in losses.items()
        for seed in range(5)
    ]
    table = compared(trials).set_index(["candidate", "control"])
    for control in MATCHED_CONTROLS:
        assert table.loc[("winner", control), "reading"] == "better"
        assert table.loc[("loser", control), "reading"] == "worse"
        assert table.loc[("twin", control), "reading"] == "no difference shown"
    said = outcome(table.reset_index())
    assert "on 5 fresh seeds: winner." in said and said.endswith("Worse than both: loser.")
    row = table.loc[("winner", "base-tuned")]
    assert row["difference"] == pytest.approx(-0.1, abs=0.01) and row["low"] < row["difference"] < row["high"] < 0
    assert row["p"] <= row["p (Holm)"]
    error = (row["high"] - row["low"]) / 2 / stats.t.isf(0.025, 4)
    assert row["smallest"] == pytest.approx(minimum_detectable_effect(error, 4, tests=3))


def test_no_effect_is_called_one_at_the_nominal_rate() -> None:
    rng, found = np.random.default_rng(5), 0
    for _ in range(300):
        trials = [
            Trial("t", name, 1e-3, seed, 0.0, [float(rng.normal(2, 0.02))], [1])
            for name in ("base-tuned", "same")
            for seed in range(5)
        ]
        found += compared(trials)["p"].iloc[0] < 0.05
    assert 4 <= found <= 28  # binomial(300, 0.05): 15, and 3.3 standard deviations around it


def test_a_failed_training_is_said_and_not_averaged_in() -> None:
    trials = [trial(name, seed, 2.0) for name in ("base-tuned", "fine", "broken") for seed in range(3)]
    trials[-1] = Trial("made up", "broken", 1e-3, 2, float("inf"), [float("inf")], [1])
    table = compared(trials).set_index("candidate")
    assert table.loc["broken", "reading"] == "training failed" and np.isnan(table.loc["broken", "difference"])
    assert table.loc["fine", "reading"] == "no difference shown"


def test_the_table_has_every_trial() -> None:
    trials = [trial("a", seed, 2.0, rate) for seed in range(2) for rate in (1e-3, 2e-3)]
    assert len(trial_frame(trials, "screening")) == 4


def test_every_trained_arm_is_a_candidate_and_names_are_unique() -> None:
    from rwkvgate.experiment.arms import ARMS

    assert {name for name, arm in ARMS.items() if arm.trained} <= set(CANDIDATES)
    assert all(candidate.gate is not None for name, candidate in CANDIDATES.items() if name not in MATCHED_CONTROLS)
