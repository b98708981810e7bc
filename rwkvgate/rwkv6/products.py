"""A product of few rows with a weight, on a CPU, by a loop that numba compiles.

It reads each row of the weight once, and ahead of its use; `rwkvgate.rwkv6.linear` decides when it runs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from rwkvgate.rwkv6.compiled import LANES, Vectors, array, number, share, taken
from rwkvgate.rwkv6.extras import extra

with extra("fast"):
    from llvmlite import ir
    from numba import types
    from numba.core import cgutils
    from numba.extending import intrinsic

TILE = 3 if LANES == 8 else 6
"""Rows of a weight that are read beside each other.

With four rows of x the sums of a tile are 4 * TILE vectors, which stay in registers: AVX-512 and ARM have 32, AVX 16.
"""


def product(x: Tensor, weight: Tensor) -> Tensor:
    """x (rows, in) times weight (out, in), to (rows, out): all float32 and contiguous.

    No gradient goes through it. The same bits come from any number of threads.

    Example:
        >>> import torch
        >>> x, weight = torch.randn(3, 10), torch.randn(8, 10)
        >>> torch.allclose(product(x, weight), x @ weight.t(), atol=1e-5)
        True
    """
    if not (x.dtype == weight.dtype == torch.float32 and x.shape[1:] == weight.shape[1:] and x.dim() == 2):
        raise ValueError(f"x is {x.dtype} {tuple(x.shape)}, the weight {weight.dtype} {tuple(weight.shape)}")
    out = x.new_empty(len(x), len(weight))
    share(_product, -(-len(weight) // TILE), TILE * x.numel(), (*x.shape, len(weight)), (x, weight, out))
    return out


def _tile(rows: int) -> Any:
    """A function for compiled loops: the products of so many rows of x, beside each other, with TILE of a weight.

    It takes the addresses of the first row of x and of the weight, the bytes from a row to the next, those of a row to
    go over, in whole vectors, and how many rows of the weight follow the first; past them it reads the last one again.
    It returns rows * TILE sums, those of the first row of x first.

    Each line that is read asks for the one TILE rows further, since a core that waits for memory multiplies nothing.
    LLVM makes no vectors in a loop that asks ahead, so the loop is put together from vectors here.
    """

    @intrinsic
    def tile(_: Any, x: Any, weight: Any, distance: Any, length: Any, follow: Any) -> tuple[Any, Any]:
        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            x, weight, distance, length, follow = values
            by, number, byte = Vectors(context, builder, types.float32), ir.IntType(32), ir.IntType(8).as_pointer()
            kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
            fetch = builder.module.declare_intrinsic("llvm.prefetch", [byte], kind)
            steps = [by.size(i) for i in range(max(rows, TILE))]
            of_x = [by.at(x, builder.mul(distance, step)) for step in steps[:rows]]
            near = [builder.select(builder.icmp_signed("<", step, follow), step, follow) for step in steps[:TILE]]
            of_weight = [by.at(weight, builder.mul(distance, step)) for step in near]
            ahead = builder.mul(distance, by.size(TILE))
            totals = by.sums(rows * TILE)
            with cgutils.for_range_slice(builder, by.size(0), length, by.size(by.bytes), by.size) as (k, _):
                for row in of_weight:  # to read, into the second cache; past the weight's end nothing happens
                    builder.call(fetch, [builder.inttoptr(by.at(row, k, ahead), byte), number(0), number(2), number(1)])
                a, b = ([by.load(by.at(row, k)) for row in some] for some in (of_x, of_weight))
                for i, total in enumerate(totals):
                    by.grow(total, a[i // TILE], b[i % TILE])
            sums = [by.total(builder.load(total)) for total in totals]
            return context.make_tuple(builder, signature.return_type, sums)

        return types.UniTuple(types.float32, rows * TILE)(*[types.intp] * 5), generate

    return tile


_one, _four = _tile(1), _tile(4)


def _product(task):  # type: ignore[no-untyped-def]
    """Tiles of the weight's rows, times every row of x; four of x at once, so that less is read."""
    rows, size, count = number(task, 0), number(task, 1), number(task, 2)
    x, weight = array(task, 3, (rows, size), np.float32), array(task, 4, (count, size), np.float32)
    out = array(task, 5, (rows, count), np.float32)
    fours, whole, distance = rows // 4 * 4, size // LANES * LANES, size * 4
    first, last = taken(task)
    while last:
        for n in range(TILE * first, TILE * last, TILE):
            height = min(TILE, count - n)  # the last tile may have fewer
            at = np.intp(weight.ctypes.data) + n * distance
            for r in range(0, fours, 4):
                sums = _four(np.intp(x.ctypes.data) + r * distance, at, distance, whole * 4, height - 1)
                for i in range(4):
                    for j in range(height):
                        out[r + i, n + j] = sums[i * TILE + j]
            for r in range(fours, rows):
                sums_of_one = _one(np.intp(x.ctypes.data) + r * distance, at, distance, whole * 4, height - 1)
                for j in range(height):
                    out[r, n + j] = sums_of_one[j]
            for k in range(whole, size):  # what fills no vector
                for r in range(rows):
                    for j in range(n, n + height):
                        out[r, j] += x[r, k] * weight[j, k]
        first, last = taken(task)
