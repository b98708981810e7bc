"""Model families that can be gated: where the blocks of each are, and where a gate keeps its state.

`patch` asks one small object for each family. RWKV-6 of this package has attributes for gates in its blocks, and rows
for them in its state. The blocks of other families know nothing of gates: a forward hook on each block replaces its
output by the gated one, and the gate's state travels in the family's cache, so that generation works. docs/families.md
writes a family for another model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import MutableMapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from rwkvgate.gate.layer import GatedShift
from rwkvgate.rwkv6.modeling import Rwkv6PreTrainedModel
from rwkvgate.rwkv6.precision import wide_dtype
from rwkvgate.rwkv6.token_shift import TokenShift, real_tokens

OUTPUT = "gated_shift"
"""The attribute of a block that holds a gate on its output."""
KEY = "gated_shift"
"""The key of a gate's state in a family's cache."""


class Family(ABC):
    """A model family whose blocks can carry gates.

    Attributes:
        name: its name in errors and saved gates.
        places: the attributes of a block that can hold a gate, in the order in which the block applies them.
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
        """Refuse a model whose settings would make a gate compute something wrong.

        Raises:
            ValueError: it has such settings; the message says how to change them.
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
        """The block's gates by attribute, in the order in which the block applies them."""
        return {place: gate for place in self.places if isinstance(gate := getattr(block, place, None), GatedShift)}

    def gates(self, block: nn.Module) -> list[GatedShift]:
        """The block's gates, in the order in which the block applies them."""
        return list(self.placed(block).values())


class NativeFamily(Family):
    """RWKV-6 of this package."""

    name = "rwkv6"
    places = ("gated_shift_time", "gated_shift_channel", OUTPUT)

    def recognises(self, model: nn.Module) -> bool:
        return isinstance(model, Rwkv6PreTrainedModel)

    def blocks(self, model: Any) -> Sequence[nn.Module]:
        return list(model.base_model.blocks)

    def heads(self, model: Any) -> int:
        return int(model.config.num_attention_heads)

    def attach(self, block: nn.Module, place: str, gate: GatedShift) -> None:
        setattr(block, place, gate)

    def detach(self, block: nn.Module) -> None:
        for place in self.places:
            setattr(block, place, None)


class HookedFamily(Family):
    """A family whose blocks know nothing of gates.

    A forward hook replaces the hidden states that a block returns, alone or as element 0 of a tuple. A subclass says
    where the blocks are and, in `cache`, where a block's state may be kept.
    """

    @abstractmethod
    def cache(
        self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> MutableMapping[str, Any] | None:
        """The mapping that keeps this block's state between calls, given one call of the block; None without a cache.

        Its entries must travel with the rest of the family's state.
        """

    def mask(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
        """The attention mask of a call, (batch, time or more); None where every token is real."""
        return None

    def before(self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Called before the block; raises where the gate's state was lost."""

    def attach(self, block: nn.Module, place: str, gate: GatedShift) -> None:
        block.add_module(place, gate)
        handles = (
            block.register_forward_pre_hook(self._enter, with_kwargs=True),
            block.register_forward_hook(partial(self._leave, place), with_kwargs=True),
        )
        object.__setattr__(block, "_gated_shift_handles", handles)

    # The hooks take block and gate from the module that calls them, so that a copied or unpickled model uses its own.
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
        enhanced, carried = gate(hidden, tokens, carried)
        if cache is not None:
            cache[KEY] = (carried, tokens.seen_after(hidden))
        return enhanced if alone else (enhanced, *output[1:])

    def detach(self, block: nn.Module) -> None:
        for handle in block.__dict__.pop("_gated_shift_handles"):
            handle.remove()
        delattr(block, OUTPUT)


class Rwkv4Family(HookedFamily):
    """RWKV-4 of transformers.

    Its state is a list of five tensors that every call updates in place; an attribute of the first one holds a
    dictionary with the gates' states by layer. The model ignores padding, and generates one sequence at a time only.
    """

    name = "rwkv4"
    ATTRIBUTE = "_gated_shift_states"

    def recognises(self, model: nn.Module) -> bool:
        from transformers.models.rwkv.modeling_rwkv import RwkvPreTrainedModel

        return isinstance(model, RwkvPreTrainedModel)

    def blocks(self, model: Any) -> Sequence[nn.Module]:
        return list(model.base_model.blocks)

    def check(self, model: Any) -> None:
        every = model.config.rescale_every
        if every:
            raise ValueError(
                f"config.rescale_every is {every}, which halves the hidden states that a gate reads when the model is "
                "not in training; load it with from_pretrained(..., rescale_every=0)"
            )

    def before(self, block: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Refuse a state that has seen tokens but lost the gates' part, as a copy has."""
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
        state = output[1]
        if state is None:
            return None
        layers: dict[int, dict[str, Any]] = getattr(state[0], self.ATTRIBUTE)
        return layers.setdefault(block.layer_id, {})


class FlaFamily(HookedFamily):
    """RWKV-6 and RWKV-7 of flash-linear-attention, which run on a GPU only.

    Its cache keeps a dictionary for each layer; the gate's state is one more entry, which version 0.6 reorders for
    beams, repeats, moves and resets with the others.
    """

    name = "fla"
    MODULES = ("fla.models.rwkv6.", "fla.models.rwkv7.")

    def recognises(self, model: nn.Module) -> bool:
        """By the names of its classes, without importing the library."""
        return any(base.__module__.startswith(self.MODULES) for base in type(model).__mro__)

    def blocks(self, model: Any) -> Sequence[nn.Module]:
        return list(model.base_model.layers)

    def heads(self, model: Any) -> int:
        return int(model.config.num_heads or 1)

    def mask(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
        mask: Tensor | None = kwargs.get("attention_mask", args[1] if len(args) > 1 else None)
        return mask

    def is_norm(self, module: nn.Module) -> bool:
        """The library's fused norms are classes of its own."""
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
        # The library's layers read and write a cache whatever `use_cache` says, and so does the gate.
        return self._layer(block, args, kwargs)

    def _layer(self, block: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> MutableMapping[str, Any] | None:
        cache = kwargs.get("past_key_values", args[2] if len(args) > 2 else None)
        if cache is None:
            return None
        layers = cache.states if hasattr(cache, "states") else [layer.state for layer in cache.layers]
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
    if hasattr(model, "get_base_model") or hasattr(model, "_orig_mod"):
        raise TypeError(
            f"the model is a {type(model).__name__}, which wraps another; give the model inside: get_base_model() of "
            "peft's, _orig_mod of torch.compile's"
        )
    raise TypeError(
        f"the model is a {type(model).__name__}; it must be a Rwkv6Model or Rwkv6ForCausalLM, transformers' RWKV-4, or "
        "RWKV-6 or RWKV-7 of flash-linear-attention. For another, write a HookedFamily and append it to "
        "rwkvgate.gate.families.FAMILIES: docs/families.md does it for an outside model"
    )


def home(block: nn.Module) -> dict[str, Any]:
    """Device of a block's parameters, and the type of a gate on it: float32 at least.

    Raises:
        ValueError: the block's weights are not in memory.
    """
    parameter = next(block.parameters())
    if parameter.is_meta:
        raise ValueError("a block's weights are not in memory (device meta); load them before the gate is put on")
    return {"device": parameter.device, "dtype": wide_dtype(parameter.dtype)}
