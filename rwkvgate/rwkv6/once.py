"""Backwards that are written by hand, and differentiable once: what they leave out is refused, never dropped."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch

Backward = Callable[..., tuple[Any, ...]]


def once(instead: str) -> Callable[[Backward], Backward]:
    """A decorator of an autograd function's backward, which raises where a graph of the gradients is asked for.

    torch's own `once_differentiable` raises in `backward()` alone: `torch.autograd.grad` leaves the second derivative
    out without a word.

    Args:
        instead: what the error says to do.
    """

    def decorate(backward: Backward) -> Backward:
        @wraps(backward)
        def checked(ctx: Any, *slopes: Any) -> tuple[Any, ...]:
            if torch.is_grad_enabled() and not torch.compiler.is_compiling():  # by create_graph=True
                raise RuntimeError(
                    f"the backward is differentiable once, and create_graph=True asks for more: {instead}"
                )
            return backward(ctx, *slopes)

        return checked

    return decorate
