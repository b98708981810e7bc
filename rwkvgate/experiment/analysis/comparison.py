"""Arms summarised and compared: the numbers that tables, figures and claims all read.

Input is the tidy table of scores (arm, seed, document, metric, value). Every comparison is paired by document. An arm
that is expected and has no scores keeps its rows, with the reason in `status`; it is never dropped or averaged in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from rwkvgate.experiment.analysis import paper
from rwkvgate.metrics.latency import TIMES
from rwkvgate.metrics.measures import MEASURES, Measure, documents_of
from rwkvgate.metrics.retrained import UNKNOWN as NO_DIFFERENCE
from rwkvgate.metrics.retrained import Difference, retrained_difference
from rwkvgate.metrics.statistics import (
    RESAMPLES,
    Floats,
    Interval,
    Reduce,
    interval,
    permutation_p,
    seed_spread,
)

BASE, CONTROL, ENHANCED = "base", "base-tuned", "enhanced"
"""The untouched base, which the paper compares with; the matched control; and the paper's gate."""
CONTROLS = (BASE, CONTROL)
ABLATIONS = ("no-layer-norm", "fixed-gate")
"""The paper's two ablations, which its gate is compared with."""
PLACE = ("batch", "tokens", "dtype", "threads", "device")
"""What a time was measured on; columns that a table of times lacks are left out."""
NOT_RUN = "not run"
SUMMARY_COLUMNS = (
    *("arm", "metric", "value", "low", "high", "deviation", "lowest", "highest", "seeds", "n", "paper", "status"),
)
COMPARISON_COLUMNS = (
    *("arm", "against", "metric", "domain", "value", "reference", "difference", "low", "high"),
    *("relative", "relative_low", "relative_high", "n", "seeds", "reference_seeds", "seed_deviation"),
    *("shared_error", "document_error", "p_documents", "p", "bound", "smallest", "status"),
)
UNKNOWN = Interval(np.nan, np.nan, np.nan, 0)
Failures = Mapping[str, str]
"""Arm -> why it has no results."""


class Pair(NamedTuple):
    """One comparison: an arm, the arm it is compared with, the measure, and a domain where it is not of all texts."""

    arm: str
    against: str
    metric: str
    domain: str = ""


class _Scores:
    """A table of scores: its arms, and by measure and arm `documents_of` it, which many numbers read, computed once."""

    def __init__(self, results: pd.DataFrame) -> None:
        self.arms = set(results.get("arm", ()))
        self.documents = cache(partial(documents_of, results))


def arms_of(frame: pd.DataFrame, first: Sequence[str] = paper.ARMS, failures: Failures | None = None) -> list[str]:
    """Arms in reading order: base and its control, then `first`, then the others, then failed ones."""
    present = [str(arm) for arm in frame["arm"].unique()]
    known = [arm for arm in (*CONTROLS, *first) if arm in present or arm in first]
    return list(dict.fromkeys([*known, *present, *(failures or {})]))


def is_measured(results: pd.DataFrame, metric: str) -> bool:
    """Whether the scores hold any column of a measure."""
    return bool(results["metric"].isin(MEASURES[metric].columns).any())


def seed_values(results: pd.DataFrame, arms: Iterable[str], metrics: Iterable[str]) -> pd.DataFrame:
    """The corpus measures of each arm and seed over that seed's documents: `arm`, `seed`, `metric`, `value`."""
    rows = [
        (arm, seed, name, value)
        for name in metrics
        for arm in arms
        for seed, value in _by_seed(documents_of(results, MEASURES[name], arm), MEASURES[name]).items()
    ]
    return pd.DataFrame(rows, columns=["arm", "seed", "metric", "value"])


def _by_seed(documents: Mapping[int, pd.DataFrame], measure: Measure) -> dict[int, float]:
    """The measure of each seed that has documents."""
    values = {}
    for seed, frame in documents.items():
        if len(frame):
            columns = np.ascontiguousarray(frame.to_numpy(dtype=np.float64))
            values[seed] = float(measure.reduce(np.ones(len(frame)) @ columns, len(frame)))
    return values


