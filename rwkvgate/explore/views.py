"""Views of a gated text: functions that return HTML without script or network, with numbers on hover.

A view displays itself at the end of a notebook cell. All text is escaped.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from html import escape
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from rwkvgate.explore.effects import ClampEffect
from rwkvgate.explore.gated_text import GatedText
from rwkvgate.explore.palette import DIVERGING, SEQUENTIAL, class_names, style_sheet, value_range
from rwkvgate.explore.tokens import aggregate, direction, readable, token_labels, visible

MOST_TOKENS = 4096
"""Texts of more tokens are coloured in groups."""
NOTHING = "<p>The text is empty: there is no token to show.</p>"


class View(str):
    """A fragment of HTML that a notebook displays with its style sheet."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<a view, {len(self):,} characters of HTML>"

    def _repr_html_(self) -> str:
        return f'<div class="rg"><style>{style()}</style>{self}</div>'


@cache
def style() -> str:
    """The style sheet of every view."""
    rules = files("rwkvgate.explore").joinpath("view.css").read_text(encoding="utf-8")
    return f"{rules}\n{style_sheet()}"


def measure_name(measure: str | int) -> str:
    """The name of a measure in legends."""
    names = {
        "mean": "mean gate over channels",
        "low": "5 % quantile over channels",
        "high": "95 % quantile over channels",
        "saturated": "share of channels within 0.05 of 0 or 1",
    }
    return names.get(measure, measure) if isinstance(measure, str) else f"gate of channel {measure}"


def coloured_text(
    tokens: Sequence[str],
    values: NDArray[np.float32],
    label: str,
    *,
    ends: tuple[float, float] | None = None,
    palette: str = SEQUENTIAL,
) -> View:
    """Tokens on a background of their value's colour, below a legend.

    Args:
        values: (time,); nan is no value.
        label: name of the values.
        ends: of the colour scale; default: the values' own.
    """
    if not len(tokens):
        return View(NOTHING)
    texts, shown, size = aggregate(tokens, values, MOST_TOKENS)
    low, high = ends or value_range(shown, palette)
    spans, classes = [], class_names(shown, low, high, palette)
    for i, (text, colour, value) in enumerate(zip(texts, classes, shown.tolist(), strict=True)):
        hover = f"{place(i, size, len(tokens))}: {quoted(text)}, {value:.3f}"
        line = "\n" * text.count("\n")
        spans.append(f'<span class="{colour}" title="{escape(hover)}">{escape(readable(text))}</span>{line}')
    bar = colour_bar(low, high, label, palette)
    return View(
        f'{_joined(size, len(tokens))}{bar}<div class="tokens" dir="{direction(tokens)}">{"".join(spans)}</div>'
    )


def text_view(gated: GatedText, layer: int | str = 1, measure: str | int = "mean") -> View:
    """The text coloured by a layer's gate, on one scale for all layers.

    Raises:
        ValueError: the layer or measure is unknown.
    """
    gate, values = gated.gate(layer), gated.measure(measure)
    if not gated.tokens:
        return View(NOTHING)
    label = f"layer {gated.labels[gate]}, {measure_name(measure)}"
    return coloured_text(gated.tokens, values[gate], label, ends=value_range(values))


def compare_view(
    left: GatedText,
    right: GatedText,
    layer: int | str = 1,
    measure: str | int = "mean",
    names: tuple[str, str] = ("left", "right"),
) -> View:
    """Two texts, or one text under two arms, on one scale; with the difference if the tokens are the same."""
    sides, both = [], [side.measure(measure)[side.gate(layer)] for side in (left, right)]
    ends = value_range(np.concatenate(both))
    for side, values, name in zip((left, right), both, names, strict=True):
        mean = f"mean {np.nanmean(values):.3f} over {len(values):,} tokens" if values.size else "no token"
        view = coloured_text(side.tokens, values, measure_name(measure), ends=ends)
        sides.append(f"<div><h3>{escape(name)}</h3><p>{mean}</p>{view}</div>")
    body = f'<div class="columns">{"".join(sides)}</div>'
    if left.tokens and left.tokens == right.tokens:
        label = f"{names[1]} minus {names[0]}"
        return View(
            f"{body}<h3>Difference</h3>{coloured_text(left.tokens, both[1] - both[0], label, palette=DIVERGING)}"
        )
    return View(f'{body}<p class="note">The tokens differ: there is no difference token by token.</p>')


def clamp_view(effect: ClampEffect) -> View:
    """The change that a clamp makes to each token's loss and to the continuation."""
    change = effect.clamped - effect.free
    words = f"<h3>{escape(str(effect.clamp).capitalize())}</h3>"
    if change.size:
        means = f"{effect.free.mean():.3f} nats per token as it is, {effect.clamped.mean():.3f} with the clamp"
        words += f"<p>Mean loss {means}.</p>"
    text = coloured_text(effect.tokens, change, "change of the loss (nats): above 0 is worse", palette=DIVERGING)
    sides = "".join(
        f"<div><h3>{name}</h3>{continuation(written)}</div>"
        for name, written in (("As it is", effect.free_text), ("With the clamp", effect.clamped_text))
    )
    return View(f'{words}{text}<div class="columns">{sides}</div>')


def continuation(text: str) -> View:
    """A continuation as running text."""
    shown = escape(visible(text))
    return View(f'<div class="tokens" dir="{direction([text])}">{shown or "<i>It ends at once.</i>"}</div>')


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


def place(index: int, size: int, total: int) -> str:
    """The positions of the tokens of a group, in words."""
    if size == 1:
        return f"token {index}"
    return f"tokens {index * size} to {min((index + 1) * size, total) - 1}"


def quoted(text: str) -> str:
    """A token, or the beginning of a group, in quotation marks, with visible white space."""
    return f"“{token_labels([short(text, 60)])[0]}”"


def _joined(size: int, total: int) -> str:
    if size == 1:
        return ""
    return f'<p class="note">{total:,} tokens, in groups of {size}: each colour or point is the mean of its group.</p>'
