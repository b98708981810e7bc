"""The fingerprint by which a saved gate knows its base, and the base's norms that were trained with a gate."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rwkvgate.gate.families import family_of
from rwkvgate.gate.validation import SettingsError
from rwkvgate.rwkv6.checkpoints import loaded_commit

ROUNDING = 2.0**-7
"""Largest relative difference that a change of type makes, float32 to bfloat16 at most."""
SMALLEST = 1e-6
"""Largest absolute difference that float16 makes to numbers near zero."""


def base_parameters(model: Any) -> dict[str, nn.Parameter]:
    """The parameters of the model's embeddings and blocks, without gates and head, by name.

    So the names are the same whether the model has a head or not.
    """
    family = family_of(model)
    own = {id(p) for block in family.blocks(model) for gate in family.gates(block) for p in gate.parameters()}
    return {name: p for name, p in model.base_model.named_parameters() if id(p) not in own}


def norm_parameters(model: Any) -> dict[str, nn.Parameter]:
    """The weights and biases of the base's normalisations, by name."""
    family = family_of(model)
    chosen = {id(p) for m in model.modules() if family.is_norm(m) for p in m.parameters(recurse=False)}
    return {name: p for name, p in base_parameters(model).items() if id(p) in chosen}


def probe_base(model: nn.Module) -> dict[str, float]:
    """The fingerprint: the middle element of each of the base's parameters that is in memory."""
    held = {name: p.detach() for name, p in base_parameters(model).items() if not p.is_meta}
    return {name: p.reshape(-1)[p.numel() // 2].item() for name, p in held.items()}


def check_base(model: nn.Module, probe: object, where: str) -> None:
    """Refuse a base whose weights differ from the fingerprint by more than rounding to another type.

    Args:
        probe: what `probe_base` returned for the gate's own base.
        where: what an error calls the gate.

    Raises:
        SettingsError: an element differs, the base lacks the parameter, or the probe is no fingerprint.
    """
    # Compared, not asked whether they are finite: JSON's whole numbers have no bounds.
    if (
        not isinstance(probe, Mapping)
        or not probe
        or not all(isinstance(x, (int, float)) and abs(x) <= sys.float_info.max for x in probe.values())
    ):
        raise SettingsError(f"{where} has a damaged record: base.probe is no table of numbers")
    if missing := probe.keys() - base_parameters(model).keys():
        raise SettingsError(f"{where} is for another base: the model has no parameter {min(missing)}")
    own = probe_base(model)
    for name, expected in probe.items():
        if name in own and not abs(own[name] - expected) <= ROUNDING * abs(expected) + SMALLEST:
            raise SettingsError(
                f"{where} is for another base: {name} holds {own[name]:.6g} where its base has {expected:.6g}. "
                "Load the base that it names, or give check=False to put it on this one all the same"
            )


def base_name(model: Any) -> tuple[str | None, str | None]:
    """The base's name on the hub and its full commit; None, None where it did not come from the hub."""
    name, commit = str(getattr(model.config, "_name_or_path", "") or ""), loaded_commit(model)
    is_shared = commit and re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not Path(name).exists()
    return (name, commit) if is_shared else (None, None)


class TrainedNorms:
    """Replaces the norms of a base by those that were trained with a gate, and puts them back."""

    def __init__(self, model: nn.Module, trained: dict[str, Tensor]) -> None:
        own = norm_parameters(model)
        fresh = {
            name: tensor.to(own[name].device, torch.promote_types(tensor.dtype, own[name].dtype))
            for name, tensor in trained.items()
        }
        self.before = {name: own[name].data for name in fresh}
        self.dtypes = {name: tensor.dtype for name, tensor in fresh.items()}
        for name, tensor in fresh.items():
            own[name].data = tensor

    def restore(self, model: nn.Module) -> None:
        """Put the base's own norms back: the very same tensors, unless the model has been moved or cast since."""
        own = norm_parameters(model)
        for name, tensor in self.before.items():
            cast = own[name].dtype != self.dtypes[name]
            own[name].data = tensor.to(own[name].device, own[name].dtype if cast else tensor.dtype)
