"""What the study's page says of the memory tasks by length, and of associative recall by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from rwkvgate.experiment.analysis.tables import NOTHING, markdown, signed_interval
from rwkvgate.experiment.study.analysis import (
    ENHANCED,
    Ratios,
    after_training,
    comparisons,
    control_cells,
    recall_decides_nothing,
    student,
)
from rwkvgate.experiment.study.design import WORTH_KNOWING
from rwkvgate.experiment.study.tasks import Memory
from rwkvgate.experiment.study.trials import Trial

LEARNED = 0.9
"""The share of associative recall from which on a network has learned it: seeds lie far above it or far below."""


def shares_parts(trials: Sequence[Trial], shares: pd.DataFrame, seconds: Mapping[str, Ratios]) -> list[str]:
    """The share recalled by task and length, the paper's gate beside its controls by length, and recall by itself.

    Args:
        trials: of the memory tasks.
        shares: of `analysis.recalled_shares`.
        seconds: by size.
    """
    head = "Share recalled, mean of the seeds, at 1, 2, 4 and 8 times the trained length, after the most steps:"
    table = after_training(shares).pivot_table(index=["network", "task"], columns="times", values="share", sort=False)
    cells = table.map(lambda x: f"{100 * x:.1f} %")
    cells.columns = pd.Index([f"x{times}" for times in table.columns])
    cells = cells.join(shares.groupby("network")["seed"].nunique().rename("seeds"), on="network")
    nothing = recall_decides_nothing(trials, WORTH_KNOWING["memory"])
    said = [f"Nothing is decided: {nothing}."] if nothing else []
    return [head, markdown(cells.reset_index()), *said, *_by_length(trials, seconds), *_learned(shares)]


def _by_length(trials: Sequence[Trial], seconds: Mapping[str, Ratios]) -> list[str]:
    """The paper's gate beside its controls at each tested length by itself, after the most steps."""
    rows = []
    for i, times in enumerate(Memory.TIMES):
        # Sequences are tested task by task, and within one length by length.
        here = np.arange(len(trials[0].weights)) // Memory.TESTED % len(Memory.TIMES) == i
        own = [
            replace(
                trial,
                test={budget: np.array(losses)[here].tolist() for budget, losses in trial.test.items()},
                weights=np.array(trial.weights)[here].tolist(),
            )
            for trial in trials
        ]
        compared = comparisons(own, seconds, WORTH_KNOWING["memory"])
        if len(compared):
            gate = compared[(compared["arm"] == ENHANCED) & (compared["budget"] == compared["budget"].max())]
            rows += [{"Length": f"x{times}", "Seeds": gate["seeds"].max()} | control_cells(gate)] if len(gate) else []
    if not rows:
        return []
    head = (
        "Whether the gate remembers for longer: the share not recalled at each length by itself, all four tasks "
        f"together, the {ENHANCED} network's minus its control's, negative where it recalls more; looked at after the "
        "numbers were seen, and in no verdict:"
    )
    return [head, markdown(pd.DataFrame(rows))]


def _learned(shares: pd.DataFrame) -> list[str]:
    """Associative recall by itself, after each budget that all have: seeds that learned it, and paired differences."""
    common = sorted(set.intersection(*(set(own) for _, own in shares.groupby("network")["budget"])))
    own = shares[(shares["task"] == "recall") & (shares["times"] == 1)]
    columns: dict[str, dict[Any, Any]] = {"Seeds": own.groupby("network", sort=False)["seed"].nunique().to_dict()}
    for budget in common:
        by_seed = own[own["budget"] == budget].pivot_table(index="seed", columns="network", values="share", sort=False)
        after = f"after {budget:,} steps"
        columns[f"Learned {after}"] = (by_seed >= LEARNED).sum().to_dict()
        if ENHANCED in by_seed:
            less = by_seed.drop(columns=ENHANCED).rsub(by_seed[ENHANCED], axis=0)
            columns[f"{ENHANCED.capitalize()} less it {after}"] = {
                name: signed_interval(*student(less[name].dropna().to_numpy()).values()) for name in less
            }
    table = pd.DataFrame(columns).rename_axis("network").fillna(NOTHING)
    head = (
        "A network learns associative recall abruptly, so that the mean over seeds says little of it. Seeds that "
        f"recall at least {100 * LEARNED:g} % at the trained length, and how much more the {ENHANCED} network recalls "
        "there, paired by seed, with Student's 95 % interval; looked at after the numbers were seen, and in no verdict:"
    )
    return [head, markdown(table.reset_index())]
