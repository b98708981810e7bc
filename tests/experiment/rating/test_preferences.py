"""The analysis of judgements: planted preferences, coins, separation, agreement, power."""

from __future__ import annotations

import doctest
import math

import numpy as np
import pandas as pd
import pytest

from rwkvgate.experiment.rating import preferences as module
from rwkvgate.experiment.rating.preferences import agreement, describe, judgements_needed, preferences, share_of_a
from tests.experiment.rating.coverage import planted

FAST = {"resamples": 1000}
UNLUCKY = 0.85
"""Least share of sixty 95 % intervals that hold the truth; fewer do by chance less than once in a thousand times."""


def test_a_planted_preference_of_seventy_per_cent_is_recovered() -> None:
    row = preferences(planted({"x": math.log(7 / 3), "y": 0.0}), "y", **FAST).iloc[0]
    assert 0.6 < row["preferred"] < 0.8
    assert 0.5 < row["preferred_low"] < 0.7 < row["preferred_high"] and row["low"] > 0
    assert not row["separated"] and row["wins"] + row["losses"] == 150


@pytest.mark.parametrize("ties", [0.0, 0.4])
def test_a_coin_gives_an_interval_on_zero(ties: float) -> None:
    coins = [planted({"x": 0.0, "y": 0.0}, 60, ties=ties, seed=seed) for seed in range(60)]
    rows = [preferences(coin, "y", resamples=400).iloc[0] for coin in coins]
    assert np.mean([row["low"] <= 0 <= row["high"] for row in rows]) >= UNLUCKY


def test_intervals_cover_what_was_planted() -> None:
    truth = {"x": math.log(7 / 3), "y": 0.0, "z": -0.7}
    tables = [preferences(planted(truth, 180, seed=seed), "y", resamples=400).set_index("arm") for seed in range(60)]
    for arm in ("x", "z"):
        covered = [table.loc[arm, "low"] <= truth[arm] <= table.loc[arm, "high"] for table in tables]
        assert np.mean(covered) >= UNLUCKY


def test_two_arms_have_the_log_odds_with_half_a_win_on_both_sides() -> None:
    frame = planted({"x": 1.0, "y": 0.0}, 40, ties=0.2)
    row = preferences(frame, "y", **FAST).iloc[0]
    won, lost = row["wins"] + row["ties"] / 2 + 0.5, row["losses"] + row["ties"] / 2 + 0.5
    assert row["log_odds"] == pytest.approx(math.log(won / lost), abs=1e-5)
    assert preferences(frame, "x", **FAST)["log_odds"].iloc[0] == pytest.approx(-row["log_odds"], abs=1e-5)


def test_the_fit_of_three_arms_solves_its_equations() -> None:
    wins = np.array([[0.0, 8.0, 5.0], [3.0, 0.0, 6.5], [2.0, 1.5, 0.0]])
    fitted = module._fit(wins)
    chance = 1 / (1 + np.exp(fitted[None, :] - fitted[:, None]))
    assert np.allclose(((wins + wins.T) * chance).sum(axis=1), wins.sum(axis=1), atol=1e-4)  # wins as expected


def test_an_arm_that_always_wins_stays_finite_and_is_said() -> None:
    frame = planted({"x": 99.0, "y": 0.0}, 20)
    row = preferences(frame, "y", **FAST).iloc[0]
    assert row["separated"] and math.isfinite(row["log_odds"]) and row["high"] == math.inf
    assert row["preferred_low"] == pytest.approx(0.025 ** (1 / 20))  # Clopper and Pearson's
    assert "go one way" in describe(frame, "y")
    assert preferences(frame, "x", **FAST)["low"].iloc[0] == -math.inf
    tied = frame.assign(answer=["tie", *frame["answer"][1:]])
    assert not preferences(tied, "y", **FAST)["separated"].iloc[0]


