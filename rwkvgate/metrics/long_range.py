"""Long-range probes: how much a model profits from something it read earlier, at any distance.

Every probe is a pair of texts that end in the same questions and answers. One of them, `planted`, states the answer
earlier; the other, `blank`, has something else of the same sort and length in its place. The gain is the difference of
the answer's losses, blank minus planted, in nats per token: a model that remembers nothing gains 0, however likely it
finds the answer. Four probes::

    copying      a string of random words, then the same string again (cf. arXiv 2402.01032)
    forgetting   natural text, then the same text again: the forgetting curve (arXiv 2410.04727), whose measure,
                 accuracy in the copy minus accuracy after an unrelated text, stands beside the gain
    recall       key-value pairs, then each key once more (MQAR, arXiv 2312.04927)
    passkey      a number stated once, at some depth of a text, and asked for at its end (arXiv 2305.16300)

No model is trained for them. One seed draws all of them, so every model reads the same texts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from rwkvgate.metrics.inference import PREFIX_ID, at_least_one, device_of, evaluating, rows_at_once
from rwkvgate.metrics.recall import FIRST, NOISE, associative_recall
from rwkvgate.rwkv6.loss import IGNORED
from rwkvgate.rwkv6.prefill import in_windows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROBE_COLUMNS = ("probe", "length", "depth", "item", "gain", "accuracy", "blank_accuracy")
DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Depths of a passkey: 0 at the beginning of the text, 1 right before the question."""
PAIRS = 8
"""Key-value pairs of a recall text."""
SHORTEST = 4 * PAIRS
"""Tokens of the shortest text: the recall pairs need as many, and a passkey not many fewer."""
_PLAIN_WORD = re.compile(r" ?[a-z]{2,}")


@dataclass(frozen=True)
class Probe:
    """A pair of texts of the same length, and the positions of the answers in them.

    Attributes:
        planted, blank: token ids; the answers are the same, the text before them is not.
        asked: positions of the answers' tokens, ascending, never 0.
        depth: that of a passkey; nan for the other probes.
    """

    name: str
    planted: tuple[int, ...]
    blank: tuple[int, ...]
    asked: tuple[int, ...]
    depth: float = float("nan")


