"""Learning curves: training and validation loss over steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import matplotlib
from matplotlib.figure import Figure

from rwkvgate.evaluation.figures import STYLE, WIDTH, colour_of


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
