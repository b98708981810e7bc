"""Putting a gate on a model and taking it off, and choosing which parameters training may change."""

from __future__ import annotations

from typing import Any, Literal, TypeVar, get_args

from transformers import PreTrainedModel

from rwkvgate.gate.config import SITES, GateConfig
from rwkvgate.gate.families import family_of, home
from rwkvgate.gate.layer import GatedShift
from rwkvgate.gate.validation import SettingsError, unknown_name
from rwkvgate.rwkv6.precision import wide_dtype

Model = TypeVar("Model", bound=PreTrainedModel)

Scope = Literal["all", "gate-and-norms"]
NORMS = "_norms_with_gate"
"""The attribute in which `load_gate` keeps the base's own norms where the gate came with trained ones."""


def blocks_of(model: PreTrainedModel) -> list[Any]:
    """The model's blocks, first to last.

    Raises:
        TypeError: the model is of no known family.
    """
    return list(family_of(model).blocks(model))


def gates_of(model: PreTrainedModel) -> list[GatedShift]:
    """The gates of a patched model, first layer to last; empty for an unpatched one.

    Example:
        >>> from rwkvgate import GateConfig, Rwkv6Config, Rwkv6ForCausalLM, patch
        >>> model = Rwkv6ForCausalLM(Rwkv6Config(vocab_size=9, hidden_size=8, num_hidden_layers=2, head_size=4))
        >>> len(gates_of(model)), len(gates_of(patch(model, GateConfig())))
        (0, 2)
    """
    family = family_of(model)
    return [gate for block in family.blocks(model) for gate in family.gates(block)]


def is_patched(model: PreTrainedModel) -> bool:
    """Whether the model carries gates."""
    return bool(gates_of(model))


def patch(model: Model, config: GateConfig) -> Model:
    """Put a gate on every block, at the config's site, in place, and return the model.

    The base's own parameters are not touched. The gate's are torch's default for a linear layer, drawn from the global
    random state (the paper names no initialisation). They live on each block's device, in float32, or in float64 where
    the base is.

    Args:
        model: an RWKV-6 of this package, or of another family in `rwkvgate.gate.families`.
        config: which gate: `GateConfig.preset("enhanced")` is the paper's.

    Raises:
        TypeError: a model of no known family, or not a GateConfig.
        ValueError: the model is patched already, or in a state that its family cannot gate. Nothing is changed.
        SettingsError: the config does not fit the model's width, or its family's blocks. Nothing is changed.

    Example:
        >>> from rwkvgate import GateConfig, Rwkv6Config, Rwkv6ForCausalLM, patch, unpatch
        >>> sizes = {"vocab_size": 50, "hidden_size": 64, "num_hidden_layers": 2}
        >>> model = Rwkv6ForCausalLM(Rwkv6Config(**sizes))
        >>> before = model.num_parameters()
        >>> _ = patch(model, GateConfig.preset("enhanced"))
        >>> model.num_parameters() - before  # per layer a 64 x 64 matrix, its bias and a LayerNorm
        8576
        >>> model.rwkv.blocks[0].gated_shift.gating
        Sigmoid(
          (linear): Linear(in_features=64, out_features=64, bias=True)
        )
        >>> unpatch(model).num_parameters() == before
        True
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
    # All are made before the first is attached, so that an error changes nothing.
    gates = [[GatedShift(config, channels, heads).to(**home(block)) for _ in places] for block in blocks]
    for block, of_block in zip(blocks, gates, strict=True):
        for place, gate in zip(places, of_block, strict=True):
            family.attach(block, place, gate.train(block.training))
    return model


def unpatch(model: Model) -> Model:
    """Take the gates off, in place, and return the model: the base as it was, bit for bit.

    Norms that came with a loaded gate go with it. What training changed in the base stays changed.

    Raises:
        ValueError: the model is not patched.

    Example:
        >>> import torch
        >>> from rwkvgate import GateConfig, Rwkv6Config, Rwkv6ForCausalLM, patch, unpatch
        >>> sizes = {"vocab_size": 50, "hidden_size": 64, "num_hidden_layers": 2}
        >>> model = Rwkv6ForCausalLM(Rwkv6Config(**sizes)).eval()
        >>> ids = torch.tensor([[3, 1, 4]])  # (batch, time)
        >>> before = model(ids).logits
        >>> gated = patch(model, GateConfig.preset("enhanced"))(ids).logits
        >>> torch.equal(gated, before), torch.equal(unpatch(model)(ids).logits, before)
        (False, True)
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
    """The config of a patched model's gates, with every size filled in.

    Raises:
        ValueError: the model is not patched.

    Example:
        >>> from rwkvgate import GateConfig, Rwkv6Config, Rwkv6ForCausalLM, patch
        >>> model = Rwkv6ForCausalLM(Rwkv6Config(vocab_size=9, hidden_size=8, num_hidden_layers=2, head_size=4))
        >>> gate_config(patch(model, GateConfig.preset("low-rank"))).rank
        8
    """
    gates = gates_of(model)
    if not gates:
        raise ValueError("the model is not patched")
    return gates[0].config


def select_trainable(model: PreTrainedModel, scope: Scope) -> list[str]:
    """Let training change the parameters in `scope`, freeze the others, and return the names of the former.

    "all" is every parameter. "gate-and-norms" is the gates or LoRA adapters, and every LayerNorm and GroupNorm: a
    model without a gate still trains its norms, as the control of the frozen-base experiment.

    Trainable parameters become float32 at least: a gradient scaler refuses float16 parameters, and a step of 1e-4
    would vanish in them.

    Raises:
        SettingsError: another scope.

    Example:
        >>> from rwkvgate import GateConfig, Rwkv6Config, Rwkv6ForCausalLM, patch
        >>> sizes = {"vocab_size": 50, "hidden_size": 64, "num_hidden_layers": 1}
        >>> model = patch(Rwkv6ForCausalLM(Rwkv6Config(**sizes)), GateConfig.preset("no-layer-norm"))
        >>> [name for name in select_trainable(model, "gate-and-norms") if "gate" in name]
        ['rwkv.blocks.0.gated_shift.gating.linear.weight', 'rwkv.blocks.0.gated_shift.gating.linear.bias']
        >>> model.rwkv.embeddings.weight.requires_grad
        False
    """
    if scope not in get_args(Scope):
        raise unknown_name("scope", scope, get_args(Scope))
    family = family_of(model)
    modules = [module for module in model.modules() if isinstance(module, GatedShift) or family.is_norm(module)]
    chosen = {id(p) for module in modules for p in module.parameters()}
    chosen |= {id(p) for name, p in model.named_parameters() if ".lora_" in name}
    for parameter in model.parameters():
        parameter.requires_grad_(scope == "all" or id(parameter) in chosen)
        if parameter.requires_grad:
            parameter.data = parameter.data.to(wide_dtype(parameter.dtype))
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]
