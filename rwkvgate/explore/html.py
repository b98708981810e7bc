"""Views of a gated text as HTML: plain functions, each to a fragment without script or network.

Numbers are shown on hover. In a notebook a view that ends a cell shows itself. All text is escaped.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from html import escape
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from rwkvgate.explore import svg
from rwkvgate.explore.effects import ClampEffect
from rwkvgate.explore.gated_text import GatedText
from rwkvgate.explore.palette import DIVERGING, SEQUENTIAL, class_names, style_sheet, value_range
from rwkvgate.explore.tokens import JOINERS, aggregate, direction, readable, token_labels

MOST_TOKENS = 4096
"""More tokens than this are coloured in groups."""
MOST_COLUMNS = 256
"""More tokens than this share columns in a drawing."""
NOTHING = "<p>The text is empty: there is no token to show.</p>"


class View(str):
    """A fragment of HTML that shows itself in a notebook, with its style sheet."""

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


def measure_name(what: str | int) -> str:
    """What a measure is called in legends."""
    names = {
        "mean": "mean gate over channels",
        "low": "5 % quantile over channels",
        "high": "95 % quantile over channels",
        "saturated": "share of channels within 0.05 of 0 or 1",
    }
    return names.get(what, what) if isinstance(what, str) else f"gate of channel {what}"


def coloured_text(
    tokens: Sequence[str],
    values: NDArray[np.float32],
    label: str,
    *,
    ends: tuple[float, float] | None = None,
    palette: str = SEQUENTIAL,
) -> View:
    """Tokens on a background of their value's colour, above a legend.

    Args:
        values: (time,); nan for none.
        label: what the values are called.
        ends: the scale's ends; default: the values' own.
    """
    if not len(tokens):
        return View(NOTHING)
    texts, shown, size = aggregate(tokens, values, MOST_TOKENS)
    low, high = ends or value_range(shown, palette)
    spans, kinds = [], class_names(shown, low, high, palette)
    for i, (text, kind, value) in enumerate(zip(texts, kinds, shown.tolist(), strict=True)):
        hover = f"{place(i, size, len(tokens))}: {quoted(text)}, {value:.3f}"
        line = "\n" * text.count("\n")
        spans.append(f'<span class="{kind}" title="{escape(hover)}">{escape(readable(text))}</span>{line}')
    bar = svg.colour_bar(low, high, label, palette)
    return View(
        f'{_joined(size, len(tokens))}{bar}<div class="tokens" dir="{direction(tokens)}">{"".join(spans)}</div>'
    )


def text_view(gated: GatedText, layer: int | str = 1, what: str | int = "mean") -> View:
    """The text coloured by a layer's gate; the scale is the same for every layer.

    Raises:
        ValueError: an unknown layer or measure.
    """
    gate, values = gated.gate(layer), gated.measure(what)
    if not gated.tokens:
        return View(NOTHING)
    label = f"layer {gated.labels[gate]}, {measure_name(what)}"
    return coloured_text(gated.tokens, values[gate], label, ends=value_range(values))


def layers_view(gated: GatedText, what: str | int = "mean") -> View:
    """Layers down, tokens across."""
    values = gated.measure(what)
    if not gated.tokens:
        return View(NOTHING)
    texts, shown, size = aggregate(gated.tokens, values, MOST_COLUMNS)
    low, high = value_range(shown)
    picture = svg.heatmap(shown, gated.labels, texts, low, high, measure_name(what))
    return View(f"{_joined(size, len(gated.tokens))}{svg.colour_bar(low, high, measure_name(what))}{picture}")


def distribution_view(gated: GatedText) -> View:
    """How the values of each layer are spread over tokens and channels, and how many of them are saturated."""
    if not gated.tokens:
        return View(NOTHING)
    summary = gated.summary
    saturated = summary.channel_saturated[:, 0].mean(-1).tolist()
    picture = svg.distribution(summary.histogram[:, 0].numpy(), gated.labels, saturated)
    return View(f'<p class="note">Gate value across; height is the square root of the share.</p>{picture}')


def extremes_view(gated: GatedText, layer: int | str = 1, what: str | int = "mean", count: int = 8) -> View:
    """The tokens and the channels with the highest and the lowest gate of a layer."""
    gate = gated.gate(layer)
    values = gated.measure(what)[gate]
    if not gated.tokens:
        return View(NOTHING)
    channels = gated.summary.channel_mean[gate, 0].numpy()
    labels = token_labels([svg.short(token) for token in gated.tokens])
    names = [str(i) for i in range(len(channels))]
    parts = [
        _table("Highest tokens", ("token", "position", "gate"), _extremes(values, labels, count, True)),
        _table("Lowest tokens", ("token", "position", "gate"), _extremes(values, labels, count, False)),
        _table("Highest channels", ("channel", "", "mean over tokens"), _extremes(channels, names, count, True, "")),
        _table("Lowest channels", ("channel", "", "mean over tokens"), _extremes(channels, names, count, False, "")),
    ]
    return View(f'<div class="columns narrow">{"".join(f"<div>{part}</div>" for part in parts)}</div>')


def surprisal_view(gated: GatedText, layer: int | str = 1, what: str | int = "mean") -> View:
    """Each token's gate against how surprised the model was by it, and their rank correlation."""
    gate, values = gated.gate(layer), gated.measure(what)
    if not gated.tokens:
        return View(NOTHING)
    both = np.stack((values[gate], gated.losses))
    texts, shown, size = aggregate(gated.tokens, both, 4 * MOST_COLUMNS)
    top = max(1.0, float(np.nanmax(values)))
    picture = svg.scatter(shown[1], shown[0], texts, "surprisal (nats)", measure_name(what), top)
    words = correlation(values[gate], gated.losses)
    return View(f"{_joined(size, len(gated.tokens))}<p>Layer {escape(gated.labels[gate])}: {words}.</p>{picture}")


