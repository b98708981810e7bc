"""A/A experiments: how often the printed interval covers, and the claim test and equivalence err, by number of seeds.

Two arms are simulated that differ by nothing, or by exactly the margin of equivalence, and go through the functions
that tables and claims use: `retrained_difference` and `permutation_p`. Documents differ in difficulty, which both arms
share; an arm moves each document (standard deviation `NOISE`), each seed each document (as much again), and each seed
all documents (by `ratio` standard errors of the documents). `outputs/study/coverage.csv` has the rates, beside those of
two other methods: Satterthwaite's, and the larger p of either test alone, which decided up to version 4 of the rules.
"""

from __future__ import annotations

import sys
import time
from functools import cache

import numpy as np
import pandas as pd
from scipy import stats

from rwkvgate.experiment.places import project_root
from rwkvgate.metrics.measures import perplexity_of_sums
from rwkvgate.metrics.retrained import Difference, retrained_difference
from rwkvgate.metrics.statistics import Floats, mean, permutation_p

SEEDS, DOCUMENTS, RATIOS = (2, 3, 5, 10, 20), (60, 300), (0.0, 0.5, 2.0)
REPEATS, PERMUTATIONS, NOISE, MARGIN = 2000, 199, 0.3, 4.0
"""`MARGIN` in standard errors of the estimate: wide enough that equivalence can be shown."""
MEASURES = {"mean": mean, "perplexity": perplexity_of_sums}


def experiment(
    rng: np.random.Generator, measure: str, seeds: int, n: int, ratio: float, effect: float
) -> tuple[Floats, Floats]:
    """Documents' columns of two arms, (seed, document, column); their losses differ by `effect` in the mean."""
    difficulty, tokens = rng.gamma(4.0, 0.3, n), rng.integers(40, 160, n).astype(float)
    arms = []
    for shift in (effect, 0.0):
        own = NOISE / np.sqrt(2) * rng.standard_t(6, n) / np.sqrt(1.5)
        moved = ratio * NOISE / np.sqrt(2 * n) * rng.normal(size=(seeds, 1))
        losses = difficulty + own + moved + NOISE / np.sqrt(2) * rng.normal(size=(seeds, n)) + shift
        columns = [losses] if measure == "mean" else [losses * tokens, np.broadcast_to(tokens, losses.shape)]
        arms.append(np.stack(columns, axis=-1))
    return arms[0], arms[1]


def satterthwaite(found: Difference) -> float:
    """Half the 95 % interval of one variance with Satterthwaite's degrees of freedom."""
    parts = (found.seed_error**2, found.seeds - 1), (found.shared_error**2, found.n - 1)
    variance = sum(part for part, _ in parts)
    return float(np.sqrt(variance) * stats.t.isf(0.025, variance**2 / sum(part**2 / df for part, df in parts)))


def rates(measure: str, seeds: int, n: int, ratio: float, repeats: int) -> dict[str, float]:
    """The rates of one cell of the table."""
    rng, reduce = np.random.default_rng([seeds, n, round(10 * ratio), len(measure)]), MEASURES[measure]
    error = NOISE * np.sqrt((1 + ratio**2 / seeds + 1 / seeds) / n)
    counts = dict.fromkeys(("covered", "satterthwaite", "claimed", "claimed_before", "equivalent"), 0)
    for repeat in range(repeats):
        a, b = experiment(rng, measure, seeds, n, ratio, 0.0)
        found = retrained_difference(a, b, reduce)
        low, high = found.interval()
        documents = permutation_p(a, b, reduce, resamples=PERMUTATIONS, seed=repeat)
        over_seeds = 2 * stats.t.sf(abs(found.estimate) / found.seed_error, seeds - 1)
        counts["covered"] += low <= 0 <= high
        counts["satterthwaite"] += abs(found.estimate) <= satterthwaite(found)
        counts["claimed"] += not low <= 0 <= high and documents < 0.05  # p < 0.05 is an interval without 0
        counts["claimed_before"] += max(documents, over_seeds) < 0.05
        apart = experiment(rng, measure, seeds, n, ratio, MARGIN * error)
        margin = MARGIN * error if measure == "mean" else true_perplexity() * np.expm1(MARGIN * error)
        counts["equivalent"] += retrained_difference(*apart, reduce).equivalent(margin)
    return {name: float(count / repeats) for name, count in counts.items()}


@cache
def true_perplexity() -> float:
    """The perplexity of an arm without an effect, over very many documents."""
    arm, _ = experiment(np.random.default_rng(0), "perplexity", 1, 2_000_000, 0.0, 0.0)
    return float(perplexity_of_sums(arm[0].sum(axis=0), 0))


def main() -> None:
    """Print the table and write it; an argument lowers the repeats, and then nothing is written."""
    repeats, started, rows = int(sys.argv[1]) if len(sys.argv) > 1 else REPEATS, time.perf_counter(), []
    for measure in MEASURES:
        for n in DOCUMENTS:
            for ratio in RATIOS:
                for seeds in SEEDS:
                    cell = {"measure": measure, "documents": n, "seed_ratio": ratio, "seeds": seeds, "repeats": repeats}
                    rows.append(cell | rates(measure, seeds, n, ratio, repeats))
                    print(rows[-1], flush=True)
    frame = pd.DataFrame(rows)
    worst = frame.groupby("seeds").agg(
        {"covered": "min", "satterthwaite": "min", "claimed": "max", "claimed_before": "max", "equivalent": "max"}
    )
    print(f"\nthe worst cell by number of seeds, {repeats} experiments each, nominal 0.95, 0.95, 0.05, 0.05, 0.05:")
    print(worst.to_string())
    if repeats == REPEATS:
        path = project_root() / "outputs" / "study" / "coverage.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        frame.to_csv(path, index=False)
        print(f"written to {path.relative_to(project_root())}")
    print(f"{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
