"""Finished figures: the legend is below the panels, every arm is in it, and the reference line is in each panel."""

from __future__ import annotations

import pandas as pd
import seaborn.objects as so
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from rwkvgate.experiment.analysis.figures import finish


def drawn(**variables: str) -> Figure:
    frame = pd.DataFrame({"x": [1, 2, 1, 2], "y": [1, 2, 2, 1], "arm": ["base", "base", "enhanced", "enhanced"]})
    figure = Figure(figsize=(6.5, 3), layout="constrained")
    panels = frame.merge(pd.DataFrame({"panel": ["one", "two"]}), how="cross")
    so.Plot(panels, x="x", y="y", **variables).facet("panel").add(so.Line()).on(figure).plot()
    return figure


def test_the_legend_is_below_the_panels() -> None:
    figure = drawn(color="arm", marker="arm")
    finish(figure, at=1.5)
    FigureCanvasAgg(figure).draw()
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["base", "enhanced"]
    colours = [handle.get_color() for handle in legend.legend_handles]  # type: ignore[union-attr]
    assert colours[0] != colours[1]
    top = legend.get_window_extent().y1
    for axes in figure.axes:
        assert axes.get_tightbbox().y0 >= top and [1.5, 1.5] in [list(line.get_xdata()) for line in axes.lines]


def test_a_figure_without_a_legend_has_none() -> None:
    figure = drawn()
    lines = [len(axes.lines) for axes in figure.axes]
    finish(figure)
    assert not figure.legends and [len(axes.lines) for axes in figure.axes] == lines
