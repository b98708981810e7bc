"""The enhanced network along its training, and beside other arms: tables without a verdict, made after all was seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from rwkvgate.experiment.analysis.tables import NOTHING, markdown, signed_interval
from rwkvgate.experiment.study.analysis import ENHANCED, by_budget, compare, losses_at
from rwkvgate.experiment.study.design import STEP_TOKENS
from rwkvgate.experiment.study.trials import Trial

BESIDE = ("no-layer-norm", "fixed-gate", "ungated-shift", "identity-start", "conv-no-position")
"""Arms that leave something of the gate out, change how it begins, or add to it."""


def course_table(compared: pd.DataFrame) -> str:
    """The enhanced network's difference from the base of equal steps at every budget, a row for each size.

    Args:
        compared: of `analysis.comparisons`.
    """
    own = compared[(compared["arm"] == ENHANCED) & (compared["control"] == "steps")].sort_values("budget")
    rows: list[dict[str, Any]] = []
    columns = {budget: f"{STEP_TOKENS * budget / 1e6:.2g} M" for budget in own["budget"].unique()}
    for size, part in own.groupby("size", sort=False):
        by = {row["budget"]: row for row in part.to_dict("records")}
        cells = {
            words: signed_interval(*(by[budget][name] for name in ("estimate", "low", "high")))
            if budget in by
            else NOTHING
            for budget, words in columns.items()
        }
        rows.append({"Size": size} | cells)
    head = (
        f"The {ENHANCED} network's loss less that of the base of equal steps, by the tokens trained on; before the "
        "step at which rates were chosen, another rate may be better:"
    )
    return f"{head}\n\n{markdown(pd.DataFrame(rows))}" if rows else ""


def apart_table(trials: Sequence[Trial]) -> str:
    """The enhanced network's loss less that of other arms after as many steps, the most that both have.

    Args:
        trials: of compared seeds, one rate for each network.
    """
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for (size, budget), networks in sorted(by_budget(trials).items(), key=lambda item: item[0][1]):
        own = networks.get(ENHANCED, {})
        for name in (name for name in BESIDE if name in networks):
            shared = [seed for seed in own if seed in networks[name]]
            if len(shared) < 2:
                continue
            pairs = [(losses_at(own[seed], budget), losses_at(networks[name][seed], budget)) for seed in shared]
            found = compare(pairs, own[shared[0]].weights)
            row = {"Size": size, f"{ENHANCED.capitalize()} less": name, "Steps": budget, "Seeds": len(shared)}
            rows[size, name] = row | {"Difference": signed_interval(found.estimate, *found.interval())}
    head = (
        f"What of the gate counts: the {ENHANCED} network's loss less that of arms that leave something out, begin "
        "otherwise or add to it, after as many steps, whatever they cost; negative where the paper's gate is better:"
    )
    return f"{head}\n\n{markdown(pd.DataFrame(rows.values()))}" if rows else ""
