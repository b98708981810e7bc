"""Putting a gate on a model, taking it off, and saying what training may change."""

from __future__ import annotations

from typing import Any, Literal, TypeVar

import torch
from torch import nn
from transformers import PreTrainedModel

from rwkvgate.gate.config import GateConfig
from rwkvgate.gate.layer import GatedShift
from rwkvgate.rwkv6.modeling import Rwkv6Block, Rwkv6PreTrainedModel

Model = TypeVar("Model", bound=PreTrainedModel)


def blocks_of(model: PreTrainedModel) -> list[Rwkv6Block]:
    """The model's blocks, first to last.

    Raises:
        TypeError: the model is no RWKV-6 of this package.
    """
    if not isinstance(model, Rwkv6PreTrainedModel):
        raise TypeError(f"the model is a {type(model).__name__}; it must be a Rwkv6Model or Rwkv6ForCausalLM")
    return list(model.base_model.blocks)


def gates_of(model: PreTrainedModel) -> list[GatedShift]:
    """The gates of a patched model, first layer to last; empty for an unpatched one."""
    return [block.gated_shift for block in blocks_of(model) if isinstance(block.gated_shift, GatedShift)]


def is_patched(model: PreTrainedModel) -> bool:
    """Whether the model carries gates."""
    return bool(gates_of(model))


def patch(model: Model, config: GateConfig) -> Model:
    """Put a gate on every block's output, in place, and return the model.

    New weights are torch's default for a linear layer, drawn from the global random state (the paper
    names no initialisation). They live on each block's device, in float32, or float64 where the base
    has it. The base's own parameters are not touched.

    Raises:
        TypeError: not an RWKV-6 of this package, or not a GateConfig.
        ValueError: the model is patched already. Nothing is changed.
    """
    if not isinstance(config, GateConfig):
        raise TypeError(f"the config is a {type(config).__name__}; it must be a GateConfig")
    if is_patched(model):
        raise ValueError("the model is patched already; unpatch(model) first")
    blocks = blocks_of(model)
    gates = [GatedShift(config, model.config.hidden_size).to(**_home(block)) for block in blocks]
    for block, gate in zip(blocks, gates, strict=True):
        block.gated_shift = gate.train(block.training)
    return model


def _home(block: nn.Module) -> dict[str, Any]:
    parameter = next(block.parameters())
    return {"device": parameter.device, "dtype": torch.promote_types(parameter.dtype, torch.float32)}


def unpatch(model: Model) -> Model:
    """Take the gates off, in place, and return the model: the base exactly as it was.

    Raises:
        ValueError: the model is not patched.
    """
    if not is_patched(model):
        raise ValueError("the model is not patched")
    for block in blocks_of(model):
        block.gated_shift = None
    return model


def gate_config(model: PreTrainedModel) -> GateConfig:
    """The config of a patched model's gates.

    Raises:
        ValueError: the model is not patched.
    """
    gates = gates_of(model)
    if not gates:
        raise ValueError("the model is not patched")
    return gates[0].config


def select_trainable(model: PreTrainedModel, scope: Literal["all", "gate-and-norms"]) -> list[str]:
    """Let training change what `scope` names and freeze the rest; the names that may change.

    "all" is every parameter. "gate-and-norms" is the gates or adapters and every LayerNorm and GroupNorm,
    so that an arm without a gate is left with its norms: the control of the frozen-base experiment.

    What may change becomes float32 at least: a gradient scaler refuses float16 parameters, and a step of
    1e-4 would vanish in them.
    """
    norms = (nn.LayerNorm, nn.GroupNorm)
    chosen = [module for module in model.modules() if isinstance(module, (GatedShift, *norms))]
    kept = {id(p) for module in chosen for p in module.parameters()}
    kept |= {id(p) for name, p in model.named_parameters() if ".lora_" in name}
    for parameter in model.parameters():
        parameter.requires_grad_(scope == "all" or id(parameter) in kept)
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]
