"""Fine-tuning of the study's base: its networks, their texts of two genres, and what is measured of each.

Every network starts from the same base. One row in ten is of the books that the base was trained on (replay), and how
much of them is forgotten is measured. Held-out texts are whole novels, or stories about people with names of their own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from rwkvgate.experiment.corpora.documents import Document
from rwkvgate.experiment.corpora.prompts import split_prompt
from rwkvgate.experiment.corpora.stories import generate_stories
from rwkvgate.experiment.lora import add_lora
from rwkvgate.experiment.study import fiction
from rwkvgate.experiment.study.choices import Choice, balanced, chosen, fiction_choices, story_choices
from rwkvgate.experiment.study.design import (
    BASE,
    LORA,
    SIZES,
    TUNED_BATCH,
    TUNED_LENGTH,
    VOCABULARY,
    WIDE,
    Size,
    build,
    gate_config,
)
from rwkvgate.experiment.study.tasks import BetterBase, Scores, packed
from rwkvgate.experiment.study.texts import DOCUMENT, evenly, pieces
from rwkvgate.experiment.training.rows import Rows
from rwkvgate.gate.patch import patch
from rwkvgate.metrics.generation import continue_prompts
from rwkvgate.metrics.likelihood import encode, token_losses
from rwkvgate.metrics.measures import BLEU_COLUMNS
from rwkvgate.metrics.overlap import document_overlap
from rwkvgate.rwkv6.files import digest

REPLAYED = 10
"""One row of so many is of the books."""
STORIES, SEED = 1500, 7
"""Stories to train on, and the seed of them all."""
VALIDATED, TESTED, EXCERPT = 32, 96, 1000
"""Held-out documents, and the characters of one of a novel: as long as a story, about."""
REMEMBERED = 24
"""Held-out documents of the books, on which forgetting is measured."""
PROMPTS, PROMPT, CONTINUED = 60, (50, 100), 64
"""Prompts that are continued, their fewest and most tokens, and the tokens of a continuation."""
CHOICES = 120
"""Choices between two sentences, at most."""


@dataclass(frozen=True)
class Genre:
    """The texts of a genre."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[Document, ...]
    choices: tuple[Choice, ...]


def stories() -> Genre:
    """Generated stories; those of the test have people of other names."""
    told = generate_stories(STORIES + VALIDATED, SEED)
    test = generate_stories(TESTED, SEED, "held-out")
    texts = [story.text for story in told]
    items = balanced(story_choices(test), CHOICES)
    return Genre(tuple(texts[:STORIES]), tuple(texts[STORIES:]), tuple(test), items)


def novels(folder: Path) -> Genre:
    """Austen's novels, of which two are held out whole; the package lies in `folder`, or is downloaded to it."""
    texts = fiction.novels(folder)
    validation, test = (texts.pop(title) for title in (fiction.VALIDATION, fiction.TEST))
    items = balanced(fiction_choices(test, fiction.PEOPLE), CHOICES)
    held_out = evenly(pieces(test, EXCERPT), TESTED, EXCERPT)
    return Genre(
        tuple(piece for text in texts.values() for piece in pieces(text, DOCUMENT)),
        evenly(pieces(validation, EXCERPT), VALIDATED, EXCERPT),
        tuple(Document(text, "fiction", key=f"persuasion/{i}") for i, text in enumerate(held_out)),
        items,
    )


