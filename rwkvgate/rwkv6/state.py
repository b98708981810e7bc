"""The recurrent state of an RWKV-6 network: of fixed size, whatever the length of the text."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils._pytree import SequenceKey, register_pytree_node

from rwkvgate.rwkv6.configuration import Rwkv6Config
from rwkvgate.rwkv6.files import write_file
from rwkvgate.rwkv6.layouts import some


@dataclass
class LayerState:
    """State of one block after the last token.

    Attributes:
        attention_shift: time mixing's input at that token, (batch, channel).
        wkv: the operator's state, (batch, head, key channel, value channel), float32 or float64.
        feed_forward_shift: channel mixing's input at that token, (batch, channel).
        gate: the rows of the block's gated shifts, (batch, rows, channel); None in an unpatched block.
    """

    attention_shift: Tensor
    wkv: Tensor
    feed_forward_shift: Tensor
    gate: Tensor | None = None


class Rwkv6State:
    """The states of all layers, passed as `past_key_values`. A forward pass never changes the state it was given.

    Args:
        layers: the layers' states, first to last.
        seen: number of real tokens of each sequence so far, (batch,), for gates that know their position; default: 0.

    Example:
        >>> from rwkvgate import Rwkv6Config, Rwkv6ForCausalLM
        >>> model = Rwkv6ForCausalLM(Rwkv6Config(vocab_size=50, hidden_size=64, num_hidden_layers=2)).eval()
        >>> ids = torch.tensor([[3, 1, 4, 1, 5]])
        >>> state = model(ids[:, :3], use_cache=True).past_key_values
        >>> rest = model(ids[:, 3:], past_key_values=state).logits
        >>> torch.allclose(rest, model(ids).logits[:, 3:], atol=1e-5)
        True
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
        """Number of sequences; 0 in a state without layers."""
        return self.layers[0].wkv.shape[0] if self.layers and self.layers[0].wkv.dim() else 0

    @property
    def requires_grad(self) -> bool:
        """Whether a gradient flows through the state to what it was computed from."""
        return any(x.requires_grad for layer in self.layers for x in _tensors(layer))

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Number of tokens so far, padding aside, of the sequence that has most: where `generate` goes on."""
        return int(self.seen.max()) if self.seen.shape[0] else 0

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Replace the sequences by those at `beam_idx`, in that order: beam search calls this."""
        chosen = self.select(beam_idx)
        self.layers, self.seen = chosen.layers, chosen.seen

    def select(self, rows: Tensor | Sequence[int]) -> Rwkv6State:
        """A new state of the sequences at `rows`, in that order; one may come more than once.

        Raises:
            ValueError: rows that are no integers, such as a mask.
        """
        chosen = torch.as_tensor(rows if isinstance(rows, Tensor) else list(rows))
        if len(chosen) and chosen.dtype not in (torch.int32, torch.int64):
            raise ValueError(f"rows are {chosen.dtype}; they must be integers")
        return self._map(lambda x: x.index_select(0, chosen.to(x.device, torch.long)))

    def split(self, sizes: Sequence[int]) -> list[Rwkv6State]:
        """States of consecutive parts of the batch.

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
            ValueError: no state, or states that differ in layers or in their gates.
        """
        if not states:
            raise ValueError("there is no state; at least one is needed")
        rows = {tuple(0 if x.gate is None else x.gate.shape[1] for x in state.layers) for state in states}
        if len(rows) > 1:
            listed = [
                f"{len(of)} layers, {sum(map(bool, of))} with a gate" + (f" of {max(of)} rows" if any(of) else "")
                for of in sorted(rows)
            ]
            raise ValueError(f"the states differ: {', '.join(listed)}")
        layers = [
            LayerState(*(torch.cat(parts) for parts in zip(*map(_tensors, layer), strict=True)))
            for layer in zip(*(state.layers for state in states), strict=True)
        ]
        return Rwkv6State(layers, torch.cat([state.seen for state in states]))

    def detach(self) -> Rwkv6State:
        """The same values, detached from the graph of gradients."""
        return self._map(Tensor.detach)

    def to(self, device: torch.device | str) -> Rwkv6State:
        """The state on another device."""
        return self._map(lambda x: x.to(device))

    def save(self, path: str | Path) -> None:
        """Write the state atomically as safetensors, to resume a generation elsewhere."""
        tensors = {
            f"{i}.{name}": value.detach().contiguous().clone()
            for i, layer in enumerate(self.layers)
            for name, value in vars(layer).items()
            if value is not None
        }
        with write_file(path) as fresh:
            save_file(tensors | {"seen": self.seen.contiguous()}, str(fresh))

    @classmethod
    def load(cls, path: str | Path) -> Rwkv6State:
        """Read a file that `save` wrote.

        Raises:
            ValueError: there is no such file, or it holds something else.
        """
        try:
            tensors = load_file(str(path))
        except (SafetensorError, OSError, ValueError) as error:
            raise ValueError(f"the state {str(path)!r} cannot be read: {error}") from None
        seen = tensors.pop("seen", None)
        layers: defaultdict[str, dict[str, Tensor]] = defaultdict(dict)
        for key, tensor in tensors.items():
            number, _, name = key.partition(".")
            layers[number][name] = tensor
        try:
            read = [LayerState(**layers.pop(str(i))) for i in range(len(layers))]
        except (KeyError, TypeError):
            raise ValueError(f"{str(path)!r} holds no state: its tensors are {some(tensors) or 'none'}") from None
        if read and seen is None:
            raise ValueError(f"the state {str(path)!r} lacks seen, the number of tokens that each sequence has read")
        return cls(read, seen)

    def _map(self, change: Callable[[Tensor], Tensor]) -> Rwkv6State:
        layers = (LayerState(*map(change, _tensors(layer))) for layer in self.layers)
        return Rwkv6State(layers, change(self.seen))


