"""Layouts of RWKV-6's weights, translated to the names and shapes of the hub's `rwkv6` checkpoints.

Three layouts are read: the hub's own, BlinkDL's (`.pth`), and flash-linear-attention's. Sizes are read off
the weights themselves, because the configurations beside them lack some.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

MIXES = ("w", "k", "v", "r", "g")
"""Order of the five data-dependent mixes in `time_maa_w1` and `time_maa_w2`."""
FLA_MIXES = ("r", "w", "k", "v", "g")
"""Order of the same five in flash-linear-attention."""

BLINK_NAMES = {
    r"^emb\.": "rwkv.embeddings.",
    r"^ln_out\.": "rwkv.ln_out.",
    r"^blocks\.": "rwkv.blocks.",
    r"\.ln0\.": ".pre_ln.",
    r"\.att\.": ".attention.",
    r"\.ffn\.": ".feed_forward.",
}
FLA_ANCHOR = "model.embeddings.weight"
FLA_NAMES = {
    r"^model\.embeddings\.": "rwkv.embeddings.",
    r"^model\.norm\.": "rwkv.ln_out.",
    r"^lm_head\.": "head.",
    r"^model\.layers\.": "rwkv.blocks.",
    r"\.pre_norm\.": ".pre_ln.",
    r"\.attn_norm\.": ".ln1.",
    r"\.ffn_norm\.": ".ln2.",
    r"\.attn\.x_proj\.0\.mu$": ".attention.time_maa_x",
    r"\.attn\.bonus$": ".attention.time_faaaa",
    r"\.attn\.w_proj\.linear\.lora\.0\.weight$": ".attention.time_decay_w1",
    r"\.attn\.w_proj\.linear\.lora\.2\.weight$": ".attention.time_decay_w2",
    r"\.attn\.w_proj\.linear\.lora\.2\.bias$": ".attention.time_decay",
    r"\.attn\.r_proj\.linear\.": ".attention.receptance.",
    r"\.attn\.k_proj\.linear\.": ".attention.key.",
    r"\.attn\.v_proj\.linear\.": ".attention.value.",
    r"\.attn\.g_proj\.linear\.": ".attention.gate.",
    r"\.attn\.o_proj\.": ".attention.output.",
    r"\.attn\.g_norm\.": ".attention.ln_x.",
    r"\.ffn\.(key|receptance)\.mu$": r".feed_forward.time_maa_\1",
    r"\.time_maa_key$": ".time_maa_k",
    r"\.time_maa_receptance$": ".time_maa_r",
    r"\.ffn\.(key|receptance|value)\.linear\.": r".feed_forward.\1.",
    r"\.ffn\.": ".feed_forward.",
}

SIZES = {
    "vocab_size": ("rwkv.embeddings.weight", 0),
    "hidden_size": ("rwkv.embeddings.weight", 1),
    "attention_hidden_size": ("rwkv.blocks.0.attention.receptance.weight", 0),
    "head_size": ("rwkv.blocks.0.attention.time_faaaa", 1),
    "intermediate_size": ("rwkv.blocks.0.feed_forward.key.weight", 0),
    "time_mix_rank": ("rwkv.blocks.0.attention.time_maa_w2", 1),
    "time_decay_rank": ("rwkv.blocks.0.attention.time_decay_w1", 1),
}
"""The weight and the dimension that each size of `Rwkv6Config` is read off."""

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""Types of weights that are read."""


GATE = "gated_shift"
"""Part of the name of each of a gate's weights, and the key of a configuration that holds the gates' own."""


class CheckpointError(OSError):
    """A checkpoint that cannot be loaded, or is not a complete RWKV-6; the message says why."""


def some(names: Iterable[str], most: int = 4) -> str:
    """The first few names in order, and the number of the others.

    Example:
        >>> some(["c", "a", "b"], most=2)
        'a, b and 1 more'
    """
    ordered = sorted(names)
    rest = len(ordered) - most
    return ", ".join(ordered[:most]) + (f" and {rest} more" if rest > 0 else "")


