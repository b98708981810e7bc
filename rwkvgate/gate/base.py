"""Telling whether a gate is on the base it was trained on, and the base's norms that were trained with it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rwkvgate.gate.families import family_of
from rwkvgate.rwkv6.checkpoints import loaded_commit
from rwkvgate.settings import SettingsError

PROBED = 48
"""Base parameters of which a number each is kept."""
ROUNDING = 2.0**-7
"""Relative difference that a change of type, float32 to bfloat16 at the most, may make."""
SMALLEST = 1e-6
"""Absolute difference that float16 may make of numbers near zero."""


def base_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The model's parameters without its gates', by name."""
    family = family_of(model)
    own = {id(p) for block in family.blocks(model) for gate in family.gates(block) for p in gate.parameters()}
    return {name: p for name, p in model.named_parameters() if id(p) not in own}


def norm_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The weights and biases of the base's LayerNorms and GroupNorms, by name."""
    norms = [module for module in model.modules() if isinstance(module, (nn.LayerNorm, nn.GroupNorm))]
    chosen = {id(p) for module in norms for p in module.parameters(recurse=False)}
    return {name: p for name, p in base_parameters(model).items() if id(p) in chosen}


def probe_base(model: nn.Module, but: set[str] | None = None) -> dict[str, float]:
    """One number of each of some of the base's parameters, spread over all of them: enough to tell bases apart.

    Args:
        but: names to leave out.
    """
    found = [(name, p) for name, p in base_parameters(model).items() if name not in (but or set())]
    chosen = found[:: max(1, len(found) // PROBED)]
    return {name: _one_of(p) for name, p in chosen if not p.is_meta}


def check_base(model: nn.Module, probe: dict[str, float], where: str) -> None:
    """Refuse a base whose weights are not those that were probed, but for rounding to another type.

    Raises:
        SettingsError: a number differs, or the base lacks the parameter.
    """
    own = base_parameters(model)
    for name, wanted in probe.items():
        if name not in own:
            raise SettingsError(f"{where} is for another base: the model has no parameter {name}")
        if own[name].is_meta:
            continue
        found = _one_of(own[name])
        if not abs(found - wanted) <= ROUNDING * abs(wanted) + SMALLEST:
            raise SettingsError(
                f"{where} is for another base: {name} holds {found:.6g} where its base has {wanted:.6g}. "
                "Load the base that it names, or give check=False to put it on this one all the same"
            )


def base_name(model: Any) -> tuple[str | None, str | None]:
    """The hub's name of the base and its whole commit; None for what is not known, or lies on this machine."""
    name = str(getattr(model.config, "_name_or_path", "") or "")
    shared = re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not Path(name).exists()
    return (name if shared else None), loaded_commit(model)


class TrainedNorms:
    """The norms of a base replaced by those that were trained with a gate, and how to put them back."""

    def __init__(self, model: nn.Module, trained: dict[str, Tensor]) -> None:
        self.before: dict[str, Tensor] = {}
        own = norm_parameters(model)
        with torch.no_grad():
            for name, tensor in trained.items():
                self.before[name] = own[name].data
                own[name].data = tensor.to(own[name].device, torch.promote_types(tensor.dtype, own[name].dtype))

    def restore(self, model: nn.Module) -> None:
        """Put the base's own norms back, the very same tensors."""
        own = norm_parameters(model)
        for name, tensor in self.before.items():
            own[name].data = tensor


def _one_of(parameter: Tensor) -> float:
    flat = parameter.detach().reshape(-1)
    return float(flat[flat.numel() // 2].double())
