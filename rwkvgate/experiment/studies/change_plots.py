"""The picture of `perturbation.gate_changes`: how much further an edit moves the gate than a neutral one does."""

from __future__ import annotations

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from rwkvgate.experiment.analysis.comparison import arms_of
from rwkvgate.experiment.analysis.drawing import (
    RESAMPLES,
    drawn_interval,
    empty_panel,
    finish,
    finite,
    in_order,
    interval_bars,
    new_figure,
    nothing,
    offset,
)
from rwkvgate.experiment.analysis.figures import BLACK, STYLE
from rwkvgate.experiment.studies.perturbation import KINDS, REACHES


def changes_figure(changes: pd.DataFrame, *, resamples: int = RESAMPLES) -> Figure:
    """Change of the gate after an edit minus after a neutral one (sd of the gate): kinds down, distances across.

    Means over layers and seeds, then over documents, with 95 % bootstrap intervals over documents.

    Args:
        changes: columns arm, seed and `perturbation.CHANGE_COLUMNS`.
    """
    rows, notes = finite(changes, "edited", "neutral")
    if rows.empty:
        return nothing("Edits and the gate", notes)
    arms, kinds = arms_of(rows, first=()), in_order(changes["kind"], KINDS)
    reaches = in_order(changes["reach"], list(REACHES))
    rows = rows.assign(difference=rows["edited"] - rows["neutral"])
    alone: list[str] = []
    with matplotlib.rc_context(STYLE):
        drawn: dict[tuple[str, str], list[tuple[float, float, float, float]]] = {}
        for reach in reaches:
            for number, arm in enumerate(arms):
                marks = drawn.setdefault((reach, arm), [])
                part = rows[(rows["reach"] == reach) & (rows["arm"] == arm)]
                for kind, found in part.groupby("kind"):
                    means = found.groupby("document")["difference"].mean().to_numpy(dtype=np.float64)
                    whole = drawn_interval(means, resamples=resamples)
                    marks.append((kinds.index(str(kind)) + offset(number, len(arms)), *whole[:3]))
                    alone += [f"{arm}, {kind}"] if whole.n < 2 else []
        bare = [kind for kind in kinds if kind not in set(rows["kind"])]
        notes += [f"no numbers: {', '.join(bare)}"] if bare else []
        notes = [*notes, *([f"one document, no interval: {'; '.join(dict.fromkeys(alone))}"] if alone else [])]
        figure = new_figure(0.9 + 0.3 * len(kinds) * max(1.0, 0.4 * len(arms)), arms, notes)
        panels = figure.subplots(1, len(reaches), sharey=True, squeeze=False)[0]
        for axes, reach in zip(panels, reaches, strict=True):
            axes.axvline(0, color=BLACK, lw=0.8, zorder=1, gid="zero")
            for arm in arms:
                points = np.array(drawn[reach, arm]).reshape(-1, 4)
                interval_bars(axes, arm, points[:, 1], points[:, 0], across=points[:, 1:])
            if not any(drawn[reach, arm] for arm in arms):
                empty_panel(axes, "no numbers")
            axes.set_title(reach, loc="left")
            axes.set_xlabel("edited − neutral\n(sd of the gate)")
            axes.tick_params(axis="y", length=0)
        panels[0].set_yticks(range(len(kinds)), kinds)
        panels[0].set_ylim(len(kinds) - 0.5, -0.5)
        finish(figure, arms, line=False)
    return figure
