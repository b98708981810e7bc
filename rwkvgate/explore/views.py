"""Pictures of a gated text, and text as HTML without script or network.

Pictures are matplotlib's figures: a notebook's output holds them as PNG, which GitHub, a JupyterLab that does not trust
the notebook, and nbconvert show. Markup would lose its colours there.
"""

from __future__ import annotations

import re
import unicodedata
import warnings
from collections.abc import Sequence
from functools import cache
from html import escape
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rwkvgate.explore.effects import ClampEffect
from rwkvgate.explore.gated_text import GatedText
from rwkvgate.explore.palette import DIVERGING, SEQUENTIAL, ink, value_range
from rwkvgate.explore.tokens import direction, readable, visible
from rwkvgate.rwkv6.extras import extra

with extra("explorer"):
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize, to_hex
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

MOST_TOKENS = 600
"""Tokens of a text that a picture shows."""
COLUMNS = 92
"""Characters of a line."""
FONTS = ["DejaVu Sans Mono", "DejaVu Sans"]
"""Fonts of the tokens, which matplotlib brings; the second has Hebrew and Arabic."""
LETTER, LINE, HEAD, MARGIN = 0.0669, 0.19, 0.42, 0.12
"""Inches: width of a letter of 8 points, height of a line and of what stands above a text, and the margin."""


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
    return files("rwkvgate.explore").joinpath("view.css").read_text(encoding="utf-8")


def continuation(text: str) -> View:
    """A continuation as running text."""
    shown = escape(visible(text))
    return View(f'<div class="tokens" dir="{direction([text])}">{shown or "<i>It ends at once.</i>"}</div>')


class Picture(Figure):
    """A figure whose text may hold any character: a box stands for one that the font lacks."""

    def draw(self, renderer: Any) -> None:
        """Draw without a warning for each such character."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph")
            super().draw(renderer)


class Panel(NamedTuple):
    """A text under its title; tokens without a value, nan, stand on white."""

    title: str
    tokens: Sequence[str]
    values: NDArray[np.float32]
    ends: tuple[float, float] = (0.0, 1.0)
    palette: str = SEQUENTIAL


def text_view(gated: GatedText, layer: int | str = 1, measure: str | int = "mean") -> Picture:
    """The text coloured by a layer's gate, on one scale for all layers.

    Raises:
        ValueError: the layer or measure is unknown.
    """
    gate, values = gated.gate(layer), gated.measure(measure)
    title = f"Layer {gated.labels[gate]}: {measure_name(measure)}"
    return drawn(Panel(title, gated.tokens, values[gate], value_range(values)))


def compare_view(
    left: GatedText,
    right: GatedText,
    layer: int | str = 1,
    measure: str | int = "mean",
    names: tuple[str, str] = ("left", "right"),
) -> Picture:
    """Two texts, or one text under two arms, on one scale; with the difference if the tokens are the same."""
    both = [side.measure(measure)[side.gate(layer)] for side in (left, right)]
    ends, panels = value_range(np.concatenate(both)), []
    for side, values, name in zip((left, right), both, names, strict=True):
        mean = f", mean {np.nanmean(values):.3f} over {len(values):,} tokens" if values.size else ""
        panels.append(Panel(f"{name}: {measure_name(measure)}{mean}", side.tokens, values, ends))
    if left.tokens and left.tokens == right.tokens:
        change = both[1] - both[0]
        ends = value_range(change, DIVERGING)
        panels.append(Panel(f"{names[1]} minus {names[0]}", left.tokens, change, ends, DIVERGING))
    return drawn(*panels)


def clamp_view(effect: ClampEffect) -> Picture:
    """The change that a clamp makes to each token's loss and to the continuation."""
    change, clamp = effect.clamped - effect.free, str(effect.clamp)
    title = f"{clamp.capitalize()}: change of the loss in nats, above 0 is worse"
    panels = [Panel(title, effect.tokens, change, value_range(change, DIVERGING), DIVERGING)]
    for name, text in (("As it is", effect.free_text), (f"With {clamp}", effect.clamped_text)):
        parts = re.findall(r"\s*\S+|\s+", text) or ["It ends at once."]
        panels.append(Panel(f"Continuation. {name}", parts, np.full(len(parts), np.nan, np.float32)))
    figure = drawn(*panels)
    if change.size:
        means = f"{effect.free.mean():.3f} nats per token as it is, {effect.clamped.mean():.3f} with the clamp"
        figure.text(0.99, 0.01, f"Mean loss: {means}", fontsize=8, ha="right", va="bottom")
    return figure


