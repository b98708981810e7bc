"""How much memory training will take: said before it starts, and compared with what it took."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rwkvgate.experiment.training.sharding import is_sharded
from rwkvgate.gate.patch import blocks_of
from rwkvgate.gate.validation import SettingsError
from rwkvgate.rwkv6.loss import CHUNK
from rwkvgate.rwkv6.token_shift import TokenShift

GIB = 2**30
PROBED_TOKENS = 64
"""Tokens of the forward pass whose saved tensors are counted; what is saved grows with their number."""

_counted: WeakKeyDictionary[PreTrainedModel, float] = WeakKeyDictionary()


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes that training takes at its peak, by what takes them."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    loss: int
    exchanged: int = 0

    @property
    def total(self) -> int:
        """Their sum, without the device's context."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.loss + self.exchanged

    def __str__(self) -> str:
        parts = {
            "weights": self.weights,
            "gradients": self.gradients,
            "optimizer": self.optimizer,
            "activations": self.activations,
            "loss": self.loss,
        } | ({"exchanged": self.exchanged} if self.exchanged else {})
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
    """Bytes a token that one block keeps for its backward pass, counted on a short forward pass.

    Of a model that was spread over processes since, no block can be run alone, and what was counted before is given.
    """
    if is_sharded(model):
        return _counted[model]
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
    _counted[model] = sum(saved.values()) / PROBED_TOKENS
    return _counted[model]


@dataclass(frozen=True)
class Counted:
    """What the memory of a model's training follows from. Sizes are bytes of what is frozen, and of what is trained."""

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
        """What a training step takes in one process.

        Counted: weights, gradients, AdamW's two moments, what the blocks keep for the backward pass (with
        gradient checkpointing one stream for each block and one block opened up), the block being gone through
        backward, and the logits of one chunk with their gradient. `exchanged` is what several processes need to work
        together: the gradients once more, in the buckets that are sent. Where the model is spread, each has its part
        of the first three, and of the whole what lies outside the blocks, all along, and two blocks, the one at work
        and the next, all with their gradients.

        Args:
            batch: rows of a step that this process reads.
            length: tokens of the longest row.
            processes: how many train together.
            sharded: whether the model is spread over them.
        """
        frozen, trained = (a + b for a, b in zip(self.blocks, self.outside, strict=True))
        tokens = batch * length
        one, stream = self.kept * tokens, 4 * self.hidden * tokens
        opened = self.layers * stream + one if self.checkpointed else self.layers * one
        logits = 3 * 4 * min(CHUNK, tokens) * self.vocabulary
        gathered, shards = (
            sum(self.outside) + self.outside[1] + 2 * (sum(self.block) + self.block[1]),
            processes if sharded else 1,
        )
        return TrainingMemory(
            weights=-(-(frozen + trained) // shards),
            gradients=-(-trained // shards),
            optimizer=-(-2 * trained // shards),
            # What is on the way backward through one block is about as large as what that block kept.
            activations=round(opened + one),
            loss=logits + 2 * stream + (4 * self.vocabulary * self.hidden if self.head_trained else 0),
            exchanged=0 if processes == 1 else gathered if sharded else trained,
        )


def count(model: PreTrainedModel) -> Counted:
    """Count a model as it will be trained, gates and checkpointing set, for what requires gradients now."""
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
        kept=block_bytes(model),
        checkpointed=blocks[0].gradient_checkpointing,
        head_trained=head.weight.requires_grad,
    )


def training_memory(
    model: PreTrainedModel, batch: int, length: int, processes: int = 1, sharded: bool = False
) -> TrainingMemory:
    """`count` and `Counted.memory` in one."""
    return count(model).memory(batch, length, processes, sharded)


def _sizes(module: nn.Module) -> tuple[int, int]:
    """Bytes of the parameters that are frozen, and of those that are trained."""
    size = [0, 0]
    for parameter in module.parameters():
        size[parameter.requires_grad] += parameter.numel() * parameter.element_size()
    return size[0], size[1]


def what_fits(counted: Counted, batch: int, length: int, room: int, processes: int = 1, sharded: bool = False) -> str:
    """The least change of settings with which training fits into so many bytes, in words; arguments as in `Counted`."""
    smaller = [batch // 2**i for i in range(1, batch.bit_length())]
    tries = [] if counted.checkpointed else [(batch, True)]
    tries += [(size, checkpointed) for size in smaller for checkpointed in (counted.checkpointed, True)]
    for size, checkpointed in tries:
        need = replace(counted, checkpointed=checkpointed).memory(size, length, processes, sharded).total
        if need <= room:
            parts = ["gradient_checkpointing true"] if checkpointed and not counted.checkpointed else []
            parts += [f"batch_size {size * processes}"] if size < batch else []
            return f"{' and '.join(parts)} would fit, with {need / GIB:.2f} GiB"
    least = replace(counted, checkpointed=True).memory(1, length, processes, sharded).total
    return f"one row of {length} tokens with gradient_checkpointing takes {least / GIB:.2f} GiB still: lower the length"


def check_memory(predicted: TrainingMemory, device: torch.device, advice: Callable[[int], str]) -> None:
    """Refuse training that will not fit on a CUDA device, before it starts.

    Args:
        advice: what to do, asked with the bytes that training may take.

    Raises:
        SettingsError: more is needed than is free now; it names both, and the advice.
    """
    if device.type != "cuda":
        return
    gc.collect()  # an earlier run's model hangs in a cycle, and its blocks in torch's cache
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(device)
    held = torch.cuda.memory_allocated(device)
    there = min(held, predicted.weights)  # the weights lie on the device already
    wanted = predicted.total - there
    if wanted > free:
        name = torch.cuda.get_device_name(device)
        raise SettingsError(
            f"training takes about {predicted}; {name} has {free / GIB:.2f} GiB free and {wanted / GIB:.2f} more "
            f"are needed; {advice(free + there)}"
        )


def peak_bytes(device: torch.device) -> int | None:
    """Bytes that tensors have taken at most on a CUDA device since its counter was reset; None elsewhere."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
