"""Trials of the study: one network of one size, trained with one rate and seed, and scored at its budgets.

Each finished trial is a sealed file, so a study that was stopped goes on where it was, in this process or in several
beside one another. A trial under another protocol, text or version of torch has another name and is left alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rwkvgate.experiment.environment import commit, processor, versions
from rwkvgate.experiment.records import read_sealed, write_sealed
from rwkvgate.experiment.study.annealing import train_annealed
from rwkvgate.experiment.study.design import PROTOCOL, WEIGHT_DECAY, Size, cost
from rwkvgate.experiment.study.tasks import Scores, Task
from rwkvgate.rwkv6.files import digest
from rwkvgate.rwkv6.kernels import describe_backend

Report = Callable[[int, int], None]
PACKAGES = ("numba", "numpy", "tokenizers", "transformers", "peft")
BY_BUDGET = ("validation", "test", "shares", "contexts", "forgotten", "measures")


@dataclass(frozen=True)
class Plan:
    """A trial to run."""

    size: Size
    network: str
    rate: float
    seed: int
    budgets: tuple[int, ...]
    task: str = "books"

    def __str__(self) -> str:
        return f"{self.network} {self.size.name}, rate {self.rate:g}, seed {self.seed}"


@dataclass(frozen=True)
class Trial:
    """What a trial gave.

    Attributes:
        validation: by budget, in steps: loss on the validation items, nats per token; infinite after divergence.
        test: by budget: loss of each test item: nats per token of a document, or the share not recalled of a sequence.
        weights: of each test item: tokens of a document, 1 of a sequence.
        losses: training loss of the trunk, nats per token, every ten steps.
        diverged: the step at which training broke; None where it did not.
        seconds: of the process that finished it, beside whatever else ran: no measure of cost.
        processor: what it ran on; another one's rounding is like another seed.
        made: the commit, the form of the WKV operator and the versions that it was made with; empty of earlier trials.
        shares: by budget: the share recalled of each memory task at each length, such as "copying x4", or the share
            that is right of each kind of `stories`.
        contexts: by budget: the loss of each test item of `long_range` after each context, such as "own 512", or 1
            where an answer of `stories` is wrong.
        forgotten: by budget, of a fine-tuning: the books' perplexity over the base's.
        measures: by budget: more measures by name, in lists: the readings of `inside`, or rows of columns of a
            fine-tuning, a row for each item.
        saved: SHA-256 of the network that was kept; None where none was.
    """

    plan: Plan
    parameters: int
    flops: float
    validation: dict[int, float]
    test: dict[int, list[float]]
    weights: list[int]
    losses: list[float]
    diverged: int | None
    seconds: float
    processor: str
    shares: dict[int, dict[str, float]] = field(default_factory=dict)
    contexts: dict[int, dict[str, list[float]]] = field(default_factory=dict)
    forgotten: dict[int, float] = field(default_factory=dict)
    measures: dict[int, dict[str, list[Any]]] = field(default_factory=dict)
    saved: str | None = None
    made: dict[str, str] = field(default_factory=dict)

    def loss(self, budget: int) -> float:
        """Mean test loss at a budget."""
        return float(np.average(self.test[budget], weights=self.weights))


class Trials:
    """The trials of a folder."""

    def __init__(self, folder: Path, tasks: Mapping[str, Task]) -> None:
        self.folder, self.tasks = folder, tasks

    def path(self, plan: Plan) -> Path:
        """The file of a trial; its name holds the hash of all that the trial depends on."""
        task = self.tasks[plan.task]
        described = asdict(plan)
        del described["task"]  # its inputs stand for it
        inputs = digest(
            {"plan": described, "protocol": PROTOCOL, "torch": torch.__version__}
            | {"cost": cost(plan.network, plan.size, task.vocabulary)}
            | task.inputs
        )
        return self.folder / plan.size.name / f"{plan.network}-rate{plan.rate:g}-seed{plan.seed}-{inputs}.json"

    def known(self, plan: Plan) -> Trial | None:
        """The trial, if it is finished; a damaged one is not, which is printed."""
        path = self.path(plan)
        record = read_sealed(path)
        if record is None:
            if path.exists():
                _say(f"{path} is damaged: its trial counts as missing")
            return None
        if record.get("saved") != self.tasks[plan.task].saved:
            _say(f"the network of {path} is missing or has changed: its trial counts as missing")
            return None
        by_budget = (name for name in BY_BUDGET if name in record)
        return Trial(plan=plan, **(record | {name: {int(k): v for k, v in record[name].items()} for name in by_budget}))

    def run(self, plan: Plan, report: Report | None = None) -> Trial:
        """Train, score and write; a training that was interrupted resumes."""
        began, path, task, made = time.monotonic(), self.path(plan), self.tasks[plan.task], made_with()
        rows, labels = task.rows(max(plan.budgets), plan.seed)
        curve = train_annealed(
            task.network(plan.network, plan.size, plan.seed),
            rows,
            plan.budgets,
            task.score,
            rate=plan.rate,
            batch_size=task.batch,
            weight_decay=WEIGHT_DECAY,
            labels=labels,
            checkpoint=path.with_suffix(".pt"),
            report=report,
        )
        failed: Scores = {"validation": float("inf"), "test": [float("inf")] * len(task.weights)}
        scores = {budget: curve.scores.get(budget) or failed for budget in plan.budgets}
        by_budget = {n: {b: one[n] for b, one in scores.items() if n in one} for n in BY_BUDGET}
        parameters, flops = cost(plan.network, plan.size, task.vocabulary)
        trial = Trial(
            plan=plan,
            parameters=parameters,
            flops=flops,
            **by_budget,
            saved=scores[max(plan.budgets)].get("saved"),
            weights=task.weights,
            losses=[round(x, 5) for x in curve.losses],
            diverged=curve.diverged,
            seconds=round(time.monotonic() - began, 1),
            processor=processor(),
            made=made,
        )
        record = {name: value for name, value in vars(trial).items() if name != "plan" and value != {}}
        kept = (name for name in BY_BUDGET if name in record)
        write_sealed(path, record | {name: {str(k): v for k, v in record[name].items()} for name in kept})
        path.with_suffix(".pt").unlink(missing_ok=True)
        return trial


@cache
def made_with() -> dict[str, str]:
    """The commit, the form of the WKV operator and the versions of the packages that numbers depend on."""
    here = commit()
    code = f"{here['id']}{' and changes' if here['dirty'] else ''}" if here["id"] else "unknown"
    found = versions()
    return {"commit": code, "wkv": str(describe_backend("cpu")["name"])} | {n: found[n] for n in PACKAGES if n in found}


@cache
def _say(message: str) -> None:
    """Print a message, once."""
    print(message, flush=True)
