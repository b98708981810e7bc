"""The paper's Figure 1, drawn from a gate's config: one layer, where the gate sits in it, and what the gate does.

The axes are in inches, so that boxes and their text keep their sizes. Boxes carry their names as `gid`, for the tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch, Rectangle

from rwkvgate.experiment.analysis.figures import GREY, STYLE, WIDTH
from rwkvgate.experiment.arms import BLACK, BLUE, VERMILLION
from rwkvgate.gate.config import SITES, GateConfig

HEIGHT = 5.3
PLAIN, OURS, MEMORY, CANVAS = "#FFFFFF", "#FBE3D3", "#DCEBF5", "#FAFAFA"
STACK, GATE, MIDDLE, SHIFT = 1.08, 3.31, 4.17, 5.04
"""Horizontal centres: the layer's boxes, the gating function, the sum, the shift operator."""
STACK_WIDTH, BOX_WIDTH, LEFT, RIGHT = 1.26, 1.5, 2.28, 5.92
SHIFTED, FIRST, LAST = r"\tilde{h}_t", 7.5, 9.0
"""The shifted state's symbol, and the font sizes of formulas and headings in points."""

HEADS = {
    "output": ("the layer's output", "to the next layer"),
    "time-mixing": ("normalised input", "to time mixing"),
    "channel-mixing": ("normalised input", "to channel mixing"),
    "mixers": ("normalised input", "to the mixer"),
}
"""What h_t is at each site, and where y_t goes."""
CALLED = {"gated_shift": "output", "gated_shift_time": "time mixing", "gated_shift_channel": "channel mixing"}


def architecture(config: GateConfig, layers: int, hidden: int, title: str = "") -> Figure:
    """One of `layers` layers of `hidden` channels on the left, from top to bottom; its gate on the right.

    Args:
        config: of the gate. Heads that it leaves to the model are not numbered.

    Raises:
        SettingsError: the width cannot be divided as the config asks.
    """
    config = config.sized(hidden, config.heads or 1) if config.heads or config.gating != "per-head" else config
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, HEIGHT + (0.3 if title else 0.0)))
        axes = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(0, figure.get_figheight()))
        axes.set_axis_off()
        if title:
            axes.text(0.1, HEIGHT + 0.1, title, fontsize=10, va="center")
        _layer(axes, config, layers, hidden)
        _gate(axes, config)
    return figure


def shift_text(config: GateConfig) -> str:
    """The shift operator in words and as a formula (mathtext), line by line."""
    taps = config.taps
    if config.shift == "learned":
        shares = "$p_t$: softmax of a small\nMLP on $h_{t-1}$"
        return f"Learned shift\n${SHIFTED} = {_sum(taps)} p_{{tj}}\\, h_{{t-j}}$\n{shares}, rank {config.rank}"
    if config.shift == "convolution":
        tap, weight = "w_{tj}" if config.position else "w_j", r"$w_{tj} = w_j + A_j^\top f(n_t)$"
        start = "taps start at 0" if not config.first_tap else f"first tap starts at {config.first_tap:g}"
        known = f"\n{weight}\n$n_t$: position in the text" if config.position else "\n$w_j$ at every position"
        return f"Convolution, {taps} taps\n${SHIFTED} = {_sum(taps)} {tap} \\odot h_{{t-j}}${known}\n{start}"
    if config.shift == "window":
        return f"Window, {taps} states\n{_states(config)}\nscored by the gate"
    back = config.offset or 1
    return f"{'Previous state' if back == 1 else f'State {back} tokens back'}\n${SHIFTED} = h_{{t-{back}}}$"


def gate_text(config: GateConfig) -> str:
    """The gating function in words and as a formula (mathtext), line by line."""
    match config.gating:
        case "fixed":
            return f"Fixed gate\n$g_t = {config.value:g}$"
        case "low-rank":
            return f"Low-rank gate\n$g_t = \\sigma(W_2 W_1 h_t + b)$\nthrough rank {config.rank}"
        case "per-head":
            groups = f"{config.heads} values, one a head" if config.heads else "one value a head"
            return f"Gate per head\n$g_t = \\sigma(W h_t + b)$\n{groups}"
        case "attention":
            scores = r"$a_{tj} \propto \exp(q_t \cdot k_{t-j}/\sqrt{d})$"
            known = rf"$q_t$, $k_t$ of $h_t$, rank {config.rank}"
            return f"Attention, {config.heads} heads\n{scores}\n{known}\nmay let nothing in"
        case "hierarchical":
            gates = r"$g_t = \sigma(W h_t + b) \odot \sigma(U m_t + c)$"
            return f"Hierarchical gate\n{gates}\n$m_t$: segment of {config.segment} tokens\nbefore the token's own"
        case "routing":
            return f"Routing gate\n$r_t = \\sigma(W h_t + V {SHIFTED} + b)$\nstarts nearly closed"
        case _:
            return "Sigmoid gate\n$g_t = \\sigma(W h_t + b)$\n$W$: one full layer"


