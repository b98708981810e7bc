"""The gap at equal compute, fitted over size and time, on planted losses; and the figures of the study's page."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from rwkvgate.experiment.study.analysis import comparisons
from rwkvgate.experiment.study.figures import controls_figure, gap_figure, losses_figure, recall_figure
from rwkvgate.experiment.study.gap import early_and_late, fit_table, fits, places_table, seed_gaps
from rwkvgate.experiment.study.trials import Trial
from tests.experiment.study.planted import pretrained

NETWORKS = ("base", "base-wide", "enhanced", "no-layer-norm", "fixed-gate", "conv-no-position")
SECONDS = {size: dict.fromkeys(NETWORKS, 1.0) for size in ("32x4", "64x4")}


def grown(trials: list[Trial], time: float, at_once: float = 0.0) -> list[Trial]:
    """Trials whose enhanced network loses so much more with each doubling of its steps, and so much at 600 steps."""
    return [
        replace(
            one,
            flops=next(t.flops for t in trials if t.plan.network == "base" and t.plan.size == one.plan.size),
            test={b: [x + at_once + time * np.log2(b / 600) for x in losses] for b, losses in one.test.items()},
        )
        if one.plan.network == "enhanced"
        else one
        for one in trials
    ]


def test_a_gate_that_helps_early_and_loses_late_is_found() -> None:
    trials = grown(pretrained("primary 64x4"), 0.03, at_once=0.02)
    gaps = seed_gaps(trials, SECONDS)
    assert set(gaps["of"]) == {"FLOPs", "seconds"} and len(gaps) == 2 * 10 * 3
    found = fits(gaps)
    for fit in found:
        slope, low, high = fit.weighed((0, 1, 0))
        assert low <= high and slope == pytest.approx(0.03, abs=0.002)
        assert fit.weighed((0, 0, 1)) == (0.0, 0.0, 0.0) and not fit.sizes and fit.seeds == 10
        assert "helps early and loses late" in early_and_late(fit, gaps)
    assert "one size" in fit_table(found)


def test_two_sizes_give_a_term_for_parameters_and_no_times_no_fit_of_seconds() -> None:
    small = grown(pretrained("primary 32x4"), 0.0, at_once=-0.05)
    large = grown(pretrained("primary 64x4"), 0.0, at_once=0.05)
    gaps = seed_gaps(small + large, {})
    (fit,) = fits(gaps)
    assert fit.of == "FLOPs" and fit.sizes
    _, low, high = fit.weighed((0, 0, 1))
    assert 0 < low <= high  # larger networks lose more
    assert fit.at(1e6)[0] == pytest.approx(0.05, abs=0.003) and fit.at(1e6, gaps["octaves"].min())[0] == pytest.approx(
        -0.05, abs=0.003
    )
    assert "helps throughout" not in early_and_late(fit, seed_gaps(large, {})) and fits(seed_gaps(small[:6], {})) == []


def test_with_the_same_sizes_in_every_seed_the_interval_is_students_of_their_own_fits() -> None:
    gaps = seed_gaps(grown(pretrained("primary 64x4"), 0.01), {})
    (fit,) = fits(gaps)
    slopes = [
        np.polyfit(np.log2(own["tokens"].astype(float) / 1e6), own["gap"].astype(float), 1)[0]
        for _, own in gaps.groupby("seed")
    ]
    wanted = stats.ttest_1samp(slopes, 0.0).confidence_interval(0.95)
    assert fit.weighed((0, 1, 0)) == pytest.approx((np.mean(slopes), wanted.low, wanted.high), abs=1e-9)


def test_without_an_effect_intervals_of_seeds_cover_zero_about_as_often_as_they_should() -> None:
    rng, covered = np.random.default_rng(3), 0
    gaps = seed_gaps(grown(pretrained("primary 64x4"), 0.0), {})
    for _ in range(60):
        effects = dict(zip(gaps["seed"].unique(), rng.normal(0, 0.01, gaps["seed"].nunique()), strict=True))
        (fit,) = fits(gaps.assign(gap=gaps["seed"].map(effects) + rng.normal(0, 0.002, len(gaps))))
        _, low, high = fit.at(1e6)
        covered += low <= 0 <= high
    assert 51 <= covered <= 60  # 99.8 % of binomial(60, 0.95)


def test_figures_are_drawn_from_what_there_is(tmp_path: Path) -> None:
    trials = pretrained("primary 64x4", {"enhanced": 1.2})
    gaps, compared = seed_gaps(trials, SECONDS), comparisons(trials, SECONDS, 0.01)
    captions = gap_figure(tmp_path, gaps, fits(gaps))
    captions |= losses_figure(tmp_path, trials, "64x4", SECONDS["64x4"], "nats per token")
    captions |= controls_figure(tmp_path, compared, "64x4", "books", "nats per token")
    assert list(captions) == ["gap-fitted", "compute-64x4", "gap-books-64x4"]
    assert all((tmp_path / f"{name}.{suffix}").stat().st_size > 5000 for name in captions for suffix in ("svg", "png"))
    assert losses_figure(tmp_path, trials[:1], "64x4", {}, "") == {} == gap_figure(tmp_path, gaps, [])
    assert controls_figure(tmp_path, compared, "32x4", "books", "") == {}


def test_what_is_recalled_is_drawn_for_every_network_and_task(tmp_path: Path) -> None:
    rows = [
        (network, seed, 1600, task, times, 0.9 - 0.1 * seed)
        for network in ("base", "enhanced")
        for seed in range(2)
        for task in ("recall", "copying", "induction", "passkey")
        for times in ("1", "2", "4", "8")
    ]
    shares = pd.DataFrame(rows, columns=["network", "seed", "budget", "task", "times", "share"])
    assert recall_figure(tmp_path, shares) == {"memory-recall": "Share recalled by length"}
    drawn = (tmp_path / "memory-recall.svg").read_text(encoding="utf-8")
    assert all(f"<!-- {name} -->" in drawn for name in ("base", "enhanced", "copying", "passkey", "x8"))


def test_more_seeds_of_one_size_give_it_no_more_weight() -> None:
    """The fitted line is one of the means of each size and length, and the interval that of the size with fewest."""
    rng = np.random.default_rng(0)
    few = [("FLOPs", "64x4", 0.0, seed, 1e6 * 2**x, 0.01 * x) for seed in range(5) for x in range(3)]
    more = [("FLOPs", "32x4", -1.0, s, 1e6 * 2**x, 0.1 + rng.normal(0, 0.01)) for s in range(40) for x in range(3)]
    columns = ["of", "size", "octaves", "seed", "tokens", "gap"]
    gaps = pd.DataFrame(few + more, columns=columns)
    means = gaps.groupby(["of", "size", "octaves", "tokens"])["gap"].mean().reset_index()
    (fit,), (alone,) = fits(gaps), fits(pd.concat([means.assign(seed=0), means.assign(seed=1)]))
    assert fit.coefficients == pytest.approx(alone.coefficients) and (fit.seeds, fit.fewest) == (40, 5)
    assert "| 5 to 40 |" in fit_table([fit])
    rows = places_table([fit], gaps).splitlines()[4:]
    assert len(rows) == 6 and rows[2].startswith("| 64x4 | 4 | 5 | +0.0200 | ")
