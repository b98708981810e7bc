"""Whether a network uses what it has read long before, in texts whose parts belong together: acts and the Bible.

Networks are trained at 512 tokens. Each test item is 64 tokens to be predicted and the 1,024 before them, of one act
or one stretch of the Bible. They are predicted after 64, 128, 256, 512 and 1,024 tokens of their own text, and after as
many of which all but the last 64 come from another work of the same kind. The *gain* of a context is the loss after
the foreign one minus the loss after the own: what the earlier tokens tell because they belong to the text. A
network that is better in general, and forgets as much, has a lower loss and no larger gain.

The rule for the claim that long-range dependencies are captured better, of 2026-11-28, before any trial of this kind:

- *reproduced* if, after 1,024 tokens, the enhanced network is shown to gain more than the base and to have a lower
  loss, each against every control (equal steps, parameters, FLOPs and seconds) after Holm's correction over the arms;
- *contradicted* if it is shown to gain less than the base, against every control;
- *not reproduced* if it is shown to gain at most 0.01 nats per token more than some control;
- *undecided here* else, with fewer than 4 seeds, and while the base itself is not shown to gain anything, or gains
  less than 0.01: where there is so little to gain, no network gains much more (added on 2026-11-29, before any trial).

A pilot of the base alone (64x4, 300 steps at rate 0.008, seed 0) gained -0.00001 nats per token after 1,024 tokens,
with a standard error of 0.00014 over the items: after so short a training the base uses nothing beyond the last 64
tokens, and the rule would say undecided. So the stage trains for 1,200.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import seaborn.objects as so
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from rwkvgate.experiment.analysis.figures import draw, finish, save_figure
from rwkvgate.experiment.analysis.tables import markdown, number, signed_interval
from rwkvgate.experiment.rules import CONTRADICTED, FEWEST, NOT_REPRODUCED, REPRODUCED, UNDECIDED
from rwkvgate.experiment.study.analysis import Ratios, compare, comparisons, control_cells, decide
from rwkvgate.experiment.study.design import BASE, LONG_BATCH, LONG_LENGTH, WORTH_KNOWING
from rwkvgate.experiment.study.figures import embedded
from rwkvgate.experiment.study.marks import beside, ticked, told_apart
from rwkvgate.experiment.study.tasks import Books, Scores
from rwkvgate.experiment.study.texts import StudyTexts
from rwkvgate.experiment.study.trials import Trial
from rwkvgate.gate.validation import SettingsError
from rwkvgate.metrics.inference import PREFIX_ID, encode, evaluating
from rwkvgate.rwkv6.files import digest

CONTEXTS = (64, 128, 256, 512, 1024)
"""Tokens read before the scored ones."""
NEAR, SCORED = CONTEXTS[0], 64
"""Tokens that are always the text's own, and tokens that are scored."""
MOST = 12
"""Items of one part of a work, at most: a long one is not to stand for all."""
VALIDATED = 16
"""Items whose mean loss after the longest context is the validation loss."""
OWN, FOREIGN = "own", "foreign"
ENHANCED = "enhanced"
Works = Sequence[Sequence[str]]
"""The parts of each work of one kind."""
Items = dict[str, Tensor]
"""By context, such as "own 512": rows of token ids, (item, 1 + context + scored), the prefix first."""


