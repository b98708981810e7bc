"""One trial: a candidate trained with one learning rate and seed on one task, and scored on held-out data.

A task gives every candidate the same steps, data, order of data and grid of learning rates. The rate is chosen on
validation data; test data is scored in every trial and looked at only where the comparison says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from rwkvgate.experiment.progress import Progress
from rwkvgate.experiment.run import Run
from rwkvgate.experiment.search.candidates import Candidate
from rwkvgate.experiment.settings import LAUNCH, ModelSettings, Schedule
from rwkvgate.experiment.steps import Texts, ensure_base, ensure_texts
from rwkvgate.experiment.steps.base import new_base
from rwkvgate.experiment.training import build_optimizer, document_rows, pack_rows, train
from rwkvgate.gate.patch import patch, select_trainable
from rwkvgate.gate.validation import SettingsError
from rwkvgate.metrics.likelihood import score_texts
from rwkvgate.metrics.recall import FIRST, associative_recall, copying, recalled
from rwkvgate.rwkv6.configuration import Rwkv6Config
from rwkvgate.rwkv6.files import digest, read_json, write_json
from rwkvgate.rwkv6.modeling import Rwkv6ForCausalLM

CHARACTERS = 2000
"""Of a natural document, at most: one long text would outweigh all the others."""


@dataclass(frozen=True)
class Trial:
    """What one trial left. `test` is a loss in nats a token for each held-out document or sequence, `weights` its
    tokens; `accuracy`, for recall tasks, the share of tokens recalled."""

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
        """Mean test loss, nats a token."""
        return float(np.average(self.test, weights=self.weights))


class Task(Protocol):
    """What a trial is done on."""

    name: str
    rates: tuple[float, ...]
    steps: int

    def run(self, candidate: Candidate, rate: float, seed: int) -> Trial:
        """Train and score."""
        ...

    def inputs(self) -> dict[str, Any]:
        """What its trials depend on."""
        ...


def fitted(model: Rwkv6ForCausalLM, candidate: Candidate, seed: int) -> Rwkv6ForCausalLM:
    """The model with the candidate's gate or adapters, drawn from the seed, everything trainable."""
    torch.manual_seed(seed)
    if candidate.lora:
        from rwkvgate.experiment.lora import add_lora

        add_lora(model)
    if candidate.gate is not None:
        patch(model, candidate.gate)
    select_trainable(model, "all")
    return model


