"""Uncertainty: intervals and tests over documents, paired between arms, and over training seeds.

Two kinds of noise are measured. The first is which documents are in the test set: `paired_difference` resamples the
same documents for both arms and for all their seeds, and `permutation_p` swaps the arms within documents. The second is
the seed a model was trained with: `seed_spread`, and `seed_p`, Student's test on the seeds' differences. Both together,
which is what a claim about a method needs, are in `retrained`.

Every corpus measure here is a function of sums over documents (a mean, perplexity, BLEU), so a resample is a vector of
counts and all its sums are one matrix product. `scipy.stats.bootstrap` does the resampling and the intervals; it is
given document indices, and the statistic turns them into counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats

Floats = NDArray[np.float64]
Reduce = Callable[[Floats, int], Floats]
"""Sums over documents (..., columns) and the number of documents -> the corpus measure (...)."""

RESAMPLES = 10_000
"""Resamples of a bootstrap, and permutations of a test."""
CONFIDENCE, POWER = 0.95, 0.8
BATCH_CELLS = 4_000_000
"""Resamples times documents of one batch, which bounds memory."""


class Interval(NamedTuple):
    """An estimate with its 95 % confidence interval over `n` documents; bounds are nan where n < 2."""

    estimate: float
    low: float
    high: float
    n: int

    @property
    def separates(self) -> bool:
        """Whether the whole interval lies on one side of zero; False where it is unknown."""
        return bool(self.low > 0 or self.high < 0)


class Spread(NamedTuple):
    """Values over training seeds: mean, sample standard deviation (nan below two seeds), extremes, count."""

    mean: float
    deviation: float
    lowest: float
    highest: float
    n: int


def mean(sums: Floats, n: int) -> Floats:
    """The mean over documents of the only column."""
    return sums[..., 0] / n


def interval(values: ArrayLike, reduce: Reduce = mean, *, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """A corpus measure with its percentile bootstrap interval over documents; several seeds are averaged.

    Args:
        values: (document,), (document, column) or (seed, document, column); not nan.
        reduce: from sums over documents to the measure; the mean of the only column by default.
        seed: of the resampling.

    Raises:
        ValueError: a wrong number of dimensions.

    Example:
        >>> result = interval([1.0, 2.0, 3.0, 4.0])
        >>> result.estimate, result.low, result.high, result.n
        (2.5, 1.5, 3.5, 4)
    """
    return _bootstrap([(_stacked(values), 1.0)], reduce, resamples, seed)


def paired_difference(
    a: ArrayLike, b: ArrayLike, reduce: Reduce = mean, *, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """measure(a) - measure(b) with its bootstrap interval, resampling the same documents on both sides.

    Shapes as in `interval`; documents must correspond one to one. The numbers of seeds may differ: each side is the
    mean of its seeds' measures.

    Raises:
        ValueError: the two sides have different numbers of documents or a wrong number of dimensions.

    Example:
        >>> result = paired_difference([5.0, 1.0, 9.0], [4.0, 0.0, 8.0])  # each document differs by 1
        >>> round(result.low, 6), round(result.high, 6), result.separates
        (1.0, 1.0, True)
    """
    left, right = paired_values(a, b)
    return _bootstrap([(left, 1.0), (right, -1.0)], reduce, resamples, seed)


def permutation_p(
    a: ArrayLike, b: ArrayLike, reduce: Reduce = mean, *, resamples: int = RESAMPLES, seed: int = 0
) -> float:
    """Two-sided p value of measure(a) - measure(b), if each document's two results were exchangeable.

    Seeds are averaged first, document by document. The observed assignment counts as one of the permutations, so p
    is at least 1 / (resamples + 1), and the test keeps its level exactly.

    Args:
        a, b: as in `paired_difference`.

    Returns:
        p; nan without documents, or where the measure is not finite.

    Raises:
        ValueError: the two sides have different numbers of documents or a wrong number of dimensions.

    Example:
        >>> permutation_p([1.0, 2.0], [1.0, 2.0])
        1.0
    """
    left, right = (side.mean(axis=0) for side in paired_values(a, b))  # (document, column)
    n = left.shape[0]
    if n == 0:
        return np.nan
    total, difference = (left + right).sum(axis=0), left - right
    rng = np.random.default_rng(seed)
    observed = float(reduce(left.sum(axis=0), n) - reduce(right.sum(axis=0), n))
    if not np.isfinite(observed):
        return np.nan
    at_least, block = 1, max(1, BATCH_CELLS // n)
    for start in range(0, resamples, block):
        signs = rng.integers(0, 2, size=(min(block, resamples - start), n)) * 2.0 - 1  # (permutation, document)
        moved = signs @ difference  # (permutation, column)
        permuted = reduce((total + moved) / 2, n) - reduce((total - moved) / 2, n)
        # Rounding must not make the observed assignment look rarer than itself.
        at_least += int((np.abs(permuted) >= abs(observed) * (1 - 1e-9)).sum())
    return at_least / (resamples + 1)


def seed_p(differences: Sequence[float]) -> float:
    """Student's two-sided p value that paired seeds' differences have mean zero; nan below two seeds.

    Differences that are all equal have p 0, or 1 where they are zero.

    Example:
        >>> round(seed_p([0.1, 0.2, 0.3]), 4)
        0.0742
    """
    values = np.asarray(differences, dtype=np.float64)
    if values.size < 2 or not np.isfinite(values).all():
        return np.nan
    if np.ptp(values) == 0:
        return 0.0 if values[0] else 1.0
    return float(stats.ttest_1samp(values, 0.0).pvalue)


def seed_spread(values: Sequence[float]) -> Spread:
    """How a measure spreads over training seeds; all nan where there are no values.

    Example:
        >>> seed_spread([1.0, 3.0, 5.0])
        Spread(mean=3.0, deviation=2.0, lowest=1.0, highest=5.0, n=3)
    """
    array = np.asarray(values, dtype=np.float64)
    if not array.size:
        return Spread(np.nan, np.nan, np.nan, np.nan, 0)
    deviation = float(array.std(ddof=1)) if array.size > 1 else np.nan
    return Spread(float(array.mean()), deviation, float(array.min()), float(array.max()), int(array.size))


def holm(p: Sequence[float]) -> list[float]:
    """p values after Holm's correction for as many tests as are given; nan stays nan and is not counted.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    values = np.asarray(p, dtype=np.float64)
    known = np.flatnonzero(np.isfinite(values))
    adjusted, largest = np.full(values.shape, np.nan), 0.0
    for place, index in enumerate(known[np.argsort(values[known], kind="stable")]):
        largest = max(largest, min(1.0, values[index] * (len(known) - place)))
        adjusted[index] = largest
    return [float(x) for x in adjusted]


