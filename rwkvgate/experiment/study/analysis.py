"""What the study's trials say: differences from controls of equal steps, parameters, FLOPs and seconds; multipliers.

A network's loss at a number of steps that it was not annealed at is read from its own losses at the nearest budgets,
on a parabola in the logarithm of the steps. So the base that has trained as many seconds, or FLOPs, as an arm is a
point on the base's own curve, of the same seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import optimize, stats

from rwkvgate.experiment.analysis.tables import NOTHING, signed_interval
from rwkvgate.experiment.study.design import BASE, BROKEN, MORE, PRIMARY, WIDE, Stage, step_tokens
from rwkvgate.experiment.study.families import FAMILIES
from rwkvgate.experiment.study.trials import Trial
from rwkvgate.metrics.measures import ratio_of_sums
from rwkvgate.metrics.retrained import UNKNOWN, Difference, retrained_difference
from rwkvgate.metrics.statistics import Floats, holm

LEVEL = 0.05
ENHANCED = "enhanced"
CONTROLS = ("steps", "parameters", "FLOPs", "seconds")
"""What a control has as much of as the arm."""
ADAPTERS = "new parameters"
"""The control that trains its adapters alone. A gain must stand against it too, but one is easily better than it: to be
worse than all others is to be worse."""
Ratios = Mapping[str, float]
"""Seconds of one training step by network, over the base's."""


def losses_at(trial: Trial, steps: float) -> Floats:
    """The loss of each test document after so many steps, nats per token, on the trial's own curve."""
    return after_steps(trial.test, steps)


def after_steps(by_budget: Mapping[int, Sequence[Any]], steps: float) -> Floats:
    """Values after so many steps, from those at some budgets: on the parabola through the three nearest, in the
    logarithm of the steps; and beyond the first or the last budget on the line through the two nearest.

    Losses fall ever more slowly, so that a line between two budgets would lie above them.

    Example:
        >>> after_steps({100: [2.0], 200: [1.0], 400: [0.5]}, 100 * 2**0.5)  # half an octave on
        array([1.4375])
    """
    budgets = sorted(by_budget)
    if steps in by_budget or len(budgets) == 1:
        return np.array(by_budget[int(steps) if steps in by_budget else budgets[0]])
    right = int(np.clip(np.searchsorted(budgets, steps), 1, len(budgets) - 1))
    near = budgets[right - 1 : right + 1]
    if near[0] < steps < near[1] and len(budgets) > 2:
        beside = [*budgets[max(0, right - 2) : right - 1], *budgets[right + 1 : right + 2]]
        near.append(min(beside, key=lambda budget: abs(np.log(budget / steps))))
    result: Floats = sum(  # Lagrange's form
        np.array(by_budget[one])
        * np.prod([np.log(steps / other) / np.log(one / other) for other in near if other != one])
        for one in near
    )
    return result


def compare(pairs: Sequence[tuple[Floats, Floats]], weights: Sequence[int]) -> Difference:
    """The mean of a - b over seeds and test items, with its errors over both.

    Args:
        pairs: for each seed the losses of both networks by test item.
        weights: of each item.
    """
    if not pairs or not all(np.isfinite(a).all() and np.isfinite(b).all() for a, b in pairs):
        return UNKNOWN
    share = np.asarray(weights, dtype=np.float64)
    a, b = (
        np.stack([np.stack((side * share, share), axis=-1) for side in sides]) for sides in zip(*pairs, strict=True)
    )
    return retrained_difference(a, b, ratio_of_sums)


def ratio(arm: Trial, base: Trial, control: str, seconds: Ratios) -> float:
    """How many times the arm's steps its control trains, to spend as much of what the control is named after."""
    ratios = {"FLOPs": arm.flops / base.flops, "seconds": seconds.get(arm.plan.network, np.nan)}
    return ratios.get(control, 1.0)


def absence(found: Difference, worth: float) -> float:
    """The one-sided p value of a gain of `worth` or more: small where less than that is shown, below zero is better."""
    beyond = found._replace(estimate=found.estimate + worth)
    return beyond.p / 2 if beyond.estimate > 0 else 1 - beyond.p / 2


