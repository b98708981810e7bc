"""A model sharded over the processes of a training, so that no device holds all of it: torch's FSDP2.

`fully_shard` is called here, and not through accelerate, for two reasons. accelerate makes the head a unit of its own,
which is complete in memory only while the head's `forward` runs, and our loss reads the head's weight without calling
it; here the head belongs to the root, which is complete from the model's forward pass to its backward pass. And
accelerate supports FSDP on GPUs only, while this runs, and is tested, on CPUs too.

Saved tensors are complete, so a checkpoint or an arm's weights do not depend on the number of processes.
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
    """Shard an RWKV-6 over all processes, in place: each block is a unit, and the rest is the root.

    Every process must hold the same complete model, on a CPU or on its own GPU, where its part stays. Dtypes are kept:
    a frozen bfloat16 base beside float32 gates is gathered as it is, and only gradients, all float32, are reduced. So
    there is no mixed-precision policy, which would cast gates and norms too. A sharded model is left as it is.
    """
    if is_sharded(model):
        return
    for block in blocks_of(model):
        fully_shard(block)
    fully_shard(model)


def is_sharded(model: torch.nn.Module) -> bool:
    """Whether the model is sharded over processes."""
    return isinstance(model, FSDPModule)


def reshard(model: torch.nn.Module) -> None:
    """Free the parameters that a forward pass without a backward pass left gathered."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def whole(tensor: Tensor) -> Tensor:
    """The complete tensor, without gradient. If it is sharded, every process must call this at the same time."""
    tensor = tensor.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def put(target: Tensor, value: Tensor) -> None:
    """Copy a complete value, the same on every process, into a tensor that may be sharded."""
    target.copy_(_part(value, target))


def optimizer_state(optimizer: Optimizer) -> dict[str, Any]:
    """The optimiser's state as of one process, with complete tensors in main memory. All must call it at once."""
    state = optimizer.state_dict()
    complete = {
        i: {name: whole(x).cpu() if isinstance(x, Tensor) else x for name, x in entry.items()}
        for i, entry in state["state"].items()
    }
    return {**state, "state": complete}


def load_optimizer_state(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """Load a state as of one process into the optimiser: each process takes its parts."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    own = {
        i: {name: _part(x, params[i]) if isinstance(x, Tensor) and x.dim() else x for name, x in entry.items()}
        for i, entry in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": own})


def _part(value: Tensor, like: Tensor) -> Tensor:
    if not isinstance(like, DTensor):
        return value
    # No rank is the source: all hold the same complete value, and each cuts out its part.
    moved = value.to(like.device)
    return distribute_tensor(moved, like.device_mesh, like.placements, src_data_rank=None)
