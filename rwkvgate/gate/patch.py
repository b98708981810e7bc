"""Putting a gate on a model, taking it off, and saying what training may change."""

from __future__ import annotations

from typing import Any, Literal, TypeVar

import torch
from transformers import PreTrainedModel

from rwkvgate.gate.config import SITES, GateConfig
from rwkvgate.gate.families import family_of, home
from rwkvgate.gate.layer import GatedShift
from rwkvgate.gate.validation import SettingsError

Model = TypeVar("Model", bound=PreTrainedModel)

NORMS = "_norms_with_gate"
"""The attribute under which `load_gate` leaves the base's own norms where it put trained ones in their place."""


def blocks_of(model: PreTrainedModel) -> list[Any]:
    """The model's blocks, first to last.

    Raises:
        TypeError: the model is of no known family.
    """
    return list(family_of(model).blocks(model))


def gates_of(model: PreTrainedModel) -> list[GatedShift]:
    """The gates of a patched model, first layer to last; empty for an unpatched one."""
    family = family_of(model)
    return [gate for block in family.blocks(model) for gate in family.gates(block)]


def is_patched(model: PreTrainedModel) -> bool:
    """Whether the model carries gates."""
    return bool(gates_of(model))


def patch(model: Model, config: GateConfig) -> Model:
    """Put a gate on every block, where the config says, in place, and return the model.

    New weights are torch's default for a linear layer, drawn from the global random state (the paper
    names no initialisation). They live on each block's device, in float32, or float64 where the base
    has it. The base's own parameters are not touched.

    Args:
        model: an RWKV-6 of this package, or of another family in `rwkvgate.gate.families`.

    Raises:
        TypeError: a model of no known family, or not a GateConfig.
        ValueError: the model is patched already, or in a state that its family cannot gate. Nothing is changed.
        SettingsError: the config does not fit the model's width, or its family's blocks. Nothing is changed.
    """
    if not isinstance(config, GateConfig):
        raise TypeError(f"the config is a {type(config).__name__}; it must be a GateConfig")
    family = family_of(model)
    if is_patched(model):
        raise ValueError("the model is patched already; unpatch(model) first")
    places = SITES[config.site]
    if not set(places) <= set(family.places):
        allowed = [site for site, inside in SITES.items() if set(inside) <= set(family.places)]
        raise SettingsError(f"site is {config.site!r}; on a {family.name} model it must be {' or '.join(allowed)}")
    family.check(model)
    blocks = list(family.blocks(model))
    channels, heads = family.channels(model), family.heads(model)
    gates = [[GatedShift(config, channels, heads).to(**home(block)) for _ in places] for block in blocks]
    for block, several in zip(blocks, gates, strict=True):
        for place, gate in zip(places, several, strict=True):
            family.attach(block, place, gate.train(block.training))
    return model


def unpatch(model: Model) -> Model:
    """Take the gates off, in place, and return the model: the base exactly as it was.

    Norms that came with a loaded gate go with it. What training changed of the base stays changed.

    Raises:
        ValueError: the model is not patched.
    """
    if not is_patched(model):
        raise ValueError("the model is not patched")
    family = family_of(model)
    for block in family.blocks(model):
        family.detach(block)
    if hasattr(model, NORMS):
        getattr(model, NORMS).restore(model)
        delattr(model, NORMS)
    return model


def gate_config(model: PreTrainedModel) -> GateConfig:
    """The config of a patched model's gates, sizes filled in.

    Raises:
        ValueError: the model is not patched.
    """
    gates = gates_of(model)
    if not gates:
        raise ValueError("the model is not patched")
    return gates[0].config


def merge(model: PreTrainedModel) -> None:
    """Refuse: a gate cannot be folded into the base's weights.

    Raises:
        TypeError: always. An adapter such as LoRA adds a product of matrices to a weight, and the sum is a weight
            again. A gate multiplies a past hidden state by a nonlinear function of the present one, and no weight
            of the base reads two tokens at once.
    """
    raise TypeError(
        "a gate cannot be merged into the base: it multiplies a past hidden state by a nonlinear function of the "
        "present one, and no weight of the base does that. Keep it as an adapter: save_gate(model, folder)"
    )


def select_trainable(model: PreTrainedModel, scope: Literal["all", "gate-and-norms"]) -> list[str]:
    """Let training change what `scope` names and freeze the rest; the names that may change.

    "all" is every parameter. "gate-and-norms" is the gates or adapters and every LayerNorm and GroupNorm,
    so that an arm without a gate is left with its norms: the control of the frozen-base experiment.

    What may change becomes float32 at least: a gradient scaler refuses float16 parameters, and a step of
    1e-4 would vanish in them.
    """
    family = family_of(model)
    chosen = [module for module in model.modules() if isinstance(module, GatedShift) or family.is_norm(module)]
    kept = {id(p) for module in chosen for p in module.parameters()}
    kept |= {id(p) for name, p in model.named_parameters() if ".lora_" in name}
    for parameter in model.parameters():
        parameter.requires_grad_(scope == "all" or id(parameter) in kept)
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]
