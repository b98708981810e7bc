"""Learning curves: the mean and the range over seeds are drawn, units are named, and gaps are named."""

from __future__ import annotations

import itertools
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from rwkvgate.experiment.analysis.curves import spread_curves
from rwkvgate.experiment.analysis.drawing import EMPTY, nothing, spread


def rendered(figure):
    """The figure drawn without warnings; no text outside it, none on another of its panel."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FigureCanvasAgg(figure).draw()
    renderer = figure.canvas.get_renderer()
    inner = figure.bbox.padded(2)
    loose = [*figure.texts, *[text for axes in figure.axes for text in axes.texts]]
    # Of an annotation, the text without its arrow.
    places = [(text.get_text(), Text.get_window_extent(text, renderer)) for text in loose if text.get_text()]
    for axes in figure.axes:
        if axes.axison:
            own = [axes.xaxis.label, axes.yaxis.label, axes.title, axes._left_title]
            places += [(text.get_text(), text.get_window_extent(renderer)) for text in own if text.get_text()]
    places += [
        (text.get_text(), text.get_window_extent(renderer)) for legend in figure.legends for text in legend.get_texts()
    ]
    for said, place in places:
        assert place.x0 >= inner.x0 and place.x1 <= inner.x1 and place.y0 >= inner.y0 and place.y1 <= inner.y1, said
    for (said, a), (other, b) in itertools.combinations(dict.fromkeys(places), 2):
        assert not (min(a.x1, b.x1) > max(a.x0, b.x0) + 1 and min(a.y1, b.y1) > max(a.y0, b.y0) + 1), (said, other)
    return figure


def notes(figure):
    return figure._suptitle.get_text().replace("\n", " ") if figure._suptitle else ""


def texts(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def line(axes, arm):
    """The arm's line as rows (x, y)."""
    (found,) = [item for item in axes.lines if item.get_label() == arm]
    return found.get_xydata()


def logs(losses):
    """One log a seed from {step: validation loss}."""
    return [
        SimpleNamespace(
            history=[{"step": 1, "loss": 3.0}] * bool(seed)
            + [{"step": step, "validation_loss": value} for step, value in seed.items()]
        )
        for seed in losses
    ]


def test_spread_is_the_mean_and_the_range_of_seeds():
    found = {"base": logs([{}]), "enhanced": logs([{10: 2.0, 20: 1.0}, {10: 3.0, 20: 2.0}, {10: 2.5, 20: 1.8}])}
    figure = rendered(spread_curves(found, "Fine-tuning"))
    axes = figure.axes[0]
    np.testing.assert_allclose(line(axes, "enhanced"), [[10, 2.5], [20, 1.6]])
    drawn = axes.collections[0].get_paths()[0].vertices
    assert {(10.0, 2.0), (10.0, 3.0), (20.0, 1.0), (20.0, 2.0)} <= {tuple(row) for row in drawn.tolist()}
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["enhanced"]
    assert axes.get_ylabel() == "validation loss (nats a token)" and axes.get_xlabel() == "optimiser step"
    assert notes(figure) == ""


def test_spread_says_what_is_lacking():
    found = {
        "enhanced": logs([{10: 2.0, 20: float("nan")}, {10: 3.0, 20: 2.0}]),
        "low-rank": [SimpleNamespace(history=[{"step": 1, "loss": 2.0}])],
        "per-head": logs([{10: 2.2}]),
    }
    figure = rendered(spread_curves(found, "Fine-tuning"))
    for said in ("enhanced (1 of 4 losses)", "enhanced: not all 2 seeds at 1 of 2 steps", "never validated: low-rank"):
        assert said in notes(figure)
    assert line(figure.axes[0], "per-head").tolist() == [[10, 2.2]]


@pytest.mark.parametrize("logs_of", [{}, {"base": logs([{}])}])
def test_nothing_measured_is_said(logs_of):
    assert EMPTY in texts(rendered(spread_curves(logs_of, "Fine-tuning")))


def test_labels_are_spread_in_order():
    wanted = [0.5, 0.5, 0.52, 0.1, 0.99, 1.0]
    found = spread(wanted, 0.1)
    order = np.argsort(wanted, kind="stable")
    assert (np.diff(np.array(found)[order]) >= 0.1 - 1e-9).all() and min(found) >= 0 and max(found) <= 1 + 1e-9
    assert found[3] == pytest.approx(0.1) and spread([], 0.1) == [] and spread([0.3], 0.1) == [0.3]
    assert np.ptp(spread([0.5] * 30, 0.1)) == pytest.approx(1)


def test_an_empty_figure_tells_why():
    figure = rendered(nothing("A study", ["a long reason " * 12]))
    assert figure.axes[0].get_title(loc="left") == "A study" and "a long reason" in notes(figure)