def _paired(scores: _Scores, measure: Measure, arms: Sequence[str]) -> tuple[list[Floats], list[list[int]], pd.Index]:
    """The documents that every seed of every arm has: arrays (seed, document, column) and seeds, one per arm."""
    seeds = [scores.documents(measure, arm) for arm in arms]
    frames = [frame for by_seed in seeds for frame in by_seed.values()]
    common = frames[0].index if frames else pd.Index([])
    for frame in frames[1:]:
        common = common.intersection(frame.index)
    common = common.sort_values()
    empty = np.empty((0, len(common), len(measure.columns)))
    arrays = [
        np.stack([frame.loc[common].to_numpy(dtype=np.float64) for frame in by_seed.values()]) if by_seed else empty
        for by_seed in seeds
    ]
    return arrays, [list(by_seed) for by_seed in seeds], common


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
        `highest` (over seeds, each on all its documents), `seeds`, `paper` (the paper's value, nan where it has none)
        and `status`: "" where all is well, else why not.

    Raises:
        ValueError: results without the needed columns or with a value twice; KeyError for an unknown metric.
    """
    scores = _Scores(results)
    rows: list[dict[str, Any]] = []
    for name in metrics:
        measure = MEASURES[name]
        for arm in arms_of(results, failures=failures) if arms is None else arms:
            (values,), _, common = _paired(scores, measure, [arm])
            found = interval(values, measure.reduce, resamples=resamples) if values.size else UNKNOWN
            spread = seed_spread(list(_by_seed(scores.documents(measure, arm), measure).values()))
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
                    "paper": paper.QUALITY.get(name, {}).get(arm, np.nan),
                    "status": _failed(arm, failures) or (_status(found) if found.n else NOT_RUN),
                }
            )
    return pd.DataFrame(rows, columns=list(SUMMARY_COLUMNS))


def pairs_of(arms: Sequence[str], metrics: Iterable[str], ablation_metrics: Iterable[str] = ()) -> list[Pair]:
    """The comparisons of the tables: each arm against both controls, and the paper's gate against its ablations.

    The two controls are compared once, the tuned against the untouched.
    """
    against = [(arm, other) for other in CONTROLS for arm in arms if arm not in CONTROLS[: CONTROLS.index(other) + 1]]
    pairs = [Pair(arm, other, metric) for metric in metrics for arm, other in against]
    return pairs + [Pair(ENHANCED, other, metric) for metric in ablation_metrics for other in ABLATIONS]


def comparisons(
    results: pd.DataFrame,
    pairs: Iterable[Pair],
    *,
    domains: Mapping[int, str] | None = None,
    failures: Failures | None = None,
    resamples: int = RESAMPLES,
) -> pd.DataFrame:
    """Pairs of arms compared, paired by document: the difference arm - against. A pair given twice is computed once.

    Args:
        domains: the domain of each test document, by its number, where a pair asks for one.

    Returns:
        One row a pair with `COMPARISON_COLUMNS`: `value` and `reference` (means over seeds), `difference` with the 95 %
        interval of `retrained` (other seeds and other documents; nan below two seeds), `relative` (difference /
        reference) with its interval (of the logarithm of the ratio), `n` documents that all seeds of both have, the
        numbers of seeds (those that both have, or one side's single one against all of the other's),
        `seed_deviation`, `shared_error` and `document_error` of the difference (`retrained.Difference`),
        `p_documents` of the permutation test against documents alone, `p` against seeds and documents together too
        (not corrected for the number of rows: those of the claims are), `bound` (the arms are shown to differ by less,
        either way: two one-sided tests at 5 %), `smallest`, the minimum detectable effect at 80 % power, and `status`:
        "" where all is well, else why not.
    """

    @cache
    def scores(domain: str) -> _Scores:
        numbers = {number for number, name in (domains or {}).items() if name == domain}
        return _Scores(results[results["document"].isin(numbers)] if domain else results)

    rows = [pair._asdict() | _compare(scores(pair.domain), pair, failures, resamples) for pair in dict.fromkeys(pairs)]
    return pd.DataFrame(rows, columns=list(COMPARISON_COLUMNS))


def _compare(scores: _Scores, pair: Pair, failures: Failures | None, resamples: int) -> dict[str, Any]:
    """The numbers of one pair."""
    measure, arms = MEASURES[pair.metric], (pair.arm, pair.against)
    (left, right), (seeds, others), common = _paired(scores, measure, arms)
    if min(len(seeds), len(others)) > 1:
        shared = [seed for seed in seeds if seed in others]
        left, right = left[[seeds.index(seed) for seed in shared]], right[[others.index(seed) for seed in shared]]
    found, relative, p_documents = NO_DIFFERENCE, NO_DIFFERENCE, np.nan
    value = reference = np.nan
    if left.size and right.size:
        found = retrained_difference(left, right, measure.reduce)
        relative = retrained_difference(left, right, _logarithm(measure))
        value, reference = (float(measure.reduce(side.sum(axis=1), len(common)).mean()) for side in (left, right))
        p_documents = permutation_p(left, right, measure.reduce, resamples=resamples)
    problems = [(arm, _failed(arm, failures) or ("" if arm in scores.arms else NOT_RUN)) for arm in arms]
    missing = next((f"{arm} {problem}" for arm, problem in problems if problem), "")
    low, high = found.interval()
    least, most = relative.interval()
    return {
        "value": value,
        "reference": reference,
        "difference": found.estimate,
        "low": low,
        "high": high,
        "relative": found.estimate / reference if reference else np.nan,
        "relative_low": np.expm1(least),
        "relative_high": np.expm1(most),
        "n": found.n,
        "seeds": left.shape[0],
        "reference_seeds": right.shape[0],
        "seed_deviation": found.deviation,
        "shared_error": found.shared_error,
        "document_error": found.document_error,
        "p_documents": p_documents,
        "p": float(np.maximum(p_documents, found.p)),
        "bound": float(np.abs(found.bounds).max()),
        "smallest": found.detectable(),
        "status": missing or (_status(found) if found.n else "no seeds or documents in common"),
    }


def _logarithm(measure: Measure) -> Reduce:
    """The logarithm of a measure: a difference of two is a ratio, whose interval is then never below zero."""

    def logarithm(sums: Floats, n: int) -> Floats:
        with np.errstate(divide="ignore", invalid="ignore"):
            value: Floats = np.log(measure.reduce(sums, n))
        return value

    return logarithm


def pooled_times(
    latency: pd.DataFrame, *, arms: Sequence[str] | None = None, failures: Failures | None = None
) -> pd.DataFrame:
    """Times of each arm, pooled over seeds, and a row for an arm without any: the paper's Table 1 in numbers.

    Seeds differ in weights, not in work, so their spread is noise of the measurement: the median over seeds, with the
    widest bounds of any seed.

    Args:
        latency: columns `latency.LATENCY_COLUMNS`, of which `seed`, `repeats` and parts of the place may be missing.

    Returns:
        One row an arm, measure ("forward", "generation") and place: `PLACE`, seconds (median and quartiles), ratio to
        the base with its 95 % interval, `repeats` (sum over seeds), `runs` (the seeds), `paper` (seconds, nan where
        the paper has none) and `status`. Generation has no rows where none was timed.
    """
    keys = ["arm", "measure", *(column for column in PLACE if column in latency)]
    low, high = ("seconds_low", "ratio_low"), ("seconds_high", "ratio_high")
    rules = {name: "min" if name in low else "max" if name in high else "median" for name in TIMES}
    rules |= {"repeats": "sum"} if "repeats" in latency else {}
    groups = latency.groupby(keys, sort=False, dropna=False)
    pooled = groups[list(rules)].agg(rules).assign(runs=groups.size()).reset_index()
    rows: list[dict[str, Any]] = []
    for measure, stated in (("forward", paper.FORWARD_SECONDS), ("generation", paper.GENERATION_SECONDS)):
        part = pooled[pooled["measure"] == measure]
        if part.empty and measure == "generation":
            continue
        for arm in arms_of(latency, failures=failures) if arms is None else arms:
            timed: list[Any] = part[part["arm"] == arm].to_dict("records")
            status = _failed(arm, failures) or ("" if timed else NOT_RUN)
            known = {"arm": arm, "measure": measure, "paper": stated.get(arm, np.nan), "status": status}
            rows += [row | known for row in timed or [{}]]
    return pd.DataFrame(rows, columns=[*keys, *rules, "runs", "paper", "status"])


def _failed(arm: str, failures: Failures | None) -> str:
    """Why an arm failed; a failure stands beside whatever the arm's other seeds gave."""
    return f"failed: {failures[arm]}" if failures and arm in failures else ""


def _status(found: Interval | Difference) -> str:
    return "" if np.isfinite(found.estimate) else "not finite"
