"""How the blocks of a model family are reached, and where a gate's state lives in it.

`patch` asks one small object for each family. RWKV-6 of this package knows gates itself: its blocks have places
for them, and its state carries what they keep. Other families' blocks know nothing of gates: a forward hook on
each block puts the gated output in place of the block's own, and the gate's state travels in the family's cache,
so that generation, and whatever else hands the cache on, works. docs/families.md writes one for an outside model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import MutableMapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from rwkvgate.gate.layer import GatedShift
from rwkvgate.rwkv6.modeling import Rwkv6PreTrainedModel
from rwkvgate.rwkv6.token_shift import TokenShift, real_tokens

OUTPUT = "gated_shift"
"""The place of a gate on a block's output, and its name among the block's modules."""
KEY = "gated_shift"
"""The entry of a family's cache under which a gate keeps its state."""


class Family(ABC):
    """A model family whose blocks can carry gates.

    Attributes:
        name: what errors and saved adapters call it.
        places: places in a block where a gate can sit, in the order in which the block comes to them.
    """

    name: str
    places: tuple[str, ...] = (OUTPUT,)

    @abstractmethod
    def recognises(self, model: nn.Module) -> bool:
        """Whether the model is of this family."""

    @abstractmethod
    def blocks(self, model: nn.Module) -> Sequence[nn.Module]:
        """The model's blocks, first to last."""

    @abstractmethod
    def attach(self, block: nn.Module, place: str, gate: GatedShift) -> None:
        """Put a gate in a place that is free."""

    @abstractmethod
    def detach(self, block: nn.Module) -> None:
        """Take every gate off, leaving the block as it was."""

    def check(self, model: nn.Module) -> None:
        """Refuse a model in a state in which a gate would compute something else than it should.

        Raises:
            ValueError: it is in such a state; the message says how to leave it.
        """
        return None

    def channels(self, model: Any) -> int:
        """Width of the hidden state."""
        return int(model.config.hidden_size)

    def heads(self, model: Any) -> int:
        """Heads of a block; 1 where the family has none."""
        return 1

    def is_norm(self, module: nn.Module) -> bool:
        """Whether the module normalises hidden states."""
        return isinstance(module, (nn.LayerNorm, nn.GroupNorm))

    def placed(self, block: nn.Module) -> dict[str, GatedShift]:
        """The block's gates by place, in the order in which it comes to them."""
        found = {place: getattr(block, place, None) for place in self.places}
        return {place: gate for place, gate in found.items() if isinstance(gate, GatedShift)}

    def gates(self, block: nn.Module) -> list[GatedShift]:
        """The block's gates, in the order in which it comes to them."""
        return list(self.placed(block).values())


class NativeFamily(Family):
    """RWKV-6 of this package."""

    name = "rwkv6"
    places = ("gated_shift_time", "gated_shift_channel", OUTPUT)

    def recognises(self, model: nn.Module) -> bool:
        """Whether it is a Rwkv6Model or Rwkv6ForCausalLM."""
        return isinstance(model, Rwkv6PreTrainedModel)

    def blocks(self, model: Any) -> Sequence[nn.Module]:
        """The model's blocks, first to last."""
        return list(model.base_model.blocks)

    def heads(self, model: Any) -> int:
        """Heads of time mixing."""
        return int(model.config.num_attention_heads)

    def attach(self, block: nn.Module, place: str, gate: GatedShift) -> None:
        """Fill the block's own place for it."""
        setattr(block, place, gate)

    def detach(self, block: nn.Module) -> None:
        """Empty the block's places."""
        for place in self.places:
            setattr(block, place, None)


