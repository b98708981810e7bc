"""The WKV recurrence in plain PyTorch: by its definition, one token at a time, and by chunks of matrix products.

Equations, shapes and types are in `rwkvgate.rwkv6.wkv`.

How the chunked form stays exact at every decay. What token t reads of token j < t is
k_j exp(w_{j+1} + ... + w_{t-1}). The textbook way splits that exponent into a difference of cumulative
sums; one of the two factors then grows without bound, so strong decays overflow unless they are
clamped, and a weak decay beside a strong one drowns in the difference. Here blocks are merged
pairwise instead: 1 with 1 token, 2 with 2, up to half a chunk. When two neighbouring blocks meet,
every t is in the right one and every j in the left one, so the exponent is the sum from j to the end
of the left block plus the sum from the start of the right block to t. Both are sums of numbers <= 0,
built by additions alone: nothing overflows, nothing cancels, and no floor is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from rwkvgate.rwkv6.once import once
from rwkvgate.rwkv6.precision import wide_dtype, without_autocast

CPU_CHUNK, GPU_CHUNK = 16, 64
"""Tokens of a chunk by default. Within a chunk blocks are merged, which costs elementwise work for each
level; between chunks the state is carried, which costs a step. On a CPU the former dominates."""

ONCE = 'RWKVGATE_WKV=recurrent, or wkv_backend("recurrent"), differentiates as often as you like'
"""What to do where a gradient of a gradient is wanted."""


def wkv6_recurrent(
    r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The definition, one token at a time: the oracle for every other form, with gradients through the state.

    Arguments, results and errors are those of `rwkvgate.rwkv6.wkv.wkv6`.

    Example:
        One head of one channel that halves its state at each token, and whose bonus is 3:

        >>> import torch
        >>> one = torch.ones(1, 3, 1, 1)  # (batch, time, head, channel)
        >>> out, state = wkv6_recurrent(one, one, one, one * torch.tensor(0.5).log(), torch.full((1, 1), 3.0))
        >>> out.flatten().tolist(), state.item()
        ([3.0, 4.0, 4.5], 1.75)
    """
    r, k, v, w, u, state = prepare(r, k, v, w, u, state)
    outputs = []
    with without_autocast(r.device):
        for t in range(r.shape[1]):
            r_t, k_t, v_t = r[:, t], k[:, t], v[:, t]  # (B, H, C)
            bonus = (r_t * u * k_t).sum(-1, keepdim=True) * v_t  # r_t diag(u) k_t^T is one number a head
            outputs.append(bonus + (r_t.unsqueeze(-2) @ state).squeeze(-2))  # (B, H, C)
            decayed = w[:, t].exp().unsqueeze(-1) * state  # (B, H, C, C)
            state = decayed.addcmul_(k_t.unsqueeze(-1), v_t.unsqueeze(-2))
    if not outputs:
        return torch.zeros_like(v), state
    return (outputs[0].unsqueeze(1) if len(outputs) == 1 else torch.stack(outputs, dim=1)), state


def wkv6_chunked(
    r: Tensor,
    k: Tensor,
    v: Tensor,
    w: Tensor,
    u: Tensor,
    state: Tensor | None = None,
    chunk: int | None = None,
) -> tuple[Tensor, Tensor]:
    """The same numbers by matrix products: blocks are merged within a chunk, and the state is carried between chunks.

    Arguments, results and errors are those of `rwkvgate.rwkv6.wkv.wkv6`, and one more:

    Args:
        chunk: tokens in a chunk, a power of two; None takes the device's default.

    Raises:
        ValueError: the shapes do not agree, or `chunk` is not a power of two.

    Example:
        >>> import torch
        >>> r, k, v = torch.randn(3, 1, 100, 2, 4).unbind(0)
        >>> w, u = -torch.rand(1, 100, 2, 4), torch.randn(2, 4)
        >>> out, _ = wkv6_chunked(r, k, v, w, u)
        >>> torch.allclose(out, wkv6_recurrent(r, k, v, w, u)[0], atol=1e-4)
        True
    """
    if chunk is None:
        chunk = CPU_CHUNK if r.device.type == "cpu" else GPU_CHUNK
    if chunk < 1 or chunk & (chunk - 1):
        raise ValueError(f"chunk is {chunk}; it must be a power of two")
    r, k, v, w, u, state = prepare(r, k, v, w, u, state)
    time = r.shape[1]
    if time == 0:
        return torch.zeros_like(v), state
    chunk = min(chunk, 1 << (time - 1).bit_length())
    learns = torch.is_grad_enabled() and any(x.requires_grad for x in (r, k, v, w, u, state))
    with without_autocast(r.device):
        parts = (*(_split(x, chunk) for x in (r, k, v, w)), u, state)  # r, k, v, w: (B, H, chunks, chunk, C)
        out, state = _Chunked.apply(*parts) if learns else _merge(*parts)
    return out.flatten(2, 3)[:, :, :time].transpose(1, 2), state  # (B, T, H, C), (B, H, C, C)


