"""The paper's Figures 2 and 3 from our measurements, with the paper's numbers marked.

Figures are `matplotlib.figure.Figure` objects made without pyplot: nothing is kept alive and nothing is shown
twice in a notebook. Each is 6 inches wide. Colours are Okabe and Ito's, which colour-blind readers can tell
apart; arms also stand on rows of their own, so colour never carries meaning alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rwkvgate.experiment.analysis import paper
from rwkvgate.experiment.analysis.comparison import Failures, arms_of, seed_values, summary
from rwkvgate.experiment.analysis.tables import pooled_latency
from rwkvgate.experiment.arms import ARMS, BLACK
from rwkvgate.metrics.cost import WINDOWS, exponent
from rwkvgate.metrics.measures import MEASURES
from rwkvgate.metrics.statistics import RESAMPLES
from rwkvgate.rwkv6.files import write_file

GREY = "#7F7F7F"

STYLE = {
    "font.size": 9.0,
    "axes.titlesize": 9.0,
    "axes.labelsize": 9.0,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 9.0,
    "legend.fontsize": 8.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "x",
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "svg.fonttype": "path",
}
WIDTH = 6.0
FIGURE3_METRICS = ("bleu", "rouge1", "rougeL")


def colour_of(arm: str) -> str:
    """The arm's colour as "#RRGGBB"; grey for an arm without one."""
    return ARMS[arm].colour if arm in ARMS else GREY


def figure2(latency: pd.DataFrame, *, arms: Sequence[str] | None = None, failures: Failures | None = None) -> Figure:
    """Forward time of each arm (s): bars to the median, whiskers over quartiles; the paper's on the right.

    The panels have scales of their own, for the paper's times are of another model on another device. Where
    `latency` holds several places or lengths, the first is drawn and named.

    Raises:
        ValueError: no forward times.
    """
    pooled = pooled_latency(latency)
    pooled = pooled[pooled["measure"] == "forward"]
    if pooled.empty:
        raise ValueError("latency holds no row with measure 'forward'; nothing to draw")
    place = [name for name in ("tokens", "device", "dtype", "threads") if name in pooled]
    first = pooled.iloc[0]
    pooled = pooled[(pooled[place] == first[place]).all(axis=1)].set_index("arm")
    listed = arms_of(latency, failures=failures) if arms is None else list(arms)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 1.3 + 0.3 * len(listed)), layout="constrained")
        ours, theirs = figure.subplots(1, 2, sharey=True)
        _name_rows(ours, listed)
        for row, arm in enumerate(listed):
            if arm in pooled.index:
                _time_bar(ours, row, arm, pooled.loc[[arm]].iloc[0])
            else:
                _say(ours, row, _reason(arm, failures))
            if arm in paper.FORWARD_SECONDS:
                theirs.barh(row, paper.FORWARD_SECONDS[arm], height=0.62, color=colour_of(arm), alpha=0.55)
                _label(theirs, row, paper.FORWARD_SECONDS[arm], f"{paper.FORWARD_SECONDS[arm]:.4f}")
            else:
                _say(theirs, row, "not in the paper")
        described = ", ".join(_describe(name, first[name]) for name in place)
        ours.set_title(f"Measured\n{described}", loc="left")
        theirs.set_title("Paper, Table 1\nTesla T4, RWKV-6 1.6B", loc="left")
        for axes in (ours, theirs):
            axes.set_xlabel("Forward time (s)")
            axes.set_xlim(0, max(axes.get_xlim()[1], axes.dataLim.x1) * 1.28)
            axes.locator_params(axis="x", nbins=4)
            axes.tick_params(axis="y", length=0)
    return figure


def scaling_figure(measured: pd.DataFrame) -> Figure:
    """Seconds of reading a text and MiB that it adds, against tokens n (`cost.scaling`); both axes logarithmic."""
    with matplotlib.rc_context(STYLE | {"axes.grid.axis": "both"}):
        figure = Figure(figsize=(WIDTH, 2.8), layout="constrained")
        times, memory = figure.subplots(1, 2)
        for (arm, mode), rows in measured.groupby(["arm", "mode"], sort=False):
            name, line = str(arm), {"color": colour_of(str(arm)), "ls": "-" if mode == WINDOWS else ":", "lw": 1}
            fit = exponent(rows["tokens"], rows["seconds"])
            middle = rows.groupby("tokens")[["seconds", "peak_mib"]].median()
            times.plot(middle.index, middle["seconds"], label=f"{name}, {mode}: n^{fit.estimate:.2f}", **line)
            times.plot(rows["tokens"], rows["seconds"], "o", color=colour_of(name), ms=3, alpha=0.7)
            memory.plot(middle.index, middle["peak_mib"], marker="o", ms=3, label=f"{name}, {mode}", **line)
        for axes, title in ((times, "Time (s)"), (memory, "Memory added (MiB)")):
            axes.set(xscale="log", yscale="log", xlabel="tokens")
            lengths = sorted(set(measured["tokens"]))
            axes.set_xticks(lengths, [f"{n:,}" for n in lengths], rotation=30)
            axes.minorticks_off()
            axes.set_title(title, loc="left")
            axes.legend(frameon=False, fontsize=7)
    return figure