class HookedFamily(Family):
    """A family whose blocks know nothing of gates: a forward hook replaces the hidden states that a block returns,
    alone or as element 0 of a tuple.

    A subclass says where the blocks are and, in `cache`, where a block's state may be kept.
    """

    @abstractmethod
    def cache(
        self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> MutableMapping[str, Any] | None:
        """Where this block's state is kept between calls, found from one call of it; None in a call without cache.

        Whatever is kept there must be handed on with the rest of the family's state.
        """

    def mask(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
        """The attention mask of a call, (batch, time or more); None where every token is real."""
        return None

    def before(self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Called before the block; raises where the gate's state has been lost or cannot be followed."""

    def attach(self, block: nn.Module, place: str, gate: GatedShift) -> None:
        """Register the gate as a module of the block, and the hooks that call it."""
        block.add_module(place, gate)
        handles = (
            block.register_forward_pre_hook(self._enter, with_kwargs=True),
            block.register_forward_hook(partial(self._leave, place), with_kwargs=True),
        )
        object.__setattr__(block, "_gated_shift_handles", handles)

    # The hooks take block and gate from the module that they are called with, so that a copied or unpickled model
    # has its own.
    def _enter(self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.before(block, args, kwargs)

    def _leave(self, place: str, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        gate = self.placed(block)[place]
        alone = isinstance(output, Tensor)
        hidden = output if alone else output[0]
        cache = self.cache(block, args, kwargs, output)
        carried, seen = (None, None) if cache is None else cache.get(KEY, (None, None))
        if carried is not None and carried.shape[1] != gate.rows:
            raise ValueError(f"the state carries a gate of {carried.shape[1]} rows, but the model's has {gate.rows}")
        mask = real_tokens(self.mask(args, kwargs), *hidden.shape[:2])
        tokens = TokenShift(mask, seen).to(hidden.device)
        enhanced, kept = gate(hidden, tokens, carried)
        if cache is not None:
            cache[KEY] = (kept, tokens.seen_after(hidden))
        return enhanced if alone else (enhanced, *output[1:])

    def detach(self, block: nn.Module) -> None:
        """Remove hooks and gate."""
        for handle in block.__dict__.pop("_gated_shift_handles"):
            handle.remove()
        delattr(block, OUTPUT)


class Rwkv4Family(HookedFamily):
    """RWKV-4 of transformers.

    Its state is a list of five tensors that every call updates in place; the gate's part hangs on the first of
    them. It pays no attention to padding, and its generation is right for one sequence at a time only.
    """

    name = "rwkv4"
    ATTRIBUTE = "_gated_shift_states"

    def recognises(self, model: nn.Module) -> bool:
        """Whether it is transformers' RwkvModel or RwkvForCausalLM."""
        from transformers.models.rwkv.modeling_rwkv import RwkvPreTrainedModel

        return isinstance(model, RwkvPreTrainedModel)

    def blocks(self, model: Any) -> Sequence[nn.Module]:
        """The model's blocks, first to last."""
        return list(model.base_model.blocks)

    def check(self, model: Any) -> None:
        """Refuse a model that halves its hidden states every few layers, which a gate would see."""
        every = model.config.rescale_every
        if every:
            raise ValueError(
                f"config.rescale_every is {every}, which halves the hidden states that a gate reads when the model is "
                "not in training; load it with from_pretrained(..., rescale_every=0)"
            )

    def before(self, block: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Refuse a state that has seen tokens but lost what the gates kept, as a copied one has."""
        state = kwargs.get("state", args[1] if len(args) > 1 else None)
        if state is None or hasattr(state[0], self.ATTRIBUTE):
            return
        if block.layer_id > 0 or not bool((state[4][:, :, 0] == -1e30).all()):
            raise ValueError(
                "the state has seen tokens but carries nothing of the gates: it is a copy, or from an unpatched model. "
                "Hand on the state that the patched model returned, or begin without one"
            )
        setattr(state[0], self.ATTRIBUTE, {})

    def cache(
        self, block: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> MutableMapping[str, Any] | None:
        """A dictionary on the state's first tensor, one entry a layer."""
        state = output[1]
        if state is None:
            return None
        layers: dict[int, dict[str, Any]] = getattr(state[0], self.ATTRIBUTE)
        return layers.setdefault(block.layer_id, {})


class FlaFamily(HookedFamily):
    """RWKV-6 and RWKV-7 of flash-linear-attention, which run on a GPU only.

    Its cache keeps a dictionary for each layer; the gate's state is one more entry, and is reordered for beams,
    repeated, moved and reset with the others.
    """

    name = "fla"
    MODULES = ("fla.models.rwkv6.", "fla.models.rwkv7.")

    def recognises(self, model: nn.Module) -> bool:
        """Whether it is a model of that library's rwkv6 or rwkv7, or a subclass; without importing the library."""
        return any(kind.__module__.startswith(self.MODULES) for kind in type(model).__mro__)

    def blocks(self, model: Any) -> Sequence[nn.Module]:
        """The model's blocks, first to last."""
        return list(model.base_model.layers)

    def heads(self, model: Any) -> int:
        """Heads of time mixing."""
        return int(model.config.num_heads or 1)

    def mask(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
        """The block's attention mask."""
        found: Tensor | None = kwargs.get("attention_mask", args[1] if len(args) > 1 else None)
        return found

    def is_norm(self, module: nn.Module) -> bool:
        """Its fused norms are classes of its own."""
        return super().is_norm(module) or type(module).__name__ in ("LayerNorm", "GroupNorm", "RMSNorm")

    def before(self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Refuse several documents in one row, across which a gate would look, and a cache without the gates' part."""
        if kwargs.get("cu_seqlens") is not None:
            raise ValueError("cu_seqlens packs documents into one row, and a gate would look from one into the next")
        state = self._layer(block, args, kwargs)
        if state and KEY not in state and any(value is not None for value in state.values()):
            raise ValueError(
                "the cache has seen tokens but carries nothing of the gates: it is from an unpatched model. "
                "Hand on the cache that the patched model returned, or begin without one"
            )

    def cache(
        self, block: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> MutableMapping[str, Any] | None:
        """The layer's dictionary in the cache. Its layers read and write a cache that they are given, whatever
        `use_cache` says, and so does the gate."""
        return self._layer(block, args, kwargs)

    def _layer(self, block: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> MutableMapping[str, Any] | None:
        found = kwargs.get("past_key_values", args[2] if len(args) > 2 else None)
        if found is None:
            return None
        layers = found.states if hasattr(found, "states") else [layer.state for layer in found.layers]
        state: MutableMapping[str, Any] | None = layers[block.layer_idx] if block.layer_idx < len(layers) else None
        return state


FAMILIES: list[Family] = [NativeFamily(), Rwkv4Family(), FlaFamily()]
"""Every family that `patch` knows; append one of your own to gate another model."""


def family_of(model: nn.Module) -> Family:
    """The family of a model.

    Raises:
        TypeError: none recognises it.
    """
    for family in FAMILIES:
        if family.recognises(model):
            return family
    raise TypeError(
        f"the model is a {type(model).__name__}; it must be a Rwkv6Model or Rwkv6ForCausalLM, transformers' RWKV-4, or "
        "RWKV-6 or RWKV-7 of flash-linear-attention. For another, write a HookedFamily and append it to "
        "rwkvgate.gate.families.FAMILIES: docs/families.md does it for an outside model"
    )


def home(block: nn.Module) -> dict[str, Any]:
    """Device of a block's parameters, and the type a gate on it has: float32 at least.

    Raises:
        ValueError: the block's weights are not in memory.
    """
    parameter = next(block.parameters())
    if parameter.is_meta:
        raise ValueError("a block's weights are not in memory (device meta); load them before the gate is put on")
    return {"device": parameter.device, "dtype": torch.promote_types(parameter.dtype, torch.float32)}
