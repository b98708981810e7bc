"""Figures are drawn, saved whole, and the same for the same numbers."""

from __future__ import annotations

import re

import pytest

from rwkvgate.experiment.analysis.figures import colour_of, figure2, figure3, save_figure
from rwkvgate.experiment.arms import ARMS

FAILED = {"no-layer-norm": "diverged"}


def texts(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_figure2(latency, tmp_path):
    figure = figure2(latency, failures=FAILED)
    assert "failed" in texts(figure) and "0.4867" in texts(figure)
    assert all("(s)" in axes.get_xlabel() for axes in figure.axes)
    svg, png = save_figure(figure, tmp_path / "new", "figure2")
    assert svg.read_text().startswith("<?xml") and png.read_bytes().startswith(b"\x89PNG")
    assert len(list(svg.parent.iterdir())) == 2
    with pytest.raises(ValueError, match="'forward'"):
        figure2(latency[latency["measure"] != "forward"])


def test_figure3_marks_seeds_and_the_paper(results, tmp_path):
    figure = figure3(results, resamples=200)
    assert [axes.get_xlabel() for axes in figure.axes] == ["BLEU", "ROUGE-1", "ROUGE-L"]
    assert "not run" in texts(figure)
    dots = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert sorted(len(line.get_xdata()) for line in dots) == [1, 3, 3, 3]
    diamonds = [line.get_xdata()[0] for line in figure.axes[0].lines if line.get_marker() == "D"]
    assert diamonds == [0.085, 0.167]
    assert all(path.stat().st_size > 5000 for path in save_figure(figure, tmp_path, "figure3"))


def test_the_same_numbers_give_the_same_file(latency, tmp_path):
    first, _ = save_figure(figure2(latency), tmp_path / "a", "figure2")
    second, _ = save_figure(figure2(latency), tmp_path / "b", "figure2")
    assert first.read_bytes() == second.read_bytes()
    assert "<dc:date>" not in first.read_text()


def test_every_arm_has_a_colour():
    colours = [arm.colour for arm in ARMS.values()]
    assert all(re.fullmatch("#[0-9A-F]{6}", colour) for colour in colours)
    assert colour_of("unheard-of") not in colours
