"""The time of operations on a device that is not there: FLOPs, bytes moved and launches, counted one by one.

Tensors on torch's meta device have shapes and no storage, so a network of any size is counted in a second.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

UNMOVED = ("empty", "new_empty", "empty_like", "new_empty_strided", "empty_strided", "_unsafe_view", "lift_fresh")
"""Operations that are no views and move nothing either."""


@dataclass(frozen=True)
class Device:
    """What a device reaches.

    Attributes:
        name: of the device.
        half, single: FLOP/s of matrix products in half and in single precision, two for a multiply-add.
        bytes: bytes a second that it reads and writes.
        launch: seconds that an operation takes at least.
        loading: bytes a second of weights read from a file and moved to it.
    """

    name: str
    half: float
    single: float
    bytes: float
    launch: float
    loading: float


SHARES = {"half": 0.3, "single": 0.5, "bytes": 0.7}
"""What is assumed that operations reach of a GPU's published numbers. Not measured on a T4."""
T4 = Device(
    "a Tesla T4",
    half=SHARES["half"] * 65e12,
    single=SHARES["single"] * 8.1e12,
    bytes=SHARES["bytes"] * 320e9,
    launch=15e-6,
    loading=0.4e9,
)
"""NVIDIA's data sheet: 65 and 8.1 TFLOP/s in half and in single precision, 320 GB/s."""
CPU = Device("two cores of a CPU", half=20e9, single=80e9, bytes=20e9, launch=5e-6, loading=1e9)
"""What two cores with AVX2 are taken to reach: assumed, as the shares are."""


class Roofline(TorchDispatchMode):
    """Context manager that counts the operations inside it, and their time on a device.

    An operation takes the longest of three times: its FLOPs at the device's rate for their type, the bytes of the
    tensors that it reads and writes at the device's bandwidth, and one launch. Caches are not counted, nor is anything
    that overlaps. Views take no time.

    Attributes:
        seconds: of all operations, one after another.
        flops: of matrix products.
        bytes: read and written.
        launches: operations that are no views.

    Example:
        >>> device = Device("example", half=1.0, single=1.0, bytes=1.0, launch=0.0, loading=1.0)
        >>> x = torch.empty(2, 3, device="meta")
        >>> with Roofline(device) as count:
        ...     _ = x + x.mT.mT
        >>> count.seconds, count.bytes, count.launches  # x is read twice, and the sum written
        (72.0, 72, 1)
    """

    def __init__(self, device: Device) -> None:
        super().__init__()
        self.device = device
        self.seconds, self.flops, self.bytes, self.launches = 0.0, 0, 0, 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the operation and count it."""
        out = operation(*args, **(kwargs or {}))
        if operation.is_view or operation.overloadpacket.__name__ in UNMOVED:
            return out
        tensors = [x for x in tree_leaves((args, kwargs, out)) if isinstance(x, Tensor)]
        moved = sum(_size(x) for x in tensors)
        flops = 0
        if formula := flop_registry.get(operation.overloadpacket):
            flops = int(formula(*args, **(kwargs or {}), out_val=out))
        narrow = all(x.element_size() <= 2 for x in tensors)
        rate = self.device.half if narrow else self.device.single
        self.seconds += max(flops / rate, moved / self.device.bytes, self.device.launch)
        self.flops, self.bytes, self.launches = self.flops + flops, self.bytes + moved, self.launches + 1
        return out


def _size(x: Tensor) -> int:
    """Bytes of a tensor in memory: of one that is spread over a dimension, those that exist."""
    present = [size for size, stride in zip(x.shape, x.stride(), strict=True) if stride]
    return x.element_size() * int(torch.Size(present).numel())
