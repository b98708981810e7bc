"""Statistics of trials: each candidate's best learning rate, the ranking, and the confirmed differences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from rwkvgate.experiment.search.candidates import MATCHED_CONTROLS
from rwkvgate.experiment.search.trials import Trial
from rwkvgate.metrics.statistics import Floats, holm, minimum_detectable_effect, paired_difference, seed_p

CONFIDENCE = 0.95


def trial_frame(trials: Sequence[Trial], stage: str) -> pd.DataFrame:
    """One row for each trial: the table of everything tried."""
    rows = [
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
    return pd.DataFrame(rows)


def best_rates(trials: Sequence[Trial]) -> dict[str, float]:
    """Each candidate's learning rate with the lowest mean validation loss; the candidate with the lowest loss first."""
    frame = pd.DataFrame([(t.candidate, t.rate, t.validation) for t in trials], columns=["candidate", "rate", "loss"])
    means = frame.groupby(["candidate", "rate"])["loss"].mean().sort_values(kind="stable").reset_index()
    best = means.drop_duplicates("candidate")
    return {str(name): float(rate) for name, rate in zip(best["candidate"], best["rate"], strict=True)}


def compared(trials: Sequence[Trial]) -> pd.DataFrame:
    """Each candidate's test loss minus each control's, paired by seed and by document; negative is better.

    `low` and `high` are Student's interval over seeds, which is what a new training would show; `documents low` and
    `documents high` are the bootstrap's over documents; `p` is Student's, and `p (Holm)` is corrected over all
    candidates of a task and control; `smallest` is the minimum detectable effect at that correction's first step: the
    difference that as many seeds, as noisy as these, show with 80 % power. The reading of a candidate that
    diverged with one seed is "training failed".
    """
    by: dict[str, dict[int, Trial]] = {}
    for trial in trials:
        by.setdefault(trial.candidate, {})[trial.seed] = trial
    rows: list[dict[str, Any]] = []
    for control in (name for name in MATCHED_CONTROLS if name in by):
        family = []
        candidates = [name for name in by if name not in MATCHED_CONTROLS]
        for name in candidates:
            seeds = sorted(set(by[name]) & set(by[control]))
            row: dict[str, Any] = {"task": trials[0].task, "candidate": name, "control": control, "seeds": len(seeds)}
            own, other = ([by[side][s] for s in seeds] for side in (name, control))
            family.append(row | _difference(own, other, len(candidates)))
        for row, p in zip(family, holm([row.get("p", np.nan) for row in family]), strict=True):
            failed = "difference" not in row
            row |= {"p (Holm)": p, "reading": "training failed" if failed else _reading(p, row["difference"])}
        rows += family
    return pd.DataFrame(rows)


def _difference(own: Sequence[Trial], control: Sequence[Trial], tests: int) -> dict[str, Any]:
    """The difference with its errors, one of so many tests; empty where a training diverged."""
    losses = [a.loss - b.loss for a, b in zip(own, control, strict=True)]
    if not losses or not np.isfinite(losses).all():
        return {}
    documents = paired_difference(_sums(own), _sums(control), lambda sums, _: sums[..., 0] / sums[..., 1])
    row: dict[str, Any] = {"difference": float(np.mean(losses))} | _over_seeds(losses, tests)
    row |= {"documents low": documents.low, "documents high": documents.high}
    for name, side in (("accuracy", own), ("control accuracy", control)):
        shares = [t.accuracy for t in side if t.accuracy is not None]
        row |= {name: float(np.mean(shares))} if shares else {}
    return row


def _sums(trials: Sequence[Trial]) -> Floats:
    """Loss and tokens of each document, (trial, document, 2)."""
    return np.array([np.stack((np.multiply(t.test, t.weights), t.weights), axis=-1) for t in trials])


def _over_seeds(losses: Sequence[float], tests: int) -> dict[str, float]:
    if len(losses) < 2:
        return dict.fromkeys(("low", "high", "p", "smallest"), np.nan)
    bounds = stats.ttest_1samp(losses, 0.0).confidence_interval(CONFIDENCE)
    error = float(np.std(losses, ddof=1)) / np.sqrt(len(losses))
    smallest = minimum_detectable_effect(error, len(losses) - 1, tests)
    return {"low": float(bounds.low), "high": float(bounds.high), "p": seed_p(losses), "smallest": smallest}


def _reading(p: float, difference: float) -> str:
    if not p < 1 - CONFIDENCE:
        return "no difference shown"
    return "better" if difference < 0 else "worse"
