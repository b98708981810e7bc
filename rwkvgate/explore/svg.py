"""Drawings of the views as SVG, with numbers on hover and without a library in the page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from rwkvgate.explore.palette import SEQUENTIAL, class_names
from rwkvgate.explore.tokens import token_labels

WIDTH = 900
ROW = 22
LEFT, RIGHT = 104, 90
"""Margins for labels, in the drawing's units."""


def heatmap(
    values: NDArray[np.float32], rows: Sequence[str], columns: Sequence[str], low: float, high: float, label: str
) -> str:
    """Heatmap of values (row, column).

    Args:
        rows, columns: labels, such as "2" for a layer and the text of a token.
        label: name of the values.
    """
    count = max(values.shape[1], 1)
    cell = (WIDTH - LEFT - RIGHT) / count
    parts = []
    names = [token_labels([short(column)])[0] for column in columns]
    for row, (name, line) in enumerate(zip(rows, values, strict=True)):
        parts.append(f'<g data-row="{row}">{_text(LEFT - 6, row * ROW + 15, f"layer {name}", "end")}')
        for column, (colour, value) in enumerate(zip(class_names(line, low, high), line.tolist(), strict=True)):
            hover = f"layer {name}, {column}: {names[column]}, {label} {value:.3f}"
            parts.append(
                f'<rect class="{colour}" x="{LEFT + column * cell:.2f}" y="{row * ROW}" width="{cell:.2f}" '
                f'height="{ROW - 2}"><title>{escape(hover)}</title></rect>'
            )
        parts.append("</g>")
    height = len(rows) * ROW + 18
    parts.append(_text(LEFT, height - 4, "first token"))
    parts.append(_text(WIDTH - RIGHT, height - 4, "last token", "end"))
    return _svg("".join(parts), height, f"{label} of every layer over the tokens")


def distribution(histogram: NDArray[np.float32], rows: Sequence[str], saturated: Sequence[float]) -> str:
    """Histograms of values in [0, 1], one curve per row of counts (row, bin), with each row's saturated share."""
    bins, high = histogram.shape[1], 40
    parts = []
    # Square roots: a spike of saturated values would flatten everything else.
    shares = np.sqrt(histogram / np.maximum(histogram.sum(1, keepdims=True), 1))
    top = float(shares.max(initial=0.0)) or 1.0
    width = WIDTH - LEFT - RIGHT
    for row, (name, line) in enumerate(zip(rows, shares, strict=True)):
        ground = (row + 1) * (high + 8)
        points = [f"{LEFT},{ground}"]
        for i, share in enumerate(line.tolist()):
            level = ground - high * share / top
            points += [f"{LEFT + width * i / bins:.1f},{level:.1f}", f"{LEFT + width * (i + 1) / bins:.1f},{level:.1f}"]
        points.append(f"{LEFT + width},{ground}")
        hover = f"layer {name}: {100 * saturated[row]:.1f} % of the values within 0.05 of 0 or 1"
        parts.append(f'<polygon class="curve" points="{" ".join(points)}"><title>{escape(hover)}</title></polygon>')
        parts.append(_text(LEFT - 6, ground - 4, f"layer {name}", "end"))
        parts.append(_text(WIDTH - RIGHT + 6, ground - 4, f"{100 * saturated[row]:.1f} % sat."))
    height = len(rows) * (high + 8) + 20
    parts += [_text(LEFT + width * x, height - 5, f"{x:g}", "middle") for x in (0, 0.25, 0.5, 0.75, 1)]
    return _svg("".join(parts), height, "distribution of gate values by layer")


def scatter(
    x: NDArray[np.float32], y: NDArray[np.float32], names: Sequence[str], x_label: str, y_label: str, y_range: float
) -> str:
    """Scatter plot of the finite pairs, x from 0 to its maximum and y from 0 to `y_range`, with names on hover."""
    height, bottom = 300, 34
    width = WIDTH - LEFT - RIGHT
    top = float(np.nanmax(x, initial=0.0)) or 1.0
    parts = [f'<path class="axis" d="M{LEFT} 6V{height - bottom}H{WIDTH - RIGHT}"/>']
    for i, (a, b, name) in enumerate(zip(x.tolist(), y.tolist(), token_labels(names), strict=True)):
        if np.isfinite(a) and np.isfinite(b):
            at = f'cx="{LEFT + width * a / top:.1f}" cy="{scatter_level(b, y_range):.1f}"'
            hover = f"{i}: {name}, {x_label} {a:.2f}, {y_label} {b:.3f}"
            parts.append(f'<circle class="dot" {at} r="3.5" data-token="{i}"><title>{escape(hover)}</title></circle>')
    parts += [_text(LEFT + width * s, height - bottom + 14, f"{top * s:.1f}", "middle") for s in (0, 0.5, 1)]
    parts += [
        _text(LEFT - 6, scatter_level(s * y_range, y_range) + 4, f"{s * y_range:.2g}", "end") for s in (0, 0.5, 1)
    ]
    parts.append(_text(LEFT + width / 2, height - 4, x_label, "middle"))
    parts.append(_text(4, 12, y_label))
    return _svg("".join(parts), height, f"{y_label} against {x_label}")


def scatter_level(value: float, y_range: float) -> float:
    """The y coordinate of a value in `scatter`."""
    return 266 - 256 * value / y_range


def colour_bar(low: float, high: float, label: str, palette: str = SEQUENTIAL) -> str:
    """Legend of a colour scale: every step of the palette between the numbers at its ends."""
    ends = np.linspace(low, high, 32, dtype=np.float32)
    bar = "".join(f'<i class="{name}"></i>' for name in class_names(ends, low, high, palette))
    return (
        f'<div class="legend"><span>{escape(label)}</span><span>{low:.3g}</span><span class="bar">{bar}</span>'
        f"<span>{high:.3g}</span></div>"
    )


def short(text: str, most: int = 24) -> str:
    """The beginning of a text."""
    return text if len(text) <= most else f"{text[:most]}…"


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(inside: str, height: float, label: str) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(label)}">{inside}</svg>'