def minimum_detectable_effect(error: float, degrees: float = np.inf, tests: int = 1) -> float:
    """The difference that a two-sided test at 5 % with this standard error detects with 80 % power (noncentral t).

    Args:
        error: standard error of the estimated difference.
        degrees: degrees of freedom of that error; infinite for an error that is known.
        tests: how many are corrected for: the level is 5 % / tests, the first step of Holm's correction.

    Returns:
        The effect, in the error's units; nan where the error is.

    Example:
        >>> round(minimum_detectable_effect(1.0), 3)  # 1.960 + 0.842 standard errors
        2.802
    """
    return _detected(float(degrees), tests) * float(error) if np.isfinite(error) and degrees > 0 else np.nan


@cache
def _detected(degrees: float, tests: int) -> float:
    """The minimum detectable effect in standard errors."""
    level = (1 - CONFIDENCE) / tests
    if not np.isfinite(degrees):
        return float(stats.norm.isf(level / 2) + stats.norm.ppf(POWER))
    least = float(stats.t.isf(level / 2, degrees))
    return float(optimize.brentq(lambda effect: stats.nct.sf(least, degrees, effect) - POWER, 0.0, 4 * least + 10))


def _stacked(values: ArrayLike) -> Floats:
    """Values as (seed, document, column) float64."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim == 1:
        return array[None, :, None]
    if array.ndim == 2:
        return array[None]
    if array.ndim == 3:
        return array
    raise ValueError(f"values have {array.ndim} dimensions; give (document,), (document, column) or with seeds first")


def paired_values(a: ArrayLike, b: ArrayLike) -> tuple[Floats, Floats]:
    """Both sides as (seed, document, column) float64.

    Raises:
        ValueError: they differ in documents, or have a wrong number of dimensions.
    """
    left, right = _stacked(a), _stacked(b)
    if left.shape[1] != right.shape[1]:
        raise ValueError(f"a has {left.shape[1]} documents and b has {right.shape[1]}; a pair needs both")
    return left, right


def _bootstrap(sides: list[tuple[Floats, float]], reduce: Reduce, resamples: int, seed: int) -> Interval:
    """The signed sum over sides of each side's mean over seeds of `reduce`, bootstrapped over documents."""
    n = sides[0][0].shape[1]
    if n == 0:
        return Interval(np.nan, np.nan, np.nan, 0)

    def measure(counts: Floats, drawn: int) -> Floats:
        total = np.zeros(counts.shape[:-1])
        for values, sign in sides:
            seeds, _, columns = values.shape
            # (..., document) x (document, seed * column): every sum of every resample in one product.
            flat = values.transpose(1, 0, 2).reshape(n, seeds * columns)
            sums = (counts @ flat).reshape(*counts.shape[:-1], seeds, columns)
            total = total + sign * reduce(sums, drawn).mean(axis=-1)
        return total

    def statistic(documents: NDArray[np.int64], axis: int = -1) -> Floats:
        rows = np.moveaxis(documents, axis, -1)
        drawn = rows.shape[-1]
        flat = rows.reshape(-1, drawn).astype(np.int64)
        offsets = np.arange(flat.shape[0])[:, None] * n
        counts = np.bincount((flat + offsets).ravel(), minlength=flat.shape[0] * n)
        return measure(counts.reshape(*rows.shape[:-1], n).astype(np.float64), drawn)

    estimate = float(measure(np.ones(n), n))
    if n == 1 or not np.isfinite(estimate):
        return Interval(estimate, np.nan, np.nan, n)
    result: Any = stats.bootstrap(
        (np.arange(n),),
        statistic,
        n_resamples=resamples,
        batch=max(1, BATCH_CELLS // n),
        vectorized=True,
        confidence_level=CONFIDENCE,
        method="percentile",  # defined for constant data too
        rng=np.random.default_rng(seed),
    )
    bounds = result.confidence_interval
    return Interval(estimate, float(bounds.low), float(bounds.high), n)