def figure3(
    results: pd.DataFrame,
    *,
    arms: Sequence[str] | None = None,
    failures: Failures | None = None,
    resamples: int = RESAMPLES,
) -> Figure:
    """BLEU, ROUGE-1 and ROUGE-L of each arm (0-1, higher is better).

    A bar marks the mean over seeds with its 95 % bootstrap interval over documents, a dot each seed, a hollow
    diamond the paper's value where it has one.
    """
    listed = arms_of(results, failures=failures) if arms is None else list(arms)
    numbers = summary(results, arms=listed, metrics=FIGURE3_METRICS, failures=failures, resamples=resamples)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 1.5 + 0.32 * len(listed)), layout="constrained")
        panels = figure.subplots(1, len(FIGURE3_METRICS), sharey=True)
        _name_rows(panels[0], listed)
        for axes, name in zip(panels, FIGURE3_METRICS, strict=True):
            rows = numbers[numbers["metric"] == name].set_index("arm")
            for row, arm in enumerate(listed):
                _score(
                    axes,
                    row,
                    arm,
                    rows.loc[[arm]].iloc[0],
                    list(seed_values(results, MEASURES[name], arm).values()),
                )
                if arm in paper.QUALITY[name]:
                    axes.plot(paper.QUALITY[name][arm], row, "D", ms=5.5, mfc="none", mec=BLACK, mew=0.9)
            axes.set_xlabel(MEASURES[name].label)
            axes.set_xlim(0, max(0.05, axes.dataLim.x1 * 1.08 if np.isfinite(axes.dataLim.x1) else 0.05))
            axes.locator_params(axis="x", nbins=4)
            axes.tick_params(axis="y", length=0)
        _legend(figure)
    return figure


def save_figure(figure: Figure, folder: Path, name: str) -> tuple[Path, Path]:
    """Write `name`.svg and `name`.png (200 dots an inch) into a folder, made if need be; returns the paths.

    Each file is written whole. The SVG carries no date and its identifiers
    depend on `name` alone, so the same numbers give the same file.
    """
    written = []
    for kind in ("svg", "png"):
        path = folder / f"{name}.{kind}"
        metadata = {"Date": None} if kind == "svg" else {"Software": None}
        with write_file(path) as fresh, matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
            figure.savefig(fresh, format=kind, dpi=200, metadata=metadata)
        written.append(path)
    return written[0], written[1]


def _name_rows(axes: Axes, arms: Sequence[str]) -> None:
    axes.set_yticks(range(len(arms)), list(arms))
    axes.set_ylim(len(arms) - 0.5, -0.5)


def _time_bar(axes: Axes, row: int, arm: str, times: pd.Series) -> None:
    median, low, high = (float(times[name]) for name in ("seconds_median", "seconds_low", "seconds_high"))
    axes.barh(row, median, height=0.62, color=colour_of(arm))
    # Outlined, for a whisker of one colour would vanish on a bar of the same.
    axes.plot([low, high], [row, row], color="white", lw=3.2, solid_capstyle="butt")
    axes.plot([low, high], [row, row], color=GREY, lw=1.6, solid_capstyle="butt")
    _label(axes, row, max(median, high), f"{median:.3g}")


def _score(axes: Axes, row: int, arm: str, numbers: pd.Series, seeds: Sequence[float]) -> None:
    value, low, high = (float(numbers[name]) for name in ("value", "low", "high"))
    if not np.isfinite(value):
        _say(axes, row, str(numbers["status"]).partition(":")[0])
        return
    colour = colour_of(arm)
    if np.isfinite(low):
        axes.plot([low, high], [row, row], color=colour, lw=2.2, solid_capstyle="butt")
    axes.plot([value, value], [row - 0.17, row + 0.17], color=colour, lw=2.2)
    # Dots lie below the interval, so that neither hides the other.
    axes.plot(seeds, [row + 0.32] * len(seeds), "o", ms=3.2, mfc=colour, mec="white", mew=0.4, ls="none")


def _label(axes: Axes, row: int, x: float, text: str) -> None:
    axes.annotate(text, (x, row), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8)


def _say(axes: Axes, row: int, text: str) -> None:
    axes.annotate(
        text,
        (0, row),
        xycoords=("axes fraction", "data"),
        xytext=(4, 0),
        textcoords="offset points",
        va="center",
        fontsize=8,
        style="italic",
        color="#555555",
    )


def _reason(arm: str, failures: Failures | None) -> str:
    return "failed" if arm in (failures or {}) else "not run"


def _describe(name: str, value: object) -> str:
    return {"tokens": f"{value} tokens", "threads": f"{value} thread{'s' if value != 1 else ''}"}.get(name, str(value))


def _legend(figure: Figure) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=GREY, lw=2.2, marker="|", ms=9, mew=2.2, label="mean, 95 % over documents"),
        Line2D([], [], color=GREY, marker="o", ms=3.2, ls="none", label="one seed"),
        Line2D([], [], color=BLACK, marker="D", ms=5.5, mfc="none", ls="none", label="paper, Table 2"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, handletextpad=0.5)
