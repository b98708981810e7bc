"""Helpers of every measurement of a model: evaluation mode, its device, and token ids without special tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PREFIX_ID = 0
"""The token id before every text, in training and in evaluation: RWKV's end of text, which is also its start."""


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Put models in evaluation mode under `torch.inference_mode`, and restore each submodule's own mode afterwards.

    Modes are restored one by one, because fine-tuning may keep part of a network in evaluation mode.

    Example:
        >>> model = nn.Dropout()
        >>> with evaluating(model):
        ...     print(model.training)
        False
        >>> model.training
        True
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
    """The device of the model's first parameter; the CPU for a model without parameters.

    Example:
        >>> device_of(nn.Linear(1, 1))
        device(type='cpu')
    """
    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


def rows_at_once(model: nn.Module, batch_size: int) -> int:
    """How many rows the model may read at once: one where it is transformers' RWKV-4, which takes no notice of padding
    and mixes the rows of a batch in a window of one token.

    Example:
        >>> rows_at_once(nn.Identity(), 8)
        8
    """
    return 1 if getattr(getattr(model, "config", None), "model_type", None) == "rwkv" else batch_size


def refuse_one_string(**texts: Sequence[str]) -> None:
    """Refuse one string where a list is asked for: its characters would be taken for texts.

    Raises:
        ValueError: names the argument.

    Example:
        >>> refuse_one_string(prompts="a fox")
        Traceback (most recent call last):
        ValueError: prompts is one string; it must be a list of strings
    """
    for name, given in texts.items():
        if isinstance(given, str):
            raise ValueError(f"{name} is one string; it must be a list of strings")


def encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each text, without special tokens; an empty text has none.

    Raises:
        ValueError: one string in place of a list.

    Example:
        >>> from rwkvgate import Rwkv6Tokenizer
        >>> [len(ids) for ids in encode(Rwkv6Tokenizer(), ["a fox", ""])]
        [2, 0]
    """
    refuse_one_string(texts=texts)
    return [list(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]


def at_least_one(**values: int) -> None:
    """Refuse counts that are below 1, or no whole numbers.

    Raises:
        ValueError: names the count and its value.

    Example:
        >>> at_least_one(window=0)
        Traceback (most recent call last):
        ValueError: window is 0; it must be at least 1
    """
    for name, value in values.items():
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise ValueError(f"{name} is {value!r}; it must be a whole number of at least 1")
        if value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1")
