"""Synthetic recall tasks: sequences of meaningless symbols that test what a network remembers, free of language.

Each task is drawn from one seed. Labels mark the tokens that can be predicted; everything else is -100.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rwkvgate.metrics.inference import device_of
from rwkvgate.rwkv6.loss import IGNORED

NOISE, SEPARATOR = 1, 2
"""The filler token, and the token that asks for the copy; 0 stays padding and end of text."""
FIRST = 3
"""The first symbol's token id."""


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

    After the list k1 v1 k2 v2 ... each key recurs at a distance drawn from a power law, followed by its value, with
    noise between. Only those values are labelled.

    Args:
        count: sequences.
        length: tokens per sequence; at least four per pair.
        pairs: pairs per sequence.
        symbols: number of different keys, and of different values.
        exponent: of the power law: the share of distance d is proportional to d^(exponent - 1).
        distinct: whether the keys of a sequence all have different values.

    Returns:
        Token ids and labels, (count, length) each, int64. Labels stand on the token itself, as in transformers.

    Raises:
        ValueError: the pairs do not fit the length, or there are fewer symbols than pairs.

    Example:
        >>> ids, labels = associative_recall(count=5, length=16, pairs=2, symbols=9, seed=0)
        >>> tuple(ids.shape), (labels != IGNORED).sum(1).tolist()
        ((5, 16), [2, 2, 2, 2, 2])
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


def copying(count: int, length: int, symbols: int, seed: int, gap: int = 0) -> tuple[Tensor, Tensor]:
    """Copying (cf. arXiv 2402.01032): a string of random symbols, a separator, and the string again, labelled.

    Args:
        count: sequences.
        length: symbols of the string; a sequence has 2 * length + gap + 1 tokens.
        symbols: number of different symbols.
        gap: noise between the string and the separator, in tokens.

    Returns:
        Token ids and labels, (count, 2 * length + gap + 1) each, int64.

    Raises:
        ValueError: no symbol, an empty string, or a negative gap.

    Example:
        >>> ids, labels = copying(count=1, length=4, symbols=9, seed=0)
        >>> bool((ids[:, :4] == labels[:, 5:]).all())
        True
    """
    if length < 1 or symbols < 1:
        raise ValueError(f"length is {length} and symbols {symbols}; both must be at least 1")
    if gap < 0:
        raise ValueError(f"gap is {gap}; it must be at least 0")
    rng = np.random.default_rng(seed)
    string = FIRST + rng.integers(symbols, size=(count, length))
    between = np.full((count, gap + 1), NOISE)
    between[:, -1] = SEPARATOR
    ids = np.concatenate((string, between, string), axis=1)
    labels = np.concatenate((np.full((count, length + gap + 1), IGNORED), string), axis=1)
    return torch.from_numpy(ids), torch.from_numpy(labels)


def induction(count: int, length: int, symbols: int, seed: int, states: int = 8) -> tuple[Tensor, Tensor]:
    """Induction (cf. arXiv 2209.11895): walks on a cycle that each sequence draws anew, learned from its own text.

    A sequence has `states` symbols in a random cyclic order. It consists of walks of four to eight tokens from random
    starts. A token is labelled where its predecessor was followed by it before, within a walk.

    Args:
        count: sequences.
        length: tokens of a sequence, at least 2.
        symbols: number of different symbols, at least `states`.

    Returns:
        Token ids and labels, (count, length) each, int64.

    Raises:
        ValueError: too few symbols or tokens.

    Example:
        >>> ids, labels = induction(count=3, length=64, symbols=9, seed=0)
        >>> bool(((labels == IGNORED) | (labels == ids)).all()), bool((labels != IGNORED).any(1).all())
        (True, True)
    """
    if length < 2 or not 2 <= states <= symbols:
        raise ValueError(
            f"length is {length}, states is {states} and symbols is {symbols}; length must be 2 or more, and states "
            "from 2 to symbols"
        )
    rng = np.random.default_rng(seed)
    ids, labels = np.empty((count, length), dtype=np.int64), np.full((count, length), IGNORED)
    for row in range(count):
        cycle, seen, place = FIRST + rng.choice(symbols, states, replace=False), set(), 0
        while place < length:
            start, steps = int(rng.integers(states)), int(rng.integers(4, 9))
            for step in range(min(steps, length - place)):
                state = (start + step) % states
                ids[row, place] = cycle[state]
                if step and state in seen:
                    labels[row, place] = cycle[state]
                elif step:
                    seen.add(state)
                place += 1
    return torch.from_numpy(ids), torch.from_numpy(labels)