def measure_name(measure: str | int) -> str:
    """The name of a measure in legends."""
    names = {
        "mean": "mean gate over channels",
        "low": "5 % quantile over channels",
        "high": "95 % quantile over channels",
        "saturated": "share of channels within 0.05 of 0 or 1",
    }
    return names.get(measure, measure) if isinstance(measure, str) else f"gate of channel {measure}"


def drawn(*panels: Panel) -> Picture:
    """The panels of a picture, one below the other; of a longer text the first `MOST_TOKENS` tokens."""
    placed = [_lines([readable(token) for token in panel.tokens[:MOST_TOKENS]]) for panel in panels]
    heights = [HEAD + LINE * (places[-1][1] + 1.6 if places else 1.6) for places in placed]
    width, height = 2 * MARGIN + COLUMNS * LETTER, sum(heights)
    figure, top = Picture(figsize=(width, height)), height
    for panel, places, tall in zip(panels, placed, heights, strict=True):
        lines = places[-1][1] + 1 if places else 1
        _panel(figure, panel, places, (width, height), top, lines)
        top -= tall
    return figure


def _panel(
    figure: Picture, panel: Panel, places: Sequence[Any], size: tuple[float, float], top: float, lines: int
) -> None:
    """Draw a panel whose upper edge is `top` inches above the picture's lower one."""
    width, height = size
    left, wide = MARGIN / width, 1 - 2 * MARGIN / width
    axes = figure.add_axes((left, (top - HEAD - LINE * lines) / height, wide, LINE * lines / height))
    axes.set(xlim=(0, COLUMNS), ylim=(lines, 0))
    axes.axis("off")
    cut = "" if len(places) == len(panel.tokens) else f", first {MOST_TOKENS} of {len(panel.tokens):,} tokens"
    title = (panel.title if places else f"{panel.title}. The text is empty: there is no token to show") + cut
    figure.text(left, (top - 0.12) / height, visible(title), fontsize=9, va="top", parse_math=False)
    colours = ScalarMappable(Normalize(*panel.ends), panel.palette)
    if not np.isnan(panel.values).all():
        bar = figure.add_axes((left + 0.84 * wide, (top - 0.2) / height, 0.13 * wide, 0.07 / height))
        figure.colorbar(colours, cax=bar, orientation="horizontal", ticks=panel.ends, format="%.3g")
        bar.tick_params(labelsize=7, length=0, pad=2)
    for (text, line, column, wide_), value in zip(places, panel.values, strict=False):
        colour = "#ffffff" if np.isnan(value) else to_hex(colours.to_rgba(value))
        axes.add_patch(Rectangle((column, line + 0.06), wide_, 0.88, color=colour, linewidth=0))
        axes.text(column, line + 0.52, text, fontsize=8, family=FONTS, va="center", color=ink(colour), parse_math=False)


def _lines(texts: Sequence[str]) -> list[tuple[str, int, int, int]]:
    """Each token with its line, its first column and its width in columns."""
    places, line, column = [], 0, 0
    for text in texts:
        shown = text if len(text) <= COLUMNS // 2 else f"{text[: COLUMNS // 2 - 1]}…"
        wide = sum(_columns(letter) for letter in shown)
        if column + wide > COLUMNS:
            line, column = line + 1, 0
        places.append((shown, line, column, wide))
        column += wide
        if text.endswith("⏎"):
            line, column = line + 1, 0
    return places


def _columns(letter: str) -> int:
    """Columns that a letter takes in a monospaced font."""
    if unicodedata.combining(letter):
        return 0
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1
