"""How long training will take: said before it starts, and compared with what it took."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

READING = 1 / 3
"""A forward pass beside a forward and backward pass, by its matrix products."""


def step_seconds(model: PreTrainedModel, inputs: Mapping[str, Any]) -> float:
    """Seconds of a forward and backward pass, measured once; gradients, mode and random numbers are left as they were.

    Args:
        model: as it will be trained, on its device and not spread over several.
        inputs: one step's: `input_ids` and `labels`, (rows, tokens), and what else the model takes.
    """
    device, training = next(model.parameters()).device, model.training
    batch = {name: x.to(device) if isinstance(x, Tensor) else x for name, x in inputs.items()}
    on_cuda = device.type == "cuda"
    model.train()
    with torch.random.fork_rng([device] if on_cuda else []):
        # On a GPU the first pass loads kernels.
        for _ in range(1 + on_cuda):
            if on_cuda:
                torch.cuda.synchronize(device)
            started = time.monotonic()
            model(**batch).loss.backward()
            model.zero_grad()
            if on_cuda:
                torch.cuda.synchronize(device)
            spent = time.monotonic() - started
    model.train(training)
    return spent


def training_seconds(step: float, steps: int, batch_size: int, validation_rows: int, validations: int) -> float:
    """Seconds of a training whose step takes `step` for `batch_size` rows, its validation losses included.

    The optimiser is left out: beside a pass over a batch it is a few per cent.
    """
    return step * (steps + validations * READING * validation_rows / batch_size)
