"""What the studies' figures share: marks that tell arms apart without colour, bands, notes, and empty figures.

Nothing that is not a number is dropped in silence: `finite` leaves it out and gives the words that say so, and `note`
writes them over the figure.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import AutoLocator
from numpy.typing import NDArray

from rwkvgate.experiment.analysis.figures import STYLE, WIDTH, colour_of
from rwkvgate.experiment.arms import ARMS, BLACK, YELLOW
from rwkvgate.metrics.statistics import RESAMPLES, Interval, Reduce, interval, mean

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "p", "h", "d", "8", "H", (4, 1), (6, 1), (3, 1, 180))
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)), (0, (3, 1, 1, 1, 1, 1)), (0, (9, 2)))
DARK_YELLOW = "#A89A00"
EMPTY = "nothing measured"
SMALL = 7.5
COLUMNS = 3
"""Of a legend of arms."""
LINE = 0.17
"""Inches of a line of the legend or of a note."""


def marks_of(arm: str, size: float = 4.5) -> dict[str, Any]:
    """How an arm is drawn: its colour, and a marker and a dash of its own for readers without colour."""
    order = list(ARMS)
    index = order.index(arm) if arm in order else len(order) - 1
    colour = colour_of(arm)
    # Thin lines of yellow are lost on white.
    line = DARK_YELLOW if colour == YELLOW else colour
    style: dict[str, Any] = {"color": line, "marker": MARKERS[index % len(MARKERS)], "ls": DASHES[index % len(DASHES)]}
    return style | {"lw": 1.2, "ms": size, "mfc": colour, "mec": BLACK, "mew": 0.5}


def finite(frame: pd.DataFrame, *columns: str) -> tuple[pd.DataFrame, list[str]]:
    """The rows whose columns are all finite, and a sentence on the others, by arm."""
    if frame.empty:
        return frame, []
    good = np.isfinite(frame[list(columns)].to_numpy(dtype=np.float64)).all(axis=1)
    if good.all():
        return frame, []
    counts = frame.assign(bad=~good).groupby("arm", sort=False)["bad"].agg(["sum", "size"])
    said = [f"{row.Index} ({row.sum} of {row.size} rows)" for row in _rows(counts[counts["sum"] > 0])]
    return frame[good], [f"not a number, left out: {', '.join(said)}"]


def drawn_interval(values: NDArray[np.float64], reduce: Reduce = mean, resamples: int = RESAMPLES) -> Interval:
    """A measure of (unit,) or (unit, column) with its 95 % bootstrap interval over units, always the same."""
    return interval(values, reduce, resamples=resamples)


def band(axes: Axes, x: Sequence[float], low: Sequence[float], high: Sequence[float], colour: str) -> None:
    """A band between bounds; a bar where there is one point."""
    if len(x) == 1:
        axes.plot([x[0], x[0]], [low[0], high[0]], color=colour, lw=1.0)
    else:
        axes.fill_between(x, low, high, color=colour, alpha=0.18, lw=0)


def mark_trained(axes: Axes, trained: float) -> None:
    """A vertical dashed line at the trained length (tokens), named above the panel; for a logarithmic axis."""
    axes.axvline(trained, color=BLACK, lw=0.9, ls="--", zorder=1, gid="trained")
    low, high = np.log(axes.get_xlim())
    place = (np.log(trained) - low) / (high - low)
    side = "left" if place < 0.2 else "right" if place > 0.8 else "center"
    axes.annotate(
        f"trained length: {trained:,.0f}",
        (trained, 1),
        xycoords=("data", "axes fraction"),
        xytext=(0, 2),
        textcoords="offset points",
        ha=side,
        va="bottom",
        fontsize=SMALL,
    )


def token_axis(axes: Axes, tokens: Iterable[float], label: str, *shown: float) -> None:
    """A logarithmic axis (base 2) with ticks at some of these numbers of tokens, seven at most.

    Args:
        shown: what must lie within the limits as well.
    """
    ticks = sorted({float(n) for n in tokens})
    inside = [*ticks, *shown]
    axes.set_xscale("log", base=2)
    axes.set_xlim(min(inside) / 1.25, max(inside) * 1.25)
    ticks = ticks[:: -(-len(ticks) // 7)]
    axes.set_xticks(ticks, [f"{n:,.0f}" for n in ticks], rotation=30 if len(ticks) > 4 else 0)
    axes.minorticks_off()
    axes.set_xlabel(label)


def new_figure(height: float, arms: Sequence[str], notes: Sequence[str]) -> Figure:
    """A figure with room of `height` inches for its panels, and more for a legend of the arms and for notes."""
    rows = -(-len(arms) // COLUMNS) + len(_lines(notes))
    figure = Figure(figsize=(WIDTH, height + LINE * rows + 0.1), layout="constrained")
    note(figure, notes)
    return figure


def note(figure: Figure, notes: Sequence[str]) -> None:
    """Sentences over the panels, wrapped."""
    if notes:
        text = "\n".join(_lines(notes))
        figure.suptitle(text, x=0.01, ha="left", fontsize=SMALL, style="italic", color="#333333", parse_math=False)


def finish(figure: Figure, arms: Sequence[str], line: bool = True) -> None:
    """The arms' marks below the panels, and a fixed number of ticks where nothing else was asked for: call it last."""
    from matplotlib.lines import Line2D

    drawn = [marks_of(arm) | ({} if line else {"ls": "none"}) for arm in arms]
    handles = [Line2D([], [], label=arm, **style) for arm, style in zip(arms, drawn, strict=True)]
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=COLUMNS, frameon=False, handlelength=3.2)
    for axis, ticks in ((axis, n) for axes in figure.axes for axis, n in ((axes.xaxis, 5), (axes.yaxis, 7))):
        locator = axis.get_major_locator()
        if isinstance(locator, AutoLocator):
            # As many as fit would change with the panel's size, and the layout with them: labels would be clipped.
            locator.set_params(nbins=ticks)


