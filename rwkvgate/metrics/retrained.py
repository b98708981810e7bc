"""A difference between two networks as it would be if both were trained again and read other documents.

The difference of seed s on document j is taken as d + S_s + D_j + E_sj: what a training seed does to it, what a
document does, and what the two do together (crossed random effects). The estimate, the mean over seeds, has two errors:

- over seeds, the seeds' standard deviation / sqrt(seeds), with seeds - 1 degrees of freedom; it holds S and E;
- over documents, from the covariance of two seeds' differences over documents, which holds D alone. Corpus measures are
  functions of sums, so a document's share is its jackknife pseudo-value.

The interval adds the two half-widths, each by Student's t, as the sides of a right triangle (Howe 1974, JASA 69:789);
it is never shorter than that of the same networks on other documents, which holds D and E. One variance with
Satterthwaite's degrees of freedom is shorter, and covers too little with few seeds; the two tests of either noise
alone, of which the weaker counts, reject too often with many. `benchmarks/intervals.py` simulates this.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, stats

from rwkvgate.metrics.statistics import CONFIDENCE, Floats, Reduce, mean, minimum_detectable_effect, paired_values


class Difference(NamedTuple):
    """An estimated difference with its errors.

    Attributes:
        estimate: the mean over seeds.
        deviation: standard deviation over the seeds; nan below two.
        shared_error: standard error that other documents bring to every seed alike; nan below two documents.
        document_error: standard error of these very networks on other documents; nan below two documents.
        seeds: how many, paired.
        n: documents.
    """

    estimate: float
    deviation: float
    shared_error: float
    document_error: float
    seeds: int
    n: int

    def interval(self, confidence: float = CONFIDENCE) -> tuple[float, float]:
        """The interval for networks trained again on other documents; nan below two seeds.

        Example:
            >>> low, high = Difference(1.0, 0.2, 0.0, 0.0, 4, 100).interval()  # no error over documents: Student's
            >>> round(low, 3), round(high, 3)
            (0.682, 1.318)
        """
        half = self._half(1 - confidence)
        return self.estimate - half, self.estimate + half

    @property
    def p(self) -> float:
        """The two-sided p value of no difference: the level at which the interval ends at zero; nan below two seeds."""
        if not np.isfinite(self._half(0.5)):
            return np.nan
        size = abs(self.estimate)
        if size == 0 or self._half(0.5) == 0:
            return float(size == 0)
        least = -400.0  # log of the smallest p: further out Student's quantile at 3 degrees of freedom overflows
        if self._half(math.exp(least)) <= size:
            return math.exp(least)
        return math.exp(optimize.brentq(lambda level: self._half(math.exp(level)) - size, least, 0.0))

    @property
    def bounds(self) -> tuple[float, float]:
        """One-sided 95 % bounds, the 90 % interval: shown not to be below the first, and not above the second.

        The first is the bound of noninferiority where higher is better.
        """
        return self.interval(2 * CONFIDENCE - 1)

    def equivalent(self, margin: float) -> bool:
        """Whether it is shown to be less than `margin` either way: two one-sided tests at 5 %. False where unknown.

        Example:
            >>> found = Difference(0.001, 0.004, 0.001, 0.001, 10, 300)
            >>> found.equivalent(0.01), found.equivalent(0.002)
            (True, False)
        """
        low, high = self.bounds
        return -margin < low and high < margin

    def detectable(self, tests: int = 1) -> float:
        """The minimum detectable effect of as many seeds and documents, as noisy: found with 80 % power.

        Args:
            tests: how many are corrected for, by the first step of Holm's correction.
        """
        over_seeds = minimum_detectable_effect(self.seed_error, self.seeds - 1, tests)
        shared, alone = (
            minimum_detectable_effect(error, self.n - 1, tests) for error in (self.shared_error, self.document_error)
        )
        return float(np.maximum(math.hypot(over_seeds, shared), alone))

    @property
    def seed_error(self) -> float:
        """The standard error that other seeds bring; nan below two."""
        return self.deviation / math.sqrt(self.seeds) if self.seeds > 1 else np.nan

    def _half(self, level: float) -> float:
        if self.seeds < 2 or self.n < 2:
            return np.nan
        over_seeds, over_documents = (stats.t.isf(level / 2, count - 1) for count in (self.seeds, self.n))
        both = math.hypot(over_seeds * self.seed_error, over_documents * self.shared_error)
        return float(np.maximum(both, over_documents * self.document_error))


UNKNOWN = Difference(np.nan, np.nan, np.nan, np.nan, 0, 0)


def retrained_difference(a: ArrayLike, b: ArrayLike, reduce: Reduce = mean) -> Difference:
    """measure(a) - measure(b) with its errors over paired training seeds and over documents.

    Args:
        a, b: (seed, document, column) or, for one seed, (document, column) or (document,). Seeds and documents
            correspond one to one; a side with one seed, an untrained network, stands against every seed of the other.
        reduce: from sums over documents to the measure; the mean of the only column by default.

    Raises:
        ValueError: the sides differ in documents, or in seeds where both have several.

    Example:
        >>> a = np.array([[[1.0], [2.0]], [[1.2], [2.4]]])  # two seeds, two documents
        >>> found = retrained_difference(a, [0.0, 0.0])
        >>> round(found.estimate, 3), round(found.deviation, 3), found.seeds, found.n
        (1.65, 0.212, 2, 2)
    """
    left, right = paired_values(a, b)
    if len(left) != len(right) and 1 not in (len(left), len(right)):
        raise ValueError(f"a has {len(left)} seeds and b has {len(right)}; a pair needs both, or one seed on a side")
    n = left.shape[1]
    if not (left.size and right.size):
        return UNKNOWN
    with np.errstate(divide="ignore", invalid="ignore"):
        (wholes, parts), (others, other_parts) = (_pseudo_values(side, reduce) for side in (left, right))
        differences, shares = wholes - others, parts - other_parts  # (seed,), (seed, document)
        deviation = float(differences.std(ddof=1)) if len(differences) > 1 else np.nan
        return Difference(float(differences.mean()), deviation, *_document_errors(shares), len(differences), n)


def _document_errors(shares: Floats) -> tuple[float, float]:
    """The `shared_error` and the `document_error` of pseudo-values (seed, document)."""
    seeds, n = shares.shape
    if n < 2:
        return np.nan, np.nan
    apart = shares - shares.mean(axis=1, keepdims=True)
    alone, own = (apart.sum(axis=0) ** 2).sum(), (apart**2).sum()
    # The mean, over pairs of different seeds, of their covariance; of one seed, its variance.
    shared = (alone - own) / (seeds * (seeds - 1)) if seeds > 1 else own
    first, second = (float(np.sqrt(np.maximum(0.0, x / (n - 1) / n))) for x in (shared, alone / seeds**2))
    return first, second


def seeds_needed(
    deviation: float, effect: float, tests: int = 1, shared_error: float = 0.0, documents: float = math.inf
) -> float:
    """The paired seeds that find an effect with 80 % power at 5 %, two-sided; infinite where documents alone hide it.

    Args:
        deviation: standard deviation over seeds of the paired difference.
        effect: the smallest one worth knowing, in the same units.
        tests: how many are corrected for, by the first step of Holm's correction.
        shared_error: standard error over as many documents as `documents`, which no number of seeds reduces.

    Raises:
        ValueError: deviation or effect is no finite number above zero.

    Example:
        >>> seeds_needed(0.01, 0.01), seeds_needed(0.01, 0.01, tests=12)
        (10, 18)
        >>> seeds_needed(0.01, 0.01, shared_error=0.005)
        inf
    """
    for name, value in (("deviation", deviation), ("effect", effect)):
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} is {value}; it must be a finite number above zero")
    fixed = minimum_detectable_effect(shared_error, documents - 1, tests)
    if fixed >= effect:
        return math.inf
    goal = math.sqrt(effect**2 - fixed**2)

    def enough(seeds: int) -> bool:
        return minimum_detectable_effect(deviation / math.sqrt(seeds), seeds - 1, tests) <= goal

    few, many = 1, 2
    while not enough(many):
        few, many = many, 2 * many
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (few, middle) if enough(middle) else (middle, many)
    return many


def _pseudo_values(values: Floats, reduce: Reduce) -> tuple[Floats, Floats]:
    """The measure of each seed, (seed,), and its jackknife pseudo-values, (seed, document)."""
    n, total = values.shape[1], values.sum(axis=1)
    whole = reduce(total, n)
    if n < 2:
        return whole, np.full(values.shape[:2], np.nan)
    return whole, n * whole[:, None] - (n - 1) * reduce(total[:, None] - values, n - 1)
