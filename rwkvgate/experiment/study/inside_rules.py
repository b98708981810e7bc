"""The claims of the paper's discussion, the rule that decides each, and what the trials say by it.

Decided on 2026-11-28, before any trial of the stages "inside", "data" and "breaking" was run. Networks are compared
seed by seed, with `metrics.retrained`: errors over seeds, and over texts where a reading has texts. Of every test:

- *less*: reproduced if the arm is shown to have less, after Holm's correction over every test of this kind, and
  contradicted if more. If neither, not reproduced where a gain worth knowing is shown absent, corrected alike, or would
  have been found with 80 % power, and undecided where not.
- *not more*: reproduced if the arm is shown to have at most the worth more (one-sided, 5 %), contradicted if shown to
  have more than that and, after the correction, more at all; else undecided.
- *guard*: a claim is undecided, not reproduced, where the arm is shown worse in this (5 %, without correction).

A claim is contradicted, not reproduced or undecided where one of its tests is, in this order. Fewer than 4 paired seeds
decide nothing, nor does a comparison in which a training diverged. A difference of relative readings, as logarithms, is
worth knowing from 0.05 on (5 %), of losses from 0.01 nats per token, of breaking rates from half an octave.

On 2026-11-29, after the sweep of rates a factor of two apart had been seen, three rates were put between 0.032 and
0.064, and the rate at which training breaks is now read between two rates. All networks had broken in that one step of
an octave, or in the next, which cannot show a difference of half an octave, or its absence.

On 2026-11-30, when all had been seen, the absence of a gain was corrected as its presence is: one side of 5 % had been
enough, which asked less of *not reproduced* than of *reproduced*. This can only take a verdict away.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from rwkvgate.experiment.analysis.tables import number, signed_interval
from rwkvgate.experiment.rules import (
    CONTRADICTED,
    FEWEST,
    NOT_REPRODUCED,
    REPRODUCED,
    RULES,
    UNDECIDED,
    Rule,
    of_parts,
)
from rwkvgate.experiment.study.analysis import LEVEL, absence, student
from rwkvgate.experiment.study.design import BASE, BROKEN
from rwkvgate.experiment.study.inside import LONG_TEXTS
from rwkvgate.experiment.study.trials import Trial
from rwkvgate.metrics.retrained import UNKNOWN, Difference, retrained_difference
from rwkvgate.metrics.statistics import Floats, holm

RELATIVE, NATS = 0.05, 0.01
"""The smallest difference worth knowing, of logarithms and in nats per token."""
Stages = Mapping[str, Sequence[Trial]]
"""The finished trials by stage."""


class Reading(NamedTuple):
    """One number of a network, or one for each text.

    Attributes:
        label: what it is, with its unit.
        stage: whose trials it is read of.
        worth: the smallest difference worth knowing.
        of: the trials of one network and seed -> (text,) or (1,).
        sign: 1 where less is better, -1 where more is.
    """

    label: str
    stage: str
    worth: float
    of: Callable[[Sequence[Trial]], Floats]
    sign: int = 1


@dataclass(frozen=True)
class Comparison:
    """A comparison of two networks: `role` is "less", "not more" or "guard"."""

    reading: str
    arm: str
    against: str
    role: str = "less"


def of_trial(trial: Trial, name: str, *shape: int) -> Floats:
    """A measure at every budget in order, (budget, *shape)."""
    return np.array([np.reshape(trial.measures[b][name], shape) for b in sorted(trial.test)])


def drifts(trial: Trial) -> tuple[Floats, Floats]:
    """How far the stream after each block moves from one budget to the next, (interval, layer) both.

    The first is the root mean square over channels of the change of the mean, in standard deviations (of both budgets
    pooled); the second the mean over channels of the absolute logarithm of the ratio of standard deviations.
    """
    mean, deviation = (of_trial(trial, name, trial.plan.size.layers, -1) for name in ("mean", "deviation"))
    pooled = np.sqrt((deviation[1:] ** 2 + deviation[:-1] ** 2) / 2)
    moved: Floats = np.sqrt((((mean[1:] - mean[:-1]) / pooled) ** 2).mean(-1))
    spread: Floats = np.abs(np.log(deviation[1:] / deviation[:-1])).mean(-1)
    return moved, spread


def gradient_spread(trial: Trial) -> Floats:
    """Standard deviation, over batches, of the logarithm of the gradient's norm, (budget, layer)."""
    result: Floats = np.log(of_trial(trial, "gradient", -1, trial.plan.size.layers)).std(axis=1, ddof=1)
    return result


