"""How the study's figures tell networks apart: each has one colour, marker and line style in all of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
import seaborn.objects as so

from rwkvgate.experiment.analysis.figures import palette

MARKS: dict[str, tuple[str, Any]] = {
    "base": ("o", "-"),
    "base-wide": ("s", (6, 1)),
    "enhanced": ("D", "--"),
    "no-layer-norm": ("^", "-."),
    "fixed-gate": ("v", (1.5, 1)),
    "conv-no-position": ("P", (4, 1, 1, 1, 1, 1)),
}
"""Marker and line style by network; a tuple holds lengths of dashes and gaps, in line widths."""
OTHER = ("X", "-")
"""Of every other network."""


def told_apart(plot: so.Plot, networks: Iterable[str]) -> so.Plot:
    """Scale colour, marker and line style of a plot by network; the legend has no title."""
    names = list(dict.fromkeys(networks))
    markers, lines = ({name: MARKS.get(name, OTHER)[i] for name in names} for i in range(2))
    return plot.scale(color=palette(names), marker=markers, linestyle=lines).label(color="", marker="", linestyle="")


def beside(networks: pd.Series, octaves: float) -> pd.Series:
    """Factors that put networks side by side on a logarithmic axis, with so many octaves between neighbours.

    Example:
        >>> beside(pd.Series(["base", "enhanced", "fixed-gate", "base"]), 1).tolist()
        [0.5, 1.0, 2.0, 0.5]
    """
    names = list(networks.unique())
    places = octaves * (np.arange(len(names)) - (len(names) - 1) / 2)
    return networks.map(dict(zip(names, 2.0**places, strict=True)))


def ticked(measured: Iterable[float]) -> so.Continuous:
    """A logarithmic axis with ticks where something was measured."""
    return so.Continuous(trans="log2").tick(at=sorted(set(measured))).label(like="{x:,.0f}")
