"""Telling whether a gate is on the base it was trained on, and the base's norms that were trained with it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rwkvgate.gate.families import family_of
from rwkvgate.gate.validation import SettingsError
from rwkvgate.rwkv6.checkpoints import loaded_commit

ROUNDING = 2.0**-7
"""Relative difference that a change of type, float32 to bfloat16 at the most, may make."""
SMALLEST = 1e-6
"""Absolute difference that float16 may make of numbers near zero."""


def base_parameters(model: Any) -> dict[str, nn.Parameter]:
    """The parameters of the model's blocks and embeddings without its gates', by name; a head is left out.

    So names are the same whether the model has a head or not.
    """
    family = family_of(model)
    own = {id(p) for block in family.blocks(model) for gate in family.gates(block) for p in gate.parameters()}
    return {name: p for name, p in model.base_model.named_parameters() if id(p) not in own}


def norm_parameters(model: Any) -> dict[str, nn.Parameter]:
    """The weights and biases of the base's normalisations, by name."""
    family = family_of(model)
    chosen = {id(p) for m in model.modules() if family.is_norm(m) for p in m.parameters(recurse=False)}
    return {name: p for name, p in base_parameters(model).items() if id(p) in chosen}


def probe_base(model: nn.Module, but: set[str] | None = None) -> dict[str, float]:
    """One number of each of the base's parameters: enough to tell bases apart.

    Args:
        but: names to leave out.
    """
    own = base_parameters(model)
    return _numbers({name: p for name, p in own.items() if name not in (but or set())})


def check_base(model: nn.Module, probe: object, where: str) -> None:
    """Refuse a base whose weights are not those that were probed, but for rounding to another type.

    Raises:
        SettingsError: a number differs, the base lacks the parameter, or the probe is none.
    """
    if not isinstance(probe, Mapping) or not all(
        isinstance(x, (int, float)) and math.isfinite(x) for x in probe.values()
    ):
        raise SettingsError(f"{where} has a damaged record: base.probe is no table of numbers")
    own = base_parameters(model)
    for name in probe:
        if name not in own:
            raise SettingsError(f"{where} is for another base: the model has no parameter {name}")
    found = _numbers({name: own[name] for name in probe})
    for name, number in found.items():
        wanted = float(probe[name])
        if not abs(number - wanted) <= ROUNDING * abs(wanted) + SMALLEST:
            raise SettingsError(
                f"{where} is for another base: {name} holds {number:.6g} where its base has {wanted:.6g}. "
                "Load the base that it names, or give check=False to put it on this one all the same"
            )


def base_name(model: Any) -> tuple[str | None, str | None]:
    """The hub's name of the base and its whole commit; None where it did not come from the hub."""
    name, commit = str(getattr(model.config, "_name_or_path", "") or ""), loaded_commit(model)
    shared = commit and re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not Path(name).exists()
    return (name, commit) if shared else (None, None)


class TrainedNorms:
    """The norms of a base replaced by those that were trained with a gate, and how to put them back."""

    def __init__(self, model: nn.Module, trained: dict[str, Tensor]) -> None:
        own = norm_parameters(model)
        fresh = {
            name: tensor.to(own[name].device, torch.promote_types(tensor.dtype, own[name].dtype))
            for name, tensor in trained.items()
        }
        self.before = {name: own[name].data for name in fresh}
        self.kinds = {name: tensor.dtype for name, tensor in fresh.items()}
        for name, tensor in fresh.items():
            own[name].data = tensor

    def restore(self, model: nn.Module) -> None:
        """Put the base's own norms back: the very same tensors, unless the model has been moved or cast since."""
        own = norm_parameters(model)
        for name, tensor in self.before.items():
            cast = own[name].dtype != self.kinds[name]
            own[name].data = tensor.to(own[name].device, own[name].dtype if cast else tensor.dtype)


def _numbers(parameters: Mapping[str, Tensor]) -> dict[str, float]:
    """The middle number of each parameter that is in memory."""
    held = {name: p for name, p in parameters.items() if not p.is_meta}
    if not held:
        return {}
    middle = [p.detach().reshape(-1)[p.numel() // 2].to("cpu", torch.float64, non_blocking=True) for p in held.values()]
    if any(p.is_cuda for p in held.values()):
        torch.cuda.synchronize()
    return dict(zip(held, torch.stack(middle).tolist(), strict=True))
