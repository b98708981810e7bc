"""Views of a gated text as matplotlib figures, for papers and for wherever HTML is not shown."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from rwkvgate.explore.effects import ClampEffect
from rwkvgate.explore.gated_text import GatedText
from rwkvgate.explore.html import correlation, measure_name
from rwkvgate.explore.palette import DIVERGING, SEQUENTIAL, value_range
from rwkvgate.explore.plots import LABELLED_TOKENS
from rwkvgate.explore.svg import short
from rwkvgate.explore.tokens import aggregate, token_labels

MOST_BARS = 512
"""More tokens than this are drawn in groups."""


def surprisal_figure(gated: GatedText, layer: int | str = 1, what: str | int = "mean") -> Figure:
    """Each token's gate against the model's surprisal at it."""
    gate, values = gated.gate(layer), gated.measure(what)
    figure, axes = _axes(5.0, 3.4)
    axes.scatter(gated.losses, values[gate], s=14, color="#00204C", alpha=0.45, lw=0)
    axes.set(xlabel="surprisal (nats)", ylabel=measure_name(what))
    axes.set_title(f"Layer {gated.labels[gate]}: {correlation(values[gate], gated.losses)}", loc="left")
    return figure


def clamp_figure(effect: ClampEffect) -> Figure:
    """The change of each token's loss under a clamp; above 0 is worse."""
    figure, axes = _axes(9.0, 3.0)
    change = effect.clamped - effect.free
    texts, shown, size = aggregate(effect.tokens, change, MOST_BARS)
    axes.bar(range(len(shown)), shown, color=np.where(shown > 0, "#5E3C99", "#E66101"))
    axes.axhline(0, color="#000000", lw=0.6)
    axes.set(ylabel="change of the loss (nats)")
    axes.set_title(str(effect.held).capitalize(), loc="left")
    _label_tokens(axes, texts, size)
    return figure


def difference_figure(left: GatedText, right: GatedText, what: str | int = "mean", title: str = "") -> Figure:
    """The gate of `right` minus that of `left`, layers down, tokens across: one text under two arms or clamps.

    Raises:
        ValueError: the two differ in tokens or in the number of gates.
    """
    if left.tokens != right.tokens or len(left.labels) != len(right.labels):
        raise ValueError(
            f"there are {len(left.tokens)} tokens and {len(left.labels)} gates on the left, {len(right.tokens)} and "
            f"{len(right.labels)} on the right; a difference needs the same tokens and as many gates"
        )
    return _map(right.measure(what) - left.measure(what), left, DIVERGING, title or "Difference", "difference")


def layers_figure(gated: GatedText, what: str | int = "mean", title: str = "") -> Figure:
    """Layers down, tokens across."""
    return _map(gated.measure(what), gated, SEQUENTIAL, title or measure_name(what), measure_name(what))


def _map(values: NDArray[np.float32], gated: GatedText, palette: str, title: str, unit: str) -> Figure:
    texts, shown, size = aggregate(gated.tokens, values, MOST_BARS)
    figure, axes = _axes(min(16.0, max(6.0, 2 + 0.15 * len(texts))), 1.6 + 0.34 * len(values))
    axes.set_title(title, loc="left")
    axes.set(ylabel="layer")
    axes.set_yticks(range(len(values)), gated.labels)
    if texts:
        low, high = value_range(shown, palette)
        image = axes.imshow(shown, aspect="auto", cmap=palette, vmin=low, vmax=high, interpolation="nearest")
        figure.colorbar(image, ax=axes, label=unit, pad=0.01)
    _label_tokens(axes, texts, size)
    return figure


def _label_tokens(axes: Any, texts: list[str], size: int) -> None:
    if not texts:
        axes.text(0.5, 0.5, "the text is empty", ha="center", transform=axes.transAxes)
    elif size > 1:
        axes.set_xlabel(f"token, in groups of {size}")
    elif len(texts) > LABELLED_TOKENS:
        axes.set_xlabel("token position")
    else:
        names = token_labels([short(text, 12) for text in texts])
        axes.set_xticks(range(len(texts)), names, rotation=90, fontsize=7, family="monospace", parse_math=False)


def _axes(width: float, height: float) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes
