"""Finishing the figures that notebooks draw with seaborn: the legend's place, and a reference line in every panel."""

from __future__ import annotations

from matplotlib.figure import Figure


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
