"""Interventions on the gate: clamp its values in a forward pass or in generation, then restore them exactly.

A clamped value enters the gate's own formula in place of the computed one: a routing gate at 0 leaves the hidden state
as it is and at 1 replaces it; an attention gate keeps its weights over the past states and changes their sum.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
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
"""Channels or tokens: one, a slice, or a list of them, counted from 0."""


@dataclass(frozen=True)
class Clamp:
    """A change of gate values: `value` in their place or `scale` times them; see `clamp_gate` for the arguments.

    >>> str(Clamp(layer=2, value=0.0))
    'layer 2 clamped to 0.00'
    """

    layer: int | Sequence[int] | None = None
    value: float | None = None
    scale: float | None = None
    channels: Selection | None = None
    tokens: Selection | None = None

    def __str__(self) -> str:
        where = "every layer" if self.layer is None else f"layer {self.layer}"
        return f"{where} " + (f"clamped to {self.value:.2f}" if self.scale is None else f"scaled by {self.scale:.2f}")

    def chosen(self, past: Past) -> Tensor:
        """Boolean mask of the values that change, broadcasting to (batch, time, channel)."""
        chosen = torch.ones(1, 1, 1, dtype=torch.bool, device=past.now.device)
        if self.tokens is not None:
            chosen = chosen & _among(past.positions(), self.tokens).unsqueeze(-1)  # (batch, time, 1)
        if self.channels is not None:
            channels = torch.arange(past.now.shape[-1], device=past.now.device)
            chosen = chosen & _among(channels, self.channels)  # (batch, time, channel)
        return chosen

    def changed(self, values: Tensor) -> Tensor:
        """Gate values (batch, time, channel) after the change."""
        return torch.full_like(values, self.value) if self.scale is None else values * self.scale

    def check(self, model: PreTrainedModel) -> None:
        """Refuse a value, scale, channel or token that the model cannot have.

        Raises:
            TypeError, ValueError: as `clamp_gate` says.
        """
        if (self.value is None) == (self.scale is None):
            raise ValueError(f"value is {self.value} and scale {self.scale}; exactly one of them must be given")
        if self.value is not None and not 0 <= self.value <= 1:
            raise ValueError(f"value is {self.value}; a gate's value must be 0 to 1")
        if self.scale is not None and not (self.scale >= 0 and math.isfinite(self.scale)):
            raise ValueError(f"scale is {self.scale}; it must be a finite number of at least 0")
        _check_selection("channels", self.channels, family_of(model).channels(model))
        _check_selection("tokens", self.tokens, None)


@dataclass(frozen=True, eq=False)
class Override:
    """A gate's override: applies its clamps in order, the outermost first."""

    clamps: tuple[Clamp, ...]

    def __call__(self, gated: Gated, past: Past) -> Gated:
        """The gate's output with the clamped values; all other values keep their bits."""
        own = wide_values(gated, past.now)  # (batch, time, channel)
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
    """Context manager that clamps gates to `value`, or multiplies them by `scale`, and restores them at its end.

    `value=0.0` ablates a gate. Clamps nest: an inner one changes what an outer one left. The block owns the model's
    lock, so another thread that records or clamps the same model waits.

    Args:
        layer: from 1, one or several; None is every layer. A layer with two gates has both clamped.
        value: the gate's value, 0 to 1.
        scale: a factor of at least 0; the product may exceed 1.
        channels: from 0; None is all.
        tokens: positions in the document from 0, padding not counted, generated tokens included; None is all.

    Raises:
        TypeError: a layer, channel or position is not an integer.
        ValueError: the model has no gate; both or neither of `value` and `scale` are given; a layer, channel,
            position, value or scale is out of range.

    Example:
        >>> import torch
        >>> from rwkvgate import GateConfig, Rwkv6Config, Rwkv6ForCausalLM, patch
        >>> from rwkvgate.explore import record_gates
        >>> config = Rwkv6Config(vocab_size=64, hidden_size=32, num_hidden_layers=2, head_size=16)
        >>> model = patch(Rwkv6ForCausalLM(config), GateConfig.preset("enhanced"))
        >>> with clamp_gate(model, layer=2, value=0.0):
        ...     trace = record_gates(model, torch.tensor([[5, 7, 11]]))
        >>> [bool((gate == 0).all()) for gate in trace.values]
        [False, True]
    """
    with applied(model, Clamp(layer, value, scale, channels, tokens)):
        yield


@contextmanager
def applied(model: PreTrainedModel, clamp: Clamp | None) -> Iterator[None]:
    """Context manager of a `Clamp`; with None it only takes the model's lock."""
    if clamp is None:
        with model_lock(model):
            yield
        return
    require_gates(model)
    clamp.check(model)
    gates, own = _gates(model, clamp.layer), replace(clamp)  # a copy: the same clamp may be applied twice
    with model_lock(model):
        try:
            for gate in gates:
                gate.override = Override((*_clamps(gate), own))
            yield
        finally:
            for gate in gates:
                left = tuple(other for other in _clamps(gate) if other is not own)
                gate.override = Override(left) if left else None


def _clamps(gate: GatedShift) -> tuple[Clamp, ...]:
    return gate.override.clamps if isinstance(gate.override, Override) else ()


def _gates(model: PreTrainedModel, layer: int | Sequence[int] | None) -> list[GatedShift]:
    """The gates of the layers, layer by layer."""
    family = family_of(model)
    blocks = list(family.blocks(model))
    layers = list(range(1, len(blocks) + 1)) if layer is None else _integers(layer)
    for number in layers:
        if isinstance(number, bool) or not 1 <= number <= len(blocks):
            raise ValueError(f"layer is {number!r}; the model has layers 1 to {len(blocks)}")
    return [gate for number in dict.fromkeys(layers) for gate in family.gates(blocks[number - 1])]


def _check_selection(name: str, selection: Selection | None, size: int | None) -> None:
    if selection is None:
        return
    if isinstance(selection, slice):
        ends = [x for x in (selection.start, selection.stop) if x is not None]
        if any(x < 0 for x in ends) or (selection.step or 1) < 1:
            raise ValueError(f"{name} is {selection}; its ends must be at least 0 and its step at least 1")
        return
    for number in _integers(selection):
        if number < 0 or (size is not None and number >= size):
            allowed = "at least 0" if size is None else f"0 to {size - 1}"
            raise ValueError(f"{name} includes {number}; allowed are {allowed}")


def _among(numbers: Tensor, selection: Selection) -> Tensor:
    if isinstance(selection, slice):
        start = selection.start or 0
        inside = (numbers >= start) & ((numbers - start) % (selection.step or 1) == 0)
        return inside if selection.stop is None else inside & (numbers < selection.stop)
    return torch.isin(numbers, torch.tensor(_integers(selection), dtype=numbers.dtype, device=numbers.device))


def _integers(given: int | Sequence[int]) -> list[int]:
    """One integer of Python, numpy or torch, or several, as a list.

    Raises:
        TypeError: one of them is not an integer.
    """
    several = [given] if hasattr(given, "__index__") and not hasattr(given, "__len__") else given
    return [number if isinstance(number, bool) else index(number) for number in several]  # type: ignore[union-attr]
