"""Arguments of a forward pass: what RWKV-6 cannot compute from, or does not compute, is refused in words."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from rwkvgate.rwkv6.configuration import Rwkv6Config

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


def refuse_packed(position_ids: Any, mask: Tensor | None) -> None:
    """Refuse positions that start again within a row, as those of packed documents do.

    Args:
        position_ids: (batch, time), (1, time) or (time,).
        mask: (batch, time or more), 0 at padding, where a position means nothing; None where every token is real.

    Raises:
        ValueError: no tensor, or positions that do not count on by one from each token to the next.
    """
    if not isinstance(position_ids, Tensor) or not position_ids.dim():
        raise ValueError(f"position_ids are {_kind(position_ids)}; they must be a tensor (batch, time)")
    jumps = position_ids.diff(dim=-1) != 1
    if mask is not None and mask.dim() == 2 and mask.shape[1] >= position_ids.shape[-1]:
        real = mask[:, -position_ids.shape[-1] :].bool()
        jumps = jumps & real[:, 1:] & real[:, :-1]
    message = f"position_ids do not count on by one within a row: {_ADVICE}"
    if torch.compiler.is_compiling():
        torch._assert_async(~jumps.any(), message)
    elif bool(jumps.any()):
        raise ValueError(message)


def check_inputs(input_ids: Any, inputs_embeds: Any, attention_mask: Tensor | None, config: Rwkv6Config) -> None:
    """Refuse inputs that are no tokens of the vocabulary and no embeddings, and masks that are added to scores.

    Values are looked at on a CPU alone: elsewhere that would wait for the device.

    Raises:
        ValueError: not exactly one input, another shape or type, ids beyond the vocabulary, a mask of other numbers.
    """
    if (input_ids is None) == (inputs_embeds is None):
        raise ValueError("give either input_ids or inputs_embeds")
    inputs = input_ids if inputs_embeds is None else inputs_embeds
    if not isinstance(inputs, Tensor):
        raise ValueError(f"the input is a {type(inputs).__name__}; it must be a tensor")
    shape = tuple(inputs.shape)
    if inputs.dim() != (2 if inputs_embeds is None else 3) or 0 in shape[:2]:
        raise ValueError(f"the input is {shape}; it must be (batch, time) with at least one token")
    if inputs_embeds is None:
        check_ids("input_ids", inputs, config.vocab_size)
    elif not inputs.is_floating_point():
        raise ValueError(f"inputs_embeds are {inputs.dtype}; they must be floating-point")
    elif shape[2] != config.hidden_size:
        raise ValueError(f"inputs_embeds are {shape}; the last size must be {config.hidden_size}")
    if attention_mask is not None and not isinstance(attention_mask, Tensor):
        raise ValueError(f"attention_mask is {_kind(attention_mask)}; it must be a tensor (batch, time or more)")
    # Whole numbers beyond 1 are how some packers tell a row's documents apart.
    if attention_mask is not None and attention_mask.dtype != torch.bool and _on_cpu(attention_mask):
        check_mask(attention_mask)


def check_mask(mask: Tensor) -> None:
    """Refuse a mask that holds anything but 1 at tokens and 0 at padding, of any type.

    Raises:
        ValueError: names the first other number.
    """
    other = mask[(mask != 0) & (mask != 1)]
    if len(other):
        raise ValueError(f"attention_mask holds {other[0].item():g}; it must hold 1 at tokens and 0 at padding")


def check_ids(name: str, ids: Tensor, vocabulary: int, ignored: int | None = None) -> None:
    """Refuse what is no token id, but for one number that stands for none.

    Raises:
        ValueError: no integers, or one beyond the vocabulary.
    """
    _check_range(name, "ids", ids, 0, vocabulary - 1, ignored)


def check_labels(labels: Mapping[str, Any], vocabulary: int, ignored: int) -> None:
    """Refuse labels that are no token ids, and labels shifted by the caller without the others.

    Args:
        labels: `labels` and `shift_labels`, None where they are not given; nothing for a loss of the caller's own.

    Raises:
        ValueError: names the labels.
    """
    for name, given in labels.items():
        if given is not None and labels["labels"] is None:
            raise ValueError(f"{name} are given without labels; a loss needs labels")
        if given is not None:
            check_ids(name, given, vocabulary, ignored)


def check_label_shapes(labels: Mapping[str, Any], shape: torch.Size) -> None:
    """Refuse labels, as in `check_labels`, of another shape than the tokens that logits were computed of.

    Raises:
        ValueError: names the labels and both shapes.
    """
    for name, given in labels.items():
        if given is not None and given.shape != shape:
            raise ValueError(f"{name} are {tuple(given.shape)}; the tokens are {tuple(shape)}")


def check_kept(kept: Any, inputs: Any) -> None:
    """Refuse a `logits_to_keep` that chooses no positions of the inputs, (batch, time) or (batch, time, channel).

    Raises:
        ValueError: neither a number from 0 nor positions within the text, as a tensor of integers or of one bool each.
    """
    if not isinstance(kept, Tensor):
        if not isinstance(kept, int) or kept < 0:
            raise ValueError(f"logits_to_keep is {kept}; it must be 0 for all positions, or their number")
    elif isinstance(inputs, Tensor) and inputs.dim() > 1:
        time = inputs.shape[1]
        if kept.dtype != torch.bool or kept.shape != (time,):
            _check_range("logits_to_keep", "positions", kept, -time, time - 1)


def _check_range(name: str, what: str, x: Tensor, lowest: int, highest: int, ignored: int | None = None) -> None:
    if not isinstance(x, Tensor):
        raise ValueError(f"{name} are {_kind(x)}; they must be a tensor")
    if x.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"{name} are {x.dtype}; they must be torch.int64 or torch.int32")
    if _on_cpu(x):
        wrong = (x < lowest) | (x > highest)
        if ignored is not None:
            wrong &= x != ignored
        if bool(wrong.any()):
            raise ValueError(f"{name} hold {int(x[wrong][0])}; {what} must be from {lowest} to {highest}")


def _kind(value: Any) -> str:
    return f"a {type(value).__name__}" if not isinstance(value, Tensor) else f"a tensor {tuple(value.shape)}"


def _on_cpu(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()