def word_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids of the vocabulary's plain lower-case words, or all ids but the special ones where such words are too few.

    Example:
        >>> from rwkvgate import Rwkv6Tokenizer
        >>> tokenizer = Rwkv6Tokenizer()
        >>> [tokenizer.decode([i]) for i in word_ids(tokenizer)[:3]]
        ['aa', 'ab', 'ac']
    """
    special = set(tokenizer.all_special_ids) | {PREFIX_ID}
    every = [i for i in range(len(tokenizer)) if i not in special]
    words = [i for i in every if _PLAIN_WORD.fullmatch(tokenizer.decode([i]))]
    return words if len(words) > 2 * PAIRS else every


def probes(
    tokenizer: PreTrainedTokenizerBase, text: Sequence[int], lengths: Sequence[int], count: int, seed: int = 0
) -> Iterator[Probe]:
    """`count` probes of each of the four names and each length, but a quarter as many passkeys at every depth.

    The same seed gives the same probes.

    Args:
        text: token ids of natural text, for forgetting curves and around a passkey; read in a ring.
        lengths: tokens per text.

    Raises:
        ValueError: a length or the count is too small, or there is no text.

    Example:
        >>> from rwkvgate import Rwkv6Tokenizer
        >>> drawn = list(probes(Rwkv6Tokenizer(), range(300, 400), lengths=[64], count=1))
        >>> [probe.name for probe in drawn[:4]], len(drawn[0].planted), len(drawn)
        (['copying', 'forgetting', 'recall', 'passkey'], 63, 8)
    """
    at_least_one(count=count)
    if min(lengths, default=0) < SHORTEST:
        raise ValueError(f"lengths are {list(lengths)}; each must be at least {SHORTEST}")
    if not len(text):
        raise ValueError("there is no text to read")
    words, ring = np.array(word_ids(tokenizer)), np.asarray(text)
    between = list(tokenizer("\n", add_special_tokens=False)["input_ids"])[:1]
    for length in lengths:
        # A generator of its own for each length: a longer list begins like a shorter one.
        rng = np.random.default_rng((seed, length))
        half = (length - len(between)) // 2
        for _ in range(count):
            one, other = rng.choice(words, (2, half)).tolist()
            yield _twice("copying", one, other, between)
            yield _twice("forgetting", _from_ring(ring, half, rng), _from_ring(ring, half, rng), between)
        yield from _recalls(words, length, count, rng)
        for depth in DEPTHS:
            for _ in range(max(1, count // 4)):
                yield _passkey(tokenizer, ring, length, depth, rng)


def probe_gains(model: nn.Module, asked: Sequence[Probe], *, batch_size: int, window: int = 1024) -> pd.DataFrame:
    """The gain of each probe, and how often its answer is ranked first.

    Returns:
        One row per probe, in the order given, with `PROBE_COLUMNS`: `length` in tokens, `item` its number among those
        of its name, length and depth; `gain` in nats per token; `accuracy` and `blank_accuracy` the shares of the
        answers' tokens ranked first, with the answer planted and without.

    Raises:
        ValueError: `batch_size` or `window` is below 1.

    Example:
        >>> from rwkvgate import Rwkv6Config, Rwkv6ForCausalLM
        >>> sizes = {"vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 1, "head_size": 4}
        >>> probe = Probe("copying", planted=(1, 2, 3, 1, 2, 3), blank=(4, 5, 6, 1, 2, 3), asked=(4, 5))
        >>> probe_gains(Rwkv6ForCausalLM(Rwkv6Config(**sizes)), [probe], batch_size=1)["length"].tolist()
        [6]
    """
    at_least_one(batch_size=batch_size, window=window)
    batch_size = rows_at_once(model, batch_size)
    rows: list[tuple[float, float, float]] = [(0.0, 0.0, 0.0)] * len(asked)
    lengths: dict[int, list[int]] = {}
    for number, probe in enumerate(asked):
        lengths.setdefault(len(probe.planted), []).append(number)
    with evaluating(model):
        for numbers in lengths.values():
            for start in range(0, len(numbers), batch_size):
                part = numbers[start : start + batch_size]
                planted, blank = (
                    _answers(model, [getattr(asked[i], side) for i in part], [asked[i].asked for i in part], window)
                    for side in ("planted", "blank")
                )
                for number, (loss, right), (other, chance) in zip(part, planted, blank, strict=True):
                    rows[number] = (other - loss, right, chance)
    frame = pd.DataFrame(rows, columns=["gain", "accuracy", "blank_accuracy"])
    frame["probe"] = [probe.name for probe in asked]
    frame["length"] = [len(probe.planted) for probe in asked]
    frame["depth"] = [probe.depth for probe in asked]
    frame["item"] = frame.groupby(["probe", "length", "depth"], dropna=False).cumcount()
    return frame[list(PROBE_COLUMNS)]


def _twice(name: str, planted: list[int], blank: list[int], between: list[int]) -> Probe:
    # The copy's first token is not asked for: nothing before it shows that a copy begins.
    start = len(planted) + len(between) + 1
    asked = tuple(range(start, start + len(planted) - 1))
    return Probe(name, (*planted, *between, *planted), (*blank, *between, *planted), asked)


def _from_ring(ring: np.ndarray, size: int, rng: np.random.Generator) -> list[int]:
    start = int(rng.integers(len(ring)))
    return [int(token) for token in ring.take(range(start, start + size), mode="wrap")]


def _recalls(words: np.ndarray, length: int, count: int, rng: np.random.Generator) -> Iterator[Probe]:
    """MQAR in words of the vocabulary; in the blank text the same values belong to other keys."""
    symbols = (len(words) - 1) // 2  # the last word stands for the noise
    ids, labels = associative_recall(count, length, PAIRS, symbols, int(rng.integers(2**31)), distinct=True)
    for row, label in zip(ids.numpy(), labels.numpy(), strict=True):
        shuffled = rng.permutation(words)
        planted = np.where(row == NOISE, shuffled[-1], shuffled[np.maximum(row - FIRST, 0)])
        blank = planted.copy()
        values = slice(1, 2 * PAIRS, 2)
        blank[values] = np.roll(planted[values], int(rng.integers(1, PAIRS)))
        asked = tuple(np.flatnonzero(label != IGNORED).tolist())
        yield Probe("recall", tuple(planted.tolist()), tuple(blank.tolist()), asked)


def _passkey(
    tokenizer: PreTrainedTokenizerBase, ring: np.ndarray, length: int, depth: float, rng: np.random.Generator
) -> Probe:
    def encode(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    key = f"{rng.integers(100, 1000)}"
    needle, question, answer = encode(f" The pass key is {key}."), encode(" The pass key is"), encode(f" {key}")
    other = needle
    while other == needle or len(other) != len(needle):
        other = encode(f" The pass key is {rng.integers(100, 1000)}.")
    hay_length = length - len(needle) - len(question) - len(answer)
    if hay_length < 0:
        raise ValueError(f"length is {length}; a passkey needs {length - hay_length} tokens of this tokenizer")
    hay = _from_ring(ring, hay_length, rng)
    before, after = hay[: round(depth * hay_length)], hay[round(depth * hay_length) :]
    planted, blank = ((*before, *stated, *after, *question, *answer) for stated in (needle, other))
    return Probe("passkey", planted, blank, tuple(range(length - len(answer), length)), depth)


def _answers(
    model: nn.Module, texts: Sequence[tuple[int, ...]], asked: Sequence[tuple[int, ...]], window: int
) -> list[tuple[float, float]]:
    """Mean loss (nats per token) and share ranked first of the asked tokens of each text; all are equally long."""
    ids = torch.tensor(texts)  # (batch, length)
    inputs = torch.cat((torch.full((len(texts), 1), PREFIX_ID), ids[:, :-1]), dim=1).to(device_of(model))
    losses, firsts = torch.zeros(len(texts)), torch.zeros(len(texts))

    def places_in(part: slice) -> list[int]:
        return sorted({place for places in asked for place in places if part.start <= place < part.stop})

    def keep(part: slice) -> Tensor:
        # Logits only where something is asked: with a large vocabulary they would be most of the work.
        return (torch.tensor(places_in(part) or [part.start]) - part.start).to(inputs.device)

    for part, output in in_windows(model, inputs, window=window, keep=keep):
        places = places_in(part)
        if not places:
            continue
        logits = output.logits.float().cpu()  # (batch, places, vocabulary)
        target = ids[:, places]
        nll = -logits.log_softmax(-1).gather(-1, target.unsqueeze(-1)).squeeze(-1)
        own = torch.tensor([[place in of_row for place in places] for of_row in map(set, asked)])
        losses += (nll * own).sum(1)
        firsts += ((logits.argmax(-1) == target) & own).sum(1)
    counts = torch.tensor([len(places) for places in asked])
    return list(zip((losses / counts).tolist(), (firsts / counts).tolist(), strict=True))
