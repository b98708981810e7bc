"""Learning curves: training and validation loss over steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from rwkvgate.experiment.analysis.drawing import band, finish, marks_of, new_figure, nothing
from rwkvgate.experiment.analysis.figures import STYLE, WIDTH, colour_of


class Log(Protocol):
    """What a curve needs of a training log: records with `step` and `loss` or `validation_loss`."""

    @property
    def history(self) -> list[dict[str, Any]]:
        """The records, in order."""


def learning_curve(logs: Mapping[str, Log], title: str) -> Figure:
    """Loss in nats a token over optimiser steps: lines for training, dots for validation, one colour an arm.

    A log without records is named in the legend as not trained.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 3.0), layout="constrained")
        axes = figure.subplots()
        for arm, log in logs.items():
            colour = colour_of(arm)
            trained = [(r["step"], r["loss"]) for r in log.history if "loss" in r]
            checked = [(r["step"], r["validation_loss"]) for r in log.history if "validation_loss" in r]
            label = f"{arm}, training" if trained else f"{arm}: not trained"
            axes.plot(*(zip(*trained, strict=True) if trained else ((), ())), color=colour, label=label)
            if checked:
                axes.plot(*zip(*checked, strict=True), "o", color=colour, mec="white", label=f"{arm}, validation")
        axes.set(xlabel="optimiser step", ylabel="loss (nats a token)")
        axes.set_title(title, loc="left")
        axes.legend(frameon=False)
    return figure


def spread_curves(logs: Mapping[str, Sequence[Log]], title: str) -> Figure:
    """Validation loss (nats a token) over optimiser steps: each arm's mean over its seeds, and a band to the extremes.

    At a step that not every seed has, the mean is of those that have it, and a note says so. Arms without training are
    left out; losses that are not finite are, and are counted in a note, as are arms that were never validated.

    Args:
        logs: arm -> one log a seed.
    """
    curves, notes = {}, []
    for arm, seeds in logs.items():
        found: dict[float, list[float]] = {}
        checked = [r for log in seeds for r in log.history if "validation_loss" in r]
        for record in checked:
            if np.isfinite(record["validation_loss"]):
                found.setdefault(float(record["step"]), []).append(float(record["validation_loss"]))
        lost = len(checked) - sum(map(len, found.values()))
        notes += [f"not a number, left out: {arm} ({lost} of {len(checked)} losses)"] if lost else []
        trained = [log for log in seeds if log.history]
        if trained and not checked:
            notes.append(f"trained, never validated: {arm}")
        short = sum(len(values) < len(trained) for values in found.values())
        notes += [f"{arm}: not all {len(trained)} seeds at {short} of {len(found)} steps"] if short else []
        if found:
            curves[arm] = sorted((step, np.mean(v), min(v), max(v)) for step, v in found.items())
    if not curves:
        return nothing(title, notes)
    with matplotlib.rc_context(STYLE | {"axes.grid.axis": "both"}):
        figure = new_figure(3.0, list(curves), notes)
        axes = figure.subplots()
        for arm, points in curves.items():
            steps, mean, low, high = (list(column) for column in zip(*points, strict=True))
            axes.plot(steps, mean, label=arm, **marks_of(arm, 3.5))
            band(axes, steps, low, high, colour_of(arm))
        axes.set(xlabel="optimiser step", ylabel="validation loss (nats a token)")
        axes.set_title(f"{title}: mean and range of seeds", loc="left")
        finish(figure, list(curves))
    return figure