def prepare(
    r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor, state: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Check the shapes of the operator's arguments, and return them in the type they are computed in.

    A state of None becomes zeros.

    Raises:
        ValueError: the shapes or devices do not agree.
    """
    if r.dim() != 4 or not r.shape == k.shape == v.shape == w.shape:
        shapes = ", ".join(f"{name} {tuple(x.shape)}" for name, x in zip("rkvw", (r, k, v, w), strict=True))
        raise ValueError(f"r, k, v and w must share one shape (batch, time, head, channel); found {shapes}")
    batch, _, heads, channels = r.shape
    if u.shape != (heads, channels):
        raise ValueError(f"u is {tuple(u.shape)}; it must be (head, channel), here {(heads, channels)}")
    expected = (batch, heads, channels, channels)
    if state is not None and state.shape != expected:
        raise ValueError(f"the state is {tuple(state.shape)}; it must be {expected}")
    if len({x.device for x in (r, k, v, w, u, state) if x is not None}) > 1:
        given = {"r": r, "k": k, "v": v, "w": w, "u": u} | ({} if state is None else {"state": state})
        devices = ", ".join(f"{name} {x.device}" for name, x in given.items())
        raise ValueError(f"r, k, v, w, u and the state must be on one device; found {devices}")
    dtype = wide_dtype(r.dtype)
    if state is None:
        state = torch.zeros(expected, dtype=dtype, device=r.device)
    return r.to(dtype), k.to(dtype), v.to(dtype), w.to(dtype), u.to(dtype), state.to(dtype)


def _split(x: Tensor, chunk: int) -> Tensor:
    """Cut (batch, time, head, channel) into chunks, (batch, head, chunks, tokens in a chunk, channel).

    Zeros fill the last chunk: a token with k = 0 and w = 0 neither adds to the state nor decays it.
    """
    missing = -x.shape[1] % chunk
    if missing:
        x = pad(x, (0, 0, 0, 0, 0, missing))
    return x.unflatten(1, (-1, chunk)).permute(0, 3, 1, 2, 4).contiguous()


def _halves(x: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """Views of the left and right block of each pair, (..., pairs, block, channel) both."""
    pairs = x.unflatten(-2, (-1, 2, block))
    return pairs.select(-3, 0), pairs.select(-3, 1)


def _scores(full: Tensor, block: int) -> Tensor:
    """View of the scores of right tokens on left tokens, (..., block, block, pairs), of all pairs."""
    pairs = full.shape[-1] // (2 * block)
    grid = full.unflatten(-1, (pairs, 2 * block)).unflatten(-3, (pairs, 2 * block))
    return grid.diagonal(dim1=-4, dim2=-2)[..., block:, :block, :]


def _merge(
    r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor, state: Tensor, saved: list[Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """The chunked form over (batch, head, chunks, tokens, channel): the output and the state after the last chunk.

    `saved`, where it is a list, receives the intermediate tensors that the backward needs.
    """
    decay = w.exp()
    scores = r.new_zeros(*r.shape[:-1], r.shape[-2])  # (B, H, N chunks, L reading tokens, L read tokens)
    scores.diagonal(dim1=-2, dim2=-1).copy_(((r * k) @ u[:, None, :, None]).squeeze(-1))
    # Decay from a block's start to a token, and from a token to its block's end, both without the token's own;
    # and decay over a block. A block of one token has nothing before or after it.
    before, after, total = torch.ones_like(w), torch.ones_like(w), decay  # (B, H, N, L, C)
    block = 1
    while block < r.shape[-2]:
        left_after, right_before = _halves(after, block)[0], _halves(before, block)[1]
        left_k, right_r = _halves(k, block)[0], _halves(r, block)[1]
        if block == 1:
            level = (right_r * left_k).sum(-1)[..., None]  # (B, H, N, pairs, block, block)
        else:
            factors = left_after, right_before
            if saved is not None:
                factors = left_after.clone(), right_before.clone()
                saved += factors
            left_k, right_r = left_k * factors[0], right_r * factors[1]
            level = right_r @ left_k.transpose(-1, -2)
        _scores(scores, block).copy_(level.movedim(-3, -1))
        left_total, right_total = total.unflatten(-2, (-1, 2)).unbind(-2)
        right_before *= left_total.unsqueeze(-2)
        left_after *= right_total.unsqueeze(-2)
        total = left_total * right_total  # (B, H, N, blocks, C)
        block *= 2
    out, total = scores @ v, total.transpose(-1, -2)  # (B, H, N, L, C), (B, H, N, C, 1)
    # A chunk at a time: its state stays in the processor's cache, and (batch, head) as one dimension saves views.
    steps = zip(*(x.flatten(0, 1).unbind(1) for x in (r * before, (k * after).mT, v, total)), strict=True)
    entering, carried, rows = [], state.flatten(0, 1), out.flatten(0, 1)
    for i, (read, written, value, left) in enumerate(steps):
        if saved is not None:
            entering.append(carried)
        rows[:, i].baddbmm_(read, carried)
        carried = (left * carried).baddbmm_(written, value)
    if saved is not None:
        states = torch.stack(entering, dim=1).unflatten(0, state.shape[:2])
        saved[:0] = scores, before, after, total.squeeze(-1), states
    return out, carried.view_as(state)


class _Chunked(torch.autograd.Function):
    """`_merge` with a hand-written backward.

    Autograd would save every intermediate tensor of every level; this saves two decay factors a level.
    Derivatives with respect to w follow the merges downward, so they too are sums without cancellation.
    """

    @staticmethod
    def forward(
        ctx: Any, r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        saved: list[Tensor] = []
        out, state = _merge(r, k, v, w, u, state, saved)
        ctx.save_for_backward(r, k, v, u, *saved)
        return out, state

    @staticmethod
    @once(ONCE)
    def backward(ctx: Any, d_out: Tensor, d_state: Tensor) -> tuple[Tensor, ...]:
        with without_autocast(d_out.device):
            return _Chunked._gradients(ctx.saved_tensors, d_out, d_state)

    @staticmethod
    def _gradients(saved: Sequence[Tensor], d_out: Tensor, d_state: Tensor) -> tuple[Tensor, ...]:
        r, k, v, u, scores, before, after, total, entering, *levels = saved
        d_out = d_out.contiguous()  # it comes transposed, and each product below would copy it again
        read, written = r * before, k * after
        d_scores = d_out @ v.transpose(-1, -2)
        d_v = scores.transpose(-1, -2) @ d_out
        d_entering = read.transpose(-1, -2) @ d_out
        d_leaving = torch.empty_like(entering)
        for i in reversed(range(r.shape[2])):
            d_leaving[:, :, i] = d_state
            d_state = total[:, :, i].unsqueeze(-1) * d_state + d_entering[:, :, i]
        d_v += written @ d_leaving
        d_read = d_out @ entering.transpose(-1, -2)
        d_written = v @ d_leaving.transpose(-1, -2)
        d_r, d_k = d_read * before, d_written * after
        # From here on derivatives are with respect to the *logarithms* of before, after and total.
        d_before, d_after = d_read.mul_(read), d_written.mul_(written)
        d_total = ((d_leaving * entering).sum(-1) * total).unsqueeze(-2)
        block = r.shape[-2] // 2
        while block >= 1:
            left_total = d_total + _halves(d_before, block)[1].sum(-2)
            right_total = d_total + _halves(d_after, block)[0].sum(-2)
            d_total = torch.stack((left_total, right_total), dim=-2).flatten(-3, -2)
            left_k, right_r = _halves(k, block)[0], _halves(r, block)[1]
            level = _scores(d_scores, block).movedim(-1, -3).contiguous()
            if block == 1:
                _halves(d_k, 1)[0].addcmul_(level, right_r)
                _halves(d_r, 1)[1].addcmul_(level, left_k)
            else:
                right_before, left_after = levels.pop(), levels.pop()
                left_k, right_r = left_k * left_after, right_r * right_before
                g_k, g_r = level.transpose(-1, -2) @ right_r, level @ left_k
                _halves(d_k, block)[0].addcmul_(g_k, left_after)
                _halves(d_after, block)[0].addcmul_(g_k, left_k)
                _halves(d_r, block)[1].addcmul_(g_r, right_before)
                _halves(d_before, block)[1].addcmul_(g_r, right_r)
            block //= 2
        bonus = d_scores.diagonal(dim1=-2, dim2=-1).unsqueeze(-1)
        d_u = (bonus * r * k).sum((0, 2, 3))
        u = u[:, None, None]
        return d_r + bonus * k * u, d_k + bonus * r * u, d_v, d_total, d_u, d_state
