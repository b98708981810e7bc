"""Trials of the study: one network of one size, trained with one rate and seed, and scored at its budgets.

Each finished trial is a sealed file, so a study that was stopped goes on where it was, in this process or in several
beside one another. A trial under another protocol, text or version of torch has another name and is left alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedTokenizerFast

from rwkvgate.experiment.corpora.tokenizer import train_tokenizer
from rwkvgate.experiment.environment import hardware
from rwkvgate.experiment.records import read_sealed, write_sealed
from rwkvgate.experiment.settings import Schedule
from rwkvgate.experiment.study.annealing import train_annealed
from rwkvgate.experiment.study.design import BATCH, LENGTH, PROTOCOL, VOCABULARY, WEIGHT_DECAY, Size, build, cost
from rwkvgate.experiment.study.texts import StudyTexts
from rwkvgate.experiment.training.rows import pack_rows
from rwkvgate.metrics.likelihood import encode, token_losses
from rwkvgate.rwkv6.files import digest

Report = Callable[[int, int], None]


@dataclass(frozen=True)
class Plan:
    """A trial to run."""

    size: Size
    network: str
    rate: float
    seed: int
    budgets: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.network} {self.size.name}, rate {self.rate:g}, seed {self.seed}"


@dataclass(frozen=True)
class Trial:
    """What a trial gave.

    Attributes:
        validation: by budget, in steps: loss on the validation texts, nats per token; infinite after divergence.
        test: by budget: loss of each test document, nats per token.
        weights: tokens of each test document.
        losses: training loss of the trunk, nats per token, every ten steps.
        diverged: the step at which training broke; None where it did not.
        seconds: of the whole trial beside whatever else ran: no measure of cost.
        processor: what it ran on; another one's rounding is like another seed.
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

    def loss(self, budget: int) -> float:
        """Mean test loss at a budget, nats per token."""
        return float(np.average(self.test[budget], weights=self.weights))


class Trials:
    """The trials of a folder, on one set of texts."""

    def __init__(self, folder: Path, texts: StudyTexts) -> None:
        self.folder, self.texts = folder, texts

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """Trained on the training texts."""
        return train_tokenizer(self.texts.train, VOCABULARY)

    @cached_property
    def _encoded(self) -> list[list[list[int]]]:
        return [encode(self.tokenizer, texts) for texts in (self.texts.train, self.texts.validation, self.texts.test)]

    def path(self, plan: Plan) -> Path:
        """The file of a trial; its name holds the hash of all that the trial depends on."""
        inputs = digest(
            {"plan": asdict(plan), "texts": self.texts.hash, "protocol": PROTOCOL, "torch": torch.__version__}
            | {"cost": cost(plan.network, plan.size)}
        )
        name = f"{plan.network}-rate{plan.rate:g}-seed{plan.seed}-{inputs}.json"
        return self.folder / plan.size.name / name

    def known(self, plan: Plan) -> Trial | None:
        """The trial, if it is finished; a damaged one is not, which is printed."""
        path = self.path(plan)
        record = read_sealed(path)
        if record is None:
            if path.exists():
                print(f"{path} is damaged: this trial is run again", flush=True)
            return None
        record |= {name: {int(k): v for k, v in record[name].items()} for name in ("validation", "test")}
        return Trial(plan=plan, **record)

    def run(self, plan: Plan, report: Report | None = None) -> Trial:
        """Train, score and write; a training that was interrupted resumes."""
        began, path = time.monotonic(), self.path(plan)
        train, validation, test = self._encoded
        schedule = Schedule(
            steps=max(plan.budgets),
            batch_size=BATCH,
            length=LENGTH,
            learning_rate=plan.rate,
            warmup_steps=0,
            weight_decay=WEIGHT_DECAY,
            gradient_checkpointing=False,
        )
        weights = [len(ids) for ids in test]

        def score(model: nn.Module) -> dict[str, Any]:
            held_out, tested = (token_losses(model, part, batch_size=32) for part in (validation, test))
            mean = sum(x.sum() for x in held_out) / sum(map(len, held_out))
            return {"validation": round(float(mean), 6), "test": [round(float(x.mean()), 5) for x in tested]}

        curve = train_annealed(
            build(plan.network, plan.size, plan.seed),
            pack_rows(train, schedule, 0, plan.seed),
            plan.budgets,
            score,
            rate=plan.rate,
            batch_size=BATCH,
            weight_decay=WEIGHT_DECAY,
            checkpoint=path.with_suffix(".pt"),
            report=report,
        )
        failed: dict[str, Any] = {"validation": float("inf"), "test": [float("inf")] * len(test)}
        scores = {budget: curve.scores.get(budget) or failed for budget in plan.budgets}
        parameters, flops = cost(plan.network, plan.size)
        trial = Trial(
            plan=plan,
            parameters=parameters,
            flops=flops,
            validation={budget: one["validation"] for budget, one in scores.items()},
            test={budget: one["test"] for budget, one in scores.items()},
            weights=weights,
            losses=[round(x, 5) for x in curve.losses],
            diverged=curve.diverged,
            seconds=round(time.monotonic() - began, 1),
            processor=hardware()["processor"],
        )
        record = {name: value for name, value in vars(trial).items() if name != "plan"}
        write_sealed(path, record | {n: {str(k): v for k, v in record[n].items()} for n in ("validation", "test")})
        return trial
