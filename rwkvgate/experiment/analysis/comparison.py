"""Arms summarised and compared: the numbers behind the tables, the figures and the claims.

Input is the tidy long table `results` (arm, seed, document, metric, value). Every comparison is paired by
document. An arm that is expected and has no rows is listed with its reason, never dropped or averaged in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from rwkvgate.experiment.analysis import paper
from rwkvgate.metrics.measures import MEASURES, Measure, documents_of
from rwkvgate.metrics.statistics import (
    RESAMPLES,
    Floats,
    Interval,
    interval,
    minimum_detectable_effect,
    paired_difference,
    permutation_p,
    seed_p,
    seed_spread,
)

CONTROLS = ("base", "base-tuned")
"""What arms are compared with: the untouched base, as in the paper, and the equal-budget control."""

NOT_RUN = "not run"
SUMMARY_COLUMNS = (
    "arm",
    "metric",
    "value",
    "low",
    "high",
    "deviation",
    "lowest",
    "highest",
    "seeds",
    "n",
    "status",
)
COMPARISON_COLUMNS = (
    "arm",
    "against",
    "metric",
    "value",
    "reference",
    "difference",
    "low",
    "high",
    "relative",
    "separates",
    "n",
    "seeds",
    "reference_seeds",
    "seed_deviation",
    "p_documents",
    "p_seeds",
    "p",
    "smallest",
    "status",
)
Failures = Mapping[str, str]


def arms_of(frame: pd.DataFrame, first: Sequence[str] = paper.ARMS, failures: Failures | None = None) -> list[str]:
    """Arms in reading order: base and its control, then `first`, then the others, then failed ones."""
    present = list(dict.fromkeys(str(arm) for arm in frame["arm"]))
    known = [arm for arm in (*CONTROLS, *first) if arm in present or arm in first]
    return list(dict.fromkeys([*known, *present, *(failures or {})]))


def seed_values(results: pd.DataFrame, measure: Measure, arm: str) -> dict[int, float]:
    """The corpus measure of each seed of an arm over that seed's documents: seed -> value."""
    found = {}
    for seed, frame in documents_of(results, measure, arm).items():
        sums = frame.to_numpy(dtype=np.float64).sum(axis=0)
        if len(frame):
            found[seed] = float(measure.reduce(sums, len(frame)))
    return found


def paired_documents(results: pd.DataFrame, measure: Measure, arms: Sequence[str]) -> tuple[list[Floats], pd.Index]:
    """The documents that every seed of every arm has, as arrays (seed, document, column), one an arm."""
    seeds = [documents_of(results, measure, arm) for arm in arms]
    frames = [frame for found in seeds for frame in found.values()]
    common = frames[0].index if frames else pd.Index([])
    for frame in frames[1:]:
        common = common.intersection(frame.index)
    common = common.sort_values()
    empty = np.empty((0, len(common), len(measure.columns)))
    arrays = [
        np.stack([frame.loc[common].to_numpy(dtype=np.float64) for frame in found.values()]) if found else empty
        for found in seeds
    ]
    return arrays, common


def summary(
    results: pd.DataFrame,
    *,
    arms: Sequence[str] | None = None,
    metrics: Iterable[str] = tuple(MEASURES),
    failures: Failures | None = None,
    resamples: int = RESAMPLES,
) -> pd.DataFrame:
    """Each arm's corpus measures: mean over seeds, interval over documents, spread over seeds.

    Returns:
        One row an arm and metric with `SUMMARY_COLUMNS`: `value` (mean over seeds, on the `n` documents that
        all its seeds have), `low` and `high` (95 %, bootstrap over documents), `deviation`, `lowest` and
        `highest` (over seeds, each on all its documents), `seeds`, and `status`: "" where all is well, else
        why not.

    Raises:
        ValueError: results without the needed columns or with a value twice; KeyError for an unknown metric.
    """
    rows: list[dict[str, Any]] = []
    for name in metrics:
        measure = MEASURES[name]
        for arm in arms_of(results, failures=failures) if arms is None else arms:
            (values,), common = paired_documents(results, measure, [arm])
            found = Interval(np.nan, np.nan, np.nan, 0)
            if values.size:
                found = interval(values, measure.reduce, resamples=resamples)
            spread = seed_spread(list(seed_values(results, measure, arm).values()))
            rows.append(
                {
                    "arm": arm,
                    "metric": name,
                    "value": found.estimate,
                    "low": found.low,
                    "high": found.high,
                    "deviation": spread.deviation,
                    "lowest": spread.lowest,
                    "highest": spread.highest,
                    "seeds": spread.n,
                    "n": len(common),
                    "status": _status(arm, found, failures),
                }
            )
    return pd.DataFrame(rows, columns=list(SUMMARY_COLUMNS))


def comparisons(
    results: pd.DataFrame,
    *,
    arms: Sequence[str] | None = None,
    against: Sequence[str] = CONTROLS,
    metrics: Iterable[str] = tuple(MEASURES),
    failures: Failures | None = None,
    resamples: int = RESAMPLES,
) -> pd.DataFrame:
    """Each arm against each reference arm, paired by document: the difference arm - reference.

    Returns:
        One row a pair and metric with `COMPARISON_COLUMNS`: `value` and `reference` (means over seeds),
        `difference` with its 95 % interval over the `n` documents that all seeds of both have, `relative`
        (difference / reference), `separates` (the interval excludes 0), the numbers of seeds,
        `seed_deviation` (standard deviation over seeds of the difference; seeds are paired where both arms
        have the same ones, else the reference is its mean), `p_documents` and `p_seeds` of the tests against either
        kind of noise, `p` the larger of them (not corrected for the number of rows: the ledger's are), `smallest` the
        difference that these tests would have found with 80 % power, and `status`.
    """
    rows: list[dict[str, Any]] = []
    for name in metrics:
        measure = MEASURES[name]
        for reference in against:
            for arm in arms_of(results, failures=failures) if arms is None else arms:
                # A pair of references is compared once, the later of them against the earlier.
                if arm not in against[: list(against).index(reference) + 1]:
                    rows.append(compare(results, measure, arm, reference, failures, resamples))
    return pd.DataFrame(rows, columns=list(COMPARISON_COLUMNS))


def ablations(
    results: pd.DataFrame,
    *,
    arms: Sequence[str] = ("no-layer-norm", "fixed-gate"),
    metrics: Iterable[str] = tuple(MEASURES),
    failures: Failures | None = None,
    resamples: int = RESAMPLES,
) -> pd.DataFrame:
    """The paper's two ablations against its enhanced model; columns as in `comparisons`."""
    return comparisons(
        results, arms=arms, against=("enhanced",), metrics=metrics, failures=failures, resamples=resamples
    )


def compare(
    results: pd.DataFrame,
    measure: Measure,
    arm: str,
    reference: str,
    failures: Failures | None = None,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """One row of `comparisons`.

    The test over seeds pairs the seeds that both arms have; a reference with other seeds counts as their mean.
    """
    (left, right), common = paired_documents(results, measure, [arm, reference])
    found = Interval(np.nan, np.nan, np.nan, 0)
    values = references = np.empty(0)
    if left.size and right.size:
        found = paired_difference(left, right, measure.reduce, resamples=resamples)
        values, references = (measure.reduce(side.sum(axis=1), len(common)) for side in (left, right))
    middle = float(references.mean()) if references.size else np.nan
    same = list(documents_of(results, measure, arm)) == list(documents_of(results, measure, reference))
    differences = list(values - (references if same else middle))
    p_documents = np.nan
    if left.size and right.size:
        p_documents = permutation_p(left, right, measure.reduce, resamples=resamples)
    p_seeds = seed_p(differences)
    status = next((said for name in (arm, reference) if (said := _missing(results, name, failures))), "")
    return {
        "arm": arm,
        "against": reference,
        "metric": measure.name,
        "value": float(values.mean()) if values.size else np.nan,
        "reference": middle,
        "difference": found.estimate,
        "low": found.low,
        "high": found.high,
        "relative": found.estimate / middle if middle else np.nan,
        "separates": found.separates,
        "n": found.n,
        "seeds": left.shape[0],
        "reference_seeds": right.shape[0],
        "seed_deviation": seed_spread(differences).deviation,
        "p_documents": p_documents,
        "p_seeds": p_seeds,
        "p": float(np.maximum(p_documents, p_seeds)),
        "smallest": _smallest(found, differences),
        "status": status or _status("", found, None),
    }


def _smallest(found: Interval, differences: Sequence[float]) -> float:
    """The larger of what the tests over documents and over seeds would have found."""
    over_documents = minimum_detectable_effect((found.high - found.low) / (2 * stats.norm.ppf(0.975)))
    n = len(differences)
    if n < 2:
        return over_documents
    return max(over_documents, minimum_detectable_effect(float(np.std(differences, ddof=1)) / np.sqrt(n), n - 1))


def _missing(results: pd.DataFrame, arm: str, failures: Failures | None) -> str:
    if arm in (failures or {}):
        return f"{arm} failed: {(failures or {})[arm]}"
    return "" if (results["arm"] == arm).any() else f"{arm} {NOT_RUN}"


def _status(arm: str, found: Interval, failures: Failures | None) -> str:
    """A failure that was reported stands beside whatever the arm's surviving seeds gave."""
    if arm in (failures or {}):
        return f"failed: {(failures or {})[arm]}"
    if found.n == 0:
        return NOT_RUN if arm else "no documents in common"
    return "" if np.isfinite(found.estimate) else "not finite"