def test_raters_who_differ_widen_the_interval() -> None:
    frame = planted({"x": 0.0, "y": 0.0}, 60, raters=4)
    is_x = (frame["a"] == "x") == frame["rater"].isin(["scripted-0", "scripted-1"])
    frame["answer"] = np.where(is_x, "A", "B")  # two raters always prefer x, two always y
    both = preferences(frame, "y", **FAST).iloc[0]
    one = preferences(frame.assign(rater="scripted-0", document=range(len(frame))), "y", **FAST).iloc[0]
    assert both["high"] - both["low"] > 3 * (one["high"] - one["low"]) and both["raters"] == 4


def test_a_single_prompt_has_no_interval() -> None:
    row = preferences(planted({"x": 0.0, "y": 0.0}, 1, raters=9), "y", **FAST).iloc[0]
    assert math.isnan(row["low"]) and math.isfinite(row["log_odds"])


def test_what_cannot_be_analysed_is_refused() -> None:
    frame = planted({"x": 0.0, "y": 0.0}, 4)
    with pytest.raises(ValueError, match="baseline is 'w'; judged were x, y"):
        preferences(frame, "w")
    with pytest.raises(ValueError, match="there is no judgement"):
        preferences(frame[:0], "y")
    with pytest.raises(ValueError, match="people and scripted raters are mixed"):
        preferences(frame.assign(rater=["ann", *frame["rater"][1:]]), "y")
    with pytest.raises(ValueError, match="no chain of judgements connects the arms w, x, y, z"):
        preferences(pd.concat([frame, frame.assign(a="w", b="z")]), "w")


def test_krippendorffs_own_example() -> None:
    """Nominal data of four observers on twelve units with missing values, of the paper of 2011: alpha is 0.743."""
    observers = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
        [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
    ]
    rows = [(unit, value) for values in observers for unit, value in enumerate(values) if value is not None]
    assert agreement(pd.DataFrame(rows, columns=["pair", "answer"])) == pytest.approx(0.743, abs=5e-4)


def test_agreement_at_its_ends() -> None:
    frame = planted({"x": 0.0, "y": 0.0}, 500, raters=1)
    assert math.isnan(agreement(frame))
    assert agreement(pd.concat([frame, frame.assign(rater="scripted-1")])) == 1.0
    other = np.random.default_rng(5).permutation(frame["answer"])
    assert abs(agreement(pd.concat([frame, frame.assign(answer=other)]))) < 0.15


def test_the_pull_of_the_left_side() -> None:
    shares = [share_of_a(planted({"x": 0.0, "y": 0.0}, 100, seed=seed)) for seed in range(60)]
    assert np.mean([share.low < 0.5 < share.high for share in shares]) >= UNLUCKY
    frame = planted({"x": 0.0, "y": 0.0}, 200)
    assert share_of_a(frame.assign(answer=["A"] * 150 + ["B"] * 40 + ["tie"] * 10)).low > 0.5
    assert share_of_a(frame.assign(answer="tie")).n == 0


@pytest.mark.parametrize("share", [0.55, 0.6, 0.75, 0.9])
def test_the_number_of_judgements_has_the_power_by_simulation(share: float) -> None:
    needed, rng = judgements_needed(share), np.random.default_rng(0)
    wins = rng.binomial(needed, share, 20_000)
    values, which = np.unique(wins, return_inverse=True)
    p = np.array([module.stats.binomtest(int(value), needed).pvalue for value in values])[which]
    assert 0.79 <= (p <= 0.05).mean() <= 0.9
    with pytest.raises(ValueError, match=r"share is 0\.5; it must be"):
        judgements_needed(0.5)


def test_a_scripts_judgements_are_called_so_wherever_they_are_shown() -> None:
    frame = planted({"x": 0.5, "y": 0.0}, 30, raters=2)
    assert describe(frame, "y").startswith("By a script, no human evaluation: 60 judgements on 30 prompts by 2 raters.")
    assert set(preferences(frame, "y", **FAST)["by"]) == {"a script, no human evaluation"}
    people = frame.assign(rater=frame["rater"].str.replace("scripted-", "ann"))
    assert describe(people, "y").startswith("By people: ") and "Krippendorff" in describe(people, "y")


def test_the_examples_of_the_module() -> None:
    found = doctest.testmod(module)
    assert found.attempted and not found.failed
