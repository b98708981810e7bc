"""The part of the study's page that is about fine-tuning, and the tables it is made from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rwkvgate.experiment.analysis.comparison import summary
from rwkvgate.experiment.analysis.tables import NOTHING, markdown, number, quality_table, signed_interval
from rwkvgate.experiment.rules import WORTH
from rwkvgate.experiment.study.analysis import ADAPTERS, Ratios
from rwkvgate.experiment.study.design import GENRES, LORA, MOST_FORGOTTEN, STAGES
from rwkvgate.experiment.study.figures import embedded, forgetting_figure, tuned_figure
from rwkvgate.experiment.study.ledger import Found, marked
from rwkvgate.experiment.study.outcomes import (
    ABLATED,
    CHANCE,
    ENTITIES,
    NAMES,
    RESAMPLES,
    RIGHT,
    by_network,
    decisions,
    largest,
    outcomes,
    results,
)
from rwkvgate.experiment.study.trials import Trial
from rwkvgate.metrics.measures import MEASURES

TITLES = {
    "stories": "On generated stories",
    "stories freely": "On generated stories, each at the rate with the lowest loss on them",
    "fiction": "On Austen's novels",
    "fiction freely": "On Austen's novels, each at the rate with the lowest loss on stories",
}
"""By what follows "finetune" in a stage's name."""
CONTROLS = {"nothing": "Against the untouched base", ABLATED: "Against fixed-gate", "new parameters": "Against lora"}
"""How a control is called, where it is not one of equal something."""
FIGURE_CONTROLS = {control: words.removeprefix("Against ") for control, words in CONTROLS.items()}
RATES = "rates finetune stories"
"""The stage that chooses the learning rates, for both genres."""
DESIGN = f"""## Fine-tuning

One base of 64x4, trained for 17.8 tokens a parameter on the books, is fine-tuned on two genres: generated stories,
whose test has people of other names, and Jane Austen's novels, of which two are held out whole. One row in ten is of
the books.

- **Learning rates** are chosen on stories, after 200 steps and on two seeds, in two ways. By what they forget: the
  lowest loss among the rates after which the books' perplexity is at most {MOST_FORGOTTEN:g} times the base's, or,
  where no rate keeps to that, the rate that forgets least. And by the lowest loss alone. Both genres are compared
  at both choices after 400 steps; none was made on the novels, where either may have the lower loss. The first is
  hard on a network with two rates that forget nearly alike, for it takes the one that forgets a little less, even if
  its loss is much higher: the [table of the rates](#learning-rates) shows such a pair for the paper's gate, of
  which either forgets less on one of the two seeds.
- **Controls**: the tuned base with as many steps, FLOPs and seconds; *base-wide*, the base with channels added to its
  channel mixing, which have as many parameters as the gate; and *lora*, adapters with as many parameters beside frozen
  weights. Beside weights that train, adapters add nothing, for their product is a change of those weights. Alone they
  learn less, so an arm that is worse than all other controls is *worse*, even if it is better than lora.
- **Continuations** are greedy, of 64 tokens, and scored against the text's own.
- **Right choices** are those between a sentence and the same sentence with two people's names exchanged. Naming the
  last person, naming the one named more often, taking the shorter sentence, and guessing are right in half of them by
  construction. Nothing is decided by them where the tuned base is not shown to be right more often.

The claims' verdicts, at the head of this page, are about the enhanced network beside the tuned base, or beside the
fixed gate, alone. Below, each arm is held against every control.
"""


def tuned_parts(folder: Path, found: Found, seconds: Ratios) -> tuple[list[str], dict[str, pd.DataFrame]]:
    """The paragraphs and tables of the page, and the tables to write, by name; figures are drawn into `folder`.

    Args:
        seconds: of a step of fine-tuning, over the base's.
    """
    parts: list[str] = [DESIGN]
    tables: dict[str, pd.DataFrame] = {}
    for setting, title in TITLES.items():
        names = (f"finetune {setting}", f"untouched {setting.partition(' ')[0]}")
        genre = setting.replace(" ", "-")
        trials, base = (found[name][0] for name in names)
        untouched = next(iter(base), None)
        if not trials or "base" not in by_network(trials):
            continue
        table = results(trials, untouched)
        tables[f"finetune-{genre}"] = compared = outcomes(trials, seconds, untouched)
        steps = largest(by_network(trials))
        told = [_losses(trials, steps), _forgotten(trials, steps), _scores(table)]
        captions = forgetting_figure(folder, trials, genre, title)
        if len(compared):
            verdicts = tables[f"finetune-{genre}-verdicts"] = decisions(compared)
            told += [_compared(compared), _verdicts(verdicts), _below_margin(compared)]
            captions |= tuned_figure(folder, compared, genre, title, FIGURE_CONTROLS)
        stages = {name: found[name] for name in names}
        parts += [f"### {title}, after {steps} steps", *marked(told, stages), *embedded(captions)]
    return parts, tables


