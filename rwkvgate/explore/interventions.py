"""Interventions on the gate: clamp its values in a forward pass or in generation, then restore them exactly.

A clamped value enters the gate's own formula in place of the computed one: a routing gate at 0 leaves the hidden state
as it is and at 1 replaces it; an attention gate keeps its weights over the past states and changes their sum.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from numbers import Real
from operator import index
from threading import get_ident
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from rwkvgate.explore.observing import require_gates
from rwkvgate.explore.reading import model_lock
from rwkvgate.gate.families import family_of
from rwkvgate.gate.gating import Gated
from rwkvgate.gate.layer import GatedShift, wide_values
from rwkvgate.gate.past import Past, gather_rows

Selection: TypeAlias = int | slice | Sequence[int] | Sequence[bool] | Tensor
"""Channels or tokens: one, a slice, several, or a mask that is true at those chosen; counted from 0."""
LARGEST = 2**62
"""Largest position, far below the end of the integers in which positions are counted."""


@dataclass(frozen=True)
class Clamp:
    """A change of gate values: `value` in their place or `scale` times them; see `clamp_gate` for the arguments.

    >>> str(Clamp(layer=2, value=0.0))
    'layer 2 clamped to 0.00'
    """

    layer: int | Sequence[int] | None = None
    value: float | Tensor | None = None
    scale: float | None = None
    channels: Selection | None = None
    tokens: Selection | None = None

    def __str__(self) -> str:
        where = "every layer" if self.layer is None else f"layer {self.layer}"
        if isinstance(self.value, Tensor):
            return f"{where} clamped to values of shape {tuple(self.value.shape)}"
        return f"{where} " + (f"clamped to {self.value:.2f}" if self.scale is None else f"scaled by {self.scale:.2f}")

    def chosen(self, past: Past) -> Tensor:
        """Boolean mask of the values that change, broadcasting to (batch, time, channel)."""
        chosen = torch.ones(1, 1, 1, dtype=torch.bool, device=past.now.device)
        if self.tokens is not None:
            chosen = chosen & _among(past.positions(), self.tokens).unsqueeze(-1)  # (batch, time, 1)
        if self.channels is not None:
            channels = torch.arange(past.now.shape[-1], device=past.now.device)
            chosen = chosen & _among(channels, self.channels)  # (batch, time, channel)
        if isinstance(self.value, Tensor) and self.value.dim() > 1:
            chosen = chosen & (past.positions() < self.value.shape[-2]).unsqueeze(-1)
        return chosen

    def changed(self, values: Tensor, past: Past) -> Tensor:
        """Gate values (batch, time, channel) after the change."""
        if self.value is None:
            return values * self.scale
        if not isinstance(self.value, Tensor):
            return torch.full_like(values, self.value)
        given, batch = self.value.to(values), len(values)
        if given.dim() == 1:
            return given
        if given.dim() == 3 and len(given) != batch:
            raise ValueError(f"value is of {len(given)} texts; the model reads {batch}")
        positions = past.positions().clamp(max=given.shape[-2] - 1)  # (batch or 1, time)
        return gather_rows(given.expand(batch, -1, -1), positions.expand(batch, -1))

    def check(self, model: PreTrainedModel) -> Clamp:
        """The same clamp with its channels and tokens as slices or lists, once the model can have them.

        Raises:
            TypeError, ValueError: as `clamp_gate` says.
        """
        if (self.value is None) == (self.scale is None):
            raise ValueError(f"value is {self.value} and scale {self.scale}; exactly one of them must be given")
        width, given = family_of(model).channels(model), isinstance(self.value, Tensor)
        for name, number in (("value", None if given else self.value), ("scale", self.scale)):
            if number is not None and not isinstance(number, Real):
                raise TypeError(f"{name} is a {type(number).__name__}; it must be a number")
        if isinstance(self.value, Tensor):
            _check_values(self.value, width)
        elif self.value is not None and not 0 <= self.value <= 1:
            raise ValueError(f"value is {self.value}; a gate's value must be 0 to 1")
        if self.scale is not None and not (self.scale >= 0 and math.isfinite(self.scale)):
            raise ValueError(f"scale is {self.scale}; it must be a finite number of at least 0")
        channels = _checked("channels", self.channels, width)
        return replace(self, channels=channels, tokens=_checked("tokens", self.tokens, None))


@dataclass(frozen=True, eq=False)
class Override:
    """A gate's override: applies its clamps in order, the outermost first, in the thread that it was made in."""

    clamps: tuple[Clamp, ...]
    thread: int = field(default_factory=get_ident)

    def __call__(self, gated: Gated, past: Past) -> Gated:
        """The gate's output with the clamped values; all other values keep their bits."""
        # A backward pass computes checkpointed blocks anew, in threads of its own.
        if get_ident() != self.thread and torch._C._current_graph_task_id() == -1:
            return gated
        own = wide_values(gated, past.now)  # (batch, time, channel)
        values, touched = own, torch.zeros((), dtype=torch.bool, device=own.device)
        for clamp in self.clamps:
            chosen = clamp.chosen(past)
            values = torch.where(chosen, clamp.changed(values, past), values)
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
    value: float | Tensor | None = None,
    *,
    scale: float | None = None,
    channels: Selection | None = None,
    tokens: Selection | None = None,
) -> Iterator[None]:
    """Context manager that clamps gates to `value`, or multiplies them by `scale`, and restores them at its end.

    `value=0.0` ablates a gate. Clamps nest: an inner one changes what an outer one left. A clamp holds in the thread
    that enters the block: another thread that records or clamps the same model waits for its end, and another
    thread's plain forward pass, or `generate`, is not clamped. A copy that is made inside is a model without clamps.

    Args:
        layer: from 1, one or several; None is every layer. A layer with two gates has both clamped.
        value: the gate's value, 0 to 1: a number; one for each channel, (channel,); or one for each token too, by its
            position in the document, (token, channel) or, with one row a text, (batch, token, channel). Tokens after
            its end keep their own.
        scale: a factor of at least 0; the product may exceed 1.
        channels: from 0: one, several, a slice, or a mask; None is all.
        tokens: positions in the document from 0, padding not counted, generated tokens included; None is all. A mask
            chooses the positions at which it is true, and none after its end.

    Raises:
        TypeError: a layer, channel or position is not an integer, or a value or scale not a number.
        ValueError: the model has no gate; both or neither of `value` and `scale` are given; a layer, channel,
            position, value or scale is out of range; values are of another width. In a pass: of another batch.

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
    own = clamp.check(model)  # a copy: the same clamp may be applied twice
    gates = _gates(model, clamp.layer)
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
    if isinstance(layer, bool):
        raise ValueError(f"layer is {layer}; the model has layers 1 to {len(blocks)}")
    layers = list(range(1, len(blocks) + 1)) if layer is None else _integers("layer", layer)
    if not layers:
        raise ValueError(f"layer is {layer!r}; it must name at least one, or be None for all")
    for number in layers:
        if not 1 <= number <= len(blocks):
            raise ValueError(f"layer is {number!r}; the model has layers 1 to {len(blocks)}")
    return [gate for number in dict.fromkeys(layers) for gate in family.gates(blocks[number - 1])]


def _check_values(values: Tensor, channels: int) -> None:
    shape = tuple(values.shape)
    if not 1 <= len(shape) <= 3 or shape[-1] != channels or not values.numel():
        wanted = f"({channels},), (token, {channels}) or (batch, token, {channels})"
        raise ValueError(f"value is of shape {shape}; it must be a number or {wanted}")
    if not bool(((values >= 0) & (values <= 1)).all()):
        raise ValueError(f"value holds {values.min():g} to {values.max():g}; a gate's values must be 0 to 1")


def _checked(name: str, selection: Selection | None, size: int | None) -> slice | list[int] | None:
    """A selection as a slice or a list, once each of its numbers is from 0 to below `size`."""
    if selection is None:
        return None
    if isinstance(selection, range) and selection.step > 0:
        selection = slice(selection.start, selection.stop, selection.step)
    most = LARGEST if size is None else size - 1
    if isinstance(selection, slice):
        start, stop, step = (None if x is None else _integers(name, x)[0] for x in _parts(selection))
        if any(x is not None and not 0 <= x <= LARGEST for x in (start, stop)) or not 1 <= (step or 1) <= LARGEST:
            raise ValueError(f"{name} is {selection}; its ends must be at least 0 and its step at least 1")
        return slice(start, stop, step)
    masked = _masked(name, selection, size)
    numbers = _integers(name, selection) if masked is None else masked  # once: an iterator is read once
    for number in numbers:
        if not 0 <= number <= most:
            raise ValueError(
                f"{name} includes {number}; allowed are " + ("at least 0" if size is None else f"0 to {most}")
            )
    return numbers


def _parts(selection: slice) -> tuple[Any, Any, Any]:
    return selection.start, selection.stop, selection.step


def _masked(name: str, selection: Any, size: int | None) -> list[int] | None:
    """The places where a mask is true; None where the selection is no mask."""
    values = selection.tolist() if hasattr(selection, "tolist") else selection
    if isinstance(values, bool):
        raise TypeError(f"{name} is {values}; it must be a number, several, a slice or a mask")
    if not isinstance(values, Sequence) or not values or not all(isinstance(x, bool | np.bool_) for x in values):
        return None
    if size is not None and len(values) != size:
        raise ValueError(f"the mask of {name} has {len(values)} entries; it must have {size}")
    return [place for place, chosen in enumerate(values) if chosen]


def _among(numbers: Tensor, selection: Any) -> Tensor:
    if isinstance(selection, slice):
        start = selection.start or 0
        inside = (numbers >= start) & ((numbers - start) % (selection.step or 1) == 0)
        return inside if selection.stop is None else inside & (numbers < selection.stop)
    return torch.isin(numbers, torch.tensor(selection, dtype=numbers.dtype, device=numbers.device))


def _integers(name: str, given: Any) -> list[int]:
    """One integer of Python, numpy or torch, or several, as a list.

    Raises:
        TypeError: one of them is not an integer.
    """
    values = given.tolist() if hasattr(given, "tolist") else given
    several = values if isinstance(values, Iterable) and not isinstance(values, str) else [values]
    numbers = []
    for value in several:
        if isinstance(value, bool | np.bool_) or not hasattr(value, "__index__"):
            raise TypeError(f"{name} includes {value!r} ({type(value).__name__}); it must hold whole numbers")
        numbers.append(index(value))
    return numbers
