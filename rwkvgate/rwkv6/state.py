"""What an RWKV-6 network carries from one token to the next, a fixed size whatever the length."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rwkvgate.rwkv6.files import write_file


@dataclass
class LayerState:
    """State of one block after the last token.

    `attention_shift` and `feed_forward_shift` are the mixers' inputs at that token, (batch, channel);
    `wkv` is (batch, head, key channel, value channel), float32 or float64; `gate` is what the block's gated
    shifts carry, (batch, kept rows, channel), and None in an unpatched block.
    """

    attention_shift: Tensor
    wkv: Tensor
    feed_forward_shift: Tensor
    gate: Tensor | None = None


class Rwkv6State:
    """The states of all layers. A forward pass never changes the state it was given.

    It is passed as `past_key_values`, and stands in for transformers' caches in `generate`.

    Args:
        layers: the layers' states, first to last.
        seen: real tokens of each sequence so far, (batch,), for gates that know their position; default: none.
    """

    is_compileable = False

    def __init__(self, layers: Iterable[LayerState], seen: Tensor | None = None) -> None:
        self.layers = list(layers)
        if seen is None:
            device = self.layers[0].wkv.device if self.layers else None
            seen = torch.zeros(self.batch_size, dtype=torch.long, device=device)
        self.seen = seen

    @property
    def batch_size(self) -> int:
        """Sequences in the state; 0 in a state without layers."""
        return self.layers[0].wkv.shape[0] if self.layers else 0

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Always 0: `generate` cuts this many tokens off its input, and a state holds no tokens."""
        return 0

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Keep the rows `beam_idx`, in that order, in place: what beam search asks of a cache."""
        chosen = self.select(beam_idx)
        self.layers, self.seen = chosen.layers, chosen.seen

    def select(self, rows: Tensor | Sequence[int]) -> Rwkv6State:
        """A new state of the rows named, in that order; a row may come more than once."""
        return self._map(lambda x: x.index_select(0, torch.as_tensor(rows, dtype=torch.long, device=x.device)))

    def split(self, sizes: Sequence[int]) -> list[Rwkv6State]:
        """The batch in consecutive parts.

        Raises:
            ValueError: the sizes do not add up to the batch.
        """
        if sum(sizes) != self.batch_size or min(sizes, default=1) < 0:
            raise ValueError(f"sizes {list(sizes)} do not add up to the batch, {self.batch_size}")
        edges = torch.tensor([0, *sizes]).cumsum(0).tolist()
        return [self.select(range(a, b)) for a, b in pairwise(edges)]

    @staticmethod
    def concatenate(states: Sequence[Rwkv6State]) -> Rwkv6State:
        """One state of several batches, in order.

        Raises:
            ValueError: no state, or states that differ in layers or in whether they carry a gate.
        """
        if not states:
            raise ValueError("there is no state; at least one is needed")
        kinds = {tuple(0 if x.gate is None else x.gate.shape[1] for x in state.layers) for state in states}
        if len(kinds) > 1:
            found = ", ".join(
                f"{len(rows)} layers, {sum(map(bool, rows))} with a gate"
                + (f" of {max(rows)} rows" if any(rows) else "")
                for rows in sorted(kinds)
            )
            raise ValueError(f"the states differ: {found}")
        layers = []
        for parts in zip(*(state.layers for state in states), strict=True):
            columns = {f.name: [getattr(part, f.name) for part in parts] for f in fields(LayerState)}
            if columns["gate"][0] is None:
                del columns["gate"]
            layers.append(LayerState(**{name: torch.cat(column) for name, column in columns.items()}))
        return Rwkv6State(layers, torch.cat([state.seen for state in states]))

    def detach(self) -> Rwkv6State:
        """The same values without their history of gradients."""
        return self._map(Tensor.detach)

    def to(self, device: torch.device | str) -> Rwkv6State:
        """The state on another device."""
        return self._map(lambda x: x.to(device))

    def save(self, path: str | Path) -> None:
        """Write the state as safetensors, whole or not at all, to resume a generation elsewhere."""
        tensors = {
            f"{i}.{f.name}": value.detach().contiguous().clone()
            for i, layer in enumerate(self.layers)
            for f in fields(layer)
            if (value := getattr(layer, f.name)) is not None
        }
        with write_file(path) as fresh:
            save_file(tensors | {"seen": self.seen.contiguous()}, str(fresh))

    @classmethod
    def load(cls, path: str | Path) -> Rwkv6State:
        """Read what `save` wrote."""
        tensors = load_file(str(path))
        seen = tensors.pop("seen", None)
        count = 1 + max(int(name.partition(".")[0]) for name in tensors)
        names = [f.name for f in fields(LayerState)]
        layers = (
            LayerState(**{name: tensors[f"{i}.{name}"] for name in names if f"{i}.{name}" in tensors})
            for i in range(count)
        )
        return cls(layers, seen)

    def _map(self, change: Callable[[Tensor], Tensor]) -> Rwkv6State:
        def changed(layer: LayerState) -> LayerState:
            values = {f.name: getattr(layer, f.name) for f in fields(layer)}
            return LayerState(**{name: x if x is None else change(x) for name, x in values.items()})

        return Rwkv6State([changed(layer) for layer in self.layers], change(self.seen))