def _tensors(layer: LayerState) -> list[Tensor]:
    """The layer's tensors in the order of the fields, without the gate's where there is none."""
    return [x for x in vars(layer).values() if x is not None]


def _parts(state: Rwkv6State) -> tuple[list[Any], None]:
    return [[[*vars(layer).values()] for layer in state.layers], state.seen], None


def _named_parts(state: Rwkv6State) -> tuple[list[tuple[SequenceKey, Any]], None]:
    return [(SequenceKey(i), part) for i, part in enumerate(_parts(state)[0])], None


# So torch.export takes a state apart into its tensors, and puts it together again.
register_pytree_node(
    Rwkv6State,
    _parts,
    lambda parts, _: Rwkv6State((LayerState(*layer) for layer in parts[0]), parts[1]),
    serialized_type_name="rwkvgate.Rwkv6State",
    flatten_with_keys_fn=_named_parts,
)


def check_state(state: Any, batch: int, config: Rwkv6Config, gate_rows: Sequence[int]) -> None:
    """Refuse what is no state of a model and batch.

    Args:
        config: of the model.
        gate_rows: by block the rows that its gate carries; 0 for one without.

    Raises:
        ValueError: names the first difference.
    """
    channels = config.hidden_size
    if not isinstance(state, Rwkv6State):
        raise ValueError(f"past_key_values is a {type(state).__name__}; it must be a Rwkv6State")
    if len(state.layers) != len(gate_rows) or state.batch_size != batch:
        raise ValueError(
            f"the state holds {len(state.layers)} layers of {state.batch_size} sequences; "
            f"the call needs {len(gate_rows)} layers of {batch}"
        )
    for i, (rows, layer) in enumerate(zip(gate_rows, state.layers, strict=True)):
        found = layer.attention_shift.shape[-1] if layer.attention_shift.dim() else 1
        if found != channels:
            raise ValueError(f"layer {i} of the state has {found} channels, but the model has {channels}")
        carried = 0 if layer.gate is None else layer.gate.shape[1] if layer.gate.dim() == 3 else rows
        if carried != rows:
            raise ValueError(f"layer {i} of the state carries {_gate(carried)}, but the model has {_gate(rows)}")
        shapes = {
            "attention_shift": (batch, channels),
            "wkv": (batch, config.num_attention_heads, config.head_size, config.head_size),
            "feed_forward_shift": (batch, channels),
            "gate": (batch, rows, channels),
        }
        for name, x in vars(layer).items():
            if x is not None and (x.shape != shapes[name] or not x.is_floating_point()):
                raise ValueError(
                    f"{name} of layer {i} of the state is {tuple(x.shape)} of {x.dtype}; it must be {shapes[name]}, "
                    "floating-point"
                )
    if state.seen.shape != (batch,) or state.seen.dtype != torch.int64:
        raise ValueError(
            f"seen of the state is {tuple(state.seen.shape)} of {state.seen.dtype}; it must be {(batch,)} of "
            "torch.int64"
        )
    if state.seen.device.type == "cpu" and not torch.compiler.is_compiling() and bool((state.seen < 0).any()):
        raise ValueError(f"seen of the state is {state.seen.tolist()}; it must be 0 or more")


def _gate(rows: int) -> str:
    return f"a gate of {rows} row{'s' * (rows > 1)}" if rows else "no gate"
