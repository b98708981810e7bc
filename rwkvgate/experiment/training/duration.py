"""Predicted time of a training, from one measured step: printed before it starts, and compared with what it took."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

FORWARD_SHARE = 1 / 3
"""Share of the forward pass in the matrix products of a step."""


def step_seconds(model: PreTrainedModel, inputs: Mapping[str, Any]) -> float:
    """Measured seconds of a forward and backward pass; gradients, mode and random states do not change.

    Args:
        model: as it will be trained, on its device and not sharded.
        inputs: those of one step: `input_ids` and `labels`, (rows, tokens), and other arguments of the model.
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
    """Predicted seconds of a training whose step takes `step` seconds for `batch_size` rows, validation included.

    The optimiser is not counted: it is a few per cent of a step.
    """
    return step * (steps + validations * FORWARD_SHARE * validation_rows / batch_size)
