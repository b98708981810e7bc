"""The gap at equal compute over size and time: where the paper's gate helps early and loses late, if it does.

A seed's gap is the enhanced network's loss minus that of the base of the same seed after as many FLOPs, or seconds. It
is fitted by least squares on two logarithms: gap = a + b log2(tokens / 1 M) + c log2(parameters / those of 64x4), to
the mean of each size and length, so that the one with most seeds says no more than the others. The budgets of a
training and the sizes of a seed share their rows, so the errors are over whole seeds, by the jackknife: each seed is
left out in turn, and the interval is Student's, with one degree of freedom fewer than the size and length with the
fewest seeds has. Where every seed has the same, it is that of the mean of the fits of each seed alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from rwkvgate.experiment.analysis.tables import NOTHING, markdown, signed, signed_interval
from rwkvgate.experiment.study.analysis import Ratios, losses_at, ratio
from rwkvgate.experiment.study.design import BASE, SIZES, cost, step_tokens
from rwkvgate.experiment.study.trials import Trial
from rwkvgate.metrics.statistics import CONFIDENCE, Floats

COMPUTE = ("FLOPs", "seconds")
ARM, MILLION = "enhanced", 1e6
REFERENCE = "64x4"
"""The size at which the fit has no term for parameters."""


@dataclass(frozen=True)
class Fit:
    """A fitted gap.

    Attributes:
        of: what is equal: "FLOPs" or "seconds".
        coefficients: a, b, c in nats per token, (3,); c is 0 where there is one size.
        without: those without each seed, (seed, 3).
        sizes: whether there were several.
        seeds: how many.
        fewest: how many the size and length with the fewest has.
    """

    of: str
    coefficients: Floats
    without: Floats
    sizes: bool
    seeds: int
    fewest: int

    def at(self, tokens: float, octaves: float = 0.0) -> tuple[float, float, float]:
        """The fitted gap with its 95 % interval, nats per token, `octaves` doublings of the parameters from 64x4."""
        return self.weighed([1.0, np.log2(tokens / MILLION), octaves])

    def weighed(self, weights: Sequence[float]) -> tuple[float, float, float]:
        """A weighted sum of the coefficients with its 95 % interval."""
        estimate, others = float(self.coefficients @ weights), self.without @ weights
        error = np.sqrt((self.seeds - 1) / self.seeds * ((others - others.mean()) ** 2).sum())
        half = float(stats.t.isf((1 - CONFIDENCE) / 2, self.fewest - 1) * error)
        return estimate, estimate - half, estimate + half


def seed_gaps(trials: Sequence[Trial], seconds: Mapping[str, Ratios]) -> pd.DataFrame:
    """Each seed's gap at each budget: `of` (what is equal), `size`, `octaves` (how many times the base's parameters
    double from 64x4 to that size), `seed`, `tokens`, `gap` in nats per token.

    Seeds whose base is missing or diverged, and times that were not measured, have no row. Of a size and seed that are
    trained in two stages, each budget is compared with the base of its own stage.
    """
    bases = {(t.plan.size.name, t.plan.seed, b): t for t in trials if t.plan.network == BASE for b in t.test}
    rows = []
    for trial in (t for t in trials if t.plan.network == ARM):
        size, seed = trial.plan.size.name, trial.plan.seed
        for budget in sorted(trial.test):
            base = bases.get((size, seed, budget))
            if base is None:
                continue
            for of in COMPUTE:
                steps = budget * ratio(trial, base, of, seconds.get(size, {}))
                gap = np.average(losses_at(trial, budget) - losses_at(base, steps), weights=trial.weights)
                octaves = np.log2(base.parameters / cost(BASE, SIZES[REFERENCE])[0])
                rows.append((of, size, octaves, seed, budget * step_tokens(trial.plan.task), float(gap)))
    found = pd.DataFrame(rows, columns=["of", "size", "octaves", "seed", "tokens", "gap"])
    return found[np.isfinite(found["gap"].astype(float))].reset_index(drop=True)


def fits(gaps: pd.DataFrame) -> list[Fit]:
    """A fit for each thing that is equal; none with fewer than two seeds or two budgets.

    Args:
        gaps: of `seed_gaps`.
    """
    found = []
    for of, own in gaps.groupby("of", sort=False):
        if own["tokens"].nunique() < 2 or own["seed"].nunique() < 2:
            continue
        several = own["size"].nunique() > 1
        fewest = int(own.groupby(["octaves", "tokens"])["seed"].nunique().min())
        seeds = own["seed"].unique()
        without = np.array([_fitted(own[own["seed"] != seed], several) for seed in seeds])
        found.append(Fit(str(of), _fitted(own, several), without, several, len(seeds), fewest))
    return found


def fit_table(found: Sequence[Fit]) -> str:
    """The fits in Markdown, with what they say of early and late."""
    rows = [
        {
            "Equal": fit.of,
            f"Gap at 1 M tokens, {REFERENCE}": signed_interval(*fit.weighed((1, 0, 0))),
            "Per doubling of the tokens": signed_interval(*fit.weighed((0, 1, 0))),
            "Per doubling of the parameters": signed_interval(*fit.weighed((0, 0, 1))) if fit.sizes else "one size",
            "Seeds": f"{fit.fewest} to {fit.seeds}" if fit.fewest < fit.seeds else fit.seeds,
        }
        for fit in found
    ]
    head = (
        f"The {ARM} network's loss less that of a base of as much compute, nats per token, fitted over tokens and "
        "parameters (least squares on logarithms; Student's intervals over seeds, by the jackknife):"
    )
    return f"{head}\n\n{markdown(pd.DataFrame(rows))}"


def places_table(found: Sequence[Fit], gaps: pd.DataFrame) -> str:
    """The mean gap of each size and length beside the fitted one, in Markdown."""
    rows: list[dict[str, Any]] = []
    for (size, _), own in gaps.groupby(["size", "tokens"], sort=False):
        octaves, tokens = own[["octaves", "tokens"]].astype(float).iloc[0]
        means = own.groupby("of")["gap"].mean()
        row = {"Size": size, "Million tokens": f"{tokens / MILLION:.2g}", "Seeds": own["seed"].nunique()}
        for fit in found:
            row[f"Equal {fit.of}"] = signed(means[fit.of]) if fit.of in means else NOTHING
            row[f"Fitted, {fit.of}"] = signed_interval(*fit.at(tokens, octaves))
        rows.append(row)
    head = "The means that it is fitted to; a fitted interval leaves out a mean's own error, so one may lie outside:"
    return f"{head}\n\n{markdown(pd.DataFrame(rows))}"


def early_and_late(fit: Fit, gaps: pd.DataFrame) -> str:
    """One sentence: the fitted gap at the fewest and the most tokens, at the reference size, and what that says; ""
    where these are one."""
    first, last = gaps["tokens"].min(), gaps["tokens"].max()
    if not first < last:
        return ""
    early, late = fit.at(first), fit.at(last)
    before, after = (-1 if high < 0 else 1 if low > 0 else 0 for _, low, high in (early, late))
    said = {
        (-1, 1): "the gate helps early and loses late",
        (1, -1): "the gate loses early and helps late",
        (-1, -1): "the gate helps throughout",
        (1, 1): "the gate loses throughout",
        (0, -1): "no sign is shown early, and the gate helps late",
        (0, 1): "no sign is shown early, and the gate loses late",
        (-1, 0): "the gate helps early, and no sign is shown late",
        (1, 0): "the gate loses early, and no sign is shown late",
        (0, 0): "no sign is shown at either end",
    }[before, after]
    return (
        f"At equal {fit.of}, {REFERENCE}, the fitted gap is {signed_interval(*early)} at {first / MILLION:.2g} M "
        f"tokens and {signed_interval(*late)} at {last / MILLION:.2g} M: {said}."
    )


def _fitted(own: pd.DataFrame, several: bool) -> Floats:
    """a, b and c, by least squares on the mean gap of each size and length; c is 0 where there is one size."""
    means = own.groupby(["octaves", "tokens"])["gap"].mean().reset_index()
    x = np.column_stack([np.ones(len(means)), np.log2(means["tokens"] / MILLION), means["octaves"]])[:, : 2 + several]
    solved = np.linalg.lstsq(x, means["gap"].to_numpy(), rcond=1e-10)[0]
    return np.pad(solved, (0, 3 - len(solved)))
