"""Loops for a CPU that numba compiles: the WKV recurrence, forward and backward, and a product of few rows.

The WKV operator's equations, shapes and types are in `rwkvgate.rwkv6.wkv`; `rwkvgate.rwkv6.kernels` decides when these
loops run. A head's state stays in the processor's cache while a token reads it and writes to it. The backward goes back
over the same states: the forward keeps one in `BLOCK` tokens, and those between are computed again. So nothing is
divided, subtracted from a sum or clamped, and every decay is exact.

The product reads each row of the weight once, and ahead of its use; `rwkvgate.rwkv6.linear` decides when it runs.

Importing this module takes numba, which the extra `fast` installs. Its first call compiles for some seconds; numba
keeps the result beside this file, or in the user's cache folder, for later processes.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from queue import SimpleQueue
from threading import Thread
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rwkvgate.rwkv6.extras import extra
from rwkvgate.rwkv6.recurrence import prepare

with extra("fast"):
    from llvmlite import ir
    from llvmlite.binding import get_host_cpu_features
    from numba import config, njit, types
    from numba.core import cgutils
    from numba.extending import intrinsic

if config.DISABLE_JIT:  # type: ignore[attr-defined]
    raise ImportError("NUMBA_DISABLE_JIT is set, and Python's own loops would take thousands of times as long")

BLOCK = 16
"""Tokens between two states that the forward keeps for the backward."""
PARALLEL = 2**20
"""Multiply-adds of a call from which on it is shared among threads; below, starting them takes longer."""
Inbox = SimpleQueue[
    tuple[Callable[..., None], tuple[Tensor, ...], tuple[int, int], "SimpleQueue[BaseException | None]"]
]
_team: list[Inbox] = []
"""The inboxes of this process's helping threads."""
FLAGS = {"avx512f": (16, 6), "avx": (8, 3)}
"""What an x86 processor is said to have, the widest first, and `LANES` and `TILE` where it has it."""
LANES, TILE = next((sizes for flag, sizes in FLAGS.items() if get_host_cpu_features().get(flag)), (4, 6))
"""Numbers of float32 in a vector of this processor, and rows of a weight that `product` reads beside each other.

With four rows of x the sums of a tile are 4 * TILE vectors, which stay in registers: AVX-512 and ARM have 32, AVX 16.
"""


def _compiled(loop: Callable[..., None]) -> Callable[..., None]:
    # Sums may be taken in another order, and a product and a sum become one instruction; NaN and infinity stay.
    options: dict[str, Any] = {"nogil": True, "fastmath": {"reassoc", "contract", "nsz"}}
    try:
        return njit(cache=True, **options)(loop)
    except RuntimeError:  # no folder can be written to
        return njit(**options)(loop)