def compare_view(
    left: GatedText,
    right: GatedText,
    layer: int | str = 1,
    what: str | int = "mean",
    names: tuple[str, str] = ("left", "right"),
) -> View:
    """Two texts, or one text under two arms, on one scale; where the tokens are the same, their difference too."""
    sides, both = [], [side.measure(what)[side.gate(layer)] for side in (left, right)]
    ends = value_range(np.concatenate(both))
    for side, values, name in zip((left, right), both, names, strict=True):
        mean = f"mean {np.nanmean(values):.3f} over {len(values):,} tokens" if values.size else "no token"
        view = coloured_text(side.tokens, values, measure_name(what), ends=ends)
        sides.append(f"<div><h3>{escape(name)}</h3><p>{mean}</p>{view}</div>")
    body = f'<div class="columns">{"".join(sides)}</div>'
    if left.tokens and left.tokens == right.tokens:
        label = f"{names[1]} minus {names[0]}"
        return View(
            f"{body}<h3>Difference</h3>{coloured_text(left.tokens, both[1] - both[0], label, palette=DIVERGING)}"
        )
    return View(f'{body}<p class="note">The tokens differ: there is no difference token by token.</p>')


def clamp_view(effect: ClampEffect) -> View:
    """What a clamp does to each token's loss and to the continuation."""
    change = effect.clamped - effect.free
    words = f"<h3>{escape(str(effect.held).capitalize())}</h3>"
    if change.size:
        means = f"{effect.free.mean():.3f} nats a token as it is, {effect.clamped.mean():.3f} with the clamp"
        words += f"<p>Mean loss {means}.</p>"
    text = coloured_text(effect.tokens, change, "change of the loss (nats): above 0 is worse", palette=DIVERGING)
    sides = "".join(
        f"<div><h3>{name}</h3>{continuation(written)}</div>"
        for name, written in (("As it is", effect.free_text), ("With the clamp", effect.clamped_text))
    )
    return View(f'{words}{text}<div class="columns">{sides}</div>')


def continuation(text: str) -> View:
    """A continuation as running text."""
    shown = "".join(c if c.isprintable() or c in JOINERS or c in "\n\t" else "□" for c in text)
    return View(f'<div class="tokens" dir="{direction([text])}">{escape(shown) or "<i>It ends at once.</i>"}</div>')


def rank_correlation(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Spearman's, over pairs where both are known; nan with fewer than three or where one does not vary."""
    known = np.isfinite(a) & np.isfinite(b)
    if known.sum() < 3 or np.ptp(a[known]) == 0 or np.ptp(b[known]) == 0:
        return float("nan")
    from scipy.stats import spearmanr

    return float(spearmanr(a[known], b[known]).statistic)


def correlation(a: NDArray[np.float32], b: NDArray[np.float32]) -> str:
    """The rank correlation in words."""
    found = rank_correlation(a, b)
    if np.isnan(found):
        return "no rank correlation, for there are too few tokens or the values do not vary"
    return f"rank correlation {found:+.2f}"


def place(index: int, size: int, total: int) -> str:
    """Which tokens the group `index` holds, in words."""
    if size == 1:
        return f"token {index}"
    return f"tokens {index * size} to {min((index + 1) * size, total) - 1}"


def quoted(text: str) -> str:
    """A token, or the beginning of a group, in quotation marks, with what cannot be seen made visible."""
    return f"“{token_labels([svg.short(text, 60)])[0]}”"


def _joined(size: int, total: int) -> str:
    if size == 1:
        return ""
    return f'<p class="note">{total:,} tokens, in groups of {size}: each colour or point is the mean of its group.</p>'


def _extremes(
    values: NDArray[np.float32], names: Sequence[str], count: int, highest: bool, place: str = "{}"
) -> list[tuple[str, str, str]]:
    known = np.flatnonzero(np.isfinite(values))
    order = known[np.argsort(values[known], kind="stable")]
    chosen = (order[::-1] if highest else order)[:count]
    return [(names[i], place.format(i), f"{values[i]:.3f}") for i in chosen.tolist()]


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{escape(name)}</th>" for name in head)
    lines = [
        f'<tr><td><bdi>{escape(name)}</bdi></td><td class="n">{place}</td><td class="n">{value}</td></tr>'
        for name, place, value in rows
    ]
    return f"<h3>{title}</h3><table><thead><tr>{top}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
