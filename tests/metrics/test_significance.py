"""Tests reject at their nominal rate without an effect, and detect planted effects."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from rwkvgate.metrics.measures import perplexity_of_sums
from rwkvgate.metrics.statistics import holm, minimum_detectable_effect, permutation_p, seed_p


@pytest.mark.parametrize("measure", ["mean", "perplexity"])
def test_permutation_rejects_at_the_nominal_rate(measure: str) -> None:
    rng, repeats, n, rejected = np.random.default_rng(1), 400, 60, 0
    for repeat in range(repeats):
        shared, tokens = rng.gamma(4.0, 0.3, n), rng.integers(20, 80, n)
        a, b = (shared + rng.standard_t(3, n) * 0.2 for _ in range(2))
        if measure == "mean":
            p = permutation_p(a, b, resamples=499, seed=repeat)
        else:
            sides = [np.stack([x * tokens, tokens], axis=1) for x in (a, b)]
            p = permutation_p(*sides, perplexity_of_sums, resamples=499, seed=repeat)
        rejected += p < 0.05
    low, high = stats.binom.interval(0.999, repeats, 0.05)
    assert low <= rejected <= high


def test_permutation_detects_a_planted_effect_because_it_pairs() -> None:
    rng = np.random.default_rng(2)
    shared = rng.normal(0, 5, 100)
    a, b = shared + 0.3 + rng.normal(0, 0.3, 100), shared + rng.normal(0, 0.3, 100)
    assert permutation_p(a, b) < 0.001
    assert permutation_p(a, rng.permutation(b)) > 0.05  # unpaired, the documents' own spread hides it


def test_permutation_agrees_with_scipy_and_is_deterministic() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.normal(0.2, 1, 30), rng.normal(0, 1, 30)
    expected = stats.permutation_test(
        (a, b), lambda x, y: x.mean() - y.mean(), permutation_type="samples", rng=0
    ).pvalue
    assert permutation_p(a, b) == pytest.approx(expected, abs=0.02)
    assert permutation_p(a, b) == permutation_p(a, b) == permutation_p(b, a)


def test_permutation_of_little_or_equal_data() -> None:
    assert permutation_p([1.0, 2.0], [1.0, 2.0]) == 1.0
    assert permutation_p([1.0], [2.0]) == 1.0  # one document can always be swapped
    assert np.isnan(permutation_p([], [])) and np.isnan(permutation_p([np.nan], [1.0]))
    ones, zeros = np.ones((2, 30, 1)), np.zeros((3, 30, 1))  # two seeds against three
    assert permutation_p(ones, zeros, resamples=99) == 0.01
    with pytest.raises(ValueError, match="a has 2 documents and b has 3"):
        permutation_p([1.0, 2.0], [1.0, 2.0, 3.0])


def test_seeds_reject_at_the_nominal_rate() -> None:
    rng, repeats = np.random.default_rng(4), 1000
    for n in (2, 3, 5):
        rejected = sum(seed_p(rng.normal(0, 1, n)) < 0.05 for _ in range(repeats))
        low, high = stats.binom.interval(0.999, repeats, 0.05)
        assert low <= rejected <= high


def test_seeds_without_information() -> None:
    assert np.isnan(seed_p([0.3])) and np.isnan(seed_p([0.3, np.nan]))
    assert seed_p([0.2, 0.2]) == 0.0 and seed_p([0.0, 0.0]) == 1.0


def test_holm_is_the_textbooks() -> None:
    # Holm 1979: sorted p times 4, 3, 2, 1, never falling.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []
    with_unknown = holm([0.01, np.nan, 0.02])
    assert with_unknown[0] == 0.02 and np.isnan(with_unknown[1]) and with_unknown[2] == 0.02


def test_holm_keeps_the_family_error() -> None:
    rng, repeats = np.random.default_rng(5), 1000
    wrong = sum(min(holm(rng.uniform(size=12))) < 0.05 for _ in range(repeats))
    low, high = stats.binom.interval(0.999, repeats, 0.05)
    assert low <= wrong <= high


def test_the_minimum_detectable_effect_is_detected_with_its_nominal_power() -> None:
    # 1.960 + 0.842 standard errors; one degree of freedom and twelve tests: 153 x 1.28, the 80 % quantile of |chi|.
    assert minimum_detectable_effect(1.0) == pytest.approx(2.8016, abs=1e-3)
    assert minimum_detectable_effect(1.0, 1, tests=12) == pytest.approx(195.8, abs=0.1)
    assert np.isnan(minimum_detectable_effect(np.nan)) and np.isnan(minimum_detectable_effect(1.0, 0))
    rng, repeats, n = np.random.default_rng(6), 600, 200
    effect = minimum_detectable_effect(1 / np.sqrt(n))
    detected = sum(stats.ttest_1samp(rng.normal(effect, 1, n), 0).pvalue < 0.05 for _ in range(repeats))
    low, high = stats.binom.interval(0.999, repeats, 0.8)
    assert low <= detected <= high


@pytest.mark.parametrize(("seeds", "tests"), [(3, 1), (5, 1), (5, 12), (10, 12)])
def test_it_is_detected_with_few_seeds_after_a_correction_too(seeds: int, tests: int) -> None:
    rng, repeats = np.random.default_rng(7), 2000
    effect = minimum_detectable_effect(1 / np.sqrt(seeds), seeds - 1, tests)
    p = stats.ttest_1samp(rng.normal(effect, 1, (repeats, seeds)), 0, axis=1).pvalue
    low, high = stats.binom.interval(0.999, repeats, 0.8)
    assert low <= (p < 0.05 / tests).sum() <= high
