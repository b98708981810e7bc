"""Windowed reading: a forward pass over a text of any length, in windows that carry the state.

Memory does not grow with the text. Gates are recorded by observers (see `observing`).
"""

from __future__ import annotations

import math
from threading import RLock
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from rwkvgate.metrics.inference import at_least_one, evaluating
from rwkvgate.rwkv6.arguments import check_ids, check_mask
from rwkvgate.rwkv6.prefill import in_windows

WINDOW = 512
"""Tokens of a window: matrix products run at nearly full speed, and the logits of a small vocabulary take few MiB."""

_LOCKS: WeakKeyDictionary[nn.Module, RLock] = WeakKeyDictionary()  # type: ignore[type-arg]
_GUARD = RLock()


def model_lock(model: nn.Module) -> Any:
    """The re-entrant lock of a model. Recordings and clamps take it, so that two users of one kernel never see each
    other's clamp."""
    with _GUARD:
        return _LOCKS.setdefault(model, RLock())


def check_text(model: Any, input_ids: Any, attention_mask: Any = None) -> None:
    """Refuse token ids and masks that the model cannot read.

    Args:
        input_ids: (batch, time), each an id of the model's.
        attention_mask: (batch, time), 0 at padding and 1 elsewhere, of any type; None where every token is real.

    Raises:
        ValueError: they are none of these.

    Example:
        >>> from rwkvgate import Rwkv6Config, Rwkv6ForCausalLM
        >>> model = Rwkv6ForCausalLM(Rwkv6Config(vocab_size=64, hidden_size=32, num_hidden_layers=1, head_size=16))
        >>> check_text(model, torch.tensor([[5, 64]]))
        Traceback (most recent call last):
        ValueError: input_ids hold 64; ids must be from 0 to 63
    """
    shape = tuple(input_ids.shape) if isinstance(input_ids, Tensor) else f"a {type(input_ids).__name__}"
    if not isinstance(input_ids, Tensor) or input_ids.dim() != 2 or not input_ids.numel():
        raise ValueError(f"input_ids is {shape}; it must be (batch, time) with at least one token")
    check_ids("input_ids", input_ids.cpu(), model.get_input_embeddings().weight.shape[0])
    if attention_mask is None:
        return
    if not isinstance(attention_mask, Tensor) or attention_mask.shape != input_ids.shape:
        other = tuple(attention_mask.shape) if isinstance(attention_mask, Tensor) else type(attention_mask).__name__
        raise ValueError(f"attention_mask is {other}; it must be {shape}")
    check_mask(attention_mask)


@torch.no_grad()
def read(
    model: nn.Module,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    *,
    window: int = WINDOW,
    losses: bool = False,
) -> Tensor | None:
    """Run the model over tokens (batch, time) from the start of a document, window by window.

    Args:
        attention_mask: (batch, time), 0 at padding.
        losses: whether to compute each token's negative log-likelihood given the tokens before it.

    Returns:
        The losses in nats, (batch, time) float32 on the CPU, nan at padding and at a row's first real token; None
        without `losses`.

    Raises:
        ValueError: what `check_text` refuses, or `window` is below 1.

    Example:
        >>> from rwkvgate import Rwkv6Config, Rwkv6ForCausalLM
        >>> model = Rwkv6ForCausalLM(Rwkv6Config(vocab_size=64, hidden_size=32, num_hidden_layers=1, head_size=16))
        >>> nats = read(model, torch.tensor([[5, 7, 11, 13]]), window=2, losses=True)
        >>> nats.shape, nats.isnan().tolist()
        (torch.Size([1, 4]), [[True, False, False, False]])
    """
    at_least_one(window=window)
    check_text(model, input_ids, attention_mask)
    time = input_ids.shape[1]
    nats = torch.full(input_ids.shape, math.nan) if losses else None
    last: Tensor | None = None  # the logits at the end of the window before, (batch, vocabulary)
    with evaluating(model):
        keep = 0 if losses else 1
        for part, output in in_windows(model, input_ids, attention_mask, window=window, keep=lambda _: keep):
            if nats is not None:
                logits = output.logits  # (batch, window, vocabulary)
                known = logits[:, :-1] if last is None else torch.cat((last[:, None], logits[:, :-1]), dim=1)
                first = part.stop - known.shape[1]
                targets = input_ids[:, first : part.stop]
                if known.shape[1]:
                    # Row by row: faster than a batch, and the float32 copy of half-precision logits is one row's.
                    nats[:, first : part.stop] = torch.stack(
                        [
                            cross_entropy(row.float(), ids, reduction="none")
                            for row, ids in zip(known, targets, strict=True)
                        ]
                    ).cpu()
                last = logits[:, -1]
    if nats is not None and attention_mask is not None:
        real = attention_mask[:, -time:].bool().cpu()
        after = torch.cat((torch.zeros_like(real[:, :1]), real[:, :-1]), dim=1)
        nats[~(real & after)] = math.nan
    return nats