class LongTexts(Books):
    """Language at a longer trained length, scored after contexts of several lengths."""

    batch, length = LONG_BATCH, LONG_LENGTH

    def __init__(self, texts: StudyTexts, validation: Sequence[Works], test: Sequence[Works]) -> None:
        super().__init__(texts)
        self.long = validation, test

    @property
    def inputs(self) -> dict[str, Any]:
        """The hashes of all texts, and how they are read."""
        read = [self.batch, self.length, CONTEXTS, NEAR, SCORED, VALIDATED, MOST]
        return super().inputs | {"long": digest([self.long, read])}

    @cached_property
    def _items(self) -> tuple[Items, Items]:
        validation, test = (
            items([[encode(self.tokenizer, parts) for parts in works] for works in kinds]) for kinds in self.long
        )
        return validation, test

    @property
    def weights(self) -> list[int]:
        """All items have as many scored tokens."""
        return [SCORED] * len(self._items[1][name_of(OWN, NEAR)])

    def score(self, model: nn.Module) -> Scores:
        """Losses in nats per token; `contexts` by context and item, of which `test` is the longest own one."""
        longest = name_of(OWN, CONTEXTS[-1])
        validation, test = self._items
        held_out = validation[longest]
        few = held_out[:: -(-len(held_out) // VALIDATED)]
        found = {name: [round(x, 5) for x in scored_losses(model, rows)] for name, rows in test.items()}
        mean = float(np.mean(scored_losses(model, few)))
        return {"validation": round(mean, 6), "test": found[longest], "contexts": found}


def name_of(whose: str, context: int) -> str:
    """What a context is called in a trial's record."""
    return f"{whose} {context}"


def items(kinds: Sequence[Sequence[Sequence[Sequence[int]]]]) -> Items:
    """The rows of every test item, by context.

    Args:
        kinds: token ids of each part of each work of each kind; two works of a kind at least, for the foreign context.

    Raises:
        SettingsError: a kind has fewer than two works with a part that is long enough.
    """
    size = CONTEXTS[-1] + SCORED
    pairs: list[tuple[Sequence[int], Sequence[int]]] = []
    for works in kinds:
        cut = [[window for part in parts for window in _windows(part, size)] for parts in works]
        cut = [windows for windows in cut if windows]
        if len(cut) < 2:
            raise SettingsError(f"{len(cut)} works have a part of {size:,} tokens; a foreign context needs two")
        for work, windows in enumerate(cut):
            others = cut[(work + 1) % len(cut)]
            pairs += [(own, others[i % len(others)]) for i, own in enumerate(windows)]
    own, foreign = (torch.tensor(side) for side in zip(*pairs, strict=True))
    start = own.new_full((len(own), 1), PREFIX_ID)
    near = own[:, CONTEXTS[-1] - NEAR :]
    rows = {}
    for context in CONTEXTS:
        early = slice(CONTEXTS[-1] - context, CONTEXTS[-1] - NEAR)
        rows[name_of(OWN, context)] = torch.cat((start, own[:, early], near), 1)
        if context > NEAR:
            rows[name_of(FOREIGN, context)] = torch.cat((start, foreign[:, early], near), 1)
    return rows


def _windows(part: Sequence[int], size: int) -> list[Sequence[int]]:
    """Stretches of a part, one after another; `MOST` of them, evenly spaced, where there are more."""
    starts = range(0, len(part) - size + 1, size)
    count = min(MOST, len(starts))
    chosen = (starts[i * len(starts) // count] for i in range(count))
    return [part[start : start + size] for start in chosen]


def scored_losses(model: nn.Module, rows: Tensor, batch_size: int = 16) -> list[float]:
    """The mean loss of the last `SCORED` tokens of each row, nats per token.

    Args:
        model: an RWKV-6.
        rows: (item, time) token ids.
    """
    losses = []
    with evaluating(model):
        for batch in rows.split(batch_size):
            logits = model(input_ids=batch[:, :-1], use_cache=False, logits_to_keep=SCORED).logits.float()
            losses.append(cross_entropy(logits.mT, batch[:, -SCORED:], reduction="none").mean(1))
    return [float(x) for x in torch.cat(losses)]


def gains(trials: Sequence[Trial]) -> pd.DataFrame:
    """The gain of each context: `network`, `budget`, `context`, `loss` after the own one (mean of seeds and items),
    `gain` with its 95 % interval `low` and `high` over seeds and items, and `seeds`; the first context has none."""
    by_network: dict[str, list[Trial]] = {}
    for trial in trials:
        by_network.setdefault(trial.plan.network, []).append(trial)
    rows: list[dict[str, Any]] = []
    for network, several in by_network.items():
        budget = min(max(trial.test) for trial in trials)
        for context in CONTEXTS:
            own = [np.array(_of(trial, budget, OWN, context)) for trial in several]
            row: dict[str, Any] = {"network": network, "budget": budget, "context": context}
            row |= {"loss": float(np.mean(own)), "seeds": len(several)}
            if context > NEAR:
                foreign = [np.array(_of(trial, budget, FOREIGN, context)) for trial in several]
                found = compare(list(zip(foreign, own, strict=True)), several[0].weights)
                low, high = found.interval()
                row |= {"gain": found.estimate, "low": low, "high": high}
            rows.append(row)
    return pd.DataFrame(rows)


def differences(trials: Sequence[Trial], seconds: Mapping[str, Ratios]) -> dict[str, pd.DataFrame]:
    """`analysis.comparisons` of the loss after the longest context, "loss", and of the gain with its sign turned,
    "gain", so that in both an arm is better below zero."""
    turned = [replace(trial, test={budget: _turned_gain(trial, budget) for budget in trial.test}) for trial in trials]
    worth = WORTH_KNOWING["books"]
    return {"loss": comparisons(trials, seconds, worth), "gain": comparisons(turned, seconds, worth)}


def verdict(table: pd.DataFrame, compared: Mapping[str, pd.DataFrame]) -> dict[str, Any]:
    """The verdict on the claim by the rule above, with `reason`, and `ours`, `low`, `high`: how much more the enhanced
    network gains than its strongest control; a record as `claims.decide_claims` has them.

    Args:
        table: of `gains`.
        compared: of `differences`.
    """
    decisions = {name: decide(frame).set_index("arm") for name, frame in compared.items()}
    if ENHANCED not in decisions["gain"].index:
        return {"verdict": UNDECIDED, "reason": "the enhanced network and the base have no trial of one seed"}
    gain, loss = (decisions[name].loc[ENHANCED].to_dict() for name in ("gain", "loss"))
    record: dict[str, Any] = {
        "claim": "long-range",
        "ours": -gain["estimate"],
        "low": -gain["high"],
        "high": -gain["low"],
    }
    record |= {"seeds": int(gain["seeds"]), "p": gain["p"], "unit": "nats per token gained over the strongest control"}
    at_last = table[(table["network"] == BASE) & (table["context"] == CONTEXTS[-1])]
    base = at_last.to_dict("records")[0]
    reason = (
        f"after {CONTEXTS[-1]:,} tokens the base gains {signed_interval(base['gain'], base['low'], base['high'])} nats "
        "per token from the earlier ones; the enhanced network gains "
        f"{signed_interval(*(record[name] for name in ('ours', 'low', 'high')))} more than the control of equal "
        f"{gain['control']} ({gain['verdict']}), and its loss is {loss['verdict']}"
    )
    better, worse = "better than every control", "worse than every control"
    found, worth = UNDECIDED, WORTH_KNOWING["books"]
    if record["seeds"] < FEWEST:
        reason += f"; fewer than {FEWEST} seeds decide nothing"
    elif base["low"] <= 0 or base["gain"] < worth:
        known = "not shown" if base["low"] <= 0 else f"less than {worth:g}"
        reason += f"; nothing is decided, for what the base itself gains is {known}"
    else:
        if gain["verdict"] == worse:
            found = CONTRADICTED
        elif gain["verdict"] == "no better":
            found = NOT_REPRODUCED
        elif gain["verdict"] == loss["verdict"] == better:
            found = REPRODUCED
    return record | {"verdict": found, "reason": reason}


def section(
    folder: Path, trials: Sequence[Trial], seconds: Mapping[str, Ratios]
) -> tuple[list[str], dict[str, pd.DataFrame]]:
    """The part of the page on long texts, and its tables by name; the figure is drawn into `folder`."""
    if not trials:
        return [], {}
    table, compared = gains(trials), differences(trials, seconds)
    tables = {"long-gains": table}
    parts = [
        "## Long range",
        f"Loss of {SCORED} tokens after contexts of their own text, nats per token, and how much more it is where all "
        f"but the last {NEAR} tokens of the context come from another work, after {table['budget'].iloc[0]} steps:",
        markdown(_cells(table)),
    ]
    if all(len(frame) for frame in compared.values()):
        tables |= {f"long-{name}-comparisons": frame for name, frame in compared.items()}
        found = verdict(table, compared)
        tables["long-verdict"] = pd.DataFrame([found])
        parts += [f"*Long-range dependencies are captured better*: **{found['verdict']}**; {found['reason']}."]
        for name, sign in (("gain", -1), ("loss", 1)):
            head = f"After {CONTEXTS[-1]:,} tokens, the arm's {name} minus its control's:"
            parts += [head, markdown(_controls(compared[name], sign))]
    save_figure(_figure(table), folder, "long-range")
    return [*parts, *embedded({"long-range": "Gain by context"})], tables


def _of(trial: Trial, budget: int, whose: str, context: int) -> list[float]:
    """The losses after one context; infinite where training had diverged."""
    return trial.contexts.get(budget, {}).get(name_of(whose, context), trial.test[budget])


def _turned_gain(trial: Trial, budget: int) -> list[float]:
    """The gain of the longest context with its sign turned, by item; infinite where training had diverged."""
    if budget not in trial.contexts:
        return trial.test[budget]
    own, foreign = (_of(trial, budget, whose, CONTEXTS[-1]) for whose in (OWN, FOREIGN))
    return [a - b for a, b in zip(own, foreign, strict=True)]


def _cells(table: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for network, part in table.groupby("network", sort=False):
        for what in ("loss", "gain"):
            row = {"Network": network, "Seeds": part["seeds"].iloc[0], "": what}
            for cell in part.to_dict("records"):
                gained = signed_interval(cell["gain"], cell["low"], cell["high"]) if cell["context"] > NEAR else "–"
                row[f"{cell['context']:,}"] = number(cell["loss"]) if what == "loss" else gained
            rows.append(row)
    return pd.DataFrame(rows)


def _controls(compared: pd.DataFrame, sign: int) -> pd.DataFrame:
    largest = compared[compared["budget"] == compared["budget"].max()]
    rows = []
    for arm, part in largest.groupby("arm", sort=False):
        rows.append({"Arm": arm, "Seeds": int(part["seeds"].max())} | control_cells(part, sign))
    return pd.DataFrame(rows)


def _figure(table: pd.DataFrame) -> Any:
    shown = table[table["context"] > NEAR]
    aside = shown.assign(context=shown["context"] * beside(shown["network"], 0.06))
    plot = (
        so.Plot(aside, x="context", y="gain", ymin="low", ymax="high", color="network")
        .add(so.Line(pointsize=6, fillcolor="white"), marker="network", linestyle="network")
        .add(so.Range(), legend=False)
        .scale(x=ticked(shown["context"]))
        .label(x="tokens of context", y="gain (nats per token)")
    )
    title = (
        f"Gain: how much lower the loss is where the context is all of the text itself than where all but its last "
        f"{NEAR} tokens are of another work. Bars are 95 % intervals over seeds and items, networks side by side."
    )
    figure = draw(told_apart(plot, shown["network"]), title)
    figure.axes[0].axhline(0, color="black", linewidth=1, zorder=1)
    finish(figure)
    return figure
