"""Rows to train on: cut from tokenized documents in a seeded order, and padded into batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rwkvgate.experiment.settings import Schedule
from rwkvgate.gate.validation import SettingsError
from rwkvgate.rwkv6.loss import IGNORED

Rows = Sequence[Sequence[int]]


def pack_rows(documents: Rows, schedule: Schedule, separator: int, seed: int, passes: int = 2) -> list[list[int]]:
    """Rows of `schedule.length` tokens, cut from the concatenated documents, enough for every step.

    Documents are shuffled anew for each pass, and the separator precedes each.

    Args:
        passes: how often a token may be seen.

    Raises:
        SettingsError: the steps would see a token more often.
    """
    rng = np.random.default_rng(seed)
    count = schedule.steps * schedule.batch_size
    available = sum(len(document) + 1 for document in documents)
    if count * schedule.length > passes * available:
        times = "twice" if passes == 2 else f"{passes} times"
        raise SettingsError(
            f"{schedule.steps} steps of {schedule.batch_size} x {schedule.length} tokens need "
            f"{count * schedule.length:,} tokens, and the text has {available:,}: a token would be seen more than "
            f"{times}, and the base would memorise. Lower pretraining.steps or raise corpus.natural_characters"
        )
    stream: list[int] = []
    while len(stream) < count * schedule.length:
        for i in rng.permutation(len(documents)):
            stream.append(separator)
            stream.extend(documents[i])
    length = schedule.length
    return [stream[i * length : (i + 1) * length] for i in range(count)]


def document_rows(documents: Rows, schedule: Schedule, separator: int, seed: int) -> list[list[int]]:
    """One row for each document, between separators, cut at `schedule.length`, enough for every step.

    Each pass reads the documents in a new order, which depends on the seed alone.

    Raises:
        SettingsError: there is no document.
    """
    if not documents:
        raise SettingsError("there is no document to train on")
    rng = np.random.default_rng(seed)
    count = schedule.steps * schedule.batch_size
    order: list[int] = []
    while len(order) < count:
        order.extend(rng.permutation(len(documents)).tolist())
    return [close_row(documents[i], schedule.length, separator) for i in order[:count]]


def close_row(document: Sequence[int], length: int, separator: int) -> list[int]:
    """A document between separators, cut at `length` tokens."""
    return [separator, *document, separator][:length]


def collate(rows: Sequence[Mapping[str, Sequence[int]]]) -> dict[str, Tensor]:
    """A batch of rows padded on the right to the longest: `input_ids` and `labels`, both (batch, time).

    Every token is scored where a row has no `labels`. It needs no attention mask: padding is to the right of every
    token, and is not scored.
    """
    longest = max(len(row["input_ids"]) for row in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    labels = torch.full((len(rows), longest), IGNORED)
    for i, row in enumerate(rows):
        tokens = torch.tensor(row["input_ids"])
        ids[i, : len(tokens)] = tokens
        labels[i, : len(tokens)] = torch.tensor(row.get("labels", row["input_ids"]))
    return {"input_ids": ids, "labels": labels}


def collate_for_loss(rows: Sequence[Mapping[str, Sequence[int]]]) -> dict[str, Any]:
    """`collate` for a model that returns its loss only, for the logits would need the most memory."""
    return {**collate(rows), "skip_logits": True}