def output_text(config: GateConfig) -> str:
    """What the whole gate computes, as one formula (mathtext)."""
    scale = r"s \odot " if config.layer_scale is not None else ""
    match config.gating:
        case "routing" if not scale:
            total = rf"(1-r_t) \odot h_t + r_t \odot {SHIFTED}"
        case "routing":
            total = rf"h_t + {scale} r_t \odot ({SHIFTED} - h_t)"
        case "attention":
            total = rf"h_t + {scale} {_sum(config.taps)} a_{{tj}} h_{{t-j}}"
        case _:
            total = rf"h_t + {scale} g_t \odot {SHIFTED}"
    return rf"$y_t = \mathrm{{LN}}({total})$" if config.norm == "layer" else f"$y_t = {total}$"


def _sum(taps: int | None) -> str:
    return rf"\sum_{{j=1}}^{{{taps}}}"


def _layer(axes: Axes, config: GateConfig, layers: int, hidden: int) -> None:
    """The layer's stack, and a dotted line from each gate to its enlargement."""
    places, steps = SITES[config.site], ["input"]
    for mixer, place in (("time mixing", "gated_shift_time"), ("channel mixing", "gated_shift_channel")):
        steps += ["LayerNorm", *([place] if place in places else []), mixer, "+"]
    steps += [*(["gated_shift"] if "gated_shift" in places else []), "next"]
    top, bottom = HEIGHT - 0.35, 0.3
    heights = [top - i * (top - bottom) / (len(steps) - 1) for i in range(len(steps))]
    half, branch = 0.16, 0.0
    _frame(axes, (0.1, heights[-1] + half + 0.06, 1.9, heights[0] - heights[-1] - 2 * half - 0.06), GREY, "layer")
    axes.text(
        1.86,
        (heights[0] + heights[1]) / 2,
        f"× {layers} layer{'s' * (layers != 1)}",
        ha="right",
        va="center",
        fontsize=FIRST,
    )
    for i, (step, y) in enumerate(zip(steps, heights, strict=True)):
        if step in ("input", "next"):
            said = f"from the layer before, {hidden:,} channels" if step == "input" else "to the next layer"
            axes.text(STACK, y, said, ha="center", va="center", fontsize=FIRST)
        elif step == "+":
            _circle(axes, STACK, y, "+", f"residual {i}")
            _line(axes, [(STACK, branch), (0.24, branch), (0.24, y), (STACK - 0.1, y)])
        else:
            gate = step in CALLED
            fill, text = (OURS, "Gated shift") if gate else (PLAIN, step[0].upper() + step[1:])
            _box(axes, STACK, y, STACK_WIDTH, 2 * half, text, f"{step} {i}", fill)
            if gate:
                ends = ([STACK + STACK_WIDTH / 2, LEFT], [y, y])
                axes.plot(*ends, color=VERMILLION, ls=":", lw=1.2)
        if i:
            above, here = (0.1 if steps[i - 1] == "+" else half), (0.1 if step == "+" else half)
            above = 0.09 if i == 1 else above
            _line(axes, [(STACK, heights[i - 1] - above), (STACK, y + (0.09 if step == "next" else here))])
            if step == "LayerNorm":
                branch = (heights[i - 1] - above + y + here) / 2 + 0.04


