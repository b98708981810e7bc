"""Recall tasks of tokens without meaning: what a network can keep and find again, free of any language.

Each is drawn from one seed, and marks with labels the tokens that can be known; everything else is -100.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rwkvgate.rwkv6.loss import IGNORED

NOISE, SEPARATOR = 1, 2
"""Tokens that mean nothing and that ask for the copy; 0 stays padding and end of text. Symbols follow them."""
FIRST = 3


def associative_recall(
    count: int,
    length: int,
    pairs: int,
    symbols: int,
    seed: int,
    exponent: float = 0.01,
    distinct: bool = False,
) -> tuple[Tensor, Tensor]:
    """Multi-query associative recall (MQAR, arXiv 2312.04927): key-value pairs, then every key once more.

    After the list k1 v1 k2 v2 ... each key comes again at a distance drawn from a power law, followed by its value,
    with noise between. Only those values are labelled.

    Args:
        count: sequences.
        length: tokens of each; at least four for each pair.
        pairs: pairs of each sequence.
        symbols: different keys, and as many values.
        exponent: of the power law: shares of distances d go with d^(exponent - 1).
        distinct: whether no two keys of a sequence share a value.

    Returns:
        Token ids and labels, (count, length) each, int64. Labels stand on the token itself, as in transformers.

    Raises:
        ValueError: the pairs do not fit the length, or there are fewer symbols than pairs.
    """
    if pairs < 1 or 4 * pairs > length:
        raise ValueError(f"{pairs} pairs need {4 * max(pairs, 1)} tokens, and the length is {length}")
    if symbols < pairs:
        raise ValueError(f"{symbols} symbols are too few for {pairs} different keys")
    rng = np.random.default_rng(seed)
    ids = np.full((count, length), NOISE)
    labels = np.full((count, length), IGNORED)
    slots = (length - 2 * pairs) // 2
    weights = np.arange(1, slots + 1) ** (exponent - 1.0)
    weights /= weights.sum()
    for row in range(count):
        keys = FIRST + rng.choice(symbols, pairs, replace=False)
        values = FIRST + symbols + rng.choice(symbols, pairs, replace=not distinct)
        ids[row, : 2 * pairs : 2], ids[row, 1 : 2 * pairs : 2] = keys, values
        places = 2 * pairs + 2 * rng.choice(slots, pairs, replace=False, p=weights)
        ids[row, places], ids[row, places + 1] = keys, values
        labels[row, places + 1] = values
    return torch.from_numpy(ids), torch.from_numpy(labels)


def copying(count: int, length: int, symbols: int, seed: int) -> tuple[Tensor, Tensor]:
    """Copying (cf. arXiv 2402.01032): a string of random symbols, a separator, and the string again, labelled.

    Args:
        count: sequences.
        length: symbols of the string; a sequence has 2 * length + 1 tokens.
        symbols: different symbols.

    Returns:
        Token ids and labels, (count, 2 * length + 1) each, int64.

    Raises:
        ValueError: no symbol, or an empty string.
    """
    if length < 1 or symbols < 1:
        raise ValueError(f"length is {length} and symbols {symbols}; both must be at least 1")
    rng = np.random.default_rng(seed)
    string = FIRST + rng.integers(symbols, size=(count, length))
    ids = np.concatenate((string, np.full((count, 1), SEPARATOR), string), axis=1)
    labels = np.concatenate((np.full((count, length + 1), IGNORED), string), axis=1)
    return torch.from_numpy(ids), torch.from_numpy(labels)


@torch.no_grad()
def recalled(model: torch.nn.Module, ids: Tensor, labels: Tensor, batch_size: int = 64) -> tuple[Tensor, Tensor]:
    """How well a model knows the labelled tokens of each sequence.

    Returns:
        Share of labelled tokens that it ranks first, and their mean negative log-likelihood in nats, (count,) each.
    """
    right, nll = [], []
    for start in range(0, len(ids), batch_size):
        part, wanted = ids[start : start + batch_size], labels[start : start + batch_size, 1:]
        logits = model(part.to(next(model.parameters()).device)).logits[:, :-1].float().cpu()
        asked = wanted != IGNORED
        target = wanted.clamp(min=0)
        losses = -logits.log_softmax(-1).gather(-1, target.unsqueeze(-1)).squeeze(-1)
        counts = asked.sum(1)
        right.append(((logits.argmax(-1) == target) & asked).sum(1) / counts)
        nll.append((losses * asked).sum(1) / counts)
    return torch.cat(right), torch.cat(nll)