class TextTask:
    """Language: fine-tuning the base of a run on its stories, or pretraining a network of its size from scratch."""

    def __init__(self, run: Run, from_scratch: bool, steps: int, rates: tuple[float, ...], documents: int) -> None:
        if not isinstance(run.settings.model, ModelSettings):
            raise SettingsError("the search pretrains its base; give a profile whose model has sizes")
        self.model = run.settings.model
        self.name = "pretraining" if from_scratch else "fine-tuning"
        self.run_folder, self.scratch, self.steps, self.rates, self.documents = (
            run,
            from_scratch,
            steps,
            rates,
            documents,
        )
        schedule: Schedule = self.model.pretraining if from_scratch else run.settings.training
        self.schedule = schedule.model_copy(update={"steps": steps})
        self.texts: Texts = ensure_texts(run)

    def inputs(self) -> dict[str, Any]:
        """Steps, data and model."""
        settings = self.run_folder.settings
        return {
            "schedule": self.schedule.model_dump(mode="json", exclude=LAUNCH | {"learning_rate", "learning_rates"}),
            "corpus": settings.corpus.model_dump(mode="json"),
            "model": settings.model.model_dump(mode="json"),
            "documents": self.documents,
            "characters": CHARACTERS,
        }

    def _held_out(self) -> tuple[list[str], list[str]]:
        """Texts to choose the rate on, and texts to test on."""
        corpus = self.texts.corpus
        if not self.scratch:
            tested = corpus.test[: self.documents]
            return [d.text for d in corpus.validation[: self.documents // 2]], [d.text for d in tested]
        whole = [d.text for d in corpus.natural_validation]
        longest = max(map(len, whole))
        size = min(CHARACTERS, max(longest // 4, 1))
        # Every document's beginning first: further pieces only where documents are few.
        texts = [text[i : i + size] for i in range(0, longest, size) for text in whole if len(text) > i]
        return texts[1::2][: self.documents // 2], texts[::2][: self.documents]

    def run(self, candidate: Candidate, rate: float, seed: int) -> Trial:
        """Train and score."""
        tokenizer, corpus = self.texts.tokenizer, self.texts.corpus
        separator: int = tokenizer.bos_token_id
        schedule = self.schedule.model_copy(update={"learning_rate": rate})
        if self.scratch:
            rows = pack_rows(self.texts.encode(corpus.natural_train), schedule, separator, seed)
            base = new_base(self.model, tokenizer, seed)
        else:
            rows = document_rows(self.texts.encode(corpus.train), schedule, separator, seed)
            base = ensure_base(self.run_folder)
        model = fitted(base, candidate, seed)
        train(model, rows, schedule, label=f"{self.name}, {candidate.name}, rate {rate:g}, seed {seed}", seed=seed)
        validation, test = self._held_out()
        scored = [score_texts(model, tokenizer, texts, batch_size=32) for texts in (validation, test)]
        chosen, tested = (frame[frame["tokens"] > 0] for frame in scored)
        return Trial(
            task=self.name,
            candidate=candidate.name,
            rate=rate,
            seed=seed,
            validation=float(chosen["nll"].sum() / chosen["tokens"].sum()),
            test=[round(x, 6) for x in (tested["nll"] / tested["tokens"])],
            weights=tested["tokens"].tolist(),
            parameters=sum(p.numel() for p in model.parameters()),
        )


class RecallTask:
    """A small network from scratch on tokens without meaning: associative recall, or copying."""

    SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "head_size": 16, "time_mix_rank": 8, "time_decay_rank": 8}

    def __init__(self, name: str, steps: int, rates: tuple[float, ...], batch_size: int = 32) -> None:
        self.name, self.steps, self.rates, self.batch_size = name, steps, rates, batch_size

    def inputs(self) -> dict[str, Any]:
        """Steps, data and model."""
        return {"steps": self.steps, "batch": self.batch_size, "sizes": self.SIZES}

    def _draw(self, count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        if self.name == "associative recall":
            return associative_recall(count, length=64, pairs=8, symbols=64, seed=seed)
        return copying(count, length=24, symbols=64, seed=seed)

    def run(self, candidate: Candidate, rate: float, seed: int) -> Trial:
        """Train and score."""
        torch.manual_seed(seed)
        model = Rwkv6ForCausalLM(Rwkv6Config(vocab_size=FIRST + 2 * 64, **self.SIZES))
        model = fitted(model, candidate, seed).train()
        schedule = Schedule(
            steps=self.steps,
            batch_size=self.batch_size,
            length=64,
            learning_rate=rate,
            warmup_steps=self.steps // 20,
            weight_decay=0.001,
            gradient_checkpointing=False,
        )
        optimizer, scheduler = build_optimizer(model, schedule)
        ids, labels = self._draw(self.steps * self.batch_size, seed)
        progress = Progress(f"{self.name}, {candidate.name}, rate {rate:g}, seed {seed}")
        batches = zip(ids.split(self.batch_size), labels.split(self.batch_size), strict=True)
        for step, (part, wanted) in enumerate(batches, start=1):
            loss = model(part, labels=wanted, skip_logits=True).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            progress(step, self.steps, f"loss {loss.item():.3f}")
        model.eval()
        _, chosen = recalled(model, *self._draw(256, seed=1_000_001))
        right, tested = recalled(model, *self._draw(512, seed=1_000_002))
        return Trial(
            task=self.name,
            candidate=candidate.name,
            rate=rate,
            seed=seed,
            validation=float(chosen.mean()),
            test=[round(x, 6) for x in tested.tolist()],
            weights=[1] * len(tested),
            accuracy=float(right.mean()),
            parameters=sum(p.numel() for p in model.parameters()),
        )


def trial_path(folder: Path, task: Task, candidate: Candidate, rate: float, seed: int) -> Path:
    """Where a trial is kept; its name carries the hash of what it depends on."""
    gate = candidate.gate and candidate.gate.model_dump(mode="json")
    mark = digest({"task": task.inputs(), "gate": gate, "lora": candidate.lora})
    return folder / task.name.replace(" ", "-") / candidate.name / f"rate{rate:g}-seed{seed}-{mark}.json"


def ensure_trial(folder: Path, task: Task, candidate: Candidate, rate: float, seed: int) -> Trial:
    """The trial, run where it has not been. One whose loss leaves all numbers scores infinity."""
    path = trial_path(folder, task, candidate, rate, seed)
    known = read_json(path)
    if known is not None:
        return Trial(**known)
    try:
        trial = task.run(candidate, rate, seed)
    except FloatingPointError as error:
        print(f"{task.name}, {candidate.name}, rate {rate:g}, seed {seed}: {error}", flush=True)
        trial = Trial(task.name, candidate.name, rate, seed, validation=float("inf"), test=[float("inf")], weights=[1])
    write_json(path, asdict(trial))
    return trial


def known_trials(
    folder: Path,
    task: Task,
    candidates: Sequence[Candidate],
    seeds: Sequence[int],
    rates: Sequence[float] | None = None,
) -> list[Trial]:
    """The trials of these candidates and seeds that have been run, at the task's rates or those given."""
    found = []
    for candidate in candidates:
        for rate in task.rates if rates is None else rates:
            for seed in seeds:
                known = read_json(trial_path(folder, task, candidate, rate, seed))
                if known is not None:
                    found.append(Trial(**known))
    return found
