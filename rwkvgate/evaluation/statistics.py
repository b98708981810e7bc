"""Uncertainty: bootstrap over documents, paired between arms, and the spread over training seeds.

Two kinds of noise are kept apart. Which documents happened to be in the test set: resampled here, the same
documents for both arms and for all their seeds. Which seed a model was trained with: `seed_spread`.

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