def _gate(axes: Axes, config: GateConfig) -> None:
    """The enlargement: what comes in, the shift and the gating function, the sum, the norm, what goes out."""
    _frame(axes, (LEFT, 0.12, RIGHT - LEFT, HEIGHT - 0.24), VERMILLION, "gate")
    inside, on = HEADS[config.site]
    heading = "Gated shift" + (", one before each mixer" if config.site == "mixers" else "")
    axes.text(LEFT + 0.1, HEIGHT - 0.27, heading, va="center", fontsize=LAST, color=VERMILLION, weight="bold")
    _box(axes, GATE, 4.62, BOX_WIDTH, 0.44, f"Current state $h_t$\n{inside}", "current", PLAIN)
    _box(axes, SHIFT, 4.62, BOX_WIDTH, 0.44, _memory_text(config), "memory", MEMORY)
    _box(axes, GATE, 3.48, BOX_WIDTH, 1.04, gate_text(config), "gating", OURS)
    _box(axes, SHIFT, 3.48, BOX_WIDTH, 1.04, shift_text(config), "shift", OURS)
    _line(axes, [(GATE + BOX_WIDTH / 2, 4.62), (SHIFT - BOX_WIDTH / 2, 4.62)], dashed=True)
    _line(axes, [(SHIFT, 4.4), (SHIFT, 4.0)])
    if config.gating != "fixed":
        _line(axes, [(GATE, 4.4), (GATE, 4.0)])
    if config.gating in ("routing", "attention"):
        _line(axes, [(SHIFT - BOX_WIDTH / 2, 3.48), (GATE + BOX_WIDTH / 2, 3.48)])
    if config.gating == "hierarchical":
        _line(axes, [(SHIFT - 0.5, 4.4), (SHIFT - 0.5, 4.2), (GATE + 0.5, 4.2), (GATE + 0.5, 4.0)])
        axes.text(MIDDLE, 4.22, "$m_t$", ha="center", va="bottom", fontsize=FIRST)
    bottom = _combination(axes, config)
    if config.norm == "layer":
        _box(axes, MIDDLE, 1.12, BOX_WIDTH, 0.3, "LayerNorm", "norm", OURS)
    else:
        _box(axes, MIDDLE, 1.12, BOX_WIDTH, 0.3, "no normalisation", "norm", CANVAS, dashed=True)
    _line(axes, [(MIDDLE, bottom), (MIDDLE, 1.27)])
    _line(axes, [(MIDDLE, 0.97), (MIDDLE, 0.8)])
    axes.text(MIDDLE, 0.6, output_text(config), ha="center", va="center", fontsize=8.5)
    end = on + ("; before training, the base exactly" if config.starts_as_base else "")
    axes.text(MIDDLE, 0.28, end, ha="center", va="center", fontsize=FIRST)


def _combination(axes: Axes, config: GateConfig) -> float:
    """Gate times shifted state, its scale, and the sum with h_t, or the convex mix; returns where that ends (y)."""
    scaled = config.layer_scale is not None
    mixed = config.gating == "routing" and not scaled
    whole = {"attention": rf"${_sum(config.taps)} a_{{tj}}\, h_{{t-j}}$", "routing": rf"$r_t \odot ({SHIFTED} - h_t)$"}
    middle, half, high = (2.5, 0.1, 0.1) if config.gating not in whole else (2.5, 0.5, 0.19)
    if mixed:
        middle, half, high = 2.1, 0.85, 0.26
        mix = f"Convex mix\n$(1-r_t) \\odot h_t + r_t \\odot {SHIFTED}$"
        _box(axes, MIDDLE, middle, 2 * half, 2 * high, mix, "mix", OURS)
    elif config.gating in whole:
        _box(axes, MIDDLE, middle, 2 * half, 2 * high, whole[config.gating], "product", OURS)
    else:
        _circle(axes, MIDDLE, middle, "×", "product")
    names = {"attention": ("a_{tj}", "h_{t-j}"), "routing": ("r_t", SHIFTED)}.get(config.gating, ("g_t", SHIFTED))
    for name, x, side in ((names[0], GATE, -1), (names[1], SHIFT, 1)):
        if mixed:
            inner = MIDDLE + side * 0.62
            _line(axes, [(x, 2.96), (x, 2.66), (inner, 2.66), (inner, middle + high)])
        else:
            _line(axes, [(x, 2.96), (x, middle), (MIDDLE + side * half, middle)])
        axes.text(x + side * 0.05, 2.83, f"${name}$", ha="left" if side > 0 else "right", va="center", fontsize=8.5)
    edge, line = GATE - BOX_WIDTH / 2, LEFT + 0.1
    end = (MIDDLE - half, middle) if mixed else (MIDDLE - 0.1, 1.6)
    _line(axes, [(edge, 4.62), (line, 4.62), (line, end[1]), end])
    axes.text(line + 0.08, end[1] + 0.04, "$h_t$", va="bottom", fontsize=8.5)
    if mixed:
        return middle - high
    start = middle - high
    if scaled:
        _line(axes, [(MIDDLE, start), (MIDDLE, 2.2)])
        learned = rf"$\odot\ s$, learned; starts at {config.layer_scale:g}"
        _box(axes, MIDDLE, 2.04, BOX_WIDTH + 0.1, 0.3, learned, "scale", OURS)
        start = 1.89
    _line(axes, [(MIDDLE, start), (MIDDLE, 1.7)])
    _circle(axes, MIDDLE, 1.6, "+", "sum")
    return 1.5


