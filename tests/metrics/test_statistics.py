"""Intervals cover at their nominal rate, detect planted effects, and are deterministic for a seed."""

from __future__ import annotations

import numpy as np
import pytest
import sacrebleu
from scipy import stats

from rwkvgate.metrics.measures import bleu_of_sums, perplexity_of_sums
from rwkvgate.metrics.overlap import BLEU_COLUMNS, document_overlap
from rwkvgate.metrics.statistics import interval, paired_difference, seed_spread


@pytest.mark.parametrize("measure", ["mean", "perplexity"])
def test_covers_at_the_nominal_rate_without_an_effect(measure):
    rng = np.random.default_rng(1)
    repeats, n, covered = 250, 80, 0
    for repeat in range(repeats):
        shared = rng.gamma(4.0, 0.3, n)  # documents differ far more than arms do: why pairing matters
        tokens = rng.integers(20, 80, n)
        a, b = (shared + rng.normal(0, 0.2, n) for _ in range(2))
        if measure == "mean":
            result = paired_difference(a, b, resamples=600, seed=repeat)
        else:
            sides = [np.stack([x * tokens, tokens], axis=1) for x in (a, b)]
            result = paired_difference(*sides, perplexity_of_sums, resamples=600, seed=repeat)
        covered += result.low <= 0 <= result.high
    low, high = stats.binom.interval(0.999, repeats, 0.94)  # percentile intervals are a little short
    assert low <= covered <= high


def test_finds_a_planted_effect_only_because_it_pairs():
    rng = np.random.default_rng(2)
    shared = rng.normal(0, 5, 100)
    a, b = shared + 0.3 + rng.normal(0, 0.3, 100), shared + rng.normal(0, 0.3, 100)
    result = paired_difference(a, b, resamples=2000)
    assert result.separates and result.low < 0.3 < result.high and result.n == 100
    assert result.estimate == pytest.approx((a - b).mean())
    assert not paired_difference(a, rng.permutation(b), resamples=2000).separates


def test_agrees_with_scipy_and_is_deterministic():
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(2, 40))
    result = paired_difference(a, b, resamples=3000, seed=5)
    assert result == paired_difference(a, b, resamples=3000, seed=5)
    assert result != paired_difference(a, b, resamples=3000, seed=6)
    expected = stats.bootstrap((a - b,), np.mean, n_resamples=3000, rng=np.random.default_rng(5), method="percentile")
    assert (result.low, result.high) == pytest.approx(tuple(expected.confidence_interval), rel=1e-9)


def test_batching_changes_nothing(monkeypatch):
    values = np.random.default_rng(4).normal(size=(3, 50, 1))
    expected = interval(values, resamples=500)
    monkeypatch.setattr("rwkvgate.metrics.statistics.BATCH_CELLS", 700)
    assert interval(values, resamples=500) == pytest.approx(expected, rel=1e-12)


def test_bleu_resampled_from_counts_is_corpus_bleu_of_the_resampled_texts():
    references = [f"the {x} fox saw {y} dogs near the mill" for x in ("old", "red") for y in range(6)]
    predictions = [text.replace("near", "by") if i % 3 else text for i, text in enumerate(references)]
    counts = document_overlap(predictions, references)[list(BLEU_COLUMNS)].to_numpy()
    drawn = np.random.default_rng(0).integers(0, 12, 12)
    expected = sacrebleu.corpus_bleu([predictions[i] for i in drawn], [[references[i] for i in drawn]])
    assert float(bleu_of_sums(counts[drawn].sum(axis=0))) == pytest.approx(expected.score / 100)
    result = interval(counts, bleu_of_sums, resamples=500)
    assert result.low < result.estimate < result.high <= 1


def test_seeds_are_averaged_and_need_not_be_equally_many():
    rng = np.random.default_rng(5)
    a, b = rng.normal(1, 1, (3, 30, 1)), rng.normal(0, 1, (1, 30, 1))
    result = paired_difference(a, b, resamples=500)
    assert result.estimate == pytest.approx(a.mean() - b.mean())
    assert result == pytest.approx(paired_difference(a.mean(axis=0)[:, 0], b[0, :, 0], resamples=500))


def test_little_or_constant_data():
    assert interval([2.0, 2.0, 2.0], resamples=200)[:3] == (2, 2, 2)
    one = interval([2.0])
    assert one.estimate == 2 and np.isnan(one.low) and not one.separates
    assert np.isnan(interval([]).estimate) and interval([]).n == 0
    with pytest.raises(ValueError, match="3 documents and b has 2"):
        paired_difference([1, 2, 3], [1, 2])
    with pytest.raises(ValueError, match="4 dimensions"):
        interval(np.zeros((1, 1, 1, 1)))


def test_seed_spread():
    assert seed_spread([1.0, 3.0]) == pytest.approx((2, np.sqrt(2), 1, 3, 2))
    assert np.isnan(seed_spread([1.0]).deviation) and seed_spread([]).n == 0
