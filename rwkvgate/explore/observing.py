"""Who looks at the gates of a model: their names, and a recording that leaves no trace of itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from torch import Tensor
from transformers import PreTrainedModel

from rwkvgate.explore.reading import model_lock
from rwkvgate.gate.config import PRESETS
from rwkvgate.gate.families import OUTPUT, family_of
from rwkvgate.gate.layer import GatedShift
from rwkvgate.gate.patch import gates_of


class GateName(NamedTuple):
    """Where a gate sits: its layer, from 1, and "output", or "time" or "channel" before that mixer."""

    layer: int
    place: str

    @property
    def label(self) -> str:
        """The layer's number, and the place where it is not the usual one."""
        return str(self.layer) if self.place == "output" else f"{self.layer} {self.place}"


def require_gates(model: PreTrainedModel) -> list[GatedShift]:
    """The model's gates, first to last.

    Raises:
        ValueError: the model carries none; the message lists the arms that have one.
    """
    gates = gates_of(model)
    if not gates:
        raise ValueError(f"the model carries no gate to record; arms with one: {', '.join(PRESETS)}")
    return gates


def gate_names(model: PreTrainedModel) -> tuple[GateName, ...]:
    """Layer and place of every gate, in the order of a trace."""
    family = family_of(model)
    return tuple(
        GateName(number, "output" if place == OUTPUT else place.removeprefix(f"{OUTPUT}_"))
        for number, block in enumerate(family.blocks(model), start=1)
        for place in family.placed(block)
    )


@contextmanager
def observing(model: PreTrainedModel, keep: Callable[[int, Tensor], None]) -> Iterator[None]:
    """Inside the block, `keep` is called with each gate's number from 0 and its values, (batch, time, channel), in
    every pass. The passes are unchanged, and the recording is taken off again whatever happens.

    Raises:
        ValueError: the model carries no gate.
    """
    gates = require_gates(model)
    with model_lock(model):
        before = [gate.observer for gate in gates]
        try:
            for number, gate in enumerate(gates):
                gate.observer = lambda values, number=number: keep(number, values)  # type: ignore[misc]
            yield
        finally:
            for gate, observer in zip(gates, before, strict=True):
                gate.observer = observer