def grown(trial: Trial, name: str) -> Floats:
    """The logarithm of the norm of "state" or "stream" over that at the trained length, (octave, layer, text)."""
    norms = np.log(of_trial(trial, name, -1, trial.plan.size.layers, LONG_TEXTS)[-1])
    result: Floats = norms - norms[0]
    return result


def gap(trial: Trial) -> Floats:
    """Loss of test documents less loss of as many training pieces, nats per token, (text,); which meet is chance."""
    trained = np.array(trial.measures[max(trial.test)]["trained"])
    test = np.array(trial.test[max(trial.test)])
    return test[np.arange(len(trained)) * len(test) // len(trained)] - trained


def breaking_rate(trials: Sequence[Trial]) -> Floats:
    """The logarithm to base 2 of the rate at which one network and seed breaks, (1,).

    There its loss is `BROKEN` nats per token above that at its best rate, on the line through the losses at two rates
    of the sweep; or halfway to a rate that diverged. The highest rate where none breaks.
    """
    losses = {t.plan.rate: t.validation[max(t.plan.budgets)] for t in sorted(trials, key=lambda t: t.plan.rate)}
    rates, limit = list(losses), min(filter(np.isfinite, losses.values()), default=0.0) + BROKEN
    first = next((i for i, loss in enumerate(losses.values()) if not (np.isfinite(loss) and loss <= limit)), None)
    if first is None or first == 0:
        return np.log2([rates[-1 if first is None else 0]])
    below, above = (losses[rate] for rate in rates[first - 1 : first + 1])
    share = (limit - below) / (above - below) if np.isfinite(above) else 0.5
    left, right = np.log2(rates[first - 1 : first + 1])
    return np.array([left + share * (right - left)])


def breaking_rates(trials: Sequence[Trial]) -> pd.DataFrame:
    """Where training breaks, by network, over the seeds with all the base's rates: `network`, `log2` (the mean of
    `breaking_rate`), `seeds`, and the `estimate` of its difference from the base's with its 95 % interval."""
    base, rows = _by_seed(trials, BASE), []
    for network in dict.fromkeys(trial.plan.network for trial in trials):
        own = _by_seed(trials, network)
        shared = [seed for seed in own if _rates(own[seed]) == _rates(base.get(seed, ()))]
        if not shared:
            continue
        broke, beside = (np.concatenate([breaking_rate(side[seed]) for seed in shared]) for side in (own, base))
        apart = student(broke - beside if network != BASE else broke[:0])
        rows.append({"network": network, "log2": broke.mean(), "seeds": len(shared)} | apart)
    return pd.DataFrame(rows)


def _last(name: str) -> Callable[[Sequence[Trial]], Floats]:
    """The measure of each text at the last budget."""
    return lambda trials: of_trial(trials[0], name, -1)[-1]


def _mean_log(values: Floats) -> Floats:
    """The logarithm, averaged over layers and budgets, as the one number of a network."""
    return np.log(values).mean(keepdims=True).ravel()


READINGS: dict[str, Reading] = {
    "drift of the mean": Reading(
        "drift of the stream's mean between budgets, log", "inside", RELATIVE, lambda t: _mean_log(drifts(t[0])[0])
    ),
    "drift of the spread": Reading(
        "drift of the stream's spread between budgets, log", "inside", RELATIVE, lambda t: _mean_log(drifts(t[0])[1])
    ),
    "gradient spread": Reading(
        "variation of gradient norms over batches, log", "inside", RELATIVE, lambda t: _mean_log(gradient_spread(t[0]))
    ),
    "breaking rate": Reading("rate at which training breaks, octaves", "breaking", 0.5, breaking_rate, -1),
    "jacobian": Reading(
        "relative spectral norm of h_t on h_{t-1}, log",
        "inside",
        RELATIVE,
        lambda t: np.log(of_trial(t[0], "jacobian", t[0].plan.size.layers, -1)[-1]).mean(0),
    ),
    "state growth": Reading(
        "growth of the state to 65,536 tokens, log", "inside", RELATIVE, lambda t: grown(t[0], "state")[-1].mean(0)
    ),
    "stream growth": Reading(
        "growth of the stream to 65,536 tokens, log", "inside", RELATIVE, lambda t: grown(t[0], "stream")[-1].mean(0)
    ),
    "noise": Reading("extra loss after noise, nats per token", "inside", NATS, _last("noise")),
    "distractor": Reading("extra loss after a distractor, nats per token", "inside", NATS, _last("distractor")),
    "kept noise": Reading("worth of the context behind noise, nats per token", "inside", NATS, _last("kept noise"), -1),
    "kept distractor": Reading(
        "worth of the context behind a distractor, nats per token", "inside", NATS, _last("kept distractor"), -1
    ),
    "gap": Reading(
        "test less training loss at 1/64 of the data, nats per token", "data 1/64", NATS, lambda t: gap(t[0])
    ),
    "test loss": Reading(
        "test loss at 1/64 of the data, nats per token",
        "data 1/64",
        NATS,
        lambda t: np.array(t[0].test[max(t[0].test)]),
    ),
}
"""Everything that is compared, by name."""

_SOURCE, _WORDS = "v1, section 6", "in words"
CLAIMS: dict[str, tuple[Rule, tuple[Comparison, ...]]] = {
    rule.claim: (rule, tests)
    for rule, tests in (
        (
            Rule(
                "covariate-shift",
                "LayerNorm prevents internal covariate shift",
                _SOURCE,
                _WORDS,
                "the stream after each block moves less between budgets with LayerNorm than without, in its mean and "
                "in its spread, both by *less*",
            ),
            (
                Comparison("drift of the mean", "enhanced", "no-layer-norm"),
                Comparison("drift of the spread", "enhanced", "no-layer-norm"),
            ),
        ),
        (
            RULES["layer-norm-stabilises"],
            (Comparison("breaking rate", "enhanced", "no-layer-norm"),),
        ),
        (
            Rule(
                "steady-gradients",
                "LayerNorm steadies the gradients",
                _SOURCE,
                "stabilises training",
                "gradient norms vary less from batch to batch with LayerNorm than without, by *less*",
            ),
            (Comparison("gradient spread", "enhanced", "no-layer-norm"),),
        ),
        (
            Rule(
                "stable-recurrence",
                "the recurrence stays stable with the gate",
                _SOURCE,
                "asked for",
                "against the base, the relative spectral norm of h_t on h_{t-1}, and the growth of state and stream "
                "from the trained length to 65,536 tokens, all by *not more*",
            ),
            (
                Comparison("jacobian", "enhanced", "base", "not more"),
                Comparison("state growth", "enhanced", "base", "not more"),
                Comparison("stream growth", "enhanced", "base", "not more"),
            ),
        ),
        (
            Rule(
                "filters-noise",
                "the gate filters noisy or irrelevant past",
                _SOURCE,
                _WORDS,
                "noise and distractors inserted into a text cost what follows less than they cost the base, both by "
                "*less*, with the worth of the context behind them as *guard*: reading no past would cost nothing",
            ),
            (
                Comparison("noise", "enhanced", "base"),
                Comparison("distractor", "enhanced", "base"),
                Comparison("kept noise", "enhanced", "base", "guard"),
                Comparison("kept distractor", "enhanced", "base", "guard"),
            ),
        ),
        (
            Rule(
                "regularises",
                "the gate regularises",
                _SOURCE,
                _WORDS,
                "trained on 1/64 of the documents in many passes, the gap between test and training loss is smaller "
                "than the base's, and so is the test loss, both by *less*: learning less makes the gap smaller too",
            ),
            (Comparison("gap", "enhanced", "base"), Comparison("test loss", "enhanced", "base")),
        ),
    )
}
"""Each claim with its rule and its tests."""


def compared(stages: Stages) -> pd.DataFrame:
    """Every test of every claim: a row each.

    Columns `claim`, `measure`, `arm`, `against`, `role`, `estimate` with its 95 % interval `low` and `high`, `p`,
    `asked` (what a claim asks of the reading, in words), `adjusted` (after Holm's correction over tests that are no
    guard; nan where *not more* is shown, which is no test of a difference), `absent` (p of a gain worth knowing,
    corrected alike), `seeds`, `n` (texts; 1 of a reading that is one number), and `says`: a verdict, "worse" or "".
    """
    rows: list[dict[str, Any]] = []
    differences: list[tuple[Comparison, Difference, bool]] = []
    for claim, (_, own) in CLAIMS.items():
        for test in own:
            reading, (found, diverged) = READINGS[test.reading], _difference(stages, test)
            differences.append((test, found, diverged))
            low, high = found.interval()
            without = absence(found._replace(estimate=reading.sign * found.estimate), reading.worth)
            row: dict[str, Any] = {"claim": claim, "measure": reading.label, "arm": test.arm, "against": test.against}
            row |= {"role": test.role, "asked": _asked(test), "estimate": found.estimate}
            row |= {"low": low, "high": high, "p": found.p, "one-sided": without}
            rows.append(row | {"seeds": found.seeds, "n": found.n if found.n > 2 else min(found.n, 1)})
    frame = pd.DataFrame(rows)
    known = (frame["role"] != "guard") & frame["p"].notna()
    for column, values in (("adjusted", frame["p"]), ("absent", frame["one-sided"])):
        frame[column] = np.nan
        frame.loc[known, column] = holm(values[known].tolist())
    every = zip(differences, frame["adjusted"], frame["absent"], strict=True)
    frame["says"] = [_says(*one, adjusted, absent, int(known.sum())) for one, adjusted, absent in every]
    frame.loc[(frame["role"] == "not more") & (frame["says"] == REPRODUCED), "adjusted"] = np.nan
    return frame.drop(columns="one-sided")


def verdicts(tested: pd.DataFrame) -> pd.DataFrame:
    """The verdict on each claim: `claim`, `verdict` and `reason`.

    Args:
        tested: of `compared`.
    """
    rows = []
    for claim in CLAIMS:
        own = tested[tested["claim"] == claim]
        deciding, guards = own[own["role"] != "guard"], own[own["role"] == "guard"]
        worse = guards.loc[guards["says"] == "worse", "measure"].tolist()
        diverged = deciding.loc[deciding["says"] == "diverged"]
        verdict = of_parts(set(deciding["says"]))
        reason = "; ".join(_in_words(row) for row in deciding.to_dict("records"))
        if verdict == REPRODUCED and worse:
            verdict, reason = UNDECIDED, f"worse in: {'; '.join(worse)}"
        if len(diverged):
            verdict, reason = UNDECIDED, "a training diverged"
        elif (deciding["seeds"] < FEWEST).any():
            verdict, reason = UNDECIDED, f"fewer than {FEWEST} paired seeds"
        rows.append({"claim": claim, "verdict": verdict, "reason": reason})
    return pd.DataFrame(rows)


def _asked(test: Comparison) -> str:
    """What a claim asks of a reading: less or more of it, or not more, or that a guard be no worse."""
    good = "less" if READINGS[test.reading].sign > 0 else "more"
    return {"less": good, "guard": f"guard: not {'more' if good == 'less' else 'less'}"}.get(test.role, test.role)


def _in_words(row: Mapping[Any, Any]) -> str:
    p = f", p {number(row['adjusted'], 2)} after Holm" if np.isfinite(row["adjusted"]) else ""
    interval = signed_interval(row["estimate"], row["low"], row["high"])
    return f"{row['measure']}: {interval}{p}, {row['says']}"


def _difference(stages: Stages, test: Comparison) -> tuple[Difference, bool]:
    """The difference arm - against over the seeds that both have, and whether a training diverged."""
    reading = READINGS[test.reading]
    trials = stages.get(reading.stage, ())
    arm, against = _by_seed(trials, test.arm), _by_seed(trials, test.against)
    shared = [seed for seed in arm if _rates(arm[seed]) == _rates(against.get(seed, ()))]
    chosen = [trial for seed in shared for trial in (*arm[seed], *against[seed])]
    if reading.stage != "breaking" and any(trial.diverged is not None for trial in chosen):
        return UNKNOWN, True
    if not shared:
        return UNKNOWN, False
    a, b = (np.stack([reading.of(side[seed]) for seed in shared])[..., None] for side in (arm, against))
    if a.shape[1] == 1:  # one number of a network has no error over texts: two equal texts bring none
        a, b = np.repeat(a, 2, axis=1), np.repeat(b, 2, axis=1)
    return retrained_difference(a, b), False


def _by_seed(trials: Sequence[Trial], network: str) -> dict[int, list[Trial]]:
    found: dict[int, list[Trial]] = {}
    for trial in trials:
        if trial.plan.network == network:
            found.setdefault(trial.plan.seed, []).append(trial)
    return found


def _rates(trials: Sequence[Trial]) -> set[float]:
    return {trial.plan.rate for trial in trials}


def _says(test: Comparison, found: Difference, diverged: bool, adjusted: float, absent: float, count: int) -> str:
    reading = READINGS[test.reading]
    if diverged:
        return "diverged"
    if found.seeds < FEWEST or not np.isfinite(found.p):
        return "" if test.role == "guard" else UNDECIDED
    more = reading.sign * found.estimate > 0
    if test.role == "guard":
        return "worse" if more and found.p < LEVEL else ""
    least, most = sorted(reading.sign * bound for bound in found.bounds)
    shown = adjusted < LEVEL
    if test.role == "not more":
        if most < reading.worth:
            return REPRODUCED
        return CONTRADICTED if shown and least > reading.worth else UNDECIDED
    if shown:
        return CONTRADICTED if more else REPRODUCED
    missing = absent < LEVEL or found.detectable(count) <= reading.worth
    return NOT_REPRODUCED if missing else UNDECIDED
