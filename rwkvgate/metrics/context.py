"""How a model uses its context: its loss by position, far beyond the trained length, and without distant sentences."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pandas as pd
from torch import nn

from rwkvgate.metrics.inference import PREFIX_ID, at_least_one, encode
from rwkvgate.metrics.likelihood import token_losses

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

POSITION_COLUMNS = ("text", "start", "stop", "nll", "tokens")
CONTEXT_COLUMNS = ("document", "tail_tokens", "intact_nll", "shuffled_nll", "dropped_nll")
NEAR, TAIL = 1, 2
"""Sentences that are never touched before the scored ones, and sentences that are scored."""


class SentencedText(Protocol):
    """A text, and the offsets in it just after each sentence's final punctuation, ascending."""

    @property
    def text(self) -> str:
        """The whole text."""
        ...

    @property
    def sentence_ends(self) -> Sequence[int]:
        """Offsets just after each sentence's final punctuation."""
        ...


def long_texts(documents: Sequence[Sequence[int]], length: int, separator: int = PREFIX_ID) -> list[list[int]]:
    """Documents concatenated, a separator before each, and cut into texts of exactly `length` tokens.

    The remainder is dropped. Documents that are shorter all together are repeated until they fill one text.

    Raises:
        ValueError: `length` is below 1, or no document has a token.

    Example:
        >>> long_texts([[1, 2], [3]], length=2)
        [[0, 1], [2, 0]]
    """
    at_least_one(length=length)
    stream = [token for document in documents if len(document) for token in (separator, *document)]
    if not stream:
        raise ValueError("there is no document with a token")
    stream *= -(-length // len(stream))
    return [stream[i : i + length] for i in range(0, len(stream) - length + 1, length)]


def position_edges(trained: int, factor: int) -> list[int]:
    """Edges of position buckets in tokens: an eighth of the trained length, doubled up to `factor` times that length.

    Example:
        >>> position_edges(trained=256, factor=4)
        [0, 32, 64, 128, 256, 512, 1024]
    """
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
        texts: token ids, without the prefix.
        edges: ascending; bucket i holds the positions from `edges[i]` up to but not including `edges[i + 1]`.

    Returns:
        One row per text and bucket with tokens in it, with `POSITION_COLUMNS`: `nll` in nats, summed.

    Raises:
        ValueError: `batch_size` or `window` is below 1.

    Example:
        >>> from rwkvgate import Rwkv6Config, Rwkv6ForCausalLM
        >>> sizes = {"vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 1, "head_size": 4}
        >>> model = Rwkv6ForCausalLM(Rwkv6Config(**sizes))
        >>> losses_by_position(model, [[1, 2, 3], [4]], [0, 1, 4], batch_size=2)["tokens"].tolist()
        [1, 2, 1]
    """
    rows = []
    losses = token_losses(model, texts, batch_size=batch_size, window=window, prefix_id=prefix_id)
    for number, nll in enumerate(losses):
        for start, stop in pairwise(edges):
            part = nll[start:stop]
            if len(part):
                rows.append((number, start, stop, float(part.sum()), len(part)))
    return pd.DataFrame(rows, columns=list(POSITION_COLUMNS))


def distant_context(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    documents: Sequence[SentencedText],
    *,
    batch_size: int,
    prefix_id: int = PREFIX_ID,
) -> pd.DataFrame:
    """The loss of documents' last sentences with distant sentences intact, shuffled, or dropped.

    The sentence right before the last ones stays. A model that uses only its neighbourhood loses nothing.

    Returns:
        One row per document with enough sentences to shuffle, with `CONTEXT_COLUMNS`: sums of nats over the same
        `tail_tokens`.

    Example:
        >>> from types import SimpleNamespace
        >>> short = SimpleNamespace(text="One. Two.", sentence_ends=(4, 9))
        >>> len(distant_context(None, None, [short], batch_size=1))
        0
    """
    rng = np.random.default_rng(0)
    numbers, heads, tails = [], [], []
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
        # The space before each sentence stays where it is: the first has none, and a line may begin at any.
        spaces = [part[: len(part) - len(part.lstrip())] for part in parts[:far]]
        shuffled = "".join(space + parts[i].strip() for space, i in zip(spaces, order, strict=True))
        numbers.append(number)
        heads += ["".join(parts[:far]) + near, shuffled + near, near.lstrip()]
        tails.append(tail)
    if not numbers:
        return pd.DataFrame(columns=list(CONTEXT_COLUMNS))
    tail_ids = encode(tokenizer, tails)
    sequences = [[*head, *tail_ids[i // 3]] for i, head in enumerate(encode(tokenizer, heads))]
    losses = token_losses(model, sequences, batch_size=batch_size, prefix_id=prefix_id)
    rows = []
    for i, (number, ids) in enumerate(zip(numbers, tail_ids, strict=True)):
        sums = [float(nll[-len(ids) :].sum()) if ids else 0.0 for nll in losses[3 * i : 3 * i + 3]]
        rows.append((number, len(ids), *sums))
    return pd.DataFrame(rows, columns=list(CONTEXT_COLUMNS))
