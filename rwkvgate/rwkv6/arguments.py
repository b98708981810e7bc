"""Keyword arguments of a forward pass: those that ask for what RWKV-6 does not compute are refused, not ignored."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

PACKED = ("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "seq_idx", "cu_seqlens")
"""Arguments that say where the documents of a packed row begin."""
_ADVICE = "documents in one row would share a state; give each a row of its own, padded under an attention_mask"


def known_options(options: dict[str, Any], mask: Tensor | None, known: Collection[str] = ()) -> dict[str, Any]:
    """The options of which a caller knows what to do, once the others are refused.

    Args:
        options: what was given beyond the named arguments. None means that an argument was not given.
        mask: (batch, time or more), the attention mask of the call.
        known: names that the caller has a use for.

    Raises:
        ValueError: packed documents, an output that there is none of, attention to the right, or an unknown name.
    """
    for name, value in options.items():
        if value is None or name in known:
            continue
        if name == "position_ids":
            refuse_packed(value, mask)
        elif name in PACKED:
            raise ValueError(f"{name} packs a row: {_ADVICE}")
        elif name in ("output_attentions", "output_router_logits"):
            if value:
                raise ValueError(f"{name} is {value}; it must be False, since RWKV-6 has none")
        elif name == "is_causal":
            if not value:
                raise ValueError(f"is_causal is {value}; it must be True, since RWKV-6 reads from left to right")
        else:
            raise ValueError(f"{name} is not an argument of RWKV-6's forward pass")
    return {name: options[name] for name in known if options.get(name) is not None}


def refuse_packed(position_ids: Tensor, mask: Tensor | None) -> None:
    """Refuse positions that start again within a row, as those of packed documents do.

    Args:
        position_ids: (batch, time), (1, time) or (time,).
        mask: (batch, time or more), 0 at padding, where a position means nothing; None where every token is real.

    Raises:
        ValueError: positions that do not count on by one from each token to the next.
    """
    jumps = position_ids.diff(dim=-1) != 1
    if mask is not None and mask.dim() == 2 and mask.shape[1] >= position_ids.shape[-1]:
        real = mask[:, -position_ids.shape[-1] :].bool()
        jumps = jumps & real[:, 1:] & real[:, :-1]
    message = f"position_ids do not count on by one within a row: {_ADVICE}"
    if torch.compiler.is_compiling():
        torch._assert_async(~jumps.any(), message)
    elif bool(jumps.any()):
        raise ValueError(message)