def comparisons(trials: Sequence[Trial], seconds: Mapping[str, Ratios], worth: float) -> pd.DataFrame:
    """Every arm against every control at every budget: a row each.

    Columns `size`, `arm`, `control`, `budget` (steps of the arm), `against` (the control's network), `ratio` (its steps
    over the arm's), `estimate` of the difference with its 95 % interval `low` and `high` over seeds and documents, `p`,
    `absent` (of `absence`), `equivalent` (shown less than `worth` better or worse), `deviation` over seeds,
    `shared_error` and `seeds`.
    A control of equal parameters is the wide base with the nearest number of them, or the base.

    Args:
        trials: of compared seeds, one rate for each network.
        seconds: by size.
        worth: the smallest gain worth knowing.
    """
    rows: list[dict[str, Any]] = []
    for (size, budget), by_network in by_budget(trials).items():
        base = by_network.get(BASE, {})
        for name, own in by_network.items():
            if name == BASE or not base:
                continue
            first, reference = next(iter(own.values())), next(iter(base.values()))
            for control in CONTROLS:
                against = equal_parameters(first, by_network) if control == "parameters" else BASE
                if name in WIDE and control == "parameters":
                    continue
                steps = budget * ratio(first, reference, control, seconds.get(size, {}))
                other = by_network[against]
                shared = [seed for seed in own if seed in other] if np.isfinite(steps) else []
                found = compare(
                    [(losses_at(own[s], budget), losses_at(other[s], steps)) for s in shared], first.weights
                )
                row = {"size": size, "arm": name, "control": control, "budget": budget, "against": against}
                low, high = found.interval()
                row |= {"ratio": steps / budget, "estimate": found.estimate, "low": low, "high": high, "p": found.p}
                row |= {"absent": absence(found, worth), "equivalent": found.equivalent(worth)}
                row |= {"deviation": found.deviation, "seeds": found.seeds, "shared_error": found.shared_error}
                rows.append(row)
    return pd.DataFrame(rows)


def of_stage(compared: pd.DataFrame, stage: Stage) -> pd.DataFrame:
    """The rows of `comparisons` that a stage is decided by: its arms, at its size, after its most steps.

    Also the column `looks`: 2 for an arm that got more seeds because it had been undecided with fewer.
    """
    there = (compared["size"] == stage.size.name) & (compared["budget"] == max(stage.budgets))
    own = compared[there & compared["arm"].isin(stage.networks)]
    return own.assign(looks=own["arm"].isin(MORE.get(stage.name, {})).astype(int) + 1)


VERDICT_COLUMNS = ["size", "arm", "budget", "control", "estimate", "low", "high", "seeds", "p", "verdict", "equivalent"]


def control_cells(own: pd.DataFrame, sign: int = 1) -> dict[str, str]:
    """An arm's differences from its controls, as a page's table has them: by "Equal steps" and so on, all four.

    Args:
        own: rows of `comparisons`, one for each control.
        sign: -1 turns the differences.
    """
    by = own.set_index("control")
    bounds = ["estimate", *["low", "high"][::sign]]
    return {
        f"Equal {c}": signed_interval(*sign * by.loc[c, bounds].astype(float)) if c in by.index else NOTHING
        for c in CONTROLS
    }


def decide(compared: pd.DataFrame) -> pd.DataFrame:
    """The verdict on each arm at its largest budget, which stands for a gain over *every* control; none on controls.

    Columns `size`, `arm`, `budget`, `control` (the one with the largest difference) with its `estimate`, `low`, `high`
    and `seeds`; `equivalent`, the controls that it is equivalent to; `verdict`; and its `p`, one-sided and after Holm's
    correction over the arms of a size, which in rows of `of_stage` are those of the stage; an arm that was looked at
    twice has p doubled before:

    - *better than every control*: the largest p of the arm's controls, an intersection-union test;
    - *worse than every control*: the same in the other direction, without `ADAPTERS`;
    - *no better*, less than what is worth knowing better than some control: the smallest p of `absent`, after
      Bonferroni's correction over the controls, for any of them would do;
    - *undecided*, where none of these is below 5 %; the p is that of *better*.
    """
    verdicts = []
    for _, part in compared.groupby("size", sort=False):
        largest = part[part["budget"] == part.groupby("arm")["budget"].transform("max")]
        arms = {str(arm): own for arm, own in largest.groupby("arm", sort=False) if arm not in (*WIDE, *FAMILIES)}
        tests = {
            "better than every control": [_joint_p(own, -1) for own in arms.values()],
            "worse than every control": [_joint_p(own[own["control"] != ADAPTERS], 1) for own in arms.values()],
            "no better": [min(1.0, own["absent"].count() * own["absent"].min()) for own in arms.values()],
        }
        looks = np.array([own["looks"].max() if "looks" in own else 1 for own in arms.values()])
        corrected = {
            verdict: dict(zip(arms, holm(np.minimum(1.0, looks * values)), strict=True))
            for verdict, values in tests.items()
        }
        for arm, own in arms.items():
            p = {verdict: by_arm[arm] for verdict, by_arm in corrected.items()}
            verdict = next((verdict for verdict, value in p.items() if value < LEVEL), "undecided")
            hardest = own.sort_values("estimate", ascending=False).iloc[0]
            row = hardest[VERDICT_COLUMNS[:-3]].to_dict()
            row |= {"p": p.get(verdict, p["better than every control"]), "verdict": verdict}
            verdicts.append(row | {"equivalent": ", ".join(own.loc[own["equivalent"], "control"])})
    return pd.DataFrame(verdicts, columns=VERDICT_COLUMNS)


