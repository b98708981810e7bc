"""The picture of edits: differences averaged over layers, documents' intervals, and gaps that are named."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg

from rwkvgate.experiment.analysis.drawing import drawn_interval, marks_of
from rwkvgate.experiment.studies.change_plots import changes_figure
from rwkvgate.experiment.studies.perturbation import KINDS
from rwkvgate.experiment.studies.perturbation import REACHES as SPANS

REACHES = tuple(SPANS)


def changes(arms=("enhanced", "enhanced-untrained"), seeds=(0, 1), documents=5, kinds=KINDS, reaches=REACHES):
    rng = np.random.default_rng(4)
    rows = [
        (arm, seed, kind, document, layer, reach, rng.normal(0.5, 0.2), rng.normal(0.2, 0.1))
        for arm in arms
        for seed in seeds
        for kind in kinds
        for document in range(documents)
        for layer in range(3)
        for reach in reaches
    ]
    return pd.DataFrame(rows, columns=["arm", "seed", "kind", "document", "layer", "reach", "edited", "neutral"])


def rendered(figure):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FigureCanvasAgg(figure).draw()
    return figure


def points(axes, arm):
    found = [item for item in axes.lines if item.get_marker() == marks_of(arm)["marker"] and len(item.get_xdata())]
    return np.concatenate([item.get_xydata() for item in found])


def notes(figure):
    return figure._suptitle.get_text() if figure._suptitle else ""


def test_marks_are_differences_over_documents():
    frame = changes()
    figure = rendered(changes_figure(frame, resamples=100))
    assert [axes.get_title(loc="left") for axes in figure.axes] == list(REACHES)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == list(KINDS)
    part = frame[(frame["arm"] == "enhanced") & (frame["reach"] == REACHES[1])]
    wanted = (part["edited"] - part["neutral"]).groupby(part["kind"]).mean()
    drawn = {KINDS[round(y)]: x for x, y in points(figure.axes[1], "enhanced")}
    assert set(drawn) == set(KINDS)
    for kind, value in drawn.items():
        np.testing.assert_allclose(value, wanted[kind])
    one = part[part["kind"] == KINDS[0]]
    means = (one["edited"] - one["neutral"]).groupby(one["document"]).mean().to_numpy()
    found = drawn_interval(means, resamples=100)
    ends = [sorted(segment[:, 0]) for item in figure.axes[1].collections for segment in item.get_segments()]
    assert any(np.allclose(end, (found.low, found.high)) for end in ends)
    for axes in figure.axes:
        assert "sd of the gate" in axes.get_xlabel() and "zero" in {item.get_gid() for item in axes.lines}
    assert notes(figure) == ""


def test_gaps_are_named():
    frame = changes(documents=1, seeds=(0,))
    frame.loc[frame["kind"] == "swap-name", "edited"] = np.nan
    frame = frame[(frame["arm"] == "enhanced") | (frame["reach"] == REACHES[0])]
    figure = rendered(changes_figure(frame))
    assert "no numbers: swap-name" in notes(figure) and "not a number, left out: enhanced" in notes(figure)
    assert "one document, no interval" in notes(figure)
    assert len(points(figure.axes[0], "enhanced")) == 5
    frame.loc[frame["reach"] == REACHES[2], "neutral"] = np.nan
    figure = rendered(changes_figure(frame))
    assert "no numbers" in [text.get_text() for text in figure.axes[2].texts]


def test_a_single_mark_and_none():
    single = changes(("enhanced",), (0,), 3, ("drop-name",), REACHES[:1])
    assert len(rendered(changes_figure(single)).axes) == 1
    for frame in (single.iloc[:0], pd.DataFrame(), single.assign(edited=np.nan)):
        texts = [text.get_text() for text in rendered(changes_figure(frame)).axes[0].texts]
        assert texts == ["nothing measured"]