def nothing(title: str, notes: Sequence[str] = ()) -> Figure:
    """A figure that says that nothing was measured, and why where that is known."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 1.0 + LINE * len(_lines(notes))), layout="constrained")
        axes = figure.subplots()
        axes.set_axis_off()
        axes.set_title(title, loc="left")
        empty_panel(axes)
        note(figure, notes)
    return figure


def empty_panel(axes: Axes, said: str = EMPTY) -> None:
    """Say in the middle of a panel why it is empty."""
    axes.text(0.5, 0.5, said, ha="center", va="center", transform=axes.transAxes, style="italic", color="#555555")


def spread(wanted: Sequence[float], gap: float) -> list[float]:
    """Places from 0 to 1 in the order of `wanted`, as near to it as a gap between neighbours allows."""
    order = np.argsort(wanted, kind="stable")
    places = np.asarray(wanted, dtype=np.float64)[order]
    gap = min(gap, 1 / max(len(places) - 1, 1))
    least = gap * np.arange(len(places))
    # Without the gaps the places must only not fall: the nearest such are means of what stands in the wrong order.
    blocks: list[list[float]] = []
    for place in places - least:
        blocks.append([place, 1.0])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            value, count = blocks.pop()
            blocks[-1] = [
                (blocks[-1][0] * blocks[-1][1] + value * count) / (blocks[-1][1] + count),
                blocks[-1][1] + count,
            ]
    flat = np.concatenate([np.full(int(count), value) for value, count in blocks]) if blocks else places
    found = np.empty(len(places))
    found[order] = np.clip(flat, 0, 1 - least[-1] if len(least) else 1) + least
    return [float(x) for x in found]


def offset(number: int, count: int) -> float:
    """Where in its row the mark of arm `number` of `count` stands, within 0.3 of the middle."""
    return 0.6 * (number - (count - 1) / 2) / max(count, 2)


def interval_bars(
    axes: Axes,
    arm: str,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    *,
    across: NDArray[np.float64],
    down: NDArray[np.float64] | None = None,
) -> None:
    """Marks at (x, y) with bars from (value, low, high) rows; a bound that is nan gives no bar."""
    style: dict[str, Any] = marks_of(arm) | {"ls": "none"}

    def lengths(bounds: NDArray[np.float64] | None) -> NDArray[np.float64] | None:
        if bounds is None:
            return None
        return np.nan_to_num(np.stack((bounds[:, 0] - bounds[:, 1], bounds[:, 2] - bounds[:, 0])).clip(min=0))

    axes.errorbar(
        x, y, xerr=lengths(across), yerr=lengths(down), ecolor=style["color"], elinewidth=1, capsize=2, **style
    )


def in_order(found: pd.Series, known: Sequence[str]) -> list[str]:
    """The names found, those of `known` first and in its order."""
    present = list(dict.fromkeys(str(name) for name in found))
    return [name for name in known if name in present] + [name for name in present if name not in known]


def _rows(frame: pd.DataFrame) -> Iterable[Any]:
    return frame.itertuples()


def _lines(notes: Sequence[str]) -> list[str]:
    return [line for said in notes for line in textwrap.wrap(said, 105)]
