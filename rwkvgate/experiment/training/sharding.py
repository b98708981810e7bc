"""A model spread over the processes of a training, so that no device holds all of it: torch's FSDP2.

`fully_shard` is called here, and not through accelerate, for two reasons. accelerate puts the head into a unit of its
own, which is whole in memory only while the head's `forward` runs, and our loss reads the head's weight without calling
it; here the head belongs to the root, which is whole from the model's forward pass to its backward pass. And accelerate
knows FSDP on GPUs only, while this runs, and is tested, on processors too.

What is saved is whole, so a checkpoint or an arm's weights do not know how many processes made them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer
from transformers import PreTrainedModel

from rwkvgate.gate.patch import blocks_of


def shard(model: PreTrainedModel) -> None:
    """Spread an RWKV-6 over all processes, in place: each block is a unit, and what is left is the root.

    Every process must hold the same whole model, on a processor or on its own GPU, where it ends up. Types are kept: a
    frozen bfloat16 base beside float32 gates is gathered as it is, and only gradients, all float32, are reduced. So no
    mixed-precision policy is given, which would cast gates and norms too. A model that is spread already is left alone.
    """
    if is_sharded(model):
        return
    for block in blocks_of(model):
        fully_shard(block)
    fully_shard(model)


def is_sharded(model: torch.nn.Module) -> bool:
    """Whether the model is spread over processes."""
    return isinstance(model, FSDPModule)


def reshard(model: torch.nn.Module) -> None:
    """Let go of what a forward pass without a backward pass left gathered: until then those parameters are copies."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def whole(tensor: Tensor) -> Tensor:
    """The tensor with all its parts, without gradient. Of one that is spread, every process must ask at once."""
    tensor = tensor.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def put(target: Tensor, value: Tensor) -> None:
    """Copy a whole value, the same on every process, into a tensor that may be spread."""
    target.copy_(_part(value, target))


def optimizer_state(optimizer: Optimizer) -> dict[str, Any]:
    """The optimiser's state in one process's form, tensors whole and in main memory. All must ask at once."""
    state = optimizer.state_dict()
    held = {
        i: {name: whole(x).cpu() if isinstance(x, Tensor) else x for name, x in entry.items()}
        for i, entry in state["state"].items()
    }
    return {**state, "state": held}


def load_optimizer_state(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """Give the optimiser a state in one process's form: each process takes its parts."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    own = {
        i: {name: _part(x, params[i]) if isinstance(x, Tensor) and x.dim() else x for name, x in entry.items()}
        for i, entry in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": own})


def _part(value: Tensor, like: Tensor) -> Tensor:
    if not isinstance(like, DTensor):
        return value
    # No rank is the source: all hold the same whole value, and each cuts out its part.
    moved = value.to(like.device)
    return distribute_tensor(moved, like.device_mesh, like.placements, src_data_rank=None)
