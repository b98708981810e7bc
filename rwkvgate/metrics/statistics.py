"""Uncertainty: intervals and tests over documents, paired between arms, and over training seeds.

Two kinds of noise are kept apart. Which documents happened to be in the test set: resampled here, the same
documents for both arms and for all their seeds (`paired_difference`), or their arms swapped (`permutation_p`).
Which seed a model was trained with: `seed_spread`, and Student's test on the seeds' differences (`seed_p`). A
difference is shown only if it stands against both, so the larger of the two p counts (an intersection-union
test, which rejects no more often than either), after Holm's correction over all that is decided together.

Every corpus measure here is a function of sums over documents (a mean, perplexity, BLEU), so a resample is a
vector of counts and all its sums are one matrix product. `scipy.stats.bootstrap` does the resampling and the
intervals; it is given document indices, and the statistic turns them into counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Floats = NDArray[np.float64]
Reduce = Callable[[Floats, int], Floats]
"""Sums over documents (..., columns) and the number of documents -> the corpus measure (...)."""

RESAMPLES = 10_000
BATCH_CELLS = 4_000_000


class Interval(NamedTuple):
    """An estimate with its confidence interval over `n` documents; bounds are nan where n < 2."""

    estimate: float
    low: float
    high: float
    n: int

    @property
    def separates(self) -> bool:
        """Whether the interval lies wholly on one side of zero; False where it is unknown."""
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


def permutation_p(
    a: ArrayLike, b: ArrayLike, reduce: Reduce = mean, *, resamples: int = RESAMPLES, seed: int = 0
) -> float:
    """Two-sided p of measure(a) - measure(b) when each document's two results may as well be swapped.

    Seeds are averaged first, document by document. The observed assignment counts as one of the permutations, so p
    is at least 1 / (resamples + 1), and the test keeps its level exactly.

    Args:
        a, b: as in `paired_difference`.

    Returns:
        p; nan without documents, or where the measure is not finite.

    Raises:
        ValueError: the two sides have different numbers of documents or a wrong number of dimensions.
    """
    left, right = (stacked(x).mean(axis=0) for x in (a, b))
    if left.shape[0] != right.shape[0]:
        raise ValueError(f"a has {left.shape[0]} documents and b has {right.shape[0]}; a pair needs both")
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
        signs = rng.integers(0, 2, size=(min(block, resamples - start), n)) * 2.0 - 1
        moved = signs @ difference
        found = reduce((total + moved) / 2, n) - reduce((total - moved) / 2, n)
        # Rounding must not make the observed assignment look rarer than itself.
        at_least += int((np.abs(found) >= abs(observed) * (1 - 1e-9)).sum())
    return at_least / (resamples + 1)


def seed_p(differences: Sequence[float]) -> float:
    """Student's two-sided p that paired seeds' differences have mean zero; nan below two seeds.

    Differences that are all equal have p 0, or 1 where they are zero.
    """
    values = np.asarray(differences, dtype=np.float64)
    if values.size < 2 or not np.isfinite(values).all():
        return np.nan
    if np.ptp(values) == 0:
        return 0.0 if values[0] else 1.0
    return float(stats.ttest_1samp(values, 0.0).pvalue)


def holm(p: Sequence[float]) -> list[float]:
    """p values after Holm's correction for as many tests as are given; nan stays nan and is not counted."""
    values = np.asarray(p, dtype=np.float64)
    known = np.flatnonzero(np.isfinite(values))
    adjusted, largest = np.full(values.shape, np.nan), 0.0
    for place, index in enumerate(known[np.argsort(values[known], kind="stable")]):
        largest = max(largest, min(1.0, values[index] * (len(known) - place)))
        adjusted[index] = largest
    return [float(x) for x in adjusted]


def smallest_effect(error: float, degrees: float = np.inf, *, confidence: float = 0.95, power: float = 0.8) -> float:
    """The difference that a two-sided test with this standard error finds with this power (by Student's t).

    Args:
        error: standard error of the estimated difference.
        degrees: of freedom of that error; infinite for an error over documents.
    """
    return float((stats.t.ppf((1 + confidence) / 2, degrees) + stats.t.ppf(power, degrees)) * error)


def interval(
    values: ArrayLike,
    reduce: Reduce = mean,
    *,
    resamples: int = RESAMPLES,
    confidence: float = 0.95,
    seed: int = 0,
    method: Literal["percentile", "BCa"] = "percentile",
) -> Interval:
    """A corpus measure with its bootstrap interval over documents; several seeds are averaged.

    Args:
        values: (document,), (document, column) or (seed, document, column); not nan.
        reduce: from sums over documents to the measure; the mean of the only column by default.
        method: `percentile` is defined for constant data too; `BCa` corrects bias and skew where it can.

    Raises:
        ValueError: a wrong number of dimensions.
    """
    return _bootstrap([(stacked(values), 1.0)], reduce, resamples, confidence, seed, method)


def paired_difference(
    a: ArrayLike,
    b: ArrayLike,
    reduce: Reduce = mean,
    *,
    resamples: int = RESAMPLES,
    confidence: float = 0.95,
    seed: int = 0,
    method: Literal["percentile", "BCa"] = "percentile",
) -> Interval:
    """measure(a) - measure(b) with its bootstrap interval, resampling the same documents on both sides.

    Shapes as in `interval`; documents must correspond one to one, seeds need not be equally many: each side
    is the mean of its seeds' measures.

    Raises:
        ValueError: the two sides have different numbers of documents or a wrong number of dimensions.
    """
    left, right = stacked(a), stacked(b)
    if left.shape[1] != right.shape[1]:
        raise ValueError(f"a has {left.shape[1]} documents and b has {right.shape[1]}; a pair needs both")
    return _bootstrap([(left, 1.0), (right, -1.0)], reduce, resamples, confidence, seed, method)


def seed_spread(values: Sequence[float]) -> Spread:
    """How a measure spreads over training seeds; all nan where there are no values."""
    found = np.asarray(values, dtype=np.float64)
    if not found.size:
        return Spread(np.nan, np.nan, np.nan, np.nan, 0)
    deviation = float(found.std(ddof=1)) if found.size > 1 else np.nan
    return Spread(float(found.mean()), deviation, float(found.min()), float(found.max()), int(found.size))


def stacked(values: ArrayLike) -> Floats:
    """Values as (seed, document, column) float64.

    Raises:
        ValueError: not one to three dimensions.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim == 1:
        return array[None, :, None]
    if array.ndim == 2:
        return array[None]
    if array.ndim == 3:
        return array
    raise ValueError(f"values have {array.ndim} dimensions; give (document,), (document, column) or with seeds first")


def _bootstrap(
    sides: list[tuple[Floats, float]],
    reduce: Reduce,
    resamples: int,
    confidence: float,
    seed: int,
    method: str,
) -> Interval:
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
        confidence_level=confidence,
        method=method,
        rng=np.random.default_rng(seed),
    )
    bounds = result.confidence_interval
    return Interval(estimate, float(bounds.low), float(bounds.high), n)
