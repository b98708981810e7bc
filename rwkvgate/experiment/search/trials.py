"""Trials: one candidate trained with one learning rate and seed on one task, and scored on held-out data.

A task gives every candidate the same steps, data, order of data and grid of learning rates. The rate is chosen on
validation data. Every trial scores the test data too, which only the comparison reads.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rwkvgate.experiment.arms import Arm
from rwkvgate.experiment.inputs import base_inputs
from rwkvgate.experiment.records import read_sealed, write_sealed
from rwkvgate.experiment.run import Run
from rwkvgate.experiment.settings import LAUNCH, ModelSettings, Schedule
from rwkvgate.experiment.steps import ensure_base, ensure_texts
from rwkvgate.experiment.steps.base import new_base
from rwkvgate.experiment.training import document_rows, pack_rows, train
from rwkvgate.gate.patch import patch, select_trainable
from rwkvgate.gate.validation import SettingsError
from rwkvgate.metrics.likelihood import score_texts
from rwkvgate.metrics.recall import FIRST, associative_recall, copying, recalled
from rwkvgate.rwkv6.configuration import Rwkv6Config
from rwkvgate.rwkv6.files import digest
from rwkvgate.rwkv6.modeling import Rwkv6ForCausalLM

CHARACTERS = 2000
"""Most characters of a natural document: one long text would outweigh all the others."""
Rows = list[list[int]]


@dataclass(frozen=True)
class Trial:
    """The result of one trial; one that diverged has infinite losses.

    Attributes:
        validation: loss on validation data, in nats per token.
        test: loss of each test document or sequence, in nats per token.
        weights: tokens of each.
        accuracy: share of tokens recalled, in recall tasks.
    """

    task: str
    candidate: str
    rate: float
    seed: int
    validation: float
    test: list[float]
    weights: list[int]
    accuracy: float | None = None
    parameters: int = 0

    @property
    def loss(self) -> float:
        """Mean test loss, nats per token."""
        return float(np.average(self.test, weights=self.weights))


class Task:
    """A task that candidates are trained and tested on, with its steps and its grid of learning rates."""

    def __init__(self, name: str, steps: int, rates: tuple[float, ...]) -> None:
        self.name, self.steps, self.rates = name, steps, rates

    def inputs(self) -> dict[str, Any]:
        """What the trials depend on, besides candidate, rate and seed."""
        raise NotImplementedError

    def run(self, candidate: Arm, rate: float, seed: int) -> Trial:
        """Train and score.

        Raises:
            FloatingPointError: training diverged.
        """
        raise NotImplementedError

    def fit(
        self, model: Rwkv6ForCausalLM, candidate: Arm, rows: Rows, schedule: Schedule, seed: int, **options: Any
    ) -> Rwkv6ForCausalLM:
        """Put the candidate's gate or adapters on the model, drawn from the seed, and train all of it."""
        torch.manual_seed(seed)
        if candidate.lora:
            from rwkvgate.experiment.lora import add_lora  # PEFT takes seconds to import

            add_lora(model)
        if candidate.gate is not None:
            patch(model, candidate.gate)
        select_trainable(model, "all")
        label = f"{self.name}, {candidate.name}, rate {schedule.learning_rate:g}, seed {seed}"
        train(model, rows, schedule, label=label, seed=seed, **options)
        return model