def to_hub_layout(weights: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """The weights under the hub's names and in its shapes, from any of the three layouts.

    A name that the layout does not have stays as it is, so that errors name it.

    Args:
        weights: tensors by name. They are not changed; most of the result shares their memory.
        where: what an error calls their source.

    Raises:
        CheckpointError: the weights hold a gate, are not dense floating-point tensors, or follow none of the layouts.
    """
    for name, tensor in weights.items():
        dense = isinstance(tensor, Tensor) and tensor.layout == torch.strided and not tensor.is_meta
        if not dense or tensor.dtype not in DTYPES:
            type_ = f"{tensor.dtype} on {tensor.device}" if isinstance(tensor, Tensor) else type(tensor).__name__
            raise CheckpointError(
                f"{name} in {where} is {type_}; weights are dense float16, bfloat16, float32 or float64"
            )
    gates = [name for name in weights if GATE in name]
    if gates:
        raise CheckpointError(
            f"{where} holds a gate ({some(gates, 2)}), and a plain RWKV-6 would drop it: load the base "
            "from its own file, then the gate with load_gate(model, folder)"
        )
    if "rwkv.embeddings.weight" in weights:
        return dict(weights)
    if "embeddings.weight" in weights:
        # Rwkv6Model saves these names, without a head.
        return {name if name.startswith("head.") else f"rwkv.{name}": tensor for name, tensor in weights.items()}
    if "emb.weight" in weights:
        return {_rename(name, BLINK_NAMES): tensor for name, tensor in weights.items()}
    if FLA_ANCHOR in weights:
        return _from_fla(weights)
    raise CheckpointError(
        f"{where} is no RWKV-6: its names ({some(weights, 3) or 'none'}) hold none of rwkv.embeddings.weight, "
        "emb.weight and model.embeddings.weight, by which the hub's, BlinkDL's and flash-linear-attention's "
        "layouts are known"
    )


def layout_keys(weights: Mapping[str, Tensor]) -> dict[str, int]:
    """Keys of `Rwkv6Config` that the layout of the weights implies, where nothing states them.

    The epsilon of flash-linear-attention's per-head normalisation is that of its other norms.
    """
    return {"head_size_divisor": 1} if FLA_ANCHOR in weights else {}


def _rename(name: str, table: Mapping[str, str]) -> str:
    for pattern, replacement in table.items():
        name = re.sub(pattern, replacement, name)
    return name


def _from_fla(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undo flash-linear-attention's shapes: maps as linear layers, five mixes in one tensor, flat vectors."""
    order = [FLA_MIXES.index(mix) for mix in MIXES]
    made: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        layer, _, part = name.partition(".attn.")
        attention = f"{_rename(layer + '.', FLA_NAMES)}attention."
        if part == "x_bias" and tensor.dim() == 2 and len(tensor) == len(FLA_MIXES):
            for mix, row in zip(FLA_MIXES, tensor, strict=True):
                made[f"{attention}time_maa_{mix}"] = row.view(1, 1, -1)
        elif part == "x_proj.0.linear.weight" and _in_fives(tensor, 0):
            slots = tensor.unflatten(0, (len(FLA_MIXES), -1))[order]
            made[f"{attention}time_maa_w1"] = slots.flatten(0, 1).t().contiguous()
        elif part == "x_proj.2.weight" and _in_fives(tensor, 1):
            slots = tensor.unflatten(1, (len(FLA_MIXES), -1))[:, order]
            made[f"{attention}time_maa_w2"] = slots.permute(1, 2, 0).contiguous()
        else:
            renamed = _rename(name, FLA_NAMES)
            if renamed.endswith(("time_decay_w1", "time_decay_w2")):
                tensor = tensor.t().contiguous()
            elif "time_maa" in renamed or renamed.endswith("time_decay"):
                tensor = tensor.reshape(1, 1, -1)
            made[renamed] = tensor
    return made


def _in_fives(tensor: Tensor, axis: int) -> bool:
    return tensor.dim() == 2 and tensor.shape[axis] % len(FLA_MIXES) == 0


def sizes_of(weights: Mapping[str, Tensor], where: str) -> dict[str, int]:
    """The sizes of `Rwkv6Config` that weights in the hub's layout imply.

    Raises:
        CheckpointError: a weight that gives a size is missing, has too few dimensions or no element, or does not fit
            another, or a layer of those that are numbered is missing.
    """
    lacking = {name for name, _ in SIZES.values()} - weights.keys()
    if lacking:
        raise CheckpointError(f"{where} is no complete RWKV-6: it lacks {some(lacking)}")
    sizes = {}
    for key, (name, axis) in SIZES.items():
        shape = weights[name].shape
        if len(shape) <= axis or shape[axis] < 1:
            needed = f"{axis + 1} dimensions and an element"
            raise CheckpointError(f"{name} in {where} is of shape {tuple(shape)}; it must have {needed}")
        sizes[key] = int(shape[axis])
    if sizes["attention_hidden_size"] % sizes["head_size"]:
        width, head = sizes["attention_hidden_size"], sizes["head_size"]
        raise CheckpointError(f"{where} has {width} attention channels; they must be a multiple of a head's, {head}")
    blocks = {int(match[1]) for name in weights if (match := re.match(r"rwkv\.blocks\.([0-9]{1,18})\.", name))}
    if max(blocks) >= len(blocks):
        raise CheckpointError(
            f"{where} holds {len(blocks)} layers, and one is numbered {max(blocks)}; the numbers are 0, 1, 2, ..."
        )
    return sizes | {"num_hidden_layers": max(blocks) + 1}
