"""The control of equal size: low-rank adapters (LoRA) with as many parameters as the paper's gate."""

from __future__ import annotations

import peft
from torch import nn

from rwkvgate.gate.config import GateConfig
from rwkvgate.gate.layer import GatedShift
from rwkvgate.gate.patch import Model, blocks_of

TARGETS = (
    "attention.receptance",
    "attention.key",
    "attention.value",
    "attention.gate",
    "attention.output",
    "feed_forward.key",
    "feed_forward.receptance",
    "feed_forward.value",
)
"""Every linear map of a block."""


def lora_ranks(model: Model, parameters: int) -> list[int]:
    """A rank for each block, equal up to one, so that the size of all adapters is nearest to `parameters`.

    Raises:
        ValueError: `parameters` is less than rank one takes in every block.
    """
    blocks = blocks_of(model)
    cost = sum(sum(_linear(blocks[0], name).weight.shape) for name in TARGETS)
    total = round(parameters / cost)
    if total < len(blocks):
        raise ValueError(f"{parameters} parameters are too few for {len(blocks)} blocks; it takes {cost} for each rank")
    lowest, higher = divmod(total, len(blocks))
    # The remainder goes to the later blocks.
    return [lowest + (i >= len(blocks) - higher) for i in range(len(blocks))]


def gate_size(model: Model) -> int:
    """Number of parameters of the paper's gate on this model."""
    blocks = blocks_of(model)
    gate = GatedShift(GateConfig(), model.config.hidden_size)
    return sum(p.numel() for p in gate.parameters()) * len(blocks)


def add_lora(model: Model, parameters: int | None = None) -> Model:
    """Put PEFT's low-rank adapters on every linear map of every block, in place, and return the model.

    The second factor starts at zero, so the model equals the base before training. The first is drawn from the global
    random state. The scale alpha / rank is 1.

    Args:
        model: an RWKV-6 of this package.
        parameters: the size of all adapters, as near as possible; default: that of the paper's gate.

    Raises:
        TypeError: the model is not an RWKV-6 of this package.
        ValueError: it has adapters already, or `parameters` is too small.
    """
    if any(isinstance(module, peft.tuners.lora.LoraLayer) for module in model.modules()):
        raise ValueError("the model has adapters already")
    ranks = lora_ranks(model, gate_size(model) if parameters is None else parameters)
    pattern = {rf"blocks\.{i}\.{name}": rank for i, rank in enumerate(ranks) for name in TARGETS}
    config = peft.LoraConfig(
        r=ranks[0],
        lora_alpha=ranks[0],
        rank_pattern=pattern,
        alpha_pattern=pattern,
        target_modules=list(TARGETS),
        lora_dropout=0.0,
    )
    peft.inject_adapter_in_model(config, model)
    return model


def _linear(block: nn.Module, name: str) -> nn.Linear:
    layer = block.get_submodule(name)
    assert isinstance(layer, nn.Linear)
    return layer