def _memory_text(config: GateConfig) -> str:
    if config.gating == "hierarchical":
        return f"Carried: {_states(config)},\n$m_t$, mean of a segment"
    return f"Carried from the past\n{_states(config)}"


def _states(config: GateConfig) -> str:
    last = rf"h_{{t-{config.window}}}"
    return f"${last}$" if config.window == 1 else rf"$h_{{t-1}}, \ldots, {last}$"


def _box(
    axes: Axes, x: float, y: float, width: float, height: float, text: str, name: str, fill: str, dashed: bool = False
) -> None:
    """A box around its centre with text in it; the first of three or more lines is a heading."""
    corner, pad = (x - width / 2 + 0.04, y - height / 2 + 0.04), "round,pad=0.04,rounding_size=0.05"
    style: dict[str, Any] = {"ls": "--", "ec": GREY} if dashed else {"ls": "-", "ec": BLACK}
    axes.add_patch(
        FancyBboxPatch(corner, width - 0.08, height - 0.08, boxstyle=pad, fc=fill, lw=0.9, gid=name, zorder=2, **style)
    )
    lines = text.split("\n")
    # Lines are placed one by one, for a sum with its limits needs more room than one text would give it.
    heights = [0.35 if "sum" in line else 0.18 if "top" in line else 0.15 for line in lines]
    at = y + sum(heights) / 2
    for i, (line, tall) in enumerate(zip(lines, heights, strict=True)):
        weight = "bold" if i == 0 and len(lines) > 1 and height > 0.5 else "normal"
        level = "center" if tall > 0.15 else "center_baseline"
        axes.text(x, at - tall / 2, line, ha="center", va=level, fontsize=FIRST, weight=weight, zorder=3)
        at -= tall


def _circle(axes: Axes, x: float, y: float, sign: str, name: str) -> None:
    """A sum or a product of channels."""
    axes.add_patch(Circle((x, y), 0.1, fc=PLAIN, ec=BLACK, lw=0.9, gid=name, zorder=2))
    size = 0.055 if sign == "+" else 0.04
    strokes = [((-size, 0), (size, 0)), ((0, -size), (0, size))]
    if sign != "+":
        strokes = [((-size, -size), (size, size)), ((-size, size), (size, -size))]
    # Strokes, for no font centres its signs.
    for start, stop in strokes:
        axes.plot([x + start[0], x + stop[0]], [y + start[1], y + stop[1]], color=BLACK, lw=0.9, zorder=3)


def _frame(axes: Axes, place: tuple[float, float, float, float], colour: str, name: str) -> None:
    left, bottom, width, height = place
    style: dict[str, Any] = {"ls": ":", "lw": 1.2} if name == "gate" else {"ls": "--", "lw": 0.8}
    axes.add_patch(
        Rectangle((left, bottom), width, height, fc=CANVAS, ec=colour, zorder=0, gid=f"frame {name}", **style)
    )


def _line(axes: Axes, points: Sequence[tuple[float, float]], dashed: bool = False) -> None:
    """An arrow along the points, in inches; dashed for what is kept for later tokens."""
    style, colour = ("--", BLUE) if dashed else ("-", BLACK)
    xs, ys = zip(*points, strict=True)
    axes.plot(xs[:-1], ys[:-1], color=colour, lw=0.9, ls=style, zorder=1, solid_capstyle="butt", gid="line")
    head = {
        "arrowstyle": "-|>",
        "lw": 0.9,
        "color": colour,
        "ls": style,
        "shrinkA": 0,
        "shrinkB": 0,
        "mutation_scale": 7,
    }
    axes.annotate("", xy=points[-1], xytext=points[-2], arrowprops=head, zorder=1)
