"""Prompts with a retrieved passage: what a network gains from the training story that is most like the prompt.

The prompt is the first half of a new story. Before it stands the training story that BM25 ranks first for it, or one of
its genre drawn at random. The *gain* is the loss of the story's second half after the random one minus that after the
retrieved one, so that what any passage of the genre tells is not counted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch import nn
from transformers import PreTrainedTokenizerBase

from rwkvgate.experiment.corpora.documents import Document
from rwkvgate.gate.validation import SettingsError
from rwkvgate.metrics.inference import encode
from rwkvgate.metrics.likelihood import token_losses

RETRIEVED, RANDOM = "retrieved", "random"


class Prompt(NamedTuple):
    """The two halves of a story, and what may stand before it."""

    retrieved: str
    random: str
    first: str
    second: str


def prompts(stories: Sequence[Document], passages: Sequence[Document]) -> list[Prompt]:
    """A prompt of each story, cut after the middle sentence.

    Args:
        passages: what is retrieved from; two of each genre at least.

    Raises:
        SettingsError: bm25s is not installed.
    """
    rng = np.random.default_rng(2)
    cuts = [story.sentence_ends[len(story.sentence_ends) // 2 - 1] for story in stories]
    best = rank_first([p.text for p in passages], [s.text[:cut] for s, cut in zip(stories, cuts, strict=True)])
    found = []
    for story, cut, first in zip(stories, cuts, best, strict=True):
        same = [p for i, p in enumerate(passages) if p.domain == story.domain and i != first]
        other = same[int(rng.integers(len(same)))]
        found.append(Prompt(passages[first].text, other.text, story.text[:cut], story.text[cut:]))
    return found


def rank_first(passages: Sequence[str], queries: Sequence[str]) -> list[int]:
    """The number of the passage that BM25 ranks first for each query, by words in lower case.

    Raises:
        SettingsError: the package bm25s, of the extra "study", is not installed.
    """
    try:
        import bm25s  # needed here alone
    except ModuleNotFoundError:
        raise SettingsError("the package bm25s is not installed, which retrieval needs: make install") from None
    index = bm25s.BM25()
    index.index([_words(passage) for passage in passages], show_progress=False)
    first, _ = index.retrieve([_words(query) for query in queries], k=1, show_progress=False)
    return [int(i) for i in first[:, 0]]


def half_losses(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, found: Sequence[Prompt]
) -> dict[str, list[float]]:
    """The loss of each story's second half after the retrieved passage and after the random one, nats per token."""
    # After a space, as between sentences: after an end of text a network expects something unrelated.
    first, second = (encode(tokenizer, texts) for texts in ([f" {p.first}" for p in found], [p.second for p in found]))
    losses = {}
    for name in (RETRIEVED, RANDOM):
        before = encode(tokenizer, [getattr(p, name) for p in found])
        rows = [[*a, *b, *c] for a, b, c in zip(before, first, second, strict=True)]
        scored = token_losses(model, rows, batch_size=32)
        losses[name] = [round(float(nll[-len(c) :].mean()), 5) for nll, c in zip(scored, second, strict=True)]
    return losses


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())
