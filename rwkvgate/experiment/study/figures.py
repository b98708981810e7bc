"""The figures of the study's page on losses, gaps and fine-tuning. None tells networks apart by colour alone."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import seaborn.objects as so
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rwkvgate.experiment.analysis.figures import GREY, draw, finish, save_figure
from rwkvgate.experiment.rules import WORTH
from rwkvgate.experiment.study.analysis import ADAPTERS, CONTROLS, Ratios, frame
from rwkvgate.experiment.study.design import BASE, MOST_FORGOTTEN, WIDE, WORTH_KNOWING
from rwkvgate.experiment.study.gap import COMPUTE, MILLION, Fit
from rwkvgate.experiment.study.marks import told_apart
from rwkvgate.experiment.study.outcomes import CHANCE, ENTITIES
from rwkvgate.experiment.study.trials import Trial
from rwkvgate.metrics.measures import MEASURES

NEAR = 0.05
"""Up to where the axis of differences is linear, if it is not linear throughout."""
FAR = 10
"""The axis is linear throughout where the largest difference is at most so many times the smallest."""
DARK, SHADES = "#222222", ("#B5B5B5", "#7A7A7A", "#222222")
MARKERS = ("o", "s", "D", "^", "v", "P", "X")
TUNED_METRICS = {
    "loss": "loss (nats per token)",
    "rougeL": "ROUGE-L",
    "bleu": "BLEU",
    ENTITIES: "share of right choices",
}


def losses_figure(
    folder: Path, trials: Sequence[Trial], size: str, seconds: Ratios, unit: str, more: str = ""
) -> dict[str, str]:
    """Loss against FLOPs and seconds of every network of a size, one panel each; returns its caption by its name.

    Both costs are in steps of the base that cost as much. An arm's loss is the base's mean over all seeds and the arm's
    mean distance from the base of its own seeds, which may be fewer.

    Args:
        more: said at the end of the title.
    """
    losses = frame(trials)
    own = losses[(losses["size"] == size) & np.isfinite(losses["test"])]
    of_base = own[own["network"] == BASE].groupby(["seed", "budget"])["test"].mean().rename("base")
    own = own.join(of_base, on=["seed", "budget"]).dropna(subset="base")
    own["test"] += own["budget"].map(of_base.groupby("budget").mean()) - own["base"]
    means = own.groupby(["network", "budget"], sort=False)[["test", "flops"]].mean().reset_index()
    base = means[means["network"] == BASE]
    if not len(base) or means["network"].nunique() < 2:
        return {}
    per_step = base["flops"].iloc[0] / base["budget"].iloc[0]
    means["FLOPs"] = means["flops"] / per_step
    means["seconds"] = means["budget"] * means["network"].map({BASE: 1.0, **seconds})
    long = means.melt(["network", "test"], ["FLOPs", "seconds"], "of", "cost").dropna()
    long = long[long["network"] != BASE].reset_index(drop=True)
    networks = list(long["network"].unique())
    # The two often coincide: a small dot is seen within a large hollow square.
    looks = {
        "linestyle": {"FLOPs": "-", "seconds": ":"},
        "marker": {"FLOPs": "o", "seconds": "s"},
        "fillcolor": {"FLOPs": DARK, "seconds": "#FFFFFF00"},
        "pointsize": {"FLOPs": 2.5, "seconds": 6.5},
    }
    plot = (
        so.Plot(long, x="cost", y="test")
        .facet("network", order=networks, wrap=3)
        .share(x=False, y=False)
        .add(so.Line(color=GREY, linewidth=3, alpha=0.45), data=base, x="budget", y="test", col=None)
        .add(so.Line(color=DARK, linewidth=1, edgecolor=DARK), **dict.fromkeys(looks, "of"))
        .scale(
            x=so.Continuous(trans="log")
            .tick(at=sorted(set(base["budget"]))[:: max(1, len(base) // 3)])
            .label(like="{x:g}"),
            **looks,
        )
        .label(x="steps of the base", y=textwrap.fill(unit, 20), title="{}".format, **dict.fromkeys(looks, ""))
    )
    title = (
        f"Annealed test loss against cost, {size}, mean over seeds, each beside the base's. FLOPs and seconds of a "
        "training are in steps of the base that take as many. Grey: the base; below it is better. Each panel has its "
        f"own scale.{more}"
    )
    figure = draw(plot, title, height=0.6 + 1.6 * -(-len(networks) // 3))
    finish(figure)
    for axes in figure.axes:
        axes.minorticks_off()
        axes.margins(y=0.08)  # or the frame cuts the highest square
    return _saved(folder, figure, f"compute-{size}", f"Loss against FLOPs and seconds, {size}")


def recall_figure(folder: Path, shares: pd.DataFrame) -> dict[str, str]:
    """What each network recalls of each memory task by length, one panel each; returns its caption by its name.

    Args:
        shares: of `analysis.after_training`.
    """
    shown = shares.assign(times=pd.to_numeric(shares["times"]))
    networks, tasks = list(shown["network"].unique()), list(shown["task"].unique())
    shades = dict(zip(tasks, np.linspace(0.0, 0.65, len(tasks)).astype(str), strict=True))
    plot = (
        so.Plot(shown, x="times", y="share", color="task")
        .facet("network", order=networks, wrap=3)
        .add(so.Dots(pointsize=3), marker="task")
        .add(so.Line(linewidth=1), so.Agg(), linestyle="task")
        .scale(
            x=so.Continuous(trans="log2").tick(at=sorted(shown["times"].unique())).label(like="x{x:g}"),
            color=shades,
            marker=dict(zip(tasks, MARKERS, strict=False)),
            linestyle=dict(zip(tasks, ("-", "--", "-.", ":"), strict=False)),
        )
        .limit(y=(-0.03, 1.03))
        .label(x="length", y="share recalled", title="{}".format, color="", marker="", linestyle="")
    )
    title = "Share recalled by length, in lengths of training. Lines are means of the seeds, marks seeds."
    figure = draw(plot, title, height=0.6 + 1.6 * -(-len(networks) // 3))
    finish(figure)
    for axes in figure.axes:
        axes.minorticks_off()
    return _saved(folder, figure, "memory-recall", "Share recalled by length")


def controls_figure(folder: Path, compared: pd.DataFrame, size: str, task: str, unit: str) -> dict[str, str]:
    """Every arm of a size less each control, at each of its budgets; returns its caption by its name."""
    shown = compared[(compared["size"] == size) & ~compared["arm"].isin(WIDE) & compared["low"].notna()]
    if shown.empty:
        return {}
    budgets = sorted(shown["budget"].unique())
    places = dict(zip(budgets, np.linspace(-0.24, 0.24, len(budgets)) if len(budgets) > 1 else [0.0], strict=True))
    arms = list(shown["arm"].unique())
    shown = shown.assign(
        steps=shown["budget"].map("{:,} steps".format), place=shown["arm"].map(arms.index) + shown["budget"].map(places)
    )
    names = [f"{budget:,} steps" for budget in budgets]
    shades = dict(zip(names, [SHADES[round(2 * i / max(1, len(names) - 1))] for i in range(len(names))], strict=True))
    plot = (
        so.Plot(shown, x="estimate", y="place", xmin="low", xmax="high", color="steps")
        .facet("control", order=[c for c in CONTROLS if c in set(shown["control"])])
        .add(so.Range(linewidth=1.5), orient="y", legend=False)
        .add(so.Dot(pointsize=3.5), marker="steps")
        .scale(color=shades, marker=dict(zip(names, MARKERS, strict=False)))
        .label(x="difference", y="", title="equal {}".format, color="")
    )
    title = (
        f"Each arm's loss less its controls', {size}, {unit}, with 95 % intervals: left of the line the arm is better. "
        f"The axis is linear to {NEAR:g} and logarithmic beyond; grey: the margin of equivalence."
    )
    figure = draw(plot, title, height=0.8 + len(arms) * (0.2 + 0.06 * len(budgets)))
    worth = WORTH_KNOWING[task]
    for axes in figure.axes:
        _mark_worth(axes, worth)
        axes.set_ylim(len(arms) - 0.5, -0.5)
        _bend(axes, shown)
    figure.axes[0].set_yticks(range(len(arms)), arms)
    finish(figure)
    return _saved(folder, figure, f"gap-{task}-{size}", f"Differences from the controls, {size}")


def gap_figure(folder: Path, gaps: pd.DataFrame, found: Sequence[Fit]) -> dict[str, str]:
    """The fitted gap over tokens for each size, with its band and the seeds; returns its caption by its name."""
    if not found:
        return {}
    sizes = gaps.sort_values("octaves")["size"].unique()
    lines = []
    for fit in found:
        for size in sizes:
            own = gaps[gaps["size"] == size]
            # A little beyond the seeds: of a size with one length, the fit is a short piece that can be seen.
            for tokens in np.geomspace(own["tokens"].min() / 1.06, own["tokens"].max() * 1.06, 30):
                estimate, low, high = fit.at(tokens, own["octaves"].iloc[0])
                lines.append((fit.of, size, tokens / MILLION, estimate, low, high))
    drawn = pd.DataFrame(lines, columns=["of", "size", "tokens", "gap", "low", "high"])
    dots = gaps.assign(tokens=gaps["tokens"] / MILLION)
    order = {"col": sizes, "row": [of for of in COMPUTE if of in set(drawn["of"])]}
    plot = (
        so.Plot(drawn, x="tokens", y="gap")
        .facet(col="size", row="of", order=order)
        .add(so.Band(color=GREY, alpha=0.3, edgewidth=0), ymin="low", ymax="high")
        .add(so.Line(color=DARK))
        .add(so.Dot(color=DARK, pointsize=2.5, alpha=0.6), data=dots, x="tokens", y="gap", col="size", row="of")
        .scale(x=so.Continuous(trans="log").tick(at=[0.3, 0.6, 1.2, 2.5, 6]).label(like="{x:g}"))
        .label(x="million tokens", y="nats per token")
    )
    title = (
        "The enhanced network's loss less that of a base of as much compute. Dots: seeds; line and band: the fit over "
        "all sizes and its 95 % interval. Above zero the base is better."
    )
    figure = draw(plot, title, height=1.0 + 1.6 * len(found))
    for axes in figure.axes:
        axes.axhline(0, color="black", linewidth=1, zorder=1)
        axes.minorticks_off()
        axes.set_title("equal {1}, {0}".format(*axes.get_title().split(" | ")), fontsize=9)
    return _saved(folder, figure, "gap-fitted", "The gap at equal compute, fitted over size and time")


def tuned_figure(
    folder: Path, compared: pd.DataFrame, name: str, title: str, names: Mapping[str, str]
) -> dict[str, str]:
    """Every tuned arm less each control, by score; returns its caption by its name.

    The adapters are left out: their loss is so much higher that nothing could be seen of the others.

    Args:
        compared: of `outcomes.outcomes`.
        name: what the figure's file is called after "finetune-".
        title: what they are tuned on.
        names: what controls are called where they are not "equal ...".
    """
    shown = compared[compared["low"].notna() & ~compared["control"].isin(("nothing", CHANCE, ADAPTERS))]
    shown = shown[shown["metric"].isin(TUNED_METRICS)]
    if shown.empty:
        return {}
    labels = [names.get(str(c), f"equal {c}") for c in shown["control"]]
    arms, rows = list(shown["arm"].unique()), list(dict.fromkeys(labels))
    offsets = np.linspace(-0.25, 0.25, len(arms)) if len(arms) > 1 else [0.0]
    places = [rows.index(label) + offsets[arms.index(arm)] for label, arm in zip(labels, shown["arm"], strict=True)]
    shown = shown.assign(place=places, panel=shown["metric"].map(TUNED_METRICS))
    panels = [title for title in TUNED_METRICS.values() if title in set(shown["panel"])]
    plot = (
        so.Plot(shown, x="difference", y="place", xmin="low", xmax="high", color="arm")
        .facet("panel", order=panels, wrap=2)
        .share(x=False)
        .add(so.Range(linewidth=1.5), orient="y", legend=False)
        .add(so.Dot(pointsize=5), marker="arm")
        .label(x="", y="", title="{}".format)
    )
    losses = shown[shown["metric"] == "loss"]
    bent = losses["difference"].abs().max() > FAR * losses["difference"].abs().min()
    said = f" The axis of the loss is linear to {NEAR:g} and logarithmic beyond." if bent else ""
    head = f"{title}: each arm's score less its controls', with 95 % intervals.{said}"
    head += " Grey: the margins of equivalence."
    figure = draw(told_apart(plot, arms), head, height=0.4 + 2 * (0.6 + 0.3 * len(rows)))
    metrics = {title: metric for metric, title in TUNED_METRICS.items()}
    figure.axes[0].set_yticks(range(len(rows)), rows)  # and of the others, which share the axis
    for axes in figure.axes:
        metric = metrics[axes.get_title()]
        _mark_worth(axes, WORTH[metric])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        side = "right" if MEASURES[metric].better == "higher" else "left"
        axes.set_title(f"{axes.get_title()}: better to the {side}", fontsize=9)
        if metric == "loss" and bent:
            _bend(axes, losses, (10 if losses["difference"].abs().max() > 10 * NEAR else 4) * NEAR)
        else:
            axes.locator_params(axis="x", nbins=5)
    finish(figure)
    return _saved(folder, figure, f"finetune-{name}", f"Fine-tuned arms against their controls. {title}")


def forgetting_figure(folder: Path, trials: Sequence[Trial], name: str, title: str) -> dict[str, str]:
    """How much every network forgets of the books by its loss on the genre; returns its caption by its name.

    Args:
        name: what the figure's file is called after "forgetting-".
        title: what they are tuned on.
    """
    rows = [
        (t.plan.network, f"{budget:,} steps", t.forgotten[budget], t.loss(budget))
        for t in trials
        for budget in sorted(t.forgotten)
        if budget in min((one.test for one in trials), key=len)
    ]
    found = pd.DataFrame(rows, columns=["network", "steps", "forgotten", "loss"])
    if found.empty:
        return {}
    networks = list(found["network"].unique())
    steps = list(found["steps"].unique())
    plot = (
        so.Plot(found, x="loss", y="forgotten")
        .facet("network", order=networks, wrap=3)
        .add(so.Dot(pointsize=4, edgecolor=DARK), marker="steps", color="steps")
        .scale(
            marker=dict(zip(steps, MARKERS, strict=False)),
            color=dict(zip(steps, (SHADES * len(steps))[: len(steps)], strict=True)),
            y="log",
        )
        .label(x="loss (nats per token)", y="books' perplexity\nover the base's", title="{}".format, color="")
    )
    head = (
        f"{title}: the books' perplexity, as a multiple of the base's before tuning, by the loss on what is tuned on. "
        f"Dots are seeds; dashed: {MOST_FORGOTTEN:g} times."
    )
    figure = draw(plot, head, height=0.6 + 1.5 * -(-len(networks) // 3))
    least, most = found["forgotten"].min(), max(found["forgotten"].max(), MOST_FORGOTTEN)
    ticks = [t for t in (1, 2, 5, 10, 20, 50, 100) if t <= 1.2 * most]
    for axes in figure.axes:
        axes.axhline(MOST_FORGOTTEN, color="black", linestyle="--", linewidth=1, zorder=1)
        axes.set_ylim(min(0.95, 0.95 * least), 1.15 * most)
        axes.minorticks_off()
        axes.set_yticks(ticks, [f"{t:g}" for t in ticks])
    finish(figure)
    return _saved(folder, figure, f"forgetting-{name}", f"What fine-tuning forgets of the books. {title}")


def embedded(captions: Mapping[str, str]) -> list[str]:
    """The figures in Markdown, as the page shows them.

    Example:
        >>> embedded({"gap-fitted": "The gap"})
        ['![The gap](../outputs/study/gap-fitted.svg)']
    """
    return [f"![{caption}](../outputs/study/{name}.svg)" for name, caption in captions.items()]


def _mark_worth(axes: Axes, worth: float) -> None:
    """A line at no difference, and a band of the differences that are not worth knowing."""
    axes.axvline(0, color="black", linewidth=1, zorder=1)
    axes.axvspan(-worth, worth, color="grey", alpha=0.2, linewidth=0)


def _bend(axes: Axes, shown: pd.DataFrame, far: float = 10 * NEAR) -> None:
    """Make the axis of differences linear to `NEAR` and logarithmic beyond, as wide as the intervals in `shown`.

    Args:
        far: where the outermost ticks stand.
    """
    ticks = [-far, -NEAR, 0, NEAR, far]
    axes.set_xscale("symlog", linthresh=NEAR)
    axes.set_xticks(ticks, [f"{tick:g}".replace("-", "−") for tick in ticks])
    axes.set_xlim(1.3 * min(-NEAR, shown["low"].min()), 1.3 * max(NEAR, shown["high"].max()))
    axes.minorticks_off()


def _saved(folder: Path, figure: Figure, name: str, caption: str) -> dict[str, Any]:
    save_figure(figure, folder, name)
    return {name: caption}
