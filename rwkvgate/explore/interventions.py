"""Clamping the gate: other values in place of its own, in a forward pass or in generation, and back exactly.

What a clamped gate lets in is its value times what it gates, by its own formula: a routing gate at 0 leaves the
hidden state as it is and at 1 replaces it; an attention gate keeps the shares that it gives to the past states and
changes their sum.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import index

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rwkvgate.explore.observing import require_gates
from rwkvgate.explore.reading import model_lock
from rwkvgate.gate.families import family_of
from rwkvgate.gate.gating import Gated
from rwkvgate.gate.layer import GatedShift, wide_values
from rwkvgate.gate.past import Past

Selection = int | slice | Sequence[int]
"""Which channels or tokens: one, a slice, or a list of them, counted from 0."""


@dataclass(frozen=True, eq=False)
class Clamp:
    """One change of a gate's values where `channels` and `tokens` meet; None is all of them.

    `tokens` are positions in the document: real tokens before it, whatever the padding or the pass.
    """

    value: float | None
    scale: float | None
    channels: Selection | None = None
    tokens: Selection | None = None

    def chosen(self, past: Past) -> Tensor:
        """Where it applies, broadcasting to (batch, time, channel)."""
        chosen = torch.ones(1, 1, 1, dtype=torch.bool, device=past.now.device)
        if self.tokens is not None:
            chosen = chosen & _among(past.positions(), self.tokens).unsqueeze(-1)
        if self.channels is not None:
            channels = torch.arange(past.now.shape[-1], device=past.now.device)
            chosen = chosen & _among(channels, self.channels)
        return chosen

    def changed(self, values: Tensor) -> Tensor:
        """The values that it puts in place of `values`."""
        return torch.full_like(values, self.value) if self.scale is None else values * self.scale


@dataclass(frozen=True, eq=False)
class Clamps:
    """What stands as a gate's override: its clamps, the outermost first."""

    clamps: tuple[Clamp, ...]

    def __call__(self, gated: Gated, past: Past) -> Gated:
        """The gate's output with the clamped values; bits of other tokens and channels stay as they are."""
        own = wide_values(gated, past.now)
        values, touched = own, torch.zeros((), dtype=torch.bool, device=own.device)
        for clamp in self.clamps:
            chosen = clamp.chosen(past)
            values = torch.where(chosen, clamp.changed(values), values)
            touched = touched | chosen
        if gated.values is None:
            return Gated(values, gated.moved)
        # The factor of such a gate is 1 and its values are inside what it moves: only their ratio can be applied.
        ratio = values / own.clamp_min(torch.finfo(own.dtype).tiny)
        return Gated(torch.where(touched, ratio, torch.ones_like(ratio)), gated.moved, values)


@contextmanager
def clamp_gate(
    model: PreTrainedModel,
    layer: int | Sequence[int] | None = None,
    value: float | None = None,
    *,
    scale: float | None = None,
    channels: Selection | None = None,
    tokens: Selection | None = None,
) -> Iterator[None]:
    """Inside the block, gates have the value given, or their own times `scale`; afterwards all is as before.

    Clamps nest: an inner one sees what an outer one left. `value=0.0` ablates. The model's lock is held inside, so
    that another thread that records or clamps the same model waits.

    Args:
        layer: from 1, one or several; None is every layer. A layer with two gates has both clamped.
        value: the gate's value, 0 to 1.
        scale: a factor of at least 0; the product may leave [0, 1] and is not cut.
        channels: from 0; None is all.
        tokens: positions in the document from 0, also those that generation has yet to reach; None is all.

    Raises:
        TypeError: a layer, channel or position that is no whole number.
        ValueError: the model carries no gate; not one of `value` and `scale`; a layer, channel, position, value or
            scale out of range.
    """
    require_gates(model)
    clamp = _checked(Clamp(value, scale, channels, tokens), model)
    gates = [gate for number in _layers(model, layer) for gate in number]
    with model_lock(model):
        try:
            for gate in gates:
                gate.override = Clamps((*_clamps(gate), clamp))
            yield
        finally:
            for gate in gates:
                left = tuple(other for other in _clamps(gate) if other is not clamp)
                gate.override = Clamps(left) if left else None


def _clamps(gate: GatedShift) -> tuple[Clamp, ...]:
    return gate.override.clamps if isinstance(gate.override, Clamps) else ()


def _layers(model: PreTrainedModel, layer: int | Sequence[int] | None) -> list[list[GatedShift]]:
    """The gates of the layers named, layer by layer."""
    family = family_of(model)
    blocks = list(family.blocks(model))
    wanted = list(range(1, len(blocks) + 1)) if layer is None else _numbers(layer)
    for number in wanted:
        if isinstance(number, bool) or not 1 <= number <= len(blocks):
            raise ValueError(f"layer is {number!r}; the model has layers 1 to {len(blocks)}")
    return [family.gates(blocks[number - 1]) for number in dict.fromkeys(wanted)]


def _checked(clamp: Clamp, model: PreTrainedModel) -> Clamp:
    if (clamp.value is None) == (clamp.scale is None):
        raise ValueError(f"value is {clamp.value} and scale {clamp.scale}; exactly one of them must be given")
    if clamp.value is not None and not 0 <= clamp.value <= 1:
        raise ValueError(f"value is {clamp.value}; a gate's value must be 0 to 1")
    if clamp.scale is not None and not (clamp.scale >= 0 and math.isfinite(clamp.scale)):
        raise ValueError(f"scale is {clamp.scale}; it must be a finite number of at least 0")
    _check_selection("channels", clamp.channels, family_of(model).channels(model))
    _check_selection("tokens", clamp.tokens, None)
    return clamp


def _check_selection(name: str, selection: Selection | None, size: int | None) -> None:
    if selection is None:
        return
    if isinstance(selection, slice):
        ends = [x for x in (selection.start, selection.stop) if x is not None]
        if any(x < 0 for x in ends) or (selection.step or 1) < 1:
            raise ValueError(f"{name} is {selection}; its ends must be at least 0 and its step at least 1")
        return
    for number in _numbers(selection):
        if number < 0 or (size is not None and number >= size):
            allowed = "at least 0" if size is None else f"0 to {size - 1}"
            raise ValueError(f"{name} holds {number}; allowed are {allowed}")


def _among(numbers: Tensor, selection: Selection) -> Tensor:
    if isinstance(selection, slice):
        start = selection.start or 0
        inside = (numbers >= start) & ((numbers - start) % (selection.step or 1) == 0)
        return inside if selection.stop is None else inside & (numbers < selection.stop)
    return torch.isin(numbers, torch.tensor(_numbers(selection), dtype=numbers.dtype, device=numbers.device))


def _numbers(given: int | Sequence[int]) -> list[int]:
    """One whole number, of Python or numpy, or several, as a list.

    Raises:
        TypeError: something else is among them.
    """
    several = [given] if hasattr(given, "__index__") and not hasattr(given, "__len__") else given
    return [number if isinstance(number, bool) else index(number) for number in several]  # type: ignore[union-attr]