def tuned_rates(trials: Sequence[Trial]) -> str:
    """Validation loss and forgetting of fine-tuned networks by rate."""
    steps = max(STAGES[RATES].budgets)
    rows = [(t.plan.network, t.plan.rate, t.validation[steps], t.forgotten.get(steps, np.inf)) for t in trials]
    found = pd.DataFrame(rows, columns=["network", "rate", "loss", "forgotten"])
    means = found.groupby(["network", "rate"], sort=False).mean()
    cells = means.apply(lambda row: f"{number(row['loss'])} ({row['forgotten']:.2f})", axis=1).unstack().fillna("–")
    cells = cells.rename(index=NAMES)
    cells.columns = pd.Index([f"{rate:g}" for rate in cells.columns])
    head = f"{RATES}: validation loss after {steps} steps by learning rate, nats per token, mean of the seeds, and in"
    least = means["forgotten"].groupby("network", sort=False).min()
    never = ", ".join(NAMES.get(str(name), str(name)) for name, times in least.items() if times > MOST_FORGOTTEN)
    said = f" No rate keeps {never} to {MOST_FORGOTTEN:g} times." if never else ""
    head = f"{head} brackets the books' perplexity as a multiple of the base's.{said}"
    return f"{head}\n\n{markdown(cells.reset_index())}"


def _losses(trials: Sequence[Trial], steps: int) -> str:
    """The loss and the forgetting of each network after every budget that all have."""
    rows = []
    for name, own in by_network(trials).items():
        one = next(iter(own.values()))
        budgets = sorted(STAGES[f"finetune {GENRES[0]}"].budgets)
        cells = {
            f"After {budget}": f"{number(float(np.mean([t.loss(budget) for t in own.values()])))} "
            f"({np.mean([t.forgotten.get(budget, np.inf) for t in own.values()]):.2f})"
            for budget in budgets
            if budget in one.test
        }
        worst = max(trial.forgotten.get(steps, np.inf) for trial in own.values())
        row = {
            "Network": NAMES.get(name, name),
            "Learning rate": f"{one.plan.rate:g}",
            "Parameters": f"{one.parameters:,}",
        }
        rows.append(row | cells | {"Worst seed": f"x {worst:.2f}"})
    head = (
        "Test loss (the log perplexity of the next tables), nats per token, mean of the seeds, and in brackets the "
        "books' perplexity as a multiple of the base's before tuning:"
    )
    return f"{head}\n\n{markdown(pd.DataFrame(rows))}"


def _forgotten(trials: Sequence[Trial], steps: int) -> str:
    """Which networks forget more than is wanted, in the mean of their seeds."""
    means = {
        NAMES.get(name, name): float(np.mean([trial.forgotten.get(steps, np.inf) for trial in own.values()]))
        for name, own in by_network(trials).items()
    }
    more = [f"{name} ({times:.2f})" for name, times in means.items() if times > MOST_FORGOTTEN]
    others = " alone" if len(more) < len(means) else ""
    who = f"for {', '.join(more)}{others}" if more else "for none of them"
    return f"After {steps} steps the books' perplexity is more than {MOST_FORGOTTEN:g} times the base's {who}."


def _scores(table: pd.DataFrame) -> str:
    metrics = ("loss", "rougeL", "rouge1", "bleu", "distinct2", ENTITIES)
    means = summary(table, metrics=metrics, resamples=RESAMPLES)
    shown = quality_table(means, metrics)
    label = MEASURES[ENTITIES].label
    shown.columns = pd.Index([name.replace(label, RIGHT) for name in shown.columns])
    shown = shown[~shown["Arm"].str.startswith("paper:")].drop(columns="Documents")
    texts, written, pairs = (
        table.loc[table["metric"] == name, "document"].nunique() for name in ("nll", "rougeL", "entity_right")
    )
    head = (
        f"Scores after the most steps, mean ± standard deviation over the seeds: log perplexity of {texts} texts, "
        f"overlap of {written} continuations, choices between {pairs} pairs of sentences:"
    )
    return f"{head}\n\n{markdown(shown)}{_not_quality(means)}"