def multipliers(trials: Sequence[Trial], compared: pd.DataFrame) -> pd.DataFrame:
    """How many times the arm's compute the base needs for the arm's loss, in FLOPs and in seconds; above 1 is a gain.

    A difference from the base of equal FLOPs, or seconds, is as many steps on the base's curve, the mean of the seeds.
    Columns `size`, `arm`, `budget`, `of` ('FLOPs' or 'seconds'), `estimate` with its 95 % interval `low` and `high`,
    those of the difference, `seeds`, and `beyond`: where the arm's loss is not on the curve, "below" or "above", which
    the estimate, that of the curve's end, then is; it has no interval.

    Args:
        compared: of `comparisons`.
    """
    bases = {key: list(own[BASE].values()) for key, own in by_budget(trials).items() if BASE in own}
    rows: list[dict[str, Any]] = []
    for row in compared[compared["control"].isin(("FLOPs", "seconds"))].to_dict("records"):
        base = bases[row["size"], row["budget"]]
        curve = {steps: [float(np.mean([one.loss(steps) for one in base]))] for steps in sorted(base[0].test)}
        spent = row["budget"] * row["ratio"]
        loss = float(after_steps(curve, spent)[0]) if np.isfinite(spent) else np.nan
        reached = [_steps_for(curve, loss + row[name]) for name in ("estimate", "high", "low")]
        beyond = "below" if reached[0] < min(curve) else "above" if reached[0] > max(curve) else ""
        if beyond:
            reached = [max(curve) if beyond == "above" else min(curve), np.nan, np.nan]
        named = {"of" if name == "control" else name: row[name] for name in ("size", "arm", "budget", "control")}
        times = dict(zip(("estimate", "low", "high"), (steps / spent for steps in reached), strict=True))
        rows.append(named | times | {"seeds": row["seeds"], "beyond": beyond})
    return pd.DataFrame(rows)


def frame(trials: Sequence[Trial]) -> pd.DataFrame:
    """Every trial at every budget: `size`, `network`, `rate`, `seed`, `budget`, `validation`, `test`, `parameters`,
    `flops` (of the whole training, forward and backward), `diverged`, and the `commit` that it was made at."""
    return pd.DataFrame(
        [
            {"size": t.plan.size.name, "network": t.plan.network, "rate": t.plan.rate, "seed": t.plan.seed}
            | {"budget": budget, "validation": t.validation[budget], "test": t.loss(budget)}
            | {
                "parameters": t.parameters,
                "flops": 3 * t.flops * budget * step_tokens(t.plan.task),
                "diverged": t.diverged,
                "commit": t.made.get("commit", ""),
            }
            for t in trials
            for budget in sorted(t.test)
        ]
    )


def broken(trials: Sequence[Trial]) -> pd.DataFrame:
    """Where training breaks: `network`, `rate`, `share` of the seeds whose training diverged or ended `BROKEN` nats per
    token above the network's best rate, `loss` (median of the seeds, validation) and `seeds`."""
    rows = [(t.plan.network, t.plan.rate, t.validation[max(t.plan.budgets)]) for t in trials]
    losses = pd.DataFrame(rows, columns=["network", "rate", "loss"])
    medians = losses.groupby(["network", "rate"])["loss"].median()
    best = losses["network"].map(medians.groupby("network").min())
    losses["share"] = ~(np.isfinite(losses["loss"]) & (losses["loss"] <= best + BROKEN))
    groups = losses.groupby(["network", "rate"], sort=False)
    return groups.agg(share=("share", "mean"), loss=("loss", "median"), seeds=("loss", "size")).reset_index()


