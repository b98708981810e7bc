"""The WKV recurrence on a CPU, forward and backward, by loops that numba compiles.

Equations, shapes and types are in `rwkvgate.rwkv6.wkv`; `rwkvgate.rwkv6.kernels` decides when these loops run. A head's
state stays in the processor's cache while a token reads it and writes to it. The backward goes back over the same
states: the forward keeps one in `BLOCK` tokens, and those between are computed again. So nothing is divided, subtracted
from a sum or clamped, and every decay is exact.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.functional import pad

from rwkvgate.rwkv6.compiled import LANES, OPTIONS, Vectors, array, number, share, taken
from rwkvgate.rwkv6.extras import extra
from rwkvgate.rwkv6.once import once
from rwkvgate.rwkv6.recurrence import ONCE, prepare

with extra("fast"):
    from numba import njit, types
    from numba.core import cgutils
    from numba.extending import intrinsic

BLOCK = 16
"""Tokens between two states that the forward keeps for the backward."""


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
    inputs = prepare(r, k, v, w, u, state)
    channels = r.shape[-1]
    if missing := -channels % (LANES * 4 // inputs[0].itemsize):  # heads of 32 or 64 channels miss none
        *rows, state = inputs
        inputs = (*(pad(x, (0, missing)) for x in rows), pad(state, (0, missing, 0, missing)))
    learns = torch.is_grad_enabled() and any(x.requires_grad for x in inputs)
    out, last = _Fused.apply(*(x.contiguous() for x in inputs), learns)
    return (out[..., :channels], last[..., :channels, :channels]) if missing else (out, last)


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
        tensors = r, k, v, decay, u, kept, state, last, out
        loop = _forward_double if r.dtype == torch.float64 else _forward_single
        share(loop, batch * heads, time * channels**2, (*r.shape, blocks), tensors)
        ctx.save_for_backward(r, k, v, decay, u, kept)
        return out, last

    @staticmethod
    @once(ONCE)
    def backward(ctx: Any, d_out: Tensor, d_last: Tensor) -> tuple[Tensor | None, ...]:
        if forward_ad._current_level >= 0 and any(
            forward_ad.unpack_dual(x).tangent is not None for x in (d_out, d_last)
        ):
            raise RuntimeError('the compiled loops carry no tangents: RWKVGATE_WKV=chunked, or wkv_backend("chunked")')
        r, k, v, decay, u, kept = ctx.saved_tensors
        batch, time, heads, channels = r.shape
        d_r, d_k, d_v, d_w = (torch.empty_like(r) for _ in range(4))
        d_u, d_state = r.new_zeros(batch, heads, channels), d_last.clone(memory_format=torch.contiguous_format)
        tensors = r, k, v, decay, u, kept, d_state, d_u, d_out.contiguous(), d_r, d_k, d_v, d_w
        loop = _backward_double if r.dtype == torch.float64 else _backward_single
        share(loop, batch * heads, 4 * time * channels**2, (*r.shape, kept.shape[2]), tensors)
        return d_r, d_k, d_v, d_w, d_u.sum(0), d_state, None


@intrinsic
def _step(_, before, after, out, read, write, value, decay, rows, zero):  # type: ignore[no-untyped-def]
    """A token of the recurrence, for as many columns of a state as a vector has.

    out += read^T before, and after = decay * before + write value^T. All but `rows` and `zero`, of the type of the
    numbers, are addresses: of the first of these columns in both states, in out and in value, and of the first number
    of read, write and decay. The states have so many rows, and each row has as many numbers. `after` may be `before`.
    """

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        before, after, out, read, write, value, decay, rows, _ = values
        by = Vectors(context, builder, signature.args[-1])
        given, total = by.load(value), cgutils.alloca_once_value(builder, by.load(out))
        with cgutils.for_range(builder, rows) as loop:
            offset = builder.mul(loop.index, by.size(by.item))
            row = builder.mul(offset, rows)
            read_i, write_i, decay_i = (by.repeated(by.at(x, offset)) for x in (read, write, decay))
            entering = by.load(by.at(before, row))
            by.grow(total, read_i, entering)
            by.store(by.times(decay_i, entering, by.times(write_i, given)), by.at(after, row))
        by.store(builder.load(total), out)

    return types.void(*[types.intp] * 8, zero), generate


def _back(width: int) -> Any:
    """A function for compiled loops: a token of the backward, for as many rows of a state as `width` vectors have.

    With d the gradient of the state after the token, in place: of_r = before d_out, of_k = d v and of_decay =
    (d * before) 1, d_v += k^T d, and then d = decay * d + r d_out^T. All but the number of columns and `zero`, of the
    type of the numbers, are addresses. Of `before` and `d` these rows lie by themselves and transposed: (column, row).
    So the sums over columns grow in vectors, and only that over rows, for d_v, adds up a vector's own numbers.
    """

    @intrinsic
    def back(_, before, d, r, k, decay, v, d_out, of_r, of_k, of_decay, d_v, columns, zero):  # type: ignore[no-untyped-def]
        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            before, d, r, k, decay, v, d_out, of_r, of_k, of_decay, d_v, columns, _ = values
            by = Vectors(context, builder, signature.args[-1])
            parts = [i * by.bytes for i in range(width)]
            r, k, decay = ([by.load(by.at(x, part)) for part in parts] for x in (r, k, decay))
            sums = [by.sums(3) for _ in parts]
            with cgutils.for_range(builder, columns) as loop:
                offset = builder.mul(loop.index, by.size(by.item))
                column = builder.mul(loop.index, by.size(width * by.bytes))
                v_j, d_out_j, pulled = by.repeated(by.at(v, offset)), by.repeated(by.at(d_out, offset)), None
                for i, part in enumerate(parts):
                    entering, leaving = (by.load(by.at(x, column, part)) for x in (before, d))
                    for total, pair in zip(
                        sums[i], ((entering, d_out_j), (leaving, v_j), (leaving, entering)), strict=True
                    ):
                        by.grow(total, *pair)
                    pulled = by.times(k[i], leaving, pulled)
                    by.store(by.times(decay[i], leaving, by.times(r[i], d_out_j)), by.at(d, column, part))
                place = builder.inttoptr(by.at(d_v, offset), by.number.as_pointer())
                builder.store(builder.fadd(builder.load(place), by.total(pulled)), place)
            for own, part in zip(sums, parts, strict=True):
                for total, address in zip(own, (of_r, of_k, of_decay), strict=True):
                    by.store(builder.load(total), by.at(address, part))

        return types.void(*[types.intp] * 12, zero), generate

    return back


_back_one, _back_two = _back(1), _back(2)


@njit
def _at(x, n):  # type: ignore[no-untyped-def]
    """The address of number n of an array."""
    return np.intp(x.ctypes.data) + n * x.itemsize


@njit
def _read(task, dtype):  # type: ignore[no-untyped-def]
    """What both directions have: r, k, v and decay, (batch, time, head, channel); u, (head, channel); and the states
    that are kept, (batch, head, blocks, channel, channel), without blocks where no gradient is wanted."""
    batch, heads, channels = number(task, 0), number(task, 2), number(task, 3)
    rows = batch, number(task, 1), heads, channels
    r, k, v = array(task, 5, rows, dtype), array(task, 6, rows, dtype), array(task, 7, rows, dtype)
    decay, u = array(task, 8, rows, dtype), array(task, 9, (heads, channels), dtype)
    return r, k, v, decay, u, array(task, 10, (batch, heads, number(task, 4), channels, channels), dtype)


@njit(**OPTIONS)
def _forward(task, dtype):  # type: ignore[no-untyped-def]
    """Heads of all sequences, in one row: write `out`, `kept`, and the state `after` the last token."""
    r, k, v, decay, u, kept = _read(task, dtype)
    batch, time, heads, channels = rows = r.shape
    states = batch, heads, channels, channels
    state, after, out = array(task, 11, states, dtype), array(task, 12, states, dtype), array(task, 13, rows, dtype)
    lanes, zero = LANES * 4 // r.itemsize, dtype(0)
    first, last = taken(task)
    while last:
        for head in range(first, last):
            b, h = head // heads, head % heads
            for t in range(time):
                before = state if t == 0 else after
                if kept.shape[2] and t % BLOCK == 0:
                    kept[b, h, t // BLOCK] = before[b, h]
                bonus = zero  # r_t diag(u) k_t^T is one number
                for i in range(channels):
                    bonus += r[b, t, h, i] * u[h, i] * k[b, t, h, i]
                for j in range(channels):
                    out[b, t, h, j] = bonus * v[b, t, h, j]
                n = ((b * time + t) * heads + h) * channels
                for j in range(0, channels, lanes):
                    m = head * channels**2 + j
                    of_column = _at(before, m), _at(after, m), _at(out, n + j)
                    _step(*of_column, _at(r, n), _at(k, n), _at(v, n + j), _at(decay, n), channels, zero)
        first, last = taken(task)


@njit(**OPTIONS)
def _backward(task, dtype):  # type: ignore[no-untyped-def]
    """Heads of all sequences: write the gradients, and bring `d_state` from the sequence's end to its start.

    `d_u` has a row for each sequence, (batch, head, channel).
    """
    r, k, v, decay, u, kept = _read(task, dtype)
    batch, time, heads, channels = rows = r.shape
    d_state, d_u = (
        array(task, 11, (batch, heads, channels, channels), dtype),
        array(task, 12, (batch, heads, channels), dtype),
    )
    d_out, d_r, d_k = array(task, 13, rows, dtype), array(task, 14, rows, dtype), array(task, 15, rows, dtype)
    d_v, d_w = array(task, 16, rows, dtype), array(task, 17, rows, dtype)
    lanes, zero = LANES * 4 // r.itemsize, dtype(0)
    two = channels % (2 * lanes) == 0
    high = 2 * lanes if two else lanes  # rows of the state that are gone over together
    entering = np.empty((BLOCK, channels, high), dtype)  # the states that the tokens of a block read, transposed
    d = np.empty((channels // high, channels, high), dtype)
    first, last = taken(task)
    while last:
        for head in range(first, last):
            b, h = head // heads, head % heads
            for part in range(channels // high):
                d[part] = d_state[b, h, part * high : (part + 1) * high].T
            for block in range(kept.shape[2] - 1, -1, -1):
                start = block * BLOCK
                end = min(start + BLOCK, time)
                for t in range(start, end):
                    bonus = zero
                    for i in range(channels):
                        bonus += r[b, t, h, i] * u[h, i] * k[b, t, h, i]
                    for j in range(channels):
                        d_v[b, t, h, j] = bonus * d_out[b, t, h, j]
                for part in range(channels // high):
                    top = part * high
                    entering[0] = kept[b, h, block, top : top + high].T
                    for t in range(start, end - 1):
                        k_t, decay_t = k[b, t, h, top : top + high], decay[b, t, h, top : top + high]
                        for j in range(channels):
                            before, after, v_j = entering[t - start, j], entering[t - start + 1, j], v[b, t, h, j]
                            for i in range(high):
                                after[i] = decay_t[i] * before[i] + k_t[i] * v_j
                    for t in range(end - 1, start - 1, -1):
                        n = ((b * time + t) * heads + h) * channels
                        m = n + top
                        of_states = _at(entering, (t - start) * channels * high), _at(d, part * channels * high)
                        of_rows = _at(r, m), _at(k, m), _at(decay, m)
                        of_columns, written = (_at(v, n), _at(d_out, n)), (_at(d_r, m), _at(d_k, m), _at(d_w, m))
                        if two:
                            _back_two(*of_states, *of_rows, *of_columns, *written, _at(d_v, n), channels, zero)
                        else:
                            _back_one(*of_states, *of_rows, *of_columns, *written, _at(d_v, n), channels, zero)
                for t in range(start, end):
                    d_bonus = zero
                    for j in range(channels):
                        d_bonus += v[b, t, h, j] * d_out[b, t, h, j]
                    for i in range(channels):
                        of_r, of_k = d_bonus * r[b, t, h, i], d_bonus * k[b, t, h, i]
                        d_r[b, t, h, i] += u[h, i] * of_k
                        d_k[b, t, h, i] += u[h, i] * of_r
                        d_w[b, t, h, i] *= decay[b, t, h, i]  # so far the decay's gradient, now its logarithm's
                        d_u[b, h, i] += of_r * k[b, t, h, i]
            for part in range(channels // high):
                d_state[b, h, part * high : (part + 1) * high] = d[part].T
        first, last = taken(task)


def _forward_single(task):  # type: ignore[no-untyped-def]
    _forward(task, np.float32)


def _forward_double(task):  # type: ignore[no-untyped-def]
    _forward(task, np.float64)


def _backward_single(task):  # type: ignore[no-untyped-def]
    _backward(task, np.float32)


def _backward_double(task):  # type: ignore[no-untyped-def]
    _backward(task, np.float64)
