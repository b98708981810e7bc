"""Differences over seeds and documents together cover, and hold their level, whichever of the two is noisier."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from rwkvgate.metrics.measures import perplexity_of_sums
from rwkvgate.metrics.retrained import UNKNOWN, Difference, retrained_difference, seeds_needed


def planted(rng: Any, seeds: int, spread: float, effect: float = 0.0, n: int = 60) -> tuple[Any, Any]:
    """Two arms whose seeds spread by so many standard errors of the documents, (seed, document, 1) each."""
    shared, own = rng.gamma(4.0, 0.5, n), rng.normal(0, 0.3, n)
    a, b = (shared + rng.normal(0, 0.3, (seeds, n)) for _ in range(2))
    moved = rng.normal(0, spread * 0.3 / np.sqrt(n), (seeds, 1))
    return (a + own + moved + effect)[..., None], b[..., None]


@pytest.mark.parametrize(("seeds", "spread"), [(2, 2.0), (3, 0.0), (3, 2.0), (5, 1.0), (10, 2.0)])
def test_covers_and_holds_its_level(seeds: int, spread: float) -> None:
    rng, repeats, effect = np.random.default_rng(1), 800, 0.2
    covered = shown = 0
    for _ in range(repeats):
        found = retrained_difference(*planted(rng, seeds, spread, effect))
        low, high = found.interval()
        covered += low <= effect <= high
        shown += found._replace(estimate=found.estimate - effect).p < 0.05
    assert covered + shown == repeats  # p is the interval's own
    assert covered >= stats.binom.ppf(0.001, repeats, 0.95)


def test_either_error_alone_is_the_textbooks() -> None:
    by_seed = np.array([0.3, 0.1, 0.4, 0.2])
    found = retrained_difference(np.tile(by_seed[:, None, None], (1, 9, 1)), np.zeros(9))
    expected = stats.ttest_1samp(by_seed, 0.0)
    assert found.interval() == pytest.approx(tuple(expected.confidence_interval()))
    assert found.p == pytest.approx(expected.pvalue) and found.shared_error == pytest.approx(0, abs=1e-12)
    by_document = np.random.default_rng(2).normal(0.5, 1, 40)
    alike = retrained_difference(np.tile(by_document[None, :, None], (3, 1, 1)), np.zeros(40))
    expected = stats.ttest_1samp(by_document, 0.0)
    assert alike.interval() == pytest.approx(tuple(expected.confidence_interval())) and alike.deviation == 0
    assert alike.p == pytest.approx(expected.pvalue)
    assert alike.bounds == pytest.approx(tuple(expected.confidence_interval(0.9)))


def test_a_ratio_of_sums_has_the_bootstraps_error() -> None:
    rng, n = np.random.default_rng(3), 200
    tokens = rng.integers(20, 80, n)
    a, b = (np.stack([tokens * rng.gamma(4.0, 0.3, n), tokens], axis=1) for _ in range(2))
    found = retrained_difference(a, b, perplexity_of_sums)
    counts = rng.multinomial(n, np.full(n, 1 / n), 4000)
    bootstrap = perplexity_of_sums(counts @ a, n) - perplexity_of_sums(counts @ b, n)
    assert found.document_error == found.shared_error == pytest.approx(bootstrap.std(), rel=0.1)
    assert found.seeds == 1 and np.isnan(found.interval()).all() and np.isnan(found.p)


def test_a_side_with_one_seed_stands_against_all() -> None:
    a, b = np.random.default_rng(4).normal(size=(2, 3, 20, 1))
    found = retrained_difference(a, b[:1])
    assert found.seeds == 3 and found.estimate == pytest.approx(a.mean() - b[0].mean())
    assert found.deviation == pytest.approx(a.mean(axis=(1, 2)).std(ddof=1))
    with pytest.raises(ValueError, match="a has 3 seeds and b has 2"):
        retrained_difference(a, b[:2])
    with pytest.raises(ValueError, match="a has 20 documents and b has 19"):
        retrained_difference(a, b[:, :19])


def test_no_shorter_than_the_same_networks_on_other_documents() -> None:
    opposed = np.random.default_rng(8).normal(size=(1, 50, 1)) * np.array([1.0, -0.8])[:, None, None]
    a = opposed - opposed.mean(axis=1, keepdims=True)  # seeds that agree in the mean, and on no document
    found = retrained_difference(a, np.zeros(50))
    assert found.shared_error == 0 and found.deviation == pytest.approx(0, abs=1e-12)
    assert found.interval()[1] == pytest.approx(stats.ttest_1samp(a.mean(axis=0)[:, 0], 0).confidence_interval().high)


def test_little_or_equal_data() -> None:
    same = np.ones((3, 8, 1))
    assert retrained_difference(same, same).p == 1 and retrained_difference(same, 0 * same).p == 0
    one = retrained_difference(same[:, :1], same[:, :1])
    assert one.estimate == 0 and np.isnan(one.interval()).all() and not one.equivalent(1)
    assert retrained_difference([], []) == pytest.approx(UNKNOWN, nan_ok=True)
    assert 0 < Difference(1.0, 1e-9, 1e-9, 1e-9, 20, 300).p < 1e-100


@pytest.mark.parametrize("shift", [0.0, 0.2])
def test_equivalence_is_claimed_at_its_nominal_rate(shift: float) -> None:
    rng, repeats, margin = np.random.default_rng(5), 800, 0.2
    claimed = sum(retrained_difference(*planted(rng, 5, 1.0, shift)).equivalent(margin) for _ in range(repeats))
    if shift:  # as different as the margin
        assert claimed <= stats.binom.ppf(0.999, repeats, 0.05)
    else:
        assert claimed > 0.8 * repeats


def test_the_effect_and_the_seeds_have_their_power() -> None:
    rng, repeats, n, seeds = np.random.default_rng(6), 400, 60, 6
    wide = [retrained_difference(*planted(rng, seeds, 2.0)) for _ in range(200)]
    # The errors of an average experiment.
    typical = Difference(0.0, *(float(np.sqrt(np.mean([x[i] ** 2 for x in wide]))) for i in (1, 2, 3)), seeds, n)
    effect = typical.detectable()
    found = sum(retrained_difference(*planted(rng, seeds, 2.0, effect)).p < 0.05 for _ in range(repeats))
    assert 0.77 * repeats < found < 0.9 * repeats  # the two effects as sides of a triangle: a little on the safe side
    needed = seeds_needed(typical.deviation, effect, shared_error=typical.shared_error, documents=n)
    assert needed == seeds
    assert seeds_needed(1e-6, 1.0) == 2 and seeds_needed(100.0, 0.1) > 1e6
    with pytest.raises(ValueError, match="deviation is nan; it must be a finite number above zero"):
        seeds_needed(np.nan, 0.1)


def test_a_huge_difference_of_four_seeds_and_texts_has_its_p() -> None:
    found = Difference(5.0, 1e-6, 0.0, 0.0, 4, 4)
    assert found.p == pytest.approx(2 * stats.t.sf(1e7, 3), rel=1e-6)
