"""What the study trains and tests on: the books, and a mixture of memory tasks in which recall pays."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from rwkvgate.experiment.corpora.tokenizer import train_tokenizer
from rwkvgate.experiment.settings import Schedule
from rwkvgate.experiment.study.design import (
    BATCH,
    LENGTH,
    MEMORY_BATCH,
    MEMORY_BUDGETS,
    MEMORY_LENGTH,
    MORE_STEPS,
    VOCABULARY,
    Size,
    build,
)
from rwkvgate.experiment.study.texts import StudyTexts
from rwkvgate.experiment.training.rows import Rows, pack_rows
from rwkvgate.metrics.inference import evaluating
from rwkvgate.metrics.likelihood import encode, token_losses
from rwkvgate.metrics.recall import FIRST, associative_recall, copying, induction, passkey, recalled
from rwkvgate.rwkv6.files import file_hash, write_file
from rwkvgate.rwkv6.modeling import Rwkv6ForCausalLM

PASSES = 4
"""How often a token of the books may be seen: so many passes are nearly as good as new text (arXiv 2305.16264)."""
LONGEST = 8192
"""Tokens that a network without a carried state reads in one pass; no held-out text is longer."""
Scores = dict[str, Any]
"""`validation`, a loss to choose the rate by; `test`, the loss of each test item; `shares` by name, where there are."""


def packed(documents: Rows, count: int, length: int, seed: int, passes: int = PASSES) -> list[list[int]]:
    """So many rows of one length, cut from documents in an order that the seed draws, in so many passes at most."""
    schedule = Schedule(
        steps=count,
        batch_size=1,
        length=length,
        learning_rate=1e-3,  # not read, nor is what follows
        warmup_steps=0,
        weight_decay=0.0,
        gradient_checkpointing=False,
    )
    return pack_rows(documents, schedule, 0, seed, passes)


class Task(Protocol):
    """Rows to train on and a score."""

    vocabulary: int
    batch: int

    @property
    def saved(self) -> str | None:
        """SHA-256 of the network that the task keeps; None where it keeps none."""

    @property
    def inputs(self) -> dict[str, Any]:
        """What a trial depends on, besides its plan."""

    @property
    def weights(self) -> list[int]:
        """Of each test item in the mean."""

    def network(self, name: str, size: Size, seed: int) -> nn.Module:
        """The network that is trained, before its first step."""

    def rows(self, steps: int, seed: int) -> tuple[Rows, Rows]:
        """Rows for so many steps and their labels."""

    def score(self, model: nn.Module) -> Scores:
        """The scores of a network."""


class FromScratch:
    """A task whose networks are fresh, and not kept."""

    vocabulary: int

    @property
    def saved(self) -> str | None:
        """None."""
        return None

    def network(self, name: str, size: Size, seed: int) -> nn.Module:
        """A network drawn from the seed."""
        return build(name, size, seed, self.vocabulary)


class Books(FromScratch):
    """Language: nats per token of held-out works."""

    vocabulary, batch, length, passes = VOCABULARY, BATCH, LENGTH, PASSES

    def __init__(self, texts: StudyTexts) -> None:
        self.texts = texts

    @property
    def inputs(self) -> dict[str, Any]:
        """The hash of the texts."""
        return {"texts": self.texts.hash}

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """Trained on the training texts."""
        return train_tokenizer(self.texts.train, self.vocabulary)

    @cached_property
    def encoded(self) -> list[list[list[int]]]:
        return [encode(self.tokenizer, texts) for texts in (self.texts.train, self.texts.validation, self.texts.test)]

    @property
    def weights(self) -> list[int]:
        """Tokens of each test document."""
        return [len(ids) for ids in self.encoded[2]]

    @property
    def trained(self) -> list[list[int]]:
        """Token ids of the documents to train on."""
        return self.encoded[0]

    def rows(self, steps: int, seed: int) -> tuple[Rows, Rows]:
        """Rows cut from the works in an order that the seed draws; every token is scored."""
        rows = packed(self.trained, steps * self.batch, self.length, seed, self.passes)
        return rows, rows

    def score(self, model: nn.Module) -> Scores:
        """Losses in nats per token."""
        # Only RWKV-6 carries a state from window to window; the others read a text in one pass.
        reading: dict[str, Any] = {} if isinstance(model, Rwkv6ForCausalLM) else {"window": LONGEST, "carried": False}
        held_out, tested = (token_losses(model, part, batch_size=32, **reading) for part in self.encoded[1:])
        mean = sum(x.sum() for x in held_out) / sum(map(len, held_out))
        return {"validation": round(float(mean), 6), "test": [round(float(x.mean()), 5) for x in tested]}


class BetterBase(Books):
    """The books again, for long; the trained network is kept in a file, to be fine-tuned."""

    def __init__(self, texts: StudyTexts, path: Path) -> None:
        super().__init__(texts)
        self.path = path

    @property
    def inputs(self) -> dict[str, Any]:
        """The hash of the texts, and that the network is kept."""
        return super().inputs | {"saved": "float32"}

    @property
    def saved(self) -> str | None:
        """SHA-256 of the kept network; None where there is none."""
        return file_hash(self.path) if self.path.exists() else None

    def score(self, model: nn.Module) -> Scores:
        """Losses in nats per token, and the hash of the network, which is written."""
        scores = super().score(model)
        with write_file(self.path) as fresh:
            save_file(model.state_dict(), fresh)
        return scores | {"saved": self.saved}


class Memory(FromScratch):
    """Four memory tasks in equal parts: associative recall, copying, induction and a passkey.

    Trained at one length and tested at 1, 2, 4 and 8 times that: there is as much to remember, for longer. The test
    loss of a sequence is the share of its labelled tokens that is not ranked first.
    """

    SYMBOLS, TIMES, TESTED = 64, (1, 2, 4, 8), 128
    STEPS = round(max(MORE_STEPS) * max(MEMORY_BUDGETS))
    """For which sequences are drawn, whatever a network trains: those of one seed are the same for all networks."""
    vocabulary, batch = FIRST + 3 * SYMBOLS, MEMORY_BATCH
    inputs = {"task": "memory", "tested": TESTED, "symbols": SYMBOLS, "times": list(TIMES), "steps": STEPS}
    NAMES = ("recall", "copying", "induction", "passkey")

    @property
    def weights(self) -> list[int]:
        """All test sequences weigh the same."""
        return [1] * (len(self.NAMES) * len(self.TIMES) * self.TESTED)

    def rows(self, steps: int, seed: int) -> tuple[Rows, Rows]:
        """As many sequences of each task, in turn."""
        each = -(-max(steps, self.STEPS) * self.batch // len(self.NAMES))
        drawn = [self.draw(name, each, MEMORY_LENGTH, seed) for name in self.NAMES]
        ids, labels = (torch.stack(parts, 1).flatten(0, 1)[: steps * self.batch] for parts in zip(*drawn, strict=True))
        return ids.tolist(), labels.tolist()

    def score(self, model: nn.Module) -> Scores:
        """Losses, and the share recalled of each task at each length."""
        shares: dict[str, float] = {}
        test: list[float] = []
        with evaluating(model):
            for name, times in ((name, times) for name in self.NAMES for times in self.TIMES):
                right, _ = recalled(model, *self.draw(name, self.TESTED, times * MEMORY_LENGTH, 1_000_002))
                shares[f"{name} x{times}"] = round(float(right.mean()), 5)
                test += [round(1 - float(x), 5) for x in right]
            losses = [recalled(model, *self.draw(name, 64, MEMORY_LENGTH, 1_000_001))[1] for name in self.NAMES]
        return {"validation": round(float(torch.cat(losses).mean()), 6), "test": test, "shares": shares}

    def draw(self, name: str, count: int, length: int, seed: int) -> tuple[Tensor, Tensor]:
        """Sequences of one task, (count, length), and their labels."""
        match name:
            case "recall":
                return associative_recall(count, length, pairs=8, symbols=self.SYMBOLS, seed=seed)
            case "copying":
                return copying(count, 16, self.SYMBOLS, seed, gap=length - 33)
            case "induction":
                return induction(count, length, self.SYMBOLS, seed)
            case _:
                return passkey(count, length, digits=5, symbols=self.SYMBOLS, seed=seed)
