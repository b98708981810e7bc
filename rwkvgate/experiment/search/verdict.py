"""What the trials say: each candidate's best rate, the ranking, and the confirmed differences with their error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import stats

from rwkvgate.experiment.search.candidates import CONTROLS
from rwkvgate.experiment.search.trials import Trial
from rwkvgate.metrics.statistics import holm, minimum_detectable_effect, paired_difference, seed_p

CONFIDENCE = 0.95


def best_rates(trials: Sequence[Trial]) -> dict[str, float]:
    """The learning rate of each candidate with the lowest mean validation loss over seeds."""
    frame = pd.DataFrame([(t.candidate, t.rate, t.validation) for t in trials], columns=["candidate", "rate", "loss"])
    means = frame.groupby(["candidate", "rate"])["loss"].mean()
    return {str(name): float(str(group.droplevel(0).idxmin())) for name, group in means.groupby("candidate")}


def ranking(trials: Sequence[Trial], rates: Mapping[str, float]) -> list[str]:
    """Candidates by validation loss at their best rate, the lowest first."""
    kept = [t for t in trials if t.rate == rates[t.candidate]]
    frame = pd.DataFrame([(t.candidate, t.validation) for t in kept], columns=["candidate", "loss"])
    return [str(name) for name in frame.groupby("candidate")["loss"].mean().sort_values(kind="stable").index]


def everything(trials: Sequence[Trial], stage: str) -> pd.DataFrame:
    """One row a trial: the table of all that was tried."""
    return pd.DataFrame(
        [
            {
                "task": t.task,
                "stage": stage,
                "candidate": t.candidate,
                "rate": t.rate,
                "seed": t.seed,
                "validation_loss": round(t.validation, 5),
                "test_loss": round(t.loss, 5),
                "accuracy": t.accuracy,
                "parameters": t.parameters,
            }
            for t in trials
        ]
    )


def compared(trials: Sequence[Trial]) -> pd.DataFrame:
    """Each candidate against each control: the difference of test losses, paired by seed and by document.

    `low` and `high` are Student's interval over the seeds' differences, which is what a new training run would
    show; `documents low` and `high` the bootstrap's over documents; `p` Student's, and `p (Holm)` after Holm's
    correction over all candidates of a task and control; `smallest` the effect that as many seeds, as noisy as
    these, show with 80 % power. A negative difference is better than the control. A candidate whose training failed
    in a seed is said to have.
    """
    rows = []
    by = {name: {t.seed: t for t in trials if t.candidate == name} for name in {t.candidate: 0 for t in trials}}
    for control in CONTROLS:
        for name, own in by.items():
            if name in CONTROLS or control not in by:
                continue
            seeds = sorted(set(own) & set(by[control]))
            losses = [own[s].loss - by[control][s].loss for s in seeds]
            row = {"task": trials[0].task, "candidate": name, "control": control, "seeds": len(seeds)}
            if not seeds or not np.isfinite(losses).all():
                rows.append(row | {"reading": "training failed"})
                continue
            row |= _accuracies([own[s] for s in seeds], [by[control][s] for s in seeds])
            rows.append(row | _difference(losses) | _over_documents([own[s] for s in seeds], by[control], seeds))
    frame = pd.DataFrame(rows)
    if "p" in frame:
        for control in frame["control"].unique():
            rows_of = frame["control"] == control
            frame.loc[rows_of, "p (Holm)"] = holm(frame.loc[rows_of, "p"].to_list())
        frame["reading"] = [_reading({str(k): v for k, v in row.items()}) for row in frame.to_dict("records")]
    return frame


def _accuracies(own: Sequence[Trial], control: Sequence[Trial]) -> dict[str, float]:
    """Mean shares recalled, for recall tasks."""
    sides = {"accuracy": own, "control accuracy": control}
    return {
        name: float(np.mean([t.accuracy for t in side if t.accuracy is not None]))
        for name, side in sides.items()
        if all(t.accuracy is not None for t in side)
    }


def _difference(losses: Sequence[float]) -> dict[str, float]:
    mean, n = float(np.mean(losses)), len(losses)
    if n < 2:
        return {"difference": mean, "low": np.nan, "high": np.nan, "p": np.nan, "smallest": np.nan}
    bounds = stats.ttest_1samp(losses, 0.0).confidence_interval(CONFIDENCE)
    return {
        "difference": mean,
        "low": float(bounds.low),
        "high": float(bounds.high),
        "p": seed_p(losses),
        "smallest": minimum_detectable_effect(float(np.std(losses, ddof=1)) / np.sqrt(n), n - 1),
    }


def _over_documents(own: Sequence[Trial], control: Mapping[int, Trial], seeds: Sequence[int]) -> dict[str, float]:
    def sums(trials: Sequence[Trial]) -> np.ndarray:
        return np.array([np.stack((np.multiply(t.test, t.weights), t.weights), axis=-1) for t in trials])

    found = paired_difference(sums(own), sums([control[s] for s in seeds]), lambda x, _: x[..., 0] / x[..., 1])
    return {"documents low": found.low, "documents high": found.high}


def _reading(row: Mapping[str, object]) -> str:
    if row.get("reading") == "training failed":
        return "training failed"
    adjusted, difference = float(str(row["p (Holm)"])), float(str(row["difference"]))
    if not adjusted < 1 - CONFIDENCE:
        return "no difference shown"
    return "better" if difference < 0 else "worse"
