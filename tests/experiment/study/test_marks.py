"""Networks are told apart in the study's figures by more than a colour, and stand side by side."""

from __future__ import annotations

import pandas as pd
import pytest
import seaborn.objects as so
from matplotlib.colors import to_hex

from rwkvgate.experiment.analysis.figures import GREY, draw
from rwkvgate.experiment.arms import ARMS
from rwkvgate.experiment.study.design import DATA, INSIDE, LONG, STAGES
from rwkvgate.experiment.study.marks import MARKS, OTHER, beside, ticked, told_apart


def test_networks_of_a_figure_differ_in_marker_and_line_and_have_the_same_in_every_figure() -> None:
    assert len({marker for marker, _ in (*MARKS.values(), OTHER)}) == len({line for _, line in MARKS.values()}) + 1
    assert len(MARKS) == len({line for _, line in MARKS.values()})
    assert set(MARKS) >= {*INSIDE, *LONG, *(network for name in DATA for network in STAGES[name].networks)}


def test_a_plot_takes_marks_by_name() -> None:
    shown = pd.DataFrame({"network": ["enhanced", "lstm"] * 2, "x": [64, 64, 1024, 1024], "y": [1.0, 2.0, 3.0, 4.0]})
    plot = so.Plot(shown, x="x", y="y", color="network").add(so.Line(), marker="network", linestyle="network")
    axes = draw(told_apart(plot.scale(x=ticked(shown["x"])), shown["network"]), "Planted").axes[0]
    assert [line.get_marker() for line in axes.lines] == [MARKS["enhanced"][0], OTHER[0]]
    assert [to_hex(line.get_color()).upper() for line in axes.lines] == [ARMS["enhanced"].colour, GREY]
    axes.figure.canvas.draw()
    assert [label.get_text() for label in axes.get_xticklabels()] == ["64", "1,024"]


@pytest.mark.parametrize("names", [["base"], ["base", "enhanced", "fixed-gate", "base"]])
def test_networks_stand_around_what_was_measured(names: list[str]) -> None:
    factors = beside(pd.Series(names), 0.1)
    assert factors.groupby(names).first().prod() == pytest.approx(1) and factors.nunique() == len(set(names))
