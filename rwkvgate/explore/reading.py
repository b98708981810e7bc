"""Reading a text in windows with the state carried on, so that memory does not grow with its length.

What is recorded on the way, gates or losses, is the caller's. A reading can be watched and stopped between windows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from threading import RLock
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from rwkvgate.metrics.inference import at_least_one, evaluating
from rwkvgate.rwkv6.prefill import in_windows

WINDOW = 512
"""Tokens of a window: matrix products at nearly full speed, and the logits of a small vocabulary at few MiB."""

_LOCKS: WeakKeyDictionary[nn.Module, RLock] = WeakKeyDictionary()  # type: ignore[type-arg]
_GUARD = RLock()


class Stopped(Exception):
    """The reading was asked to stop."""


def model_lock(model: nn.Module) -> Any:
    """The re-entrant lock of a model: whoever records or clamps its gates holds it, so that two users of one kernel
    never see each other's clamp."""
    with _GUARD:
        return _LOCKS.setdefault(model, RLock())


@torch.no_grad()
def read(
    model: nn.Module,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    *,
    window: int = WINDOW,
    losses: bool = False,
    progress: Callable[[int, int], None] | None = None,
    stopped: Callable[[], bool] | None = None,
) -> Tensor | None:
    """Read tokens (batch, time) from the start of a document, window after window.

    Args:
        attention_mask: (batch, time), 0 at padding.
        losses: also compute each token's negative log-likelihood given the tokens before it.
        progress: called with (tokens read, tokens in all) after each window.
        stopped: asked before each window.

    Returns:
        The losses in nats, (batch, time) float32 on the CPU, nan at padding and at a row's first real token; None
        where they were not asked for.

    Raises:
        ValueError: there is no token, or `window` is below 1.
        Stopped: `stopped` said so.
    """
    at_least_one(window=window)
    if input_ids.dim() != 2 or not input_ids.numel():
        raise ValueError(f"input_ids is {tuple(input_ids.shape)}; it must be (batch, time) with at least one token")
    time = input_ids.shape[1]
    found = torch.full(input_ids.shape, math.nan) if losses else None
    before: Tensor | None = None

    def refuse_if_stopped(tokens: int) -> None:
        if stopped is not None and stopped():
            raise Stopped(f"stopped after {tokens:,} of {time:,} tokens")

    refuse_if_stopped(0)
    with evaluating(model):
        keep = 0 if losses else 1
        for part, output in in_windows(model, input_ids, attention_mask, window=window, keep=lambda _: keep):
            if found is not None:
                logits = output.logits
                known = logits[:, :-1] if before is None else torch.cat((before[:, None], logits[:, :-1]), dim=1)
                first = part.stop - known.shape[1]
                targets = input_ids[:, first : part.stop]
                if known.shape[1]:
                    found[:, first : part.stop] = cross_entropy(
                        known.float().transpose(1, 2), targets, reduction="none"
                    ).cpu()
                before = logits[:, -1]
            if progress is not None:
                progress(part.stop, time)
            if part.stop < time:
                refuse_if_stopped(part.stop)
    if found is not None and attention_mask is not None:
        real = attention_mask[:, -time:].bool().cpu()
        after = torch.cat((torch.zeros_like(real[:, :1]), real[:, :-1]), dim=1)
        found[~(real & after)] = math.nan
    return found