class TextTask(Task):
    """Language: fine-tuning the base of a run on its stories, or pretraining a network of its size from scratch."""

    def __init__(self, run: Run, from_scratch: bool, steps: int, rates: tuple[float, ...], documents: int) -> None:
        super().__init__("pretraining" if from_scratch else "fine-tuning", steps, rates)
        if not isinstance(run.settings.model, ModelSettings):
            raise SettingsError("the search pretrains its base; give a profile whose model has sizes")
        self.base_of, self.model, self.from_scratch, self.documents = run, run.settings.model, from_scratch, documents
        schedule = self.model.pretraining if from_scratch else run.settings.training
        grid = {} if from_scratch else {"learning_rates": ()}
        self.schedule: Schedule = schedule.model_copy(update={"steps": steps} | grid)
        self.texts = ensure_texts(run)

    def inputs(self) -> dict[str, Any]:
        """Texts and model of the run, schedule, and what is scored."""
        return base_inputs(self.base_of.settings) | {
            "schedule": self.schedule.model_dump(mode="json", exclude=LAUNCH | {"learning_rate", "learning_rates"}),
            "documents": self.documents,
            "characters": CHARACTERS,
        }

    def run(self, candidate: Arm, rate: float, seed: int) -> Trial:
        """Train and score."""
        tokenizer, corpus = self.texts.tokenizer, self.texts.corpus
        schedule = self.schedule.model_copy(update={"learning_rate": rate})
        if self.from_scratch:
            rows = pack_rows(self.texts.encode(corpus.natural_train), schedule, tokenizer.bos_token_id, seed)
            start = new_base(self.model, tokenizer, seed)
        else:
            rows = document_rows(self.texts.encode(corpus.train), schedule, tokenizer.bos_token_id, seed)
            start = ensure_base(self.base_of)
        model = self.fit(start, candidate, rows, schedule, seed)
        scored = [score_texts(model, tokenizer, texts, batch_size=32) for texts in self._held_out()]
        validation, test = (frame[frame["tokens"] > 0] for frame in scored)
        return Trial(
            task=self.name,
            candidate=candidate.name,
            rate=rate,
            seed=seed,
            validation=float(validation["nll"].sum() / validation["tokens"].sum()),
            test=[round(x, 6) for x in (test["nll"] / test["tokens"])],
            weights=test["tokens"].tolist(),
            parameters=model.num_parameters(),
        )

    def _held_out(self) -> tuple[list[str], list[str]]:
        """Texts to choose the rate on, and texts to test on."""
        corpus, count = self.texts.corpus, self.documents
        if not self.from_scratch:
            return [d.text for d in corpus.validation[: count // 2]], [d.text for d in corpus.test[:count]]
        texts = [d.text for d in corpus.natural_validation]
        longest = max(map(len, texts))
        size = min(CHARACTERS, max(longest // 4, 1))
        # Every document's beginning first: further pieces only where documents are few.
        pieces = [text[i : i + size] for i in range(0, longest, size) for text in texts if len(text) > i]
        return pieces[1::2][: count // 2], pieces[::2][:count]


class RecallTask(Task):
    """Associative recall, or copying, by a small network trained from scratch on tokens without meaning."""

    SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "head_size": 16, "time_mix_rank": 8, "time_decay_rank": 8}
    SCORED = (256, 512)
    """Sequences that are scored for validation, and for the test."""

    def __init__(self, name: str, steps: int, rates: tuple[float, ...], batch_size: int = 32) -> None:
        super().__init__(name, steps, rates)
        self.batch_size = batch_size

    def inputs(self) -> dict[str, Any]:
        """Steps, batch and model."""
        return {"steps": self.steps, "batch": self.batch_size, "sizes": self.SIZES}

    def run(self, candidate: Arm, rate: float, seed: int) -> Trial:
        """Train and score."""
        schedule = Schedule(
            steps=self.steps,
            batch_size=self.batch_size,
            length=64,
            learning_rate=rate,
            warmup_steps=self.steps // 20,
            weight_decay=0.001,
            gradient_checkpointing=False,
        )
        torch.manual_seed(seed)
        start = Rwkv6ForCausalLM(Rwkv6Config(vocab_size=FIRST + 2 * 64, **self.SIZES))
        ids, labels = self._draw(self.steps * self.batch_size, seed)
        model = self.fit(start, candidate, ids.tolist(), schedule, seed, labels=labels.tolist())
        _, validation = recalled(model, *self._draw(self.SCORED[0], seed=1_000_001))
        right, test = recalled(model, *self._draw(self.SCORED[1], seed=1_000_002))
        return Trial(
            task=self.name,
            candidate=candidate.name,
            rate=rate,
            seed=seed,
            validation=float(validation.mean()),
            test=[round(x, 6) for x in test.tolist()],
            weights=[1] * len(test),
            accuracy=float(right.mean()),
            parameters=model.num_parameters(),
        )

    def _draw(self, count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        if self.name == "associative recall":
            return associative_recall(count, length=64, pairs=8, symbols=64, seed=seed)
        return copying(count, length=24, symbols=64, seed=seed)


def trial_path(folder: Path, task: Task, candidate: Arm, rate: float, seed: int) -> Path:
    """The file of a trial; its name contains the hash of what the trial depends on."""
    gate = candidate.gate and candidate.gate.model_dump(mode="json")
    inputs = digest({"task": task.inputs(), "gate": gate, "lora": candidate.lora})
    return folder / task.name.replace(" ", "-") / candidate.name / f"rate{rate:g}-seed{seed}-{inputs}.json"


def known_trial(folder: Path, task: Task, candidate: Arm, rate: float, seed: int) -> Trial | None:
    """The trial, if it is finished; a damaged one is not, which is printed."""
    path = trial_path(folder, task, candidate, rate, seed)
    own = {"task": task.name, "candidate": candidate.name, "rate": rate, "seed": seed}
    known = read_sealed(path)
    if known and own.items() <= known.items():
        return Trial(**known)
    if path.exists():
        print(f"{path} is damaged, of another trial or of an earlier version: this trial is run again", flush=True)
    return None


def ensure_trial(folder: Path, task: Task, candidate: Arm, rate: float, seed: int) -> Trial:
    """The trial, run if it is not finished."""
    if known := known_trial(folder, task, candidate, rate, seed):
        return known
    try:
        trial = task.run(candidate, rate, seed)
    except FloatingPointError as error:
        print(f"{task.name}, {candidate.name}, rate {rate:g}, seed {seed}: {error}", flush=True)
        trial = Trial(task.name, candidate.name, rate, seed, validation=float("inf"), test=[float("inf")], weights=[1])
    write_sealed(trial_path(folder, task, candidate, rate, seed), asdict(trial))
    return trial
