"""Predicted memory of a training: refused before it starts where it is not free, compared with the peak after it."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rwkvgate.gate.patch import blocks_of
from rwkvgate.gate.validation import SettingsError
from rwkvgate.rwkv6.loss import CHUNK
from rwkvgate.rwkv6.token_shift import TokenShift

GIB = 2**30
PROBED_TOKENS = 64
"""Tokens of the forward pass whose saved tensors are counted; what is saved is proportional to them."""


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes that training needs at its peak, by purpose."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    loss: int
    exchanged: int = 0

    @property
    def total(self) -> int:
        """Their sum, without the device's context."""
        return sum(asdict(self).values())

    @property
    def largest(self) -> str:
        """The name of the largest part."""
        return max(asdict(self).items(), key=lambda part: part[1])[0]

    def __str__(self) -> str:
        sizes = {name: size for name, size in asdict(self).items() if size or name != "exchanged"}
        return f"{self.total / GIB:.2f} GiB ({', '.join(f'{name} {size / GIB:.2f}' for name, size in sizes.items())})"


@dataclass(frozen=True)
class Counted:
    """The sizes of a model that its training's memory follows from.

    Attributes:
        blocks, block, outside: bytes of frozen and of trained parameters: in all blocks, in the largest one, elsewhere.
        layers: number of blocks.
        hidden: channels of the residual stream.
        vocabulary: entries of the head.
        kept: bytes per token that one block keeps for its backward pass.
        checkpointed: whether blocks keep their input only (gradient checkpointing).
        head_trained: whether the head's weight is trained.
    """

    blocks: tuple[int, int]
    block: tuple[int, int]
    outside: tuple[int, int]
    layers: int
    hidden: int
    vocabulary: int
    kept: float
    checkpointed: bool
    head_trained: bool

    def memory(self, batch: int, length: int, processes: int = 1, sharded: bool = False) -> TrainingMemory:
        """Memory of a training step in one process.

        Counted are weights, gradients, AdamW's two moments, what the blocks keep for the backward pass (with gradient
        checkpointing one residual stream for each block, and one block recomputed), and the logits of one chunk with
        their gradient. `exchanged` is what several processes need to work together: the gradients once more, in the
        buckets that are sent. Each process of a sharded model has its part of the first three; complete are, all the
        time, the parameters outside the blocks and two blocks, the current and the next, all with their gradients.

        Args:
            batch: rows of a step that this process reads.
            length: tokens of the longest row.
            processes: how many train together.
            sharded: whether the model is sharded over them.
        """
        frozen, trained = (a + b for a, b in zip(self.blocks, self.outside, strict=True))
        tokens = batch * length
        one, stream = self.kept * tokens, 4 * self.hidden * tokens
        opened = self.layers * stream + one if self.checkpointed else self.layers * one
        logits = 3 * 4 * min(CHUNK, tokens) * self.vocabulary
        gathered = sum(self.outside) + self.outside[1] + 2 * (sum(self.block) + self.block[1])
        shards = processes if sharded else 1
        return TrainingMemory(
            weights=-(-(frozen + trained) // shards),
            gradients=-(-trained // shards),
            optimizer=-(-2 * trained // shards),
            # The gradients inside one block need about as much as what that block kept.
            activations=round(opened + one),
            loss=logits + 2 * stream + (4 * self.vocabulary * self.hidden if self.head_trained else 0),
            exchanged=0 if processes == 1 else gathered if sharded else trained,
        )


def count(model: PreTrainedModel) -> Counted:
    """Count a model as it will be trained: gates, trainable parameters and gradient checkpointing set, not sharded."""
    blocks = blocks_of(model)
    inside = [_sizes(block) for block in blocks]
    frozen, trained = (sum(size[k] for size in inside) for k in (0, 1))
    everything = _sizes(model)
    head: nn.Module = model.get_output_embeddings()
    return Counted(
        blocks=(frozen, trained),
        block=max(inside, key=sum),
        outside=(everything[0] - frozen, everything[1] - trained),
        layers=len(blocks),
        hidden=model.config.hidden_size,
        vocabulary=model.config.vocab_size,
        kept=_kept_by_a_block(model),
        checkpointed=blocks[0].gradient_checkpointing,
        head_trained=head.weight.requires_grad,
    )


def _sizes(module: nn.Module) -> tuple[int, int]:
    """Bytes of the frozen parameters, and of the trained ones."""
    size = [0, 0]
    for parameter in module.parameters():
        size[parameter.requires_grad] += parameter.numel() * parameter.element_size()
    return size[0], size[1]


def _kept_by_a_block(model: PreTrainedModel) -> float:
    """Bytes per token that one block keeps for its backward pass, counted on a short forward pass."""
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


@contextmanager
def counting_saved(parameters: Iterator[Tensor]) -> Iterator[dict[int, int]]:
    """A block in which tensors that autograd saves are counted: bytes by storage, without the parameters."""
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


def require_memory(predicted: TrainingMemory, device: torch.device) -> None:
    """Refuse training that will not fit on a CUDA device, before it starts.

    Raises:
        SettingsError: more is needed than is free; it names both, and the largest part.
    """
    if device.type != "cuda":
        return
    gc.collect()  # an earlier model may be part of a reference cycle, and its memory in torch's cache
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(device)
    # The weights are on the device already.
    needed = predicted.total - min(torch.cuda.memory_allocated(device), predicted.weights)
    if needed > free:
        raise SettingsError(
            f"training needs about {predicted}, {needed / GIB:.2f} GiB more than is allocated, and "
            f"{torch.cuda.get_device_name(device)} has {free / GIB:.2f} GiB free; the largest part is "
            f"{predicted.largest}"
        )


def peak_bytes(device: torch.device) -> int | None:
    """Peak of bytes in tensors on a CUDA device since its counter was reset; None elsewhere."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
