"""How a model uses its context: its loss by position, far beyond the trained length, and without what lies far back."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from torch import nn

from rwkvgate.metrics.inference import PREFIX_ID, at_least_one, encode
from rwkvgate.metrics.likelihood import token_losses

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from rwkvgate.experiment.corpora.documents import Document

POSITION_COLUMNS = ("text", "start", "stop", "nll", "tokens")
CONTEXT_COLUMNS = ("document", "tail_tokens", "intact_nll", "shuffled_nll", "dropped_nll")
NEAR, TAIL = 1, 2
"""Sentences that stay before those whose loss is taken, and sentences whose loss is taken."""


def long_texts(documents: Sequence[Sequence[int]], length: int, separator: int = PREFIX_ID) -> list[list[int]]:
    """Documents one after the other, a separator before each, cut into texts of exactly `length` tokens.

    What is left over at the end is dropped; where all of it is shorter, it is read again until it suffices for one.

    Raises:
        ValueError: `length` is below 1, or no document has a token.
    """
    at_least_one(length=length)
    stream = [token for document in documents if len(document) for token in (separator, *document)]
    if not stream:
        raise ValueError("there is no document with a token")
    stream *= -(-length // len(stream))
    return [stream[i : i + length] for i in range(0, len(stream) - length + 1, length)]


def position_edges(trained: int, factor: int = 8) -> list[int]:
    """Buckets' edges in tokens: from an eighth of the trained length, doubling, to `factor` times it."""
    edges = [0]
    at = max(trained // 8, 1)
    while at <= factor * trained:
        edges.append(at)
        at *= 2
    return edges


def losses_by_position(
    model: nn.Module,
    texts: Sequence[Sequence[int]],
    edges: Sequence[int],
    *,
    batch_size: int,
    window: int = 1024,
    prefix_id: int = PREFIX_ID,
) -> pd.DataFrame:
    """Loss of each text by the position of its tokens, in one pass with the state carried.

    Args:
        edges: ascending; bucket i holds the positions from `edges[i]` to before `edges[i + 1]`.

    Returns:
        One row a text and bucket with tokens in it, with `POSITION_COLUMNS`: `nll` in nats, summed.

    Raises:
        ValueError: `batch_size` or `window` is below 1.
    """
    rows = []
    losses = token_losses(model, texts, batch_size=batch_size, window=window, prefix_id=prefix_id)
    for number, found in enumerate(losses):
        for start, stop in pairwise(edges):
            part = found[start:stop]
            if len(part):
                rows.append((number, start, stop, float(part.sum()), len(part)))
    return pd.DataFrame(rows, columns=list(POSITION_COLUMNS))


def distant_context(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    documents: Sequence[Document],
    *,
    batch_size: int,
    prefix_id: int = PREFIX_ID,
    seed: int = 0,
) -> pd.DataFrame:
    """The loss of documents' last sentences with what lies far back intact, its sentences shuffled, or dropped.

    The sentence right before the last ones stays. A model that leans on its neighbourhood alone loses nothing.

    Returns:
        One row a document of enough sentences for there to be an order to shuffle, with `CONTEXT_COLUMNS`: sums of
        nats over the same `tail_tokens`.
    """
    rng = np.random.default_rng(seed)
    kept, heads, tails = [], [], []
    for number, document in enumerate(documents):
        text, ends = document.text, list(document.sentence_ends)
        far = len(ends) - NEAR - TAIL
        if far < 2:
            continue
        parts = [text[a:b] for a, b in zip([0, *ends], ends, strict=False)]
        near, tail = "".join(parts[far : far + NEAR]), text[ends[far + NEAR - 1] :]
        order = rng.permutation(far)
        while (order == np.arange(far)).all():
            order = rng.permutation(far)
        # Each sentence brings the space before it, but the first has none.
        moved = " ".join(parts[i].strip() for i in order)
        kept.append(number)
        heads += ["".join(parts[:far]) + near, moved + near, near.lstrip()]
        tails.append(tail)
    if not kept:
        return pd.DataFrame(columns=list(CONTEXT_COLUMNS))
    ends_of = encode(tokenizer, tails)
    sequences = [[*head, *ends_of[i // 3]] for i, head in enumerate(encode(tokenizer, heads))]
    losses = token_losses(model, sequences, batch_size=batch_size, prefix_id=prefix_id)
    sums = [
        [float(losses[3 * i + kind][-len(tail) :].sum()) if tail else 0.0 for kind in range(3)]
        for i, tail in enumerate(ends_of)
    ]
    rows = [(number, len(tail), *found) for number, tail, found in zip(kept, ends_of, sums, strict=True)]
    return pd.DataFrame(rows, columns=list(CONTEXT_COLUMNS))
