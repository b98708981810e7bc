"""What the study's page says of the discussion's claims: rules, tests, tables and figures of what was read inside."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import seaborn.objects as so

from rwkvgate.experiment.analysis.figures import draw, finish, save_figure
from rwkvgate.experiment.analysis.tables import markdown, number, signed_interval
from rwkvgate.experiment.study.analysis import broken
from rwkvgate.experiment.study.design import BROKEN, DATA, LENGTH
from rwkvgate.experiment.study.figures import embedded
from rwkvgate.experiment.study.inside import OCTAVES
from rwkvgate.experiment.study.inside_rules import (
    CLAIMS,
    Stages,
    breaking_rates,
    compared,
    drifts,
    gap,
    gradient_spread,
    grown,
    of_trial,
)
from rwkvgate.experiment.study.marks import beside, ticked, told_apart
from rwkvgate.experiment.study.trials import Trial

DISTURBED = {
    "noise": "Extra loss after noise",
    "distractor": "Extra loss after a distractor",
    "context": "Worth of the context",
    "kept noise": "Worth of the context behind noise",
    "kept distractor": "Worth of the context behind a distractor",
}
"""Readings of disturbed texts by name, in nats per token, and the heads of their columns."""
DRIFT, SPREAD, NORM, VARIATION, JACOBIAN = (
    "drift of the mean (sd)",
    "drift of the spread (log)",
    "gradient norm",
    "gradient variation (log)",
    "relative spectral norm",
)
MARKED = "Lines are means of the seeds, small marks seeds, networks side by side"
DECADES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
"""Ticks of a logarithmic axis of nats per token."""
RULES_TEXT = """What is compared is read inside networks of 64 channels and 4 layers, all trained at one rate, 0.004,
for drift and gradients depend on it. *Drift* is how far the residual stream after each block moves between two budgets;
*gradient norms* are those of each block's own weights, on eight batches of held-out text; the *relative spectral norm*
is that of the Jacobian of a block's output on its input one token before, times the norm of that input and divided by
that of the output; *growth* is that of the WKV state and of the residual stream from the trained length to 65,536
tokens of text. A *distractor* is a sentence of another text, between 64 tokens and the next 32, which are scored;
*noise* is as many random tokens. One thing needs no test: the paper's gate reads the block's output of one
token before, as it was before the gate, and never its own result: it adds no feedback over time.

