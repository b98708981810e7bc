"""What the figures share: style, colours of the arms, and files that depend on the numbers alone.

The figures themselves are seaborn calls in notebook 04. They are `matplotlib.figure.Figure` objects made without
pyplot: nothing is kept alive, and nothing is shown twice in a notebook.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path

import matplotlib
import seaborn.objects as so
from matplotlib.figure import Figure

from rwkvgate.experiment.arms import ARMS
from rwkvgate.experiment.records import keep_record
from rwkvgate.rwkv6.files import write_file

GREY = "#7F7F7F"
STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#333333",
    "axes.facecolor": "white",
    "axes.grid": True,
    "axes.labelsize": 9.0,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 9.0,
    "figure.dpi": 100.0,
    "font.size": 9.0,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "legend.fontsize": 8.0,
    "legend.frameon": False,
    "lines.markersize": 4.0,
    "svg.fonttype": "path",
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
}
WIDTH = 6.5
"""Inches."""
SAVED: set[Path] = set()
"""The figures that this process has written."""


def palette(arms: Iterable[str]) -> dict[str, str]:
    """The colour of each arm, as "#RRGGBB"; grey for a name that is no arm.

    Example:
        >>> palette(["base", "mine"])
        {'base': '#000000', 'mine': '#7F7F7F'}
    """
    return {arm: ARMS[arm].colour if arm in ARMS else GREY for arm in arms}


def draw(plot: so.Plot, title: str, failures: Mapping[str, str] | None = None, height: float = 3.0) -> Figure:
    """A seaborn plot as a figure, with a title that says what is drawn and which arms failed.

    Args:
        failures: arm -> why it has no results.
        height: inches of the panels; the title comes on top.
    """
    lines = textwrap.wrap(title, 95)
    lines += textwrap.wrap(f"No results, training failed: {', '.join(failures)}.", 95) if failures else []
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height + 0.17 * len(lines)), layout="constrained")
        figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=9)
        plot.on(figure).theme(STYLE).plot()
    return figure


def finish(figure: Figure, *, at: float | None = None) -> None:
    """Move the legend that seaborn lays over the panels below them, and mark a reference value.

    Args:
        figure: with constrained layout, drawn by `seaborn.objects.Plot.on`.
        at: where on the x axis of every panel a dashed line stands, such as the trained length.
    """
    if at is not None:
        for axes in figure.axes:
            axes.axvline(at, color="black", linestyle="--", linewidth=1, zorder=1)
    if figure.legends:
        legend = figure.legends.pop()
        handles = [handle for handle in legend.legend_handles if handle is not None]
        labels = [text.get_text() for text in legend.get_texts()]
        style = {"ncols": min(4, len(labels)), "frameon": False, "fontsize": 9}
        figure.legend(handles, labels, loc="outside lower center", **style)


def rows_height(arms: Iterable[str]) -> float:
    """Inches of a panel with one row an arm."""
    return 0.9 + 0.24 * len(list(arms))


def save_figure(figure: Figure, folder: Path, name: str) -> tuple[Path, Path]:
    """Write `name`.svg and `name`.png (200 dots an inch) atomically into a folder, made if need be; returns the paths.

    The folder's record gets their hashes. The SVG carries no date and its identifiers depend on `name` alone, so the
    same numbers give the same file.
    """
    written = []
    for suffix in ("svg", "png"):
        path = folder / f"{name}.{suffix}"
        metadata = {"Date": None} if suffix == "svg" else {"Software": None}
        with write_file(path) as fresh, matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
            figure.savefig(fresh, format=suffix, dpi=200, metadata=metadata)
        written.append(path)
    SAVED.update(written)
    keep_record(folder, *written)
    return written[0], written[1]
