"""The drawing of a gate fits its config: the right words, no box on another, no text beyond its box."""

from __future__ import annotations

import itertools
import warnings

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patches import Rectangle

from rwkvgate.experiment.analysis.architecture import architecture, layer_boxes
from rwkvgate.experiment.arms import ARMS
from rwkvgate.gate.config import GateConfig

GATED = {name: arm.gate for name, arm in ARMS.items() if arm.gate is not None}
OTHERS = {
    "offset": GateConfig(shift="offset", offset=16, site="time-mixing"),
    "scaled routing": GateConfig(gating="routing", norm="none", layer_scale=0.0, site="channel-mixing"),
    "long convolution": GateConfig(shift="convolution", taps=64, position=True, first_tap=-0.25, gating="low-rank"),
}
SAID = {
    "enhanced": ["LayerNorm(", r"\sigma(W h_t + b)", "h_{t-1}", "Previous state"],
    "fixed-gate": ["Fixed gate", "g_t = 1"],
    "enhanced-recurrent": ["Previous result", "y_{t-1}", r"\sigma(W h_t + b)"],
    "learned-shift": ["Learned shift, 4 taps"],
    "conv-routing": ["Convolution, 4 taps", "Routing gate", "(s_t - h_t)"],
    "low-rank": ["W_2 W_1 h_t"],
    "per-head": ["one value a head"],
    "attention-gate": ["Attention", "Window, 4 states", "a_{tj}"],
    "hierarchical": [r"\sigma(U m_t + c)"],
    "identity-start": [r"\lambda \odot"],
    "offset": ["State 16 tokens back", "h_{t-16}"],
}


@pytest.mark.parametrize("name", [*GATED, *OTHERS])
def test_nothing_overlaps_or_leaves_its_box_and_the_right_pieces_are_named(name: str) -> None:
    config = (GATED | OTHERS)[name]
    assert config is not None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = architecture(config, 24, 2048)
        FigureCanvasAgg(figure).draw()
    axes = figure.axes[0]
    boxes = [patch.get_window_extent() for patch in axes.patches if isinstance(patch, Rectangle)]
    for a, b in itertools.combinations(boxes, 2):
        assert not (min(a.x1, b.x1) > max(a.x0, b.x0) and min(a.y1, b.y1) > max(a.y0, b.y0))
    texts = [text for text in axes.texts if text.get_text()]
    for text in texts[1:]:
        place = text.get_window_extent()
        assert any(b.x0 <= place.x0 and place.x1 <= b.x1 and b.y0 <= place.y0 and place.y1 <= b.y1 for b in boxes), text
    words = "\n".join(text.get_text() for text in texts).replace(r"\mathrm{LayerNorm}", "LayerNorm")
    assert "2,048 channels" in words and all(part in words for part in SAID.get(name, []))
    assert ("LayerNorm(" in words) == (config.norm == "layer")


def test_gates_stand_where_the_site_puts_them() -> None:
    before = {
        site: layer_boxes(GateConfig(site=site)) for site in ("output", "time-mixing", "channel-mixing", "mixers")
    }
    followed = {
        site: [boxes[i + 1] if i + 1 < len(boxes) else "" for i, box in enumerate(boxes) if box == "gated shift"]
        for site, boxes in before.items()
    }
    assert followed == {
        "output": [""],
        "time-mixing": ["time mixing"],
        "channel-mixing": ["channel mixing"],
        "mixers": ["time mixing", "channel mixing"],
    }