class Tuned:
    """Fine-tuning of the base on one genre."""

    vocabulary, batch, saved = VOCABULARY, TUNED_BATCH, None

    def __init__(self, genre: str, base: BetterBase, folder: Path) -> None:
        """A genre of `design.GENRES`; `folder` holds the archive of the novels."""
        self.name, self.base, self.folder = genre, base, folder

    @cached_property
    def genre(self) -> Genre:
        """The texts."""
        return stories() if self.name == "stories" else novels(self.folder)

    @cached_property
    def inputs(self) -> dict[str, Any]:
        """The base, and what decides the texts: of the novels the archive, so that nothing is downloaded to ask."""
        texts = fiction.SHA256
        if self.name == "stories":
            texts = digest([self.genre.train, self.genre.validation, [story.text for story in self.genre.test]])
        sizes = [REPLAYED, REMEMBERED, PROMPTS, PROMPT, CONTINUED, len(fiction.PEOPLE), CHOICES]
        return {"base": self.base.saved, "genre": self.name, "texts": texts, "sizes": sizes}

    @property
    def weights(self) -> list[int]:
        """Tokens of each test document."""
        return [len(ids) for ids in self._encoded[2]]

    def network(self, name: str, size: Size, seed: int) -> nn.Module:
        """The base with what the network adds to it, drawn from the seed."""
        model = build(name if name in WIDE else BASE, size, seed, self.vocabulary)
        grow(model, self._base)
        torch.manual_seed(seed)
        if name == LORA:
            add_lora(model)
        elif name not in (BASE, *WIDE):
            patch(model, gate_config(name))
        return model

    def rows(self, steps: int, seed: int) -> tuple[Rows, Rows]:
        """Rows of the genre, and one in ten of the books."""
        count = max(1, steps) * self.batch
        own = packed(self._encoded[0], count, TUNED_LENGTH, seed)
        again = packed(self.base.encoded[0], -(-count // REPLAYED), TUNED_LENGTH, seed)
        own[REPLAYED - 1 :: REPLAYED] = again[: count // REPLAYED]
        return own, own

    def score(self, model: nn.Module) -> Scores:
        """Losses, how much is forgotten, continuations against the text's own, and the choices."""
        held_out, tested = (token_losses(model, part, batch_size=32) for part in self._encoded[1:])
        prompts, references = self._prompts
        written = continue_prompts(model, self._tokenizer, prompts, new_tokens=CONTINUED, batch_size=PROMPTS)
        overlap = document_overlap(written, references)
        columns = {"bleu": list(BLEU_COLUMNS), "rouge1": ["rouge1"], "rougeL": ["rougeL"], "distinct2": ["distinct2"]}
        measures = {name: overlap[own].round(5).to_numpy().tolist() for name, own in columns.items()}
        measures["choice"] = [[x] for x in chosen(model, self._tokenizer, self.genre.choices)]
        return {
            "validation": round(float(sum(x.sum() for x in held_out) / sum(map(len, held_out))), 6),
            "test": [round(float(x.mean()), 5) for x in tested],
            "forgotten": round(math.exp(self._books_loss(model) - self._before), 5),
            "measures": measures,
        }

    @property
    def _tokenizer(self) -> PreTrainedTokenizerFast:
        return self.base.tokenizer

    @property
    def _base(self) -> dict[str, Tensor]:
        return load(self.base.path.read_bytes())

    @cached_property
    def _encoded(self) -> list[list[list[int]]]:
        test = [document.text for document in self.genre.test]
        return [encode(self._tokenizer, texts) for texts in (self.genre.train, self.genre.validation, test)]

    @cached_property
    def _prompts(self) -> tuple[list[str], list[str]]:
        """Prompts, and how their texts go on."""
        prompts, references = [], []
        for document in self.genre.test[:PROMPTS]:
            at = split_prompt(document, lambda text: encode(self._tokenizer, [text])[0], *PROMPT)
            prompts.append(document.text[:at])
            rest = encode(self._tokenizer, [document.text[at:]])[0]
            references.append(str(self._tokenizer.decode(rest[:CONTINUED], clean_up_tokenization_spaces=False)))
        return prompts, references

    @cached_property
    def _before(self) -> float:
        model = self.network(BASE, SIZES["64x4"], 0)
        return self._books_loss(model.eval())

    def _books_loss(self, model: nn.Module) -> float:
        losses = token_losses(model, self.base.encoded[2][:REMEMBERED], batch_size=32)
        return float(sum(x.sum() for x in losses) / sum(map(len, losses)))


@torch.no_grad()
def grow(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Give a model a smaller one's weights, in place, so that both compute the same.

    A wider channel mixing has new channels: their keys stay as drawn, and their values become zero.
    """
    own = model.state_dict()
    for name, weight in weights.items():
        if own[name].shape[1:] != weight.shape[1:]:
            own[name].zero_()
        own[name][tuple(slice(n) for n in weight.shape)] = weight
