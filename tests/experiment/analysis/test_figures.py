"""Figures are drawn from tidy frames, saved atomically, and the same for the same numbers."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import seaborn.objects as so

from rwkvgate.experiment.analysis.figures import draw, palette, rows_height, save_figure
from rwkvgate.experiment.arms import ARMS

FRAME = pd.DataFrame({"arm": list(ARMS), "value": range(len(ARMS)), "low": -1.0, "high": 20.0})


def figure(failures=None):
    """Every arm on a row of its own, with an interval."""
    plot = so.Plot(FRAME, x="value", y="arm", color="arm").add(so.Dot(), legend=False)
    plot = plot.add(so.Range(), xmin="low", xmax="high", legend=False).scale(color=palette(ARMS))
    return draw(plot, "Values with intervals", failures, rows_height(ARMS))


def test_a_figure_names_what_it_shows_and_the_arms_that_failed(tmp_path):
    drawn = figure({"low-rank": "the loss is nan"})
    assert "Values with intervals\nNo results, training failed: low-rank." in drawn.get_suptitle()
    drawn.canvas.draw()
    axes = drawn.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == list(ARMS)
    places = [label.get_window_extent() for label in axes.get_yticklabels()]
    assert all(above.y0 >= below.y1 - 1 for above, below in itertools.pairwise(places))


def test_the_same_numbers_give_the_same_file(tmp_path):
    first, png = save_figure(figure(), tmp_path / "a", "name")
    second, _ = save_figure(figure(), tmp_path / "b", "name")
    assert first.read_bytes() == second.read_bytes() and first.read_text().startswith("<?xml")
    assert "<dc:date>" not in first.read_text() and png.read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in (tmp_path / "a").glob("[!.]*")} == {"name.svg", "name.png", "files.json"}


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_has_a_colour_that_is_seen_on_white(arm):
    colour = palette([arm])[arm]
    assert re.fullmatch("#[0-9A-F]{6}", colour) and colour != palette(["unheard-of"])["unheard-of"]
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    assert 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.75


def test_a_run_without_a_tuned_arm_has_no_figure_of_tuned_arms(capsys):
    notebook = json.loads((Path(__file__).parents[3] / "notebooks" / "04_ablations.ipynb").read_text())
    cells = ["".join(cell["source"]) for cell in notebook["cells"]]
    arms = ["base", "enhanced-untrained"]
    summary = pd.DataFrame({"arm": arms, "metric": "perplexity", "value": 2.0, "low": 1.0, "high": 3.0})
    results = SimpleNamespace(
        arms=arms,
        failures={},
        summary=summary,
        curves=pd.DataFrame(columns=["arm", "seed", "step", "text", "loss"]),
        cost=pd.DataFrame({"arm": ["base"], "share": [0.0]}),
    )
    forward = pd.DataFrame({"ratio": 1.0, "ratio_low": 1.0, "ratio_high": 1.0}, index=pd.Index(arms, name="arm"))
    names = {"pd": pd, "so": so, "draw": draw, "palette": palette, "rows_height": rows_height}
    for figure_name in ("curves", "quality-cost"):
        (cell,) = (cell for cell in cells if f'figures["{figure_name}"] =' in cell)
        figures: dict = {}
        exec(cell, names | {"results": results, "forward": forward, "figures": figures})
        assert not figures and capsys.readouterr().out.startswith("No arm of this run")