Of each reading a claim asks for less or more, which must be shown after Holm's correction over all tests; or for *not
more*: at most 5 % more, by one side of an interval. A *guard* takes *reproduced* away where the arm is shown worse in
it. A difference is worth knowing from 0.05 of a logarithm on, 0.01 nats per token, or half an octave of the rate at
which training breaks. [inside_rules.py](../rwkvgate/experiment/study/inside_rules.py) has the rules."""


def inside_parts(folder: Path, stages: Stages) -> tuple[list[str], dict[str, pd.DataFrame]]:
    """Parts of the page, and the tables that they are made from by name; figures are written into `folder`.

    Args:
        stages: finished trials by stage; those of "breaking" count too. No parts while the others have none.
    """
    inside = [trial for trial in stages.get("inside", ()) if trial.diverged is None]
    data = {n: [t for t in stages.get(n, ()) if t.diverged is None] for n in DATA}
    if not any(data.values()):
        return [], {}
    tested = compared(stages)
    tables = {"inside-tests": tested}
    rules = pd.DataFrame([{"Claim": rule.text, "Rule": rule.rule} for rule, _ in CLAIMS.values()])
    parts = ["## The discussion's other claims", RULES_TEXT, markdown(rules), _tests(tested)]
    captions: dict[str, str] = {}
    if inside:
        layers = tables["inside-layers"] = by_layer(inside)
        lengths = tables["inside-growth"] = by_length(inside)
        disturbed = tables["inside-disturbed"] = by_disturbance(inside)
        parts.append(_disturbed(disturbed))
        captions |= _inside_figures(folder, layers, lengths, disturbed)
    gaps = tables["inside-gaps"] = by_data(data)
    parts.append(_gaps(gaps))
    captions |= _gap_figure(folder, gaps)
    return [*parts, *embedded(captions)], tables


def breaking_parts(trials: Sequence[Trial]) -> tuple[list[str], dict[str, pd.DataFrame]]:
    """The paragraphs about where training breaks, and the tables that they are made from by name."""
    table, rates = broken(trials), breaking_rates(trials)
    diverged = sum(trial.diverged is not None for trial in trials)
    said = f"Of {len(trials)} trainings, {diverged} diverged: broken means worse, with gradients clipped."
    return [f"{_breaking(table)}\n\n{said}", _breaking_rates(rates)], {"breaking": table, "breaking-rates": rates}


def _breaking(table: pd.DataFrame) -> str:
    """Share of broken trainings and the loss, by network and rate."""
    head = (
        f"Share of the seeds whose training diverged, or ended {BROKEN:g} nats per token above the network's best rate"
    )
    shares = (
        f"{100 * share:.0f} % ({number(loss)})" for share, loss in zip(table["share"], table["loss"], strict=True)
    )
    cells = table.assign(cell=list(shares))
    wide = cells.pivot(index="network", columns="rate", values="cell").fillna("–")
    wide.columns = pd.Index([f"{rate:g}" for rate in wide.columns])
    return f"{head} (and its median validation loss), by rate:\n\n{markdown(wide.reset_index())}"


def _breaking_rates(table: pd.DataFrame) -> str:
    head = (
        f"The rate at which it breaks, where a seed's loss passes {BROKEN:g} nats per token above that at its own best "
        "rate, on the line between two rates of the sweep, or the highest rate where none breaks it; geometric mean of "
        "the seeds, and the distance from the base's:"
    )
    rows = [
        {
            "Network": row["network"],
            "Rate": number(2 ** row["log2"], 2),
            "Octaves from the base's": signed_interval(row["estimate"], row["low"], row["high"])
            if np.isfinite(row["low"])
            else "–",
            "Seeds": row["seeds"],
        }
        for row in table.to_dict("records")
    ]
    return f"{head}\n\n{markdown(pd.DataFrame(rows))}"


def by_layer(trials: list[Trial]) -> pd.DataFrame:
    """The readings of each block over training: `network`, `seed`, `steps`, `layer`, `measure`, `value`.

    Those of several texts or batches are averaged; a drift stands at the later of its two budgets.
    """
    rows = []
    for trial in trials:
        layers, budgets = trial.plan.size.layers, sorted(trial.test)
        moved, spread = drifts(trial)
        arrays = {DRIFT: (budgets[1:], moved), SPREAD: (budgets[1:], spread)}
        arrays |= {NORM: (budgets, of_trial(trial, "gradient", -1, layers).mean(1))}
        arrays |= {VARIATION: (budgets, gradient_spread(trial))}
        arrays |= {JACOBIAN: (budgets, of_trial(trial, "jacobian", layers, -1).mean(2))}
        rows += [
            (trial.plan.network, trial.plan.seed, steps, layer + 1, measure, float(value))
            for measure, (at, values) in arrays.items()
            for steps, of_block in zip(at, values, strict=True)
            for layer, value in enumerate(of_block)
        ]
    return pd.DataFrame(rows, columns=["network", "seed", "steps", "layer", "measure", "value"])


def by_length(trials: list[Trial]) -> pd.DataFrame:
    """Sizes along a long text over those at the trained length: `network`, `seed`, `of`, `tokens`, `layer`, `times`."""
    rows = [
        (trial.plan.network, trial.plan.seed, of, OCTAVES[octave], layer + 1, float(np.exp(value)))
        for trial in trials
        for of in ("state", "stream")
        for octave, of_octave in enumerate(grown(trial, of).mean(-1))
        for layer, value in enumerate(of_octave)
    ]
    return pd.DataFrame(rows, columns=["network", "seed", "of", "tokens", "layer", "times"])


def by_disturbance(trials: list[Trial]) -> pd.DataFrame:
    """Mean readings of disturbed texts at the last budget, nats per token: `network`, `seed`, `reading`, `value`."""
    rows = [
        (trial.plan.network, trial.plan.seed, name, float(of_trial(trial, name, -1)[-1].mean()))
        for trial in trials
        for name in DISTURBED
    ]
    return pd.DataFrame(rows, columns=["network", "seed", "reading", "value"])


def by_data(trials: dict[str, list[Trial]]) -> pd.DataFrame:
    """Losses by share of the training documents: `network`, `seed`, `share`, `trained`, `test` and `gap`, in nats per
    token, of as many texts of equal weight."""
    rows = []
    for name, own in trials.items():
        for trial in own:
            trained = float(np.mean(trial.measures[max(trial.test)]["trained"]))
            row = (trial.plan.network, trial.plan.seed, 1 / DATA[name], trained)
            rows.append((*row, trained + float(gap(trial).mean()), float(gap(trial).mean())))
    return pd.DataFrame(rows, columns=["network", "seed", "share", "trained", "test", "gap"])


def _tests(table: pd.DataFrame) -> str:
    rows = [
        {
            "Reading": row["measure"],
            "Networks": f"{row['arm']} minus {row['against']}",
            "Difference": signed_interval(row["estimate"], row["low"], row["high"]),
            "Asked": row["asked"],
            "Seeds": row["seeds"],
            "p (Holm)": number(row["adjusted"], 2),
            "Says": row["says"] or "–",
        }
        for row in table.to_dict("records")
    ]
    return f"The tests behind them:\n\n{markdown(pd.DataFrame(rows))}"


def _disturbed(table: pd.DataFrame) -> str:
    wide = table.pivot_table(index="network", columns="reading", values="value", sort=False)[list(DISTURBED)]
    cells = wide.map(lambda x: number(x, 3)).rename(columns=DISTURBED)
    return f"Insertions, nats per token of what follows, mean of the seeds:\n\n{markdown(cells.reset_index())}"


def _gaps(table: pd.DataFrame) -> str:
    means = table.groupby(["share", "network"], sort=False)[["trained", "test", "gap"]].mean().reset_index()
    rows = [
        {"Documents": _documents(row["share"]), "Network": row["network"]}
        | {
            name: number(row[key])
            for name, key in (("Training loss", "trained"), ("Test loss", "test"), ("Gap", "gap"))
        }
        for row in means.to_dict("records")
    ]
    head = (
        "Losses by share of the training documents, nats per token, mean of the seeds, over the test documents that "
        "training documents are paired with; the test of the test loss is over all of them:"
    )
    return f"{head}\n\n{markdown(pd.DataFrame(rows))}"


def _inside_figures(
    folder: Path, layers: pd.DataFrame, lengths: pd.DataFrame, disturbed: pd.DataFrame
) -> dict[str, str]:
    """Draw the figures of the stage "inside"; their captions by name."""
    captions = {}
    titles = {
        "inside-drift": ((DRIFT, SPREAD), "How far the residual stream after each block moves since the budget before"),
        "inside-gradients": ((NORM, VARIATION), "Gradient norms of each block, and how they vary over batches"),
        "inside-jacobian": ((JACOBIAN,), "Relative spectral norm of each block's output on its input one token before"),
    }
    for name, (measures, title) in titles.items():
        shown = layers[layers["measure"].isin(measures)]
        plot = _lines(shown, "steps", "value", 0.12).facet(col="layer", row="measure").share(y="row")
        plot = plot.scale(x=ticked(shown["steps"])).label(x="steps", y="")
        captions[name] = _save(folder, plot, shown, name, title, 1.0 + 1.5 * len(measures))
    at = (OCTAVES[0], OCTAVES[4], OCTAVES[-1])
    shown = lengths.assign(of=lengths["of"].map({"state": "WKV state", "stream": "residual stream"}))
    plot = _lines(shown, "tokens", "times", 0.12, at).facet(col="layer", row="of").share(y="row")
    plot = plot.scale(x=ticked(at)).label(x="tokens", y="")
    title = f"Size of WKV state and residual stream along a text, as a multiple of that at {LENGTH} tokens"
    captions["inside-growth"] = _save(
        folder, plot, shown, "inside-growth", title, 4.0, f"{MARKED}, seeds at the ticks alone"
    )
    labels = {name: textwrap.fill(words, 16) for name, words in DISTURBED.items()}
    shown = disturbed.assign(reading=pd.Categorical(disturbed["reading"].map(labels), list(labels.values())))
    plot = so.Plot(shown, x="reading", y="value", color="network").label(x="", y="nats per token")
    # A dot is dodged as if it were 0.8 wide: a dash of another width would stand beside its dots.
    plot = plot.add(so.Dash(width=0.8), so.Agg(), so.Dodge(), legend=False)
    plot = plot.add(so.Dot(pointsize=4, alpha=0.6), so.Dodge(by=["color"]), marker="network")
    title = "What an insertion costs what follows, and what the context is worth behind it"
    marked = "Dashes are means of the seeds, marks seeds"
    captions["inside-disturbed"] = _save(folder, plot, shown, "inside-disturbed", title, 3.0, marked)
    return captions


def _gap_figure(folder: Path, gaps: pd.DataFrame) -> dict[str, str]:
    shown = gaps[gaps.groupby("network")["share"].transform("nunique") > 1]
    if shown.empty:
        return {}
    shares = so.Continuous(trans="log2").tick(at=sorted(shown["share"].unique())).label(like=_documents)
    plot = (
        _lines(shown, "share", "gap", 0.12)
        .scale(x=shares)
        .label(x="share of the training documents", y="nats per token")
    )
    title = "Test loss less training loss after equally many steps, by share of the training documents"
    return {"inside-gap": _save(folder, plot, shown, "inside-gap", title, 3.0, logarithmic=True)}


def _documents(share: float, _: int = 0) -> str:
    """A share of the training documents in words; the second argument is an axis's, the place of a tick."""
    return f"1/{1 / share:.0f}" if share < 1 else "all"