def recalled_shares(trials: Sequence[Trial]) -> pd.DataFrame:
    """The share recalled, of memory trials: `network`, `seed`, `budget`, `task`, `times` (trained lengths), `share`."""
    rows = [
        (t.plan.network, t.plan.seed, budget, *name.split(" x"), share)
        for t in trials
        for budget, shares in t.shares.items()
        for name, share in shares.items()
    ]
    found = pd.DataFrame(rows, columns=["network", "seed", "budget", "task", "times", "share"])
    return found.astype({"times": int})


def after_training(shares: pd.DataFrame) -> pd.DataFrame:
    """The rows of `recalled_shares` at the largest budget that every network has: the base has larger ones too."""
    return shares[shares["budget"] == shares.groupby("network")["budget"].max().min()]


def weak_tasks(shares: pd.DataFrame) -> list[str]:
    """The memory tasks of which neither the base nor the enhanced network recalls half after training, at the trained
    length.

    Args:
        shares: of `recalled_shares`.
    """
    end = after_training(shares)
    own = end[end["network"].isin((BASE, ENHANCED)) & (end["times"] == 1)]
    best = own.groupby(["task", "network"])["share"].mean().groupby("task").max()
    return [str(name) for name in best.index[best < 0.5]]


def recall_decides_nothing(trials: Sequence[Trial], worth: float) -> str:
    """Why the memory trials can decide nothing: tasks that are too hard, or a base that leaves no room for a gain twice
    as large as is worth knowing; "" where they can."""
    shares = recalled_shares(trials)
    if weak := weak_tasks(shares):
        return f"neither the base nor the enhanced network recalls half of {', '.join(weak)}"
    budget = after_training(shares)["budget"].max()
    missed = float(np.mean([t.loss(budget) for t in trials if t.plan.network == BASE and budget in t.test]))
    return f"the base recalls all but {100 * missed:.1f} %, no room for a gain" if missed < 2 * worth else ""


def by_budget(trials: Sequence[Trial]) -> dict[tuple[str, int], dict[str, dict[int, Trial]]]:
    """Trials by size and budget, network and seed.

    A network may be trained at a size in two stages, for few steps and for many; each budget has the trials that were
    annealed there.
    """
    found: dict[tuple[str, int], dict[str, dict[int, Trial]]] = {}
    for trial in trials:
        plan = trial.plan
        for budget in sorted(trial.test):
            found.setdefault((plan.size.name, budget), {}).setdefault(plan.network, {})[plan.seed] = trial
    return found


def equal_parameters(arm: Trial, by_network: Mapping[str, Mapping[int, Trial]]) -> str:
    """The control whose number of parameters is nearest to the arm's: the base or a wide base, of `PRIMARY` arms one
    that is among them."""
    wide = [name for name in WIDE if name in PRIMARY or arm.plan.network not in PRIMARY]
    sizes = {name: next(iter(by_network[name].values())).parameters for name in (BASE, *wide) if name in by_network}
    return min(sizes, key=lambda name: abs(sizes[name] - arm.parameters))


def _steps_for(curve: Mapping[int, Sequence[float]], loss: float) -> float:
    """The steps after which the curve of `after_steps`, of one value at each budget, has this loss."""
    budgets = sorted(curve)
    right = next((i for i in range(1, len(budgets)) if curve[budgets[i]][0] <= loss), len(budgets) - 1)
    (a, b), (x, y) = np.log(budgets[right - 1 : right + 1]), (curve[budgets[i]][0] for i in (right - 1, right))
    if y < loss < x:
        return float(
            optimize.brentq(lambda steps: after_steps(curve, steps)[0] - loss, *budgets[right - 1 : right + 1])
        )
    return float(np.exp(a + (b - a) * (loss - x) / (y - x))) if x != y else np.nan


def student(values: Floats) -> dict[str, float]:
    """The mean over seeds, `estimate`, with Student's 95 % interval, `low` and `high`; nan where there is none."""
    mean = float(values.mean()) if len(values) else np.nan
    if len(values) < 2 or not np.isfinite(values).all():
        return {"estimate": mean, "low": np.nan, "high": np.nan}
    bounds = stats.ttest_1samp(values, 0.0).confidence_interval(1 - LEVEL)
    return {"estimate": mean, "low": float(bounds.low), "high": float(bounds.high)}


def _joint_p(own: pd.DataFrame, sign: int) -> float:
    """The largest one-sided p value, over an arm's controls, that the difference has this sign."""
    right = np.sign(own["estimate"]) == sign
    return float(np.where(right, own["p"] / 2, 1 - own["p"] / 2).max()) if own["p"].notna().all() else np.nan
