"""What every measurement of a model shares: evaluation mode, its device, and token ids without specials."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PREFIX_ID = 0
"""The token id before every text, in training and in evaluation: RWKV's end of text, also its start."""


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Put models in evaluation mode under `torch.inference_mode`, and give every submodule its own mode back.

    Each submodule is remembered apart, because fine-tuning may hold part of a network in evaluation mode.
    """
    modes = [(module, module.training) for model in models for module in model.modules()]
    for model in models:
        model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module, training in modes:
            module.training = training


def device_of(model: nn.Module) -> torch.device:
    """The device of the model's first parameter; the CPU for a model without parameters."""
    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


def encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each text, without special tokens; an empty text has none."""
    return [list(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]


def at_least_one(**values: int) -> None:
    """Refuse counts below 1.

    Raises:
        ValueError: names the count and what it was.
    """
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1")