def _lines(shown: pd.DataFrame, x: str, y: str, octaves: float, seeds_at: Collection[float] = ()) -> so.Plot:
    """The mean of the seeds as a line, and each seed as a small mark.

    Args:
        octaves: between neighbouring networks, which stand side by side.
        seeds_at: where on x the seeds are drawn; everywhere if there are none.
    """
    aside = shown.assign(**{x: shown[x] * beside(shown["network"], octaves)})
    seeds = aside[shown[x].isin(seeds_at)] if seeds_at else aside
    plot = so.Plot(aside, x=x, y=y, color="network", marker="network")
    plot = plot.add(so.Line(linewidth=1.2, pointsize=4.5, fillcolor="white"), so.Agg(), linestyle="network")
    # As lines without width, for which an SVG holds a marker once; it holds that of every single dot.
    return plot.add(so.Line(linewidth=0, pointsize=2.5, alpha=0.7, edgewidth=0), data=seeds, legend=False)


def _save(
    folder: Path,
    plot: so.Plot,
    shown: pd.DataFrame,
    name: str,
    title: str,
    height: float,
    marked: str = MARKED,
    logarithmic: bool = False,
) -> str:
    """Draw and write a figure, and return its caption.

    Args:
        marked: what the marks are.
        logarithmic: whether the y axis is; a scale of the plot would make means geometric.
    """
    figure = draw(told_apart(plot, shown["network"]), f"{title}. {marked}.", height=height)
    for axes in figure.axes:
        layer, _, measure = axes.get_title().partition(" | ")
        place = axes.get_subplotspec()
        if layer and place:
            axes.set_title(f"layer {layer}" if place.is_first_row() else "", fontsize=9)
            axes.set_ylabel(measure if place.is_first_col() else "")
        if logarithmic:
            axes.set_yscale("log")
            low, high = axes.get_ylim()
            ticks = [tick for tick in DECADES if low <= tick <= high]
            axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.minorticks_off()
    finish(figure)
    save_figure(figure, folder, name)
    return title
