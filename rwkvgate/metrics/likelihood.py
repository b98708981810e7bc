"""How well a model predicts text: negative log-likelihood per document, perplexity, bits per byte.

A recurrent model needs no sliding window: each document is read once, window after window, with the state carried on,
so that every token is predicted from everything before it. The prefix token stands before the first token, which is
therefore scored too. Batch x window bounds the memory, however long a document is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from rwkvgate.metrics.inference import PREFIX_ID, at_least_one, device_of, encode, evaluating, rows_at_once
from rwkvgate.metrics.statistics import Floats
from rwkvgate.rwkv6.prefill import in_windows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def score_texts(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    batch_size: int,
    window: int = 1024,
    prefix_id: int = PREFIX_ID,
    progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """Negative log-likelihood of each text under a causal language model, with the state carried throughout.

    The log-softmax is float32 whatever the model's type; sums over tokens are float64. Neither `batch_size` nor
    `window` changes the result beyond rounding.

    Args:
        batch_size: documents at once, at most.
        window: tokens in one forward pass, at most; logits in memory are (batch_size, window, vocabulary).
        prefix_id: the token id that stands before the first token and is not itself scored.
        progress: called with (documents done, documents in all) after each batch.

    Returns:
        One row per text, in the order given: `document` (its index), `nll` (nats, summed over tokens), `tokens`
        (scored tokens) and `bytes` (UTF-8 bytes of the text). An empty text has 0 in all three.

    Raises:
        ValueError: `batch_size` or `window` is below 1.

    Example:
        >>> from rwkvgate import Rwkv6Config, Rwkv6ForCausalLM, Rwkv6Tokenizer
        >>> sizes = {"hidden_size": 8, "num_hidden_layers": 1, "head_size": 4}
        >>> tokenizer = Rwkv6Tokenizer()
        >>> model = Rwkv6ForCausalLM(Rwkv6Config(vocab_size=len(tokenizer), **sizes))
        >>> frame = score_texts(model, tokenizer, ["a fox", ""], batch_size=2)
        >>> frame["tokens"].tolist(), frame["bytes"].tolist(), perplexity(frame) > 1
        ([2, 0], [5, 0], True)
    """
    sequences = encode(tokenizer, texts)
    losses = token_losses(
        model, sequences, batch_size=batch_size, window=window, prefix_id=prefix_id, progress=progress
    )
    frame = {
        "document": range(len(texts)),
        "nll": [float(nll.sum()) for nll in losses],
        "tokens": [len(sequence) for sequence in sequences],
        "bytes": [len(text.encode("utf-8", "surrogatepass")) for text in texts],
    }
    return pd.DataFrame(frame).astype({"document": "int64", "nll": "float64", "tokens": "int64", "bytes": "int64"})


def token_losses(
    model: nn.Module,
    sequences: Sequence[Sequence[int]],
    *,
    batch_size: int,
    window: int = 1024,
    prefix_id: int = PREFIX_ID,
    carried: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> list[Floats]:
    """Negative log-likelihood of every token of every sequence, in nats; options as in `score_texts`.

    Args:
        sequences: token ids, without the prefix.
        carried: False forgets the state after every window, as a model of a fixed context would: a window's first
            token is then predicted from the one before it alone.

    Returns:
        One array (tokens,) per sequence, in the order given.

    Raises:
        ValueError: `batch_size` or `window` is below 1.

    Example:
        >>> from rwkvgate import Rwkv6Config, Rwkv6ForCausalLM
        >>> sizes = {"vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 1, "head_size": 4}
        >>> model = Rwkv6ForCausalLM(Rwkv6Config(**sizes))
        >>> [nll.shape for nll in token_losses(model, [[1, 2, 3], []], batch_size=2)]
        [(3,), (0,)]
    """
    at_least_one(batch_size=batch_size, window=window)
    batch_size = rows_at_once(model, batch_size)
    lengths = [len(sequence) for sequence in sequences]
    losses = [np.zeros(length) for length in lengths]
    done = lengths.count(0)
    with evaluating(model):
        for rows in plan_batches(lengths, batch_size, window):
            scored = _score_batch(model, [sequences[row] for row in rows], window, prefix_id, carried)
            for row, nll in zip(rows, scored, strict=True):
                losses[row] = nll
            done += len(rows)
            if progress is not None:
                progress(done, len(sequences))
    return losses


def perplexity(frame: pd.DataFrame) -> float:
    """exp(sum of nll / sum of tokens) of a frame from `score_texts`: over tokens, not over documents.

    nan where no token was scored, inf where the exponential is beyond a float64.

    Example:
        >>> round(perplexity(pd.DataFrame({"nll": [math.log(8), math.log(2)], "tokens": [1, 1]})), 6)
        4.0
    """
    tokens = int(frame["tokens"].sum())
    if not tokens:
        return math.nan
    try:
        return math.exp(float(frame["nll"].sum()) / tokens)
    except OverflowError:
        return math.inf


def bits_per_byte(frame: pd.DataFrame) -> float:
    """Sum of nll in bits over UTF-8 bytes, comparable between tokenizers; nan where there are no bytes.

    Example:
        >>> round(bits_per_byte(pd.DataFrame({"nll": [math.log(8)], "bytes": [4]})), 6)
        0.75
    """
    size = int(frame["bytes"].sum())
    return float(frame["nll"].sum()) / (math.log(2) * size) if size else math.nan


def plan_batches(lengths: Sequence[int], batch_size: int, window: int) -> list[list[int]]:
    """Indices of the non-empty documents, longest first, in batches of at most `batch_size`.

    A document shorter than half of its batch's longest, and by more than a window, starts a new batch:
    otherwise one long document would drag a whole batch of padding through all its windows.

    Example:
        >>> plan_batches([5, 0, 2000, 4], batch_size=2, window=16)
        [[2], [0, 3]]
    """
    order = sorted((row for row, length in enumerate(lengths) if length), key=lambda row: (-lengths[row], row))
    batches: list[list[int]] = []
    for row in order:
        longest = lengths[batches[-1][0]] if batches else 0
        wasteful = lengths[row] < longest / 2 and lengths[row] < longest - window
        if not batches or len(batches[-1]) == batch_size or wasteful:
            batches.append([])
        batches[-1].append(row)
    return batches


def _score_batch(
    model: nn.Module, sequences: Sequence[Sequence[int]], window: int, prefix_id: int, carried: bool
) -> list[Floats]:
    device = device_of(model)
    losses = [np.zeros(len(sequence)) for sequence in sequences]
    ids, targets, mask = _padded(sequences, prefix_id)
    for part, output in in_windows(model, ids.to(device), mask.to(device), window=window, carried=carried):
        for row, tokens in enumerate(mask[:, part].sum(dim=1).tolist()):
            if not tokens:
                continue
            # Row by row: the float32 copy of half-precision logits is one document's, not the batch's.
            logits = output.logits[row, :tokens].float()  # (tokens, vocabulary)
            columns = slice(part.start, part.start + tokens)
            nll = cross_entropy(logits, targets[row, columns].to(device), reduction="none")
            losses[row][columns] = nll.cpu().double().numpy()
    return losses


def _padded(sequences: Sequence[Sequence[int]], prefix_id: int) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs, targets and mask, (batch, longest), padded on the right; inputs run one token behind targets."""
    targets = torch.full((len(sequences), max(map(len, sequences))), prefix_id)
    mask = torch.zeros_like(targets)
    for row, sequence in enumerate(sequences):
        targets[row, : len(sequence)] = torch.tensor(sequence)
        mask[row, : len(sequence)] = 1
    ids = torch.full_like(targets, prefix_id)
    ids[:, 1:] = targets[:, :-1]
    return ids, targets, mask