def _not_quality(means: pd.DataFrame) -> str:
    """A sentence where the tuned network with the highest ROUGE-L has the highest loss; else ""."""
    tuned = means[means["seeds"] > 1].pivot_table(index="arm", columns="metric", values="value")
    if not {"loss", "rougeL"} <= set(tuned) or tuned["rougeL"].idxmax() != tuned["loss"].idxmax():
        return ""
    return (
        f"\n\nOf the tuned networks {tuned['rougeL'].idxmax()} has the highest ROUGE-L, and the highest loss: at this "
        "size the overlap of continuations is no measure of quality."
    )


def _compared(compared: pd.DataFrame) -> str:
    rows = []
    chance = compared["control"] == CHANCE
    for (metric, arm), part in compared[~chance].groupby(["metric", "arm"], sort=False):
        cells = {
            CONTROLS.get(row["control"], f"Equal {row['control']}"): signed_interval(
                row["difference"], row["low"], row["high"]
            )
            for row in part.to_dict("records")
        }
        rows.append({"Measure": _label(str(metric)), "Arm": arm} | cells)
    head = "The arm's score minus its control's, with intervals over seeds and documents together:"
    guessing = signed_interval(*compared.loc[chance, ["difference", "low", "high"]].iloc[0])
    said = f"The tuned base's share of right choices less one half is {guessing}."
    return f"{head}\n\n{markdown(pd.DataFrame(rows).fillna('–'))}\n\n{said}"


def _verdicts(verdicts: pd.DataFrame) -> str:
    rows = [
        {
            "Measure": _label(row["metric"]),
            "Arm": row["arm"],
            "Strongest control": CONTROLS.get(row["control"], f"Equal {row['control']}"),
            "Difference": signed_interval(*_natural(row)),
            "Seeds": row["seeds"],
            "p (Holm)": number(row["p"], 2),
            "Verdict": row["verdict"].replace("worse than every control", f"worse than every control, {LORA} apart"),
            "Equivalent to equal": (row["equivalent"] or NOTHING).replace(ADAPTERS, "adapters"),
            "Seeds needed": "–"
            if row["verdict"] != "undecided" or np.isnan(row["needed"])
            else f"{row['needed']:.0f}".replace("inf", "∞"),
        }
        for row in verdicts.to_dict("records")
    ]
    head = (
        "The verdict on each arm and measure; p is that of the verdict, one-sided, and of *better* where it is "
        f"undecided; equivalent: the 90 % interval lies within {WORTH['loss']:g} either way, {WORTH[ENTITIES]:g} of "
        "right choices, without a correction; ∞ seeds: these documents are too few, whatever their number. The p of "
        f"*better* and *worse* is never below what {RESAMPLES:,} permutations of documents allow. *No better* is "
        "corrected here; *no more than 0.01 better*, at the head of the page, is of one control and is not. A score of "
        "continuations can rise with the loss, as where an arm repeats itself less (distinct-2):"
    )
    return f"{head}\n\n{markdown(pd.DataFrame(rows))}"


def _below_margin(compared: pd.DataFrame) -> str:
    """A sentence on scores that are so low that less than the margin may be all of them; else ""."""
    beside = compared[compared["control"] == "steps"]
    low = [m for m, own in beside.groupby("metric", sort=False) if (own["reference"].abs() < WORTH[str(m)]).any()]
    names = " and ".join(_label(str(metric)) for metric in low)
    said = "is smaller than its margin, so *no better* and *equivalent* say nothing of it"
    return f"The tuned base's {names} {said}." if names else ""


def _natural(row: dict[Any, Any]) -> tuple[float, float, float]:
    """The difference and its interval with the measure's own sign; in `decisions` below zero is better."""
    if MEASURES[row["metric"]].better == "higher":
        return -row["estimate"], -row["high"], -row["low"]
    return row["estimate"], row["low"], row["high"]


def _label(metric: str) -> str:
    return RIGHT if metric == ENTITIES else MEASURES[metric].label