def passkey(count: int, length: int, digits: int, symbols: int, seed: int) -> tuple[Tensor, Tensor]:
    """A passkey (cf. arXiv 2305.16300): a marked key somewhere in a text, asked for at its end.

    The text is drawn from symbols of its own, after those of the other tasks, by Zipf's law. A separator precedes the
    key, and its repetition at the end, which is labelled.

    Args:
        count: sequences.
        length: tokens of a sequence.
        digits: tokens of the key.
        symbols: number of different symbols of the key, and of the text.

    Returns:
        Token ids and labels, (count, length) each, int64.

    Raises:
        ValueError: the key does not fit the length.

    Example:
        >>> ids, labels = passkey(count=2, length=20, digits=3, symbols=9, seed=0)
        >>> ids[:, -4].tolist(), (labels != IGNORED).sum(1).tolist()
        ([2, 2], [3, 3])
    """
    if digits < 1 or length < 2 * digits + 2:
        raise ValueError(f"a key of {digits} tokens needs {2 * max(digits, 1) + 2}, and the length is {length}")
    rng = np.random.default_rng(seed)
    share = 1 / np.arange(1, symbols + 1)
    ids = FIRST + 2 * symbols + rng.choice(symbols, size=(count, length), p=share / share.sum())
    labels = np.full((count, length), IGNORED)
    key = FIRST + rng.integers(symbols, size=(count, digits))
    starts = rng.integers(0, length - 2 * digits - 1, size=count)
    ids[np.arange(count), starts] = SEPARATOR
    ids[np.arange(count)[:, None], starts[:, None] + 1 + np.arange(digits)] = key
    ids[:, -digits - 1] = SEPARATOR
    ids[:, -digits:] = labels[:, -digits:] = key
    return torch.from_numpy(ids), torch.from_numpy(labels)


@torch.no_grad()
def recalled(model: torch.nn.Module, ids: Tensor, labels: Tensor, batch_size: int = 64) -> tuple[Tensor, Tensor]:
    """How well a model predicts the labelled tokens of each sequence.

    Returns:
        Share of labelled tokens that it ranks first, and their mean negative log-likelihood in nats, (count,) each.

    Example:
        >>> from rwkvgate import Rwkv6Config, Rwkv6ForCausalLM
        >>> sizes = {"hidden_size": 8, "num_hidden_layers": 1, "head_size": 4}
        >>> model = Rwkv6ForCausalLM(Rwkv6Config(vocab_size=FIRST + 9, **sizes))
        >>> share, nll = recalled(model, *copying(count=6, length=4, symbols=9, seed=0))
        >>> share.shape, bool((nll > 0).all())
        (torch.Size([6]), True)
    """
    right, nll = [], []
    for start in range(0, len(ids), batch_size):
        part, following = ids[start : start + batch_size], labels[start : start + batch_size, 1:]
        # (batch, time - 1, vocabulary)
        logits = model(part.to(device_of(model))).logits[:, :-1].float().cpu()
        asked = following != IGNORED
        target = following.clamp(min=0)
        losses = -logits.log_softmax(-1).gather(-1, target.unsqueeze(-1)).squeeze(-1)
        counts = asked.sum(1)
        right.append(((logits.argmax(-1) == target) & asked).sum(1) / counts)
        nll.append((losses * asked).sum(1) / counts)
    return torch.cat(right), torch.cat(nll)
