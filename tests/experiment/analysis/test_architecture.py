"""The drawing of a gate fits its config: the right words, no box on another, nothing outside the figure."""

from __future__ import annotations

import itertools
import warnings

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from rwkvgate.experiment.analysis.architecture import architecture
from rwkvgate.experiment.arms import ARMS
from rwkvgate.gate.config import GateConfig
from rwkvgate.gate.validation import SettingsError

GATED = {name: arm.gate for name, arm in ARMS.items() if arm.gate is not None}
OTHERS = {
    "offset before time mixing": GateConfig(shift="offset", offset=16, site="time-mixing"),
    "per head, numbered": GateConfig(gating="per-head", heads=32),
    "scaled routing": GateConfig(gating="routing", norm="none", layer_scale=0.0, site="channel-mixing"),
    "long convolution": GateConfig(shift="convolution", taps=64, position=True, first_tap=-0.25, gating="low-rank"),
    "scaled attention": GateConfig(
        shift="window", taps=64, gating="attention", heads=32, rank=2048, layer_scale=0.0001
    ),
    "long segments": GateConfig(gating="hierarchical", segment=4096, shift="learned", taps=64, rank=8192),
}
SAID = {
    "enhanced": ["LayerNorm", r"\sigma(W h_t + b)", "h_{t-1}", "Previous state", r"\mathrm{LN}"],
    "no-layer-norm": ["no normalisation"],
    "fixed-gate": ["Fixed gate", "g_t = 1"],
    "learned-shift": ["Learned shift", "MLP on $h_{t-1}$", "p_{tj}"],
    "conv-routing": ["Convolution, 4 taps", "position in the text", "Convex mix", "(1-r_t)", "first tap starts at 1"],
    "conv-only": ["position in the text", "g_t = 1"],
    "routing-only": ["Previous state", "Convex mix"],
    "conv-no-position": ["$w_j$ at every position", "Convex mix"],
    "ungated-shift": ["one before each mixer", "Convolution, 3 taps", "taps start at 0", "the base exactly"],
    "identity-start": ["starts at 0", "no normalisation", "the base exactly", r"s \odot"],
    "low-rank": ["W_2 W_1 h_t", "through rank 64"],
    "per-head": ["one value a head"],
    "attention-gate": ["Attention, 4 heads", "Window, 4 states", "a_{tj}", "rank 64"],
    "hierarchical": ["segment of 16 tokens", r"\sigma(U m_t + c)", "$m_t$"],
}
NEVER = {"enhanced": ["no normalisation", "Convex mix", "the base exactly", "learned; starts"], "conv-routing": ["g_t"]}


def drawn(config, title=""):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = architecture(config, 24, 2048, title)
        FigureCanvasAgg(figure).draw()
    return figure, figure.canvas.get_renderer()


def boxes(figure):
    named = [patch for patch in figure.axes[0].patches if not str(patch.get_gid()).startswith("frame")]
    assert len({patch.get_gid() for patch in named}) == len(named)
    return {patch.get_gid(): patch.get_window_extent() for patch in named}


def words(figure):
    return "\n".join(text.get_text() for text in figure.axes[0].texts)


def overlap(a, b):
    return min(a.x1, b.x1) > max(a.x0, b.x0) and min(a.y1, b.y1) > max(a.y0, b.y0)


@pytest.mark.parametrize("config", [*GATED.values(), *OTHERS.values()], ids=[*GATED, *OTHERS])
def test_nothing_overlaps_or_leaves_the_figure(config):
    figure, renderer = drawn(config, "A title")
    places = boxes(figure)
    for (name, a), (other, b) in itertools.combinations(places.items(), 2):
        assert not overlap(a, b), f"{name} lies on {other}"
    texts = [(text.get_text(), text.get_window_extent(renderer)) for text in figure.axes[0].texts if text.get_text()]
    for (said, a), (other, b) in itertools.combinations(texts, 2):
        assert not overlap(a, b), f"{said!r} lies on {other!r}"
    for said, place in texts:
        assert place.x0 >= 0 and place.y0 >= 0 and place.x1 <= figure.bbox.x1 and place.y1 <= figure.bbox.y1, said
        for name, box in places.items():
            inside = box.x0 <= place.x0 and place.x1 <= box.x1 and box.y0 <= place.y0 and place.y1 <= box.y1
            assert inside or not overlap(place, box), f"{said!r} crosses the edge of {name}"


@pytest.mark.parametrize("config", [*GATED.values(), *OTHERS.values()], ids=[*GATED, *OTHERS])
def test_no_arrow_runs_through_a_box_or_a_text(config):
    figure, renderer = drawn(config)
    axes = figure.axes[0]
    solid = [place.padded(-1.5) for name, place in boxes(figure).items()]
    solid += [text.get_window_extent(renderer).padded(-1.5) for text in axes.texts if text.get_text()]
    points = [axes.transData.transform(line.get_xydata()) for line in axes.lines if line.get_gid() == "line"]
    points += [axes.transData.transform([text.xyann, text.xy]) for text in axes.texts if hasattr(text, "xyann")]
    for way in points:
        for (x0, y0), (x1, y1) in itertools.pairwise(way):
            steps = [(x0 + (x1 - x0) * i / 50, y0 + (y1 - y0) * i / 50) for i in range(51)]
            assert not [box for box in solid for x, y in steps if box.contains(x, y)]


def test_every_gated_arm_is_described():
    assert set(SAID) == set(GATED) - {"enhanced-untrained"}


@pytest.mark.parametrize("arm", SAID)
def test_the_right_pieces_are_named(arm):
    figure, _ = drawn(GATED[arm])
    for part in SAID[arm]:
        assert part in words(figure)
    for part in NEVER.get(arm, []):
        assert part not in words(figure)
    assert "2,048 channels" in words(figure) and "24 layers" in words(figure)


def test_gates_stand_where_the_site_puts_them():
    heights = {}
    for site in ("output", "time-mixing", "channel-mixing", "mixers"):
        figure, _ = drawn(GateConfig(site=site))
        found = {name.rsplit(" ", 1)[0]: box.y0 for name, box in boxes(figure).items() if name[-1].isdigit()}
        heights[site] = {name: found.get(name) for name in ("gated_shift", "gated_shift_time", "gated_shift_channel")}
        assert "\n".join(words(figure).split("\n")).count("Gated shift") == (3 if site == "mixers" else 2)
        mixers = {"gated_shift_time": "time mixing", "gated_shift_channel": "channel mixing"}
        for place, mixer in mixers.items():
            if heights[site][place] is not None:
                assert heights[site][place] > found[mixer]
        if heights[site]["gated_shift"] is not None:
            assert heights[site]["gated_shift"] < found["channel mixing"]
    assert {site: [name for name, y in found.items() if y] for site, found in heights.items()} == {
        "output": ["gated_shift"],
        "time-mixing": ["gated_shift_time"],
        "channel-mixing": ["gated_shift_channel"],
        "mixers": ["gated_shift_time", "gated_shift_channel"],
    }


def test_a_width_that_heads_do_not_divide_is_refused():
    with pytest.raises(SettingsError, match="heads"):
        architecture(GateConfig(gating="per-head", heads=3), 2, 32)
