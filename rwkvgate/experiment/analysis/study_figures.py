"""The studies' figures: quality against cost, loss by position, long-range gains, and time over batches and lengths.

Plain functions from tidy frames. What has no number is named over the panels; an empty frame gives a figure that says
so. An interval is of 95 %, by bootstrap with a fixed seed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rwkvgate.experiment.analysis.comparison import arms_of, summary
from rwkvgate.experiment.analysis.drawing import (
    RESAMPLES,
    SMALL,
    band,
    drawn_interval,
    empty_panel,
    finish,
    finite,
    in_order,
    interval_bars,
    mark_trained,
    marks_of,
    new_figure,
    nothing,
    offset,
    spread,
    token_axis,
)
from rwkvgate.experiment.analysis.figures import BLACK, GREY, STYLE
from rwkvgate.experiment.analysis.tables import pooled_latency
from rwkvgate.metrics.statistics import Floats

BOTH = STYLE | {"axes.grid.axis": "both"}
PROBES = ("copying", "forgetting", "recall", "passkey")
KINDS = ("stories", "natural")
OFF_SCALE = 1.5
"""Times the median perplexity, above which an arm is marked at the edge of the panel."""
PLACE = ("device", "dtype", "threads", "batch", "tokens")
"""What a time was measured on; where a frame holds several such places, the first is drawn and named."""


def quality_cost_figure(
    documents: pd.DataFrame,
    latency: pd.DataFrame,
    gates_flops: Mapping[str, float],
    *,
    arms: Sequence[str],
    resamples: int = RESAMPLES,
) -> Figure:
    """Perplexity of each arm (mean over seeds, interval over documents) against two costs of the gate.

    An arm above 1.5 times the median stands at the upper edge, with an arrow and its value in its name.

    Args:
        documents: results (`measures.RESULT_COLUMNS`) with metrics nll and tokens.
        latency: forward times (`latency.LATENCY_COLUMNS`); drawn is the ratio to base, which is 1.
        gates_flops: arm -> FLOPs of its gates as a share of the base's, 0.01 for 1 %.

    Raises:
        ValueError: documents lack a column or hold a value twice.
    """
    title = "Quality against cost"
    if documents.empty or not len(arms):
        return nothing(title)
    quality = summary(documents, arms=arms, metrics=("perplexity",), resamples=resamples).set_index("arm")
    known = [arm for arm in arms if np.isfinite(float(str(quality.at[arm, "value"])))]
    missing = {arm: str(quality.at[arm, "status"]) or "no number" for arm in arms if arm not in known}
    notes = [f"no perplexity: {', '.join(f'{arm} ({why})' for arm, why in missing.items())}"] if missing else []
    times, where, left_out = _forward_ratios(latency)
    notes += left_out
    flops = {arm: (100 * gates_flops[arm],) * 3 for arm in known if np.isfinite(gates_flops.get(arm, np.nan))}
    for costs, what in ((times, "forward time"), (flops, "FLOPs")):
        lacking = [arm for arm in known if arm not in costs]
        if lacking:
            notes.append(f"no {what}: {', '.join(lacking)}")
    if not known:
        return nothing(title, notes)
    bare = [arm for arm in known if quality.loc[arm, ["low", "high"]].isna().any()]
    notes += _unbounded([*bare, *(arm for arm in known if arm in times and np.isnan(times[arm]).any())])
    with matplotlib.rc_context(BOTH):
        numbers = {arm: quality.loc[arm, ["value", "low", "high"]].to_numpy(dtype=np.float64) for arm in known}
        scale = _scale(numbers)
        panel = max(1.8, 0.14 * len(known) + 0.2)
        figure = new_figure(2 * panel + 1.2, (), notes)
        for axes, costs, label in zip(
            figure.subplots(2, 1, sharey=True),
            (times, flops),
            (f"forward time, ratio to base{where}", "FLOPs that the gates add to the base's (%)"),
            strict=True,
        ):
            _scatter(axes, numbers, {arm: costs[arm] for arm in known if arm in costs}, scale, panel)
            axes.set(xlabel=label, ylabel="perplexity (lower is better)")
        finish(figure, ())
    return figure


def positions_figure(positions: pd.DataFrame, trained: float, *, resamples: int = RESAMPLES) -> Figure:
    """Loss (nats a token) against position in the text, one panel a kind of text: sums over seeds and texts.

    Args:
        positions: columns arm, seed, kind, text, start, stop, nll (nats, summed) and tokens, one row a bucket. A
            bucket stands at its geometric middle; the first, from 0, at its end.
        trained: tokens of a text in training.
    """
    rows, notes = finite(positions, "nll", "tokens")
    rows = rows[rows["tokens"] > 0] if len(rows) else rows
    if rows.empty:
        return nothing("Loss by position", notes)
    arms, kinds = arms_of(rows, first=()), in_order(positions["kind"], KINDS)
    alone: list[str] = []
    curves: dict[tuple[str, str], Floats] = {}
    for kind in kinds:
        for arm in arms:
            part = rows[(rows["kind"] == kind) & (rows["arm"] == arm)]
            points = []
            for edges, bucket in part.groupby(["start", "stop"]):
                sums = bucket.groupby("text")[["nll", "tokens"]].sum().to_numpy(dtype=np.float64)
                found = drawn_interval(sums, _per_token, resamples)
                points.append((_middle(*(float(str(edge)) for edge in edges)), found.estimate, found.low, found.high))
                alone += [f"{arm}, {kind}"] if found.n < 2 else []
            curves[kind, arm] = np.array(sorted(points)).reshape(-1, 4)
    notes = [*notes, *_alone(alone, "text")]
    with matplotlib.rc_context(BOTH):
        figure = new_figure(2.9, arms, notes)
        for axes, kind in zip(figure.subplots(1, len(kinds), squeeze=False)[0], kinds, strict=True):
            _curves(axes, {arm: curves[kind, arm] for arm in arms})
            places = [x for arm in arms for x in curves[kind, arm][:, 0]]
            stops = rows.loc[rows["kind"] == kind, "stop"]
            token_axis(axes, [*stops] or [trained], "position (tokens)", trained, *places)
            axes.set_title(kind, loc="left", pad=14)
            mark_trained(axes, trained)
        figure.axes[0].set_ylabel("loss (nats a token)")
        finish(figure, arms)
    return figure


def gains_figure(gains: pd.DataFrame, trained: float, *, resamples: int = RESAMPLES) -> Figure:
    """What having seen the answer is worth (nats a token) against the text's length, one panel a probe.

    Means over seeds, items and depths, with intervals over items (of each depth, for passkeys).

    Args:
        gains: columns arm, seed and `long_range.PROBE_COLUMNS`.
        trained: tokens of a text in training.
    """
    rows, notes = finite(gains, "gain")
    if rows.empty:
        return nothing("Long-range gains", notes)
    arms, probes = arms_of(rows, first=()), in_order(gains["probe"], PROBES)
    alone: list[str] = []
    curves: dict[tuple[str, str], Floats] = {}
    for probe in probes:
        for arm in arms:
            part, points = rows[(rows["probe"] == probe) & (rows["arm"] == arm)], []
            for length, found in part.groupby("length"):
                items = (
                    found.groupby(["depth", "item"], dropna=False)["gain"]
                    .agg(["sum", "size"])
                    .to_numpy(dtype=np.float64)
                )
                whole = drawn_interval(items, _per_token, resamples)
                points.append((float(str(length)), whole.estimate, whole.low, whole.high))
                alone += [f"{arm}, {probe}"] if whole.n < 2 else []
            curves[probe, arm] = np.array(points).reshape(-1, 4)
    notes = [*notes, *_alone(alone, "item")]
    with matplotlib.rc_context(BOTH):
        wide = 2 if len(probes) > 1 else 1
        deep = -(-len(probes) // wide)
        figure = new_figure(0.2 + 2.3 * deep, arms, notes)
        panels = figure.subplots(deep, wide, squeeze=False)
        for axes, probe in zip(panels.flat, probes, strict=False):
            _curves(axes, {arm: curves[probe, arm] for arm in arms})
            lengths = {float(n) for n in gains.loc[gains["probe"] == probe, "length"]}
            token_axis(axes, lengths, "length of the text (tokens)", trained)
            axes.axhline(0, color=GREY, lw=0.8, zorder=1, gid="zero")
            axes.set_title(probe, loc="left", pad=14)
            mark_trained(axes, trained)
        for axes in panels.flat[len(probes) :]:
            axes.set_axis_off()
        for axes in panels[:, 0]:
            axes.set_ylabel("gain (nats a token)")
        finish(figure, arms)
    return figure


def grid_figure(grid: pd.DataFrame) -> Figure:
    """Time of each arm as a ratio to the base's, by batch size and tokens: prefill on the left, decoding on the right.

    Args:
        grid: `cost.GRID_COLUMNS`; the base's own rows are not drawn. Bars are intervals of the ratio.
    """
    title = "Time over batches and lengths"
    others = grid[grid["arm"] != "base"] if len(grid) else grid
    if others.empty:
        return nothing(title)
    rows, where, notes = _first_place(others, ("device", "dtype", "threads"))
    rows, left_out = finite(rows, "ratio")
    notes += left_out
    if rows.empty:
        return nothing(title, notes)
    notes += _unbounded(rows.loc[rows[["ratio_low", "ratio_high"]].isna().any(axis=1), "arm"])
    arms = arms_of(rows, first=())
    cells = sorted({(int(b), int(n)) for b, n in zip(others["batch"], others["tokens"], strict=True)})
    with matplotlib.rc_context(STYLE):
        figure = new_figure(1.1 + 0.24 * len(cells) * max(1.0, 0.45 * len(arms)), arms, notes)
        panels = figure.subplots(1, 2, sharey=True)
        for axes, measure in zip(panels, ("prefill", "decode"), strict=True):
            part = rows[rows["measure"] == measure]
            axes.axvline(1, color=BLACK, lw=0.9, ls="--", zorder=1, gid="base")
            for number, arm in enumerate(arms):
                found = part[part["arm"] == arm]
                at = [cells.index((int(b), int(n))) for b, n in zip(found["batch"], found["tokens"], strict=True)]
                y = np.array(at, dtype=np.float64) + offset(number, len(arms))
                bounds = found[["ratio", "ratio_low", "ratio_high"]].to_numpy(dtype=np.float64)
                interval_bars(axes, arm, bounds[:, 0], y, across=bounds)
            if part.empty:
                empty_panel(axes)
            axes.set_title(measure.capitalize() + ("\n" + where if where else ""), loc="left")
            axes.set_xlabel("time, ratio to base")
            axes.tick_params(axis="y", length=0)
        panels[0].set_yticks(range(len(cells)), [f"{batch} × {tokens:,}" for batch, tokens in cells])
        panels[0].set(ylim=(len(cells) - 0.5, -0.5), ylabel="batch × tokens")
        finish(figure, arms, line=False)
    return figure


def _scale(numbers: Mapping[str, Floats]) -> tuple[float, float, float]:
    """Lower and upper limit for perplexities (value, low, high), and where those above the scale stand.

    An arm far above the others would press them into a line.
    """
    most = OFF_SCALE * float(np.median([row[0] for row in numbers.values()]))
    inside = [row for row in numbers.values() if row[0] <= most]
    low, high = float(np.nanmin(inside)), float(np.nanmax(inside))
    room = max(high - low, 0.01 * low)
    edge = high + 0.17 * room
    return low - 0.1 * room, edge + (0.08 if len(inside) < len(numbers) else -0.07) * room, edge


def _scatter(
    axes: Axes,
    numbers: Mapping[str, Floats],
    costs: Mapping[str, tuple[float, float, float]],
    scale: tuple[float, float, float],
    height: float,
) -> None:
    """Arms at (cost, perplexity) with bars, their names in a column on the right, in the order of the points."""
    bottom, top, edge = scale
    axes.set_ylim(bottom, top)
    if not costs:
        empty_panel(axes)
    wanted, names = [], []
    for arm, cost in costs.items():
        row = numbers[arm]
        off = row[0] > top
        at = edge if off else row[0]
        bars = None if off else row[None]
        interval_bars(axes, arm, np.array([cost[0]]), np.array([at]), across=np.array([cost]), down=bars)
        wanted.append(at)
        names.append(f"{arm}: {row[0]:.3g} ↑" if off else arm)
    line = {"arrowstyle": "-", "lw": 0.5, "color": GREY, "shrinkA": 0, "shrinkB": 2, "relpos": (0, 0.5)}
    places = spread([(at - bottom) / (top - bottom) for at in wanted], 0.13 / height)
    for arm, name, at, place in zip(costs, names, wanted, places, strict=True):
        axes.annotate(
            name,
            (costs[arm][0], at),
            xytext=(1.04, place),
            textcoords="axes fraction",
            va="center",
            fontsize=SMALL,
            arrowprops=line,
            zorder=1,
        )
    axes.margins(x=0.06)
    if not any(low or high for _, low, high in costs.values()):
        axes.set_xlim(-0.05, 1)


def _curves(axes: Axes, curves: Mapping[str, Floats]) -> None:
    """Lines through (x, value, low, high) rows with their bands, one an arm."""
    for arm, points in curves.items():
        if len(points):
            x, value, low, high = points.T
            axes.plot(x, value, label=arm, **marks_of(arm))
            band(axes, list(x), list(low), list(high), str(marks_of(arm)["color"]))
    if not any(len(points) for points in curves.values()):
        empty_panel(axes, "no numbers")


def _forward_ratios(latency: pd.DataFrame) -> tuple[dict[str, tuple[float, float, float]], str, list[str]]:
    """Each arm's ratio of forward time with its bounds, what it was measured on, and a note on other places.

    The base's ratio is 1 by definition.
    """
    found: dict[str, tuple[float, float, float]] = {"base": (1.0, 1.0, 1.0)}
    forward = latency[latency["measure"] == "forward"] if len(latency) else latency
    if forward.empty:
        return {}, "", []
    rows, where, notes = _first_place(pooled_latency(forward), PLACE)
    for arm, ratio, low, high in rows[["arm", "ratio", "ratio_low", "ratio_high"]].itertuples(index=False):
        if arm != "base" and np.isfinite(ratio):
            found[str(arm)] = (float(ratio), float(low), float(high))
    return found, f" ({where})" if where else "", notes


def _first_place(frame: pd.DataFrame, columns: Sequence[str]) -> tuple[pd.DataFrame, str, list[str]]:
    """The rows measured where the first was, that place in words, and a note where there are others."""
    place = [name for name in columns if name in frame]
    first = frame.iloc[0]
    same = (frame[place] == first[place]).all(axis=1) if place else pd.Series(True, index=frame.index)
    units = {"threads": "thread", "tokens": "token", "batch": "text"}
    counts = {name: int(first[name]) for name in place if name in units}
    words = {name: f"{n:,} {units[name]}{'s' * (n != 1)}" for name, n in counts.items()}
    said = ", ".join(words.get(name, str(first[name])) for name in place)
    return frame[same], said, [] if same.all() else [f"{int((~same).sum())} rows measured elsewhere are not drawn"]


def _alone(found: Sequence[str], unit: str) -> list[str]:
    return [f"one {unit}, no interval: {'; '.join(dict.fromkeys(found))}"] if found else []


def _unbounded(arms: Iterable[object]) -> list[str]:
    found = dict.fromkeys(map(str, arms))
    return [f"no interval: {', '.join(found)}"] if found else []


def _middle(start: float, stop: float) -> float:
    return float(np.sqrt(start * stop)) if start > 0 else stop


def _per_token(sums: Floats, n: int) -> Floats:
    """The ratio of two columns' sums."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return sums[..., 0] / sums[..., 1]
