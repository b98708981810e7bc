"""How much memory training will take: said before it starts, and compared with what it took."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rwkvgate.gate.patch import blocks_of
from rwkvgate.rwkv6.loss import CHUNK
from rwkvgate.rwkv6.token_shift import TokenShift
from rwkvgate.settings import SettingsError

GIB = 2**30
PROBED_TOKENS = 64
"""Tokens of the forward pass whose saved tensors are counted; what is saved grows with their number."""


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes that training takes at its peak, by what takes them."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    loss: int

    @property
    def total(self) -> int:
        """Their sum, without the device's context."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.loss

    def __str__(self) -> str:
        parts = {
            "weights": self.weights,
            "gradients": self.gradients,
            "optimizer": self.optimizer,
            "activations": self.activations,
            "loss": self.loss,
        }
        return f"{self.total / GIB:.2f} GiB (" + ", ".join(f"{k} {v / GIB:.2f}" for k, v in parts.items()) + ")"


@contextmanager
def counting_saved(parameters: Iterator[Tensor]) -> Iterator[dict[int, int]]:
    """Within it, what autograd keeps for the backward pass: bytes by storage, without the parameters' own."""
    own = {p.untyped_storage().data_ptr() for p in parameters}
    saved: dict[int, int] = {}
    alive = []

    def keep(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
            alive.append(storage)  # so that no later tensor takes the same address
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        yield saved


def block_bytes(model: PreTrainedModel) -> float:
    """Bytes a token that one block keeps for its backward pass, counted on a short forward pass."""
    block = blocks_of(model)[-1]
    weight = next(block.parameters())
    wide = torch.promote_types(weight.dtype, torch.float32)
    hidden = torch.zeros(
        1, PROBED_TOKENS, model.config.hidden_size, device=weight.device, dtype=wide, requires_grad=True
    )
    training = block.training
    block.eval()  # in training a checkpointed block would save its input only
    try:
        with torch.enable_grad(), counting_saved(block.parameters()) as saved:
            block(hidden, TokenShift(None), None)
    finally:
        block.train(training)
    return sum(saved.values()) / PROBED_TOKENS


def training_memory(model: PreTrainedModel, batch: int, length: int) -> TrainingMemory:
    """What a training step of the model takes, for the parameters that require gradients now.

    Counted: weights, gradients, AdamW's two moments, what the blocks keep for the backward pass (with
    gradient checkpointing one stream for each block and one block opened up), the block being gone through
    backward, and the logits of one chunk with their gradient.

    Args:
        model: as it will be trained, gates and checkpointing set.
        batch: rows of a step.
        length: tokens of the longest row.
    """
    size = {True: 0, False: 0}
    for parameter in model.parameters():
        size[parameter.requires_grad] += parameter.numel() * parameter.element_size()
    trained = size[True]
    blocks, tokens = blocks_of(model), batch * length
    one = block_bytes(model) * tokens
    stream = 4 * model.config.hidden_size * tokens
    opened = len(blocks) * stream + one if blocks[0].gradient_checkpointing else len(blocks) * one
    vocabulary, hidden = model.config.vocab_size, model.config.hidden_size
    head: nn.Module = model.get_output_embeddings()
    logits = 3 * 4 * min(CHUNK, tokens) * vocabulary
    loss = logits + 2 * stream + (4 * vocabulary * hidden if head.weight.requires_grad else 0)
    return TrainingMemory(
        weights=size[True] + size[False],
        gradients=trained,
        optimizer=2 * trained,
        # What is on the way backward through one block is about as large as what that block kept.
        activations=round(opened + one),
        loss=loss,
    )


def check_memory(predicted: TrainingMemory, device: torch.device, advice: str) -> None:
    """Refuse training that will not fit on a CUDA device, before it starts.

    Raises:
        SettingsError: more is needed than is free now; it names both, and `advice`.
    """
    if device.type != "cuda":
        return
    gc.collect()  # an earlier run's model hangs in a cycle, and its blocks in torch's cache
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(device)
    held = torch.cuda.memory_allocated(device)
    # The weights lie on the device already.
    wanted = predicted.total - min(held, predicted.weights)
    if wanted > free:
        name = torch.cuda.get_device_name(device)
        raise SettingsError(
            f"training takes about {predicted}; {name} has {free / GIB:.2f} GiB free and {wanted / GIB:.2f} more "
            f"are needed. {advice}"
        )


def peak_bytes(device: torch.device) -> int | None:
    """Bytes that tensors have taken at most on a CUDA device since its counter was reset; None elsewhere."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