def wkv6_numba(
    r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The fused form, on a CPU, with gradients through the state.

    Arguments, results and errors are those of `rwkvgate.rwkv6.wkv.wkv6`. The same bits come from any number of threads.

    Example:
        >>> import torch
        >>> from rwkvgate.rwkv6.wkv import wkv6_recurrent
        >>> r, k, v = torch.randn(3, 1, 100, 2, 4).unbind(0)  # 1 sequence, 100 tokens, 2 heads of 4 channels
        >>> w, u = -torch.rand(1, 100, 2, 4), torch.randn(2, 4)
        >>> out, _ = wkv6_numba(r, k, v, w, u)
        >>> torch.allclose(out, wkv6_recurrent(r, k, v, w, u)[0], atol=1e-4)
        True
    """
    inputs = [x.contiguous() for x in prepare(r, k, v, w, u, state)]
    learns = torch.is_grad_enabled() and any(x.requires_grad for x in inputs)
    out, last = _Fused.apply(*inputs, learns)
    return out, last


class _Fused(torch.autograd.Function):
    """The two compiled loops over torch's tensors."""

    @staticmethod
    def forward(
        ctx: Any, r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor, state: Tensor, learns: bool
    ) -> tuple[Tensor, Tensor]:
        batch, time, heads, channels = r.shape
        decay, out, last = w.exp(), torch.empty_like(v), torch.empty_like(state) if time else state.clone()
        blocks = -(-time // BLOCK) if learns else 0
        kept = r.new_empty(batch, heads, blocks, channels, channels)  # the state before each block
        _share(_forward, batch * heads, time * channels**2, r, k, v, decay, u, state, last, out, kept)
        ctx.save_for_backward(r, k, v, decay, u, kept)
        return out, last

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_out: Tensor, d_last: Tensor) -> tuple[Tensor | None, ...]:
        r, k, v, decay, u, kept = ctx.saved_tensors
        batch, time, heads, channels = r.shape
        d_r, d_k, d_v, d_w = (torch.empty_like(r) for _ in range(4))
        d_u, d_state = r.new_zeros(batch, heads, channels), d_last.clone(memory_format=torch.contiguous_format)
        given = r, k, v, decay, u, kept, d_out.contiguous()
        _share(_backward, batch * heads, 4 * time * channels**2, *given, d_state, d_r, d_k, d_v, d_w, d_u)
        return d_r, d_k, d_v, d_w, d_u.sum(0), d_state, None


def product(x: Tensor, weight: Tensor) -> Tensor:
    """x (rows, in) times weight (out, in), to (rows, out): all float32 and contiguous.

    No gradient goes through it. The same bits come from any number of threads.

    Example:
        >>> x, weight = torch.randn(3, 10), torch.randn(8, 10)
        >>> torch.allclose(product(x, weight), x @ weight.t(), atol=1e-5)
        True
    """
    out = x.new_empty(len(x), len(weight))
    _share(_product, -(-len(weight) // TILE), TILE * x.numel(), x, weight, out)
    return out


def _share(loop: Callable[..., None], items: int, work: int, *tensors: Tensor) -> None:
    """Call a loop over all items, in threads where they have much to do: `work` multiply-adds each."""
    threads = min(torch.get_num_threads(), items) if items * work >= PARALLEL else 1
    parts = list(pairwise(items * i // threads for i in range(threads + 1)))
    helpers = _helpers(threads - 1)
    done: SimpleQueue[BaseException | None] = SimpleQueue()
    for inbox, part in zip(helpers, parts[1:], strict=False):
        inbox.put((loop, tensors, part, done))
    for part in (parts[0], *parts[1 + len(helpers) :]):
        loop(*map(_array, tensors), *part)
    for error in [done.get() for _ in helpers]:
        if error is not None:
            raise error


def _helpers(count: int) -> list[Inbox]:
    """The inboxes of that many waiting threads, or of as many as the system has.

    To start a thread takes several times as long as to wake one.
    """
    with suppress(RuntimeError):  # the system has no more threads, or Python is ending
        while len(_team) < count:
            inbox: Inbox = SimpleQueue()
            Thread(target=_help, args=(inbox,), daemon=True).start()
            _team.append(inbox)
    return _team[:count]


def _help(inbox: Inbox) -> None:
    """Call what comes in, and send its error, or None, to where it says.

    The tensors come in whole: after an interrupt nobody but this thread may hold the memory that it works on.
    """
    while True:
        loop, tensors, part, done = inbox.get()
        try:
            loop(*map(_array, tensors), *part)
            done.put(None)
        except BaseException as error:
            done.put(error)
        del tensors  # the next call may be long in coming


if hasattr(os, "register_at_fork"):  # a forked process has none of its parent's threads
    os.register_at_fork(after_in_child=_team.clear)


def _array(x: Tensor) -> NDArray[Any]:
    """A tensor's memory, which the caller keeps alive.

    By its address: what x.numpy() has seen FSDP cannot free any more.
    """
    assert x.is_contiguous()
    dtype = {torch.float32: np.float32, torch.float64: np.float64}[x.dtype]
    if not x.numel():
        return np.empty(x.shape, dtype)
    memory = (ctypes.c_byte * x.nbytes).from_address(x.data_ptr())
    return np.frombuffer(memory, dtype).reshape(x.shape)


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
            size, single, number = length.type, ir.FloatType(), ir.IntType(32)
            vector, byte = ir.VectorType(single, LANES), ir.IntType(8).as_pointer()
            kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
            fetch = builder.module.declare_intrinsic("llvm.prefetch", [byte], kind)
            kind, name = ir.FunctionType(single, [single, vector]), f"llvm.vector.reduce.fadd.v{LANES}f32"
            add_up = cgutils.get_or_insert_function(builder.module, kind, name)

            def at(address: Any, offset: Any, target: Any) -> Any:
                return builder.inttoptr(builder.add(address, offset), target)

            steps = [size(i) for i in range(max(rows, TILE))]
            of_x = [builder.add(x, builder.mul(distance, step)) for step in steps[:rows]]
            near = [builder.select(builder.icmp_signed("<", step, follow), step, follow) for step in steps[:TILE]]
            of_weight = [builder.add(weight, builder.mul(distance, step)) for step in near]
            ahead = builder.mul(distance, size(TILE))
            totals = [cgutils.alloca_once_value(builder, vector(None)) for _ in range(rows * TILE)]
            with cgutils.for_range_slice(builder, size(0), length, size(4 * LANES), size) as (k, _):
                further = builder.add(k, ahead)
                for row in of_weight:  # to read, into the second cache; past the weight's end nothing happens
                    builder.call(fetch, [at(row, further, byte), number(0), number(2), number(1)])
                a = [builder.load(at(row, k, vector.as_pointer()), align=4) for row in of_x]
                b = [builder.load(at(row, k, vector.as_pointer()), align=4) for row in of_weight]
                for i, total in enumerate(totals):
                    term = builder.fmul(a[i // TILE], b[i % TILE], flags=("contract",))
                    builder.store(builder.fadd(builder.load(total), term, flags=("contract",)), total)
            sums = [builder.call(add_up, [single(0), builder.load(total)], fastmath=("reassoc",)) for total in totals]
            return context.make_tuple(builder, signature.return_type, sums)

        return types.UniTuple(types.float32, rows * TILE)(*[types.intp] * 5), generate

    return tile


_one, _four = _tile(1), _tile(4)


@_compiled
def _product(x, weight, out, first, last):  # type: ignore[no-untyped-def]
    """Tiles first to last of the weight's rows, times every row of x; four of x at once, so that less is read."""
    rows, size = x.shape
    fours, whole, distance = rows // 4 * 4, size // LANES * LANES, size * 4
    for n in range(TILE * first, TILE * last, TILE):
        count = min(TILE, len(weight) - n)  # the last tile may have fewer
        at = np.intp(weight.ctypes.data) + n * distance
        for r in range(0, fours, 4):
            sums = _four(np.intp(x.ctypes.data) + r * distance, at, distance, whole * 4, count - 1)
            for i in range(4):
                for j in range(count):
                    out[r + i, n + j] = sums[i * TILE + j]
        for r in range(fours, rows):
            sums_of_one = _one(np.intp(x.ctypes.data) + r * distance, at, distance, whole * 4, count - 1)
            for j in range(count):
                out[r, n + j] = sums_of_one[j]
        for k in range(whole, size):  # what fills no vector
            for r in range(rows):
                for j in range(n, n + count):
                    out[r, j] += x[r, k] * weight[j, k]


@_compiled
def _forward(r, k, v, decay, u, state, after, out, kept, first, last):  # type: ignore[no-untyped-def]
    """Heads first to last of all sequences, in one row: write `out`, `kept`, and the state `after` the last token.

    r, k, v, decay, out: (batch, time, head, channel); u: (head, channel); states: (batch, head, channel, channel);
    kept: (batch, head, blocks, channel, channel), without blocks where no gradient is wanted.
    """
    _, time, heads, channels = r.shape
    for head in range(first, last):
        b, h = head // heads, head % heads
        for t in range(time):
            before, now = state[b, h] if t == 0 else after[b, h], after[b, h]
            if kept.shape[2] and t % BLOCK == 0:
                kept[b, h, t // BLOCK] = before
            r_t, k_t, v_t, decay_t, out_t = r[b, t, h], k[b, t, h], v[b, t, h], decay[b, t, h], out[b, t, h]
            bonus = (r_t * u[h] * k_t).sum()  # r_t diag(u) k_t^T is one number
            for j in range(channels):
                out_t[j] = bonus * v_t[j]
            for i in range(channels):
                row, next_row, r_i, k_i, decay_i = before[i], now[i], r_t[i], k_t[i], decay_t[i]
                for j in range(channels):
                    value = row[j]
                    out_t[j] += r_i * value
                    next_row[j] = decay_i * value + k_i * v_t[j]


@_compiled
def _backward(r, k, v, decay, u, kept, d_out, d_state, d_r, d_k, d_v, d_w, d_u, first, last):  # type: ignore[no-untyped-def]
    """Heads first to last: write the gradients, and bring `d_state` from the sequence's end to its start.

    Shapes are `_forward`'s, each gradient's its tensor's, but d_u: (batch, head, channel).
    """
    _, time, heads, channels = r.shape
    entering = np.empty((BLOCK, channels, channels), r.dtype)  # the states that the tokens of a block read
    for head in range(first, last):
        b, h = head // heads, head % heads
        for n in range(kept.shape[2] - 1, -1, -1):
            start = n * BLOCK
            end = min(start + BLOCK, time)
            entering[0] = kept[b, h, n]
            for t in range(start, end - 1):
                k_t, v_t, decay_t = k[b, t, h], v[b, t, h], decay[b, t, h]
                for i in range(channels):
                    row, after, k_i, decay_i = entering[t - start, i], entering[t - start + 1, i], k_t[i], decay_t[i]
                    for j in range(channels):
                        after[j] = decay_i * row[j] + k_i * v_t[j]
            for t in range(end - 1, start - 1, -1):
                r_t, k_t, v_t, decay_t, d_out_t = r[b, t, h], k[b, t, h], v[b, t, h], decay[b, t, h], d_out[b, t, h]
                bonus, d_bonus = (r_t * u[h] * k_t).sum(), (v_t * d_out_t).sum()
                d_v_t = d_v[b, t, h]
                for j in range(channels):
                    d_v_t[j] = bonus * d_out_t[j]
                for i in range(channels):
                    row, d_row, r_i, k_i, decay_i = entering[t - start, i], d_state[b, h, i], r_t[i], k_t[i], decay_t[i]
                    of_r = of_k = of_decay = r.dtype.type(0)
                    for j in range(channels):
                        d_after = d_row[j]
                        of_r += row[j] * d_out_t[j]
                        of_k += d_after * v_t[j]
                        of_decay += d_after * row[j]
                        d_v_t[j] += k_i * d_after
                        d_row[j] = decay_i * d_after + r_i * d_out_t[j]
                    d_r[b, t, h, i] = of_r + u[h, i] * k_i * d_bonus
                    d_k[b, t, h, i] = of_k + u[h, i] * r_i * d_bonus
                    d_w[b, t, h, i] = of_decay * decay_i
                    d_u[b, h, i] += r_i * k_i * d_bonus
