"""Names of a model's gates, and observers that receive their values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import get_ident
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rwkvgate.explore.reading import model_lock, read
from rwkvgate.gate.config import PRESETS
from rwkvgate.gate.families import OUTPUT, family_of
from rwkvgate.gate.layer import GatedShift
from rwkvgate.gate.patch import gates_of
from rwkvgate.metrics.inference import PREFIX_ID, device_of


class GateName(NamedTuple):
    """A gate's layer, from 1, and its place: "output" of the block, or before its "time" or "channel" mixing."""

    layer: int
    place: str

    @property
    def label(self) -> str:
        """The layer's number, followed by the place unless that is "output"."""
        return str(self.layer) if self.place == "output" else f"{self.layer} {self.place}"


def require_gates(model: PreTrainedModel) -> list[GatedShift]:
    """The model's gates, in the order of the layers.

    Raises:
        ValueError: the model has none; the message lists the presets that have one.
    """
    gates = gates_of(model)
    if not gates:
        raise ValueError(f"the model carries no gate to record; arms with one: {', '.join(PRESETS)}")
    return gates


def gate_names(model: PreTrainedModel) -> tuple[GateName, ...]:
    """Layer and place of every gate, in the order of the layers."""
    family = family_of(model)
    return tuple(
        GateName(number, "output" if place == OUTPUT else place.removeprefix(f"{OUTPUT}_"))
        for number, block in enumerate(family.blocks(model), start=1)
        for place in family.placed(block)
    )


@contextmanager
def observing(model: PreTrainedModel, keep: Callable[[int, Tensor], None]) -> Iterator[None]:
    """Context manager in which every forward pass calls `keep` with each gate's number, from 0, and its values
    (batch, time, channel). The outputs of the passes do not change. Passes of other threads are not observed.

    Raises:
        ValueError: the model has no gate.
    """
    gates = require_gates(model)
    with model_lock(model):
        before, thread = [gate.observer for gate in gates], get_ident()

        def observer_of(number: int) -> Callable[[Tensor], None]:
            return lambda values: keep(number, values) if get_ident() == thread else None

        try:
            for number, gate in enumerate(gates):
                gate.observer = observer_of(number)
            yield
        finally:
            for gate, observer in zip(gates, before, strict=True):
                gate.observer = observer


def gates_over(model: PreTrainedModel, ids: Sequence[int]) -> Tensor:
    """Every gate over a text's tokens, read after the prefix token: (gate, time, channel), float32, on the CPU.

    Raises:
        ValueError: the model has no gate.
    """
    windows: list[list[Tensor]] = [[] for _ in require_gates(model)]
    with observing(model, lambda gate, values: windows[gate].append(values[0].float().cpu())):
        read(model, torch.tensor([[PREFIX_ID, *ids]], device=device_of(model)))
    return torch.stack([torch.cat(parts)[1:] for parts in windows])
