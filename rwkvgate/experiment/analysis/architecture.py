"""The paper's Figure 1, drawn from a gate's config: where it sits in a layer, and what it computes."""

from __future__ import annotations

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from rwkvgate.experiment.analysis.figures import GREY, STYLE, WIDTH
from rwkvgate.experiment.arms import VERMILLION
from rwkvgate.gate.config import SITES, GateConfig

PLAIN, GATED = "#FFFFFF", "#FBE3D3"
PLACES = (("time mixing", "gated_shift_time"), ("channel mixing", "gated_shift_channel"))
SHIFTS = {
    "previous": ("Previous state", r"$s_t = h_{t-1}$"),
    "offset": ("State {offset} tokens back", r"$s_t = h_{t-{offset}}$"),
    "learned": ("Learned shift, {taps} taps", r"$s_t = \sum_j p_j(h_{t-1})\, h_{t-j}$"),
    "convolution": ("Convolution, {taps} taps", r"$s_t = \sum_j w_j \odot h_{t-j}$"),
    "recurrent": ("Previous result", r"$s_t = y_{t-1}$"),
    "window": ("Window, {taps} states", r"$s_t = \sum_j a_{tj}\, h_{t-j}$"),
}
GATES = {
    "sigmoid": ("Sigmoid gate", r"$g_t = \sigma(W h_t + b)$"),
    "fixed": ("Fixed gate", r"$g_t = {value:g}$"),
    "low-rank": ("Low-rank gate", r"$g_t = \sigma(W_2 W_1 h_t + b)$"),
    "per-head": ("Gate, one value a head", r"$g_t = \sigma(W h_t + b)$"),
    "attention": ("Attention", r"$a_{tj} \propto \exp(q_t \cdot k_{t-j})$"),
    "hierarchical": ("Hierarchical gate", r"$g_t = \sigma(W h_t + b) \odot \sigma(U m_t + c)$"),
    "routing": ("Routing gate", r"$g_t = \sigma(W h_t + V s_t + b)$"),
}


def texts(config: GateConfig) -> dict[str, str]:
    """The shift, the gate and the result in words and as formulas (mathtext): "shift", "gate", "result"."""

    def filled(lines: tuple[str, str]) -> str:
        text = "\n".join(lines)
        for field, value in (("offset", config.offset), ("taps", config.taps)):
            text = text.replace("{" + field + "}", str(value))
        return text.replace("{value:g}", f"{config.value:g}" if config.value is not None else "")

    scale = r"\lambda \odot " if config.layer_scale is not None else ""
    total = rf"h_t + {scale}g_t \odot s_t"
    if config.gating == "attention":
        total = rf"h_t + {scale}s_t"
    if config.gating == "routing":
        total = rf"h_t + {scale}g_t \odot (s_t - h_t)"
    result = rf"$y_t = \mathrm{{LayerNorm}}({total})$" if config.norm == "layer" else f"$y_t = {total}$"
    return {"shift": filled(SHIFTS[config.shift]), "gate": filled(GATES[config.gating]), "result": result}


def layer_boxes(config: GateConfig) -> list[str]:
    """What a layer's hidden state passes, from the layer before to the next one."""
    boxes = []
    for mixer, place in PLACES:
        boxes += ["LayerNorm", *(["gated shift"] if place in SITES[config.site] else []), mixer, "+ residual"]
    return boxes + (["gated shift"] if "gated_shift" in SITES[config.site] else [])


def architecture(config: GateConfig, layers: int, hidden: int) -> Figure:
    """One of `layers` layers of `hidden` channels on the left, from top to bottom; its gate on the right."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 4.2))
        axes = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(0, 4.2))
        axes.set_axis_off()
        steps = layer_boxes(config)
        heights = [3.55 - 3.1 * i / (len(steps) - 1) for i in range(len(steps))]
        axes.text(1.0, 4.0, f"a layer, {hidden:,} channels, × {layers}", ha="center", va="center")
        for step, y in zip(steps, heights, strict=True):
            gated = step == "gated shift"
            _box(axes, 1.0, y, step, 1.4, GATED if gated else PLAIN)
            if gated:
                axes.plot([1.72, 2.2], [y, y], color=VERMILLION, ls=":", lw=1.2)
        for start, end in zip([3.9, *heights[:-1]], heights, strict=True):
            _arrow(axes, (1.0, start - (0.16 if start < 3.9 else 0.02)), (1.0, end + 0.16))
        words = texts(config)
        _box(axes, 3.3, 3.6, "current state $h_t$", 2.0, PLAIN)
        _box(axes, 5.42, 3.6, "earlier states", 1.85, PLAIN)
        _box(axes, 3.5, 2.45, words["gate"], 1.75, GATED)
        _box(axes, 5.42, 2.45, words["shift"], 1.85, GATED)
        _box(axes, 4.3, 1.2, words["result"], 4.0, GATED)
        _box(axes, 4.3, 0.45, "on through the layer" if config.site != "output" else "to the next layer", 1.9, PLAIN)
        _arrow(axes, (5.42, 3.42), (5.42, 2.75))
        _arrow(axes, (2.45, 3.42), (2.45, 1.38))
        if config.gating != "fixed":
            _arrow(axes, (3.5, 3.42), (3.5, 2.75))
        if config.gating in ("routing", "attention"):
            _arrow(axes, (4.49, 2.45), (4.38, 2.45))
        _arrow(axes, (3.5, 2.15), (3.5, 1.38))
        _arrow(axes, (5.42, 2.15), (5.42, 1.38))
        _arrow(axes, (4.3, 1.02), (4.3, 0.63))
    return figure


def _box(axes: Axes, x: float, y: float, text: str, width: float, fill: str) -> None:
    height = 0.32 if "\n" not in text else 0.56
    axes.add_patch(Rectangle((x - width / 2, y - height / 2), width, height, facecolor=fill, edgecolor=GREY))
    axes.text(x, y, text, ha="center", va="center", fontsize=8)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": GREY, "lw": 1, "shrinkA": 0, "shrinkB": 0})
