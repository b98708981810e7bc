"""A tiny network as others publish it, in their names and files, and spoilt in every way."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

BIN, SAFE = "pytorch_model.bin", "model.safetensors"


def shards(weights: dict[str, torch.Tensor], write: Any, stem: str, suffix: str) -> dict[str, Any]:
    """Two shards and their index."""
    names = sorted(weights)
    halves = {f"{stem}-0000{i + 1}-of-00002{suffix}": names[i::2] for i in range(2)}
    index = {"metadata": {}, "weight_map": {name: file for file, half in halves.items() for name in half}}
    files: dict[str, Any] = {file: write({name: weights[name] for name in half}) for file, half in halves.items()}
    return files | {f"{stem}{suffix}.index.json": index}


def same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], dtype: torch.dtype) -> bool:
    """Whether two networks have the same weights, once those wanted are of the dtype."""
    return found.keys() == wanted.keys() and all(torch.equal(found[name], x.to(dtype)) for name, x in wanted.items())


def to_blink(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights by BlinkDL's names."""
    short = {"rwkv.": "", "embeddings": "emb", "attention": "att", "feed_forward": "ffn", "pre_ln": "ln0"}
    made = {}
    for name, tensor in weights.items():
        for long, brief in short.items():
            name = name.replace(long, brief)
        made[name] = tensor
    return made


def to_fla(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights by flash-linear-attention's names and in its shapes."""
    plain = {"receptance": "r_proj.linear", "key": "k_proj.linear", "value": "v_proj.linear", "gate": "g_proj.linear"}
    made = {
        "model.embeddings.weight": weights["rwkv.embeddings.weight"],
        "model.norm.weight": weights["rwkv.ln_out.weight"],
        "model.norm.bias": weights["rwkv.ln_out.bias"],
        "lm_head.weight": weights["head.weight"],
    }
    for layer in range(3):
        ours, theirs = f"rwkv.blocks.{layer}.", f"model.layers.{layer}."
        for norm, name in {"pre_ln": "pre_norm", "ln1": "attn_norm", "ln2": "ffn_norm"}.items():
            for kind in ("weight", "bias"):
                if (tensor := weights.get(f"{ours}{norm}.{kind}")) is not None:
                    made[f"{theirs}{name}.{kind}"] = tensor
        att = {name.removeprefix(f"{ours}attention."): x for name, x in weights.items() if f"{ours}attention." in name}
        ffn = {name.removeprefix(f"{ours}feed_forward."): x for name, x in weights.items() if f"{ours}feed" in name}
        w, k, v, r, g = att["time_maa_w1"].t().chunk(5)
        second_w, second_k, second_v, second_r, second_g = att["time_maa_w2"]
        made |= {f"{theirs}attn.{name}.weight": att[f"{long}.weight"] for long, name in plain.items()} | {
            f"{theirs}attn.x_proj.0.mu": att["time_maa_x"].flatten(),
            f"{theirs}attn.x_proj.0.linear.weight": torch.cat([r, w, k, v, g]),
            f"{theirs}attn.x_proj.2.weight": torch.cat([second_r, second_w, second_k, second_v, second_g]).t(),
            f"{theirs}attn.x_bias": torch.stack([att[f"time_maa_{mix}"].flatten() for mix in "rwkvg"]),
            f"{theirs}attn.w_proj.linear.lora.0.weight": att["time_decay_w1"].t(),
            f"{theirs}attn.w_proj.linear.lora.2.weight": att["time_decay_w2"].t(),
            f"{theirs}attn.w_proj.linear.lora.2.bias": att["time_decay"].flatten(),
            f"{theirs}attn.bonus": att["time_faaaa"],
            f"{theirs}attn.g_norm.weight": att["ln_x.weight"],
            f"{theirs}attn.g_norm.bias": att["ln_x.bias"],
            f"{theirs}attn.o_proj.weight": att["output.weight"],
            f"{theirs}ffn.key.mu": ffn["time_maa_k"].flatten(),
            f"{theirs}ffn.key.linear.weight": ffn["key.weight"],
            f"{theirs}ffn.receptance.mu": ffn["time_maa_r"].flatten(),
            f"{theirs}ffn.receptance.linear.weight": ffn["receptance.weight"],
            f"{theirs}ffn.value.weight": ffn["value.weight"],
        }
    return {name: tensor.contiguous() for name, tensor in made.items()}


class Payload:
    """Pickles as a call."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def damage(kind: str, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights, spoilt."""
    name = "rwkv.blocks.1.attention.time_faaaa"
    changed = dict(weights)
    if kind == "missing":
        del changed[name]
    elif kind == "unknown":
        changed["rwkv.blocks.1.attention.time_first"] = torch.zeros(3)
    elif kind == "shape":
        changed[name] = weights[name].flatten()
    elif kind == "headless":
        del changed["head.weight"]
    elif kind == "gate":
        changed["rwkv.blocks.0.gated_shift.gate.weight"] = torch.zeros(3)
    elif kind == "values":
        changed[name] = weights[name] * float("nan")
    elif kind == "anchor":
        del changed["rwkv.blocks.0.attention.time_maa_w2"]
    elif kind == "layer":
        changed = {key: x for key, x in weights.items() if ".blocks.2." not in key}
    elif kind == "vocabulary":
        changed["rwkv.embeddings.weight"] = weights["rwkv.embeddings.weight"][:20].clone()
    elif kind == "foreign":
        changed = {f"transformer.{key}": x for key, x in weights.items()}
    return changed


MESSAGES = {
    "missing": "missing: rwkv.blocks.1.attention.time_faaaa",
    "unknown": "not known: rwkv.blocks.1.attention.time_first",
    "shape": "of another shape: rwkv.blocks.1.attention.time_faaaa (32,) instead of (4, 8)",
    "headless": "missing: head.weight",
    "gate": "holds a gate (rwkv.blocks.0.gated_shift.gate.weight)",
    "values": "infinite or not numbers: rwkv.blocks.1.attention.time_faaaa (torch.bfloat16)",
    "anchor": "no complete RWKV-6: it lacks rwkv.blocks.0.attention.time_maa_w2",
    "layer": "it states num_hidden_layers 3 (2)",
    "vocabulary": "it states vocab_size 37 (20)",
    "foreign": "none of rwkv.embeddings.weight, emb.weight and model.embeddings.weight",
}
