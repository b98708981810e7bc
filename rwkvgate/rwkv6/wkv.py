"""The WKV operator of RWKV-6: a linear recurrence with a decay for every channel and token.

For each head, with the state S of shape (key channel, value channel), Peng et al. 2024
(arXiv 2404.05892) define

    out_t = r_t (S_{t-1} + diag(u) k_t^T v_t)        read before the update; u is the bonus
    S_t   = diag(exp(w_t)) S_{t-1} + k_t^T v_t       w is the log decay, <= 0

`wkv6_recurrent` is that definition, one token at a time: the oracle. `wkv6_chunked` computes the same
numbers with matrix products. `wkv6` picks between them, and an optional kernel: see `rwkvgate.rwkv6.kernels`.

Shapes: r, k, v and w are (batch, time, head, channel), u is (head, channel), the state is
(batch, head, key channel, value channel). float64 is computed in float64; every other type is
computed, and returned, in float32, because the decay and the state need its range.

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
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

CPU_CHUNK, GPU_CHUNK = 16, 64
"""Tokens of a chunk by default. Within a chunk blocks are merged, which costs elementwise work for each
level; between chunks the state is carried, which costs a step. On a CPU the former dominates."""


def wkv6(r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The WKV operator by whichever form is fastest for this length and device, or the one that is forced.

    Args:
        r, k, v: receptance, key and value, (batch, time, head, channel).
        w: log decay, <= 0, same shape.
        u: bonus of the current token, (head, channel).
        state: (batch, head, key channel, value channel); zeros where None.

    Returns:
        The output, shaped like v, and the state after the last token.

    Raises:
        ValueError: the shapes do not agree, or the environment forces an unknown form.
        RuntimeError: a form is forced that cannot run here.
    """
    from rwkvgate.rwkv6.kernels import choose  # it imports this module

    return choose(r)(r, k, v, w, u, state)


def wkv6_recurrent(
    r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The definition, one token at a time, with gradients through the state. See `wkv6`."""
    r, k, v, w, u, state = prepare(r, k, v, w, u, state)
    outputs = []
    with without_autocast(r.device):
        for t in range(r.shape[1]):
            r_t, k_t, v_t = r[:, t], k[:, t], v[:, t]
            bonus = (r_t * u * k_t).sum(-1, keepdim=True) * v_t  # r_t diag(u) k_t^T is one number a head
            outputs.append(bonus + (r_t.unsqueeze(-2) @ state).squeeze(-2))
            decayed = w[:, t].exp().unsqueeze(-1) * state
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
    """The same numbers by merging blocks within chunks. See `wkv6` and the module's text.

    Args:
        chunk: tokens of a chunk, a power of two; None takes the device's default.

    Raises:
        ValueError: the shapes do not agree, or `chunk` is not a power of two.
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
        parts = (*(_split(x, chunk) for x in (r, k, v, w)), u, state)
        out, state = _Chunked.apply(*parts) if learns else _merge(*parts)
    return out.flatten(2, 3)[:, :, :time].transpose(1, 2), state


def prepare(
    r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor, state: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The arguments of `wkv6` with their shapes checked, in the type they are computed in, the state never None."""
    if r.dim() != 4 or not r.shape == k.shape == v.shape == w.shape:
        shapes = ", ".join(f"{name} {tuple(x.shape)}" for name, x in zip("rkvw", (r, k, v, w), strict=True))
        raise ValueError(f"r, k, v and w must share one shape (batch, time, head, channel); found {shapes}")
    batch, _, heads, channels = r.shape
    if u.shape != (heads, channels):
        raise ValueError(f"u is {tuple(u.shape)}; it must be (head, channel), here {(heads, channels)}")
    wanted = (batch, heads, channels, channels)
    if state is not None and state.shape != wanted:
        raise ValueError(f"the state is {tuple(state.shape)}; it must be {wanted}")
    dtype = torch.float64 if r.dtype == torch.float64 else torch.float32
    if state is None:
        state = torch.zeros(wanted, dtype=dtype, device=r.device)
    return r.to(dtype), k.to(dtype), v.to(dtype), w.to(dtype), u.to(dtype), state.to(dtype)


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Autocast would take the matrix products of these float32 tensors in half precision."""
    kind = device.type
    enabled = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.autocast(kind, enabled=False) if enabled else nullcontext()


def _split(x: Tensor, chunk: int) -> Tensor:
    """(batch, time, head, channel) to (batch, head, chunks, tokens of a chunk, channel).

    The last chunk is filled up with zeros: a token with k = 0 and w = 0 neither adds to the state nor
    decays it.
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
    r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor, state: Tensor, kept: list[Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """The chunked form over (batch, head, chunks, tokens, channel): the output and the state after the last chunk.

    `kept`, where it is a list, receives what the backward needs of the way there.
    """
    decay = w.exp()
    scores = r.new_zeros(*r.shape[:-1], r.shape[-2])
    scores.diagonal(dim1=-2, dim2=-1).copy_(((r * k) @ u[:, None, :, None]).squeeze(-1))
    # The decay from a block's start to a token, and from a token to its block's end, both exclusive
    # of the token; of a whole block. A block of one token has nothing before or after it.
    before, after, total = torch.ones_like(w), torch.ones_like(w), decay
    block = 1
    while block < r.shape[-2]:
        left_after, right_before = _halves(after, block)[0], _halves(before, block)[1]
        left_k, right_r = _halves(k, block)[0], _halves(r, block)[1]
        if block == 1:
            level = (right_r * left_k).sum(-1)[..., None]
        else:
            if kept is not None:
                kept += left_after.clone(), right_before.clone()
            left_k, right_r = left_k * left_after, right_r * right_before
            level = right_r @ left_k.transpose(-1, -2)
        _scores(scores, block).copy_(level.movedim(-3, -1))
        left_total, right_total = total.unflatten(-2, (-1, 2)).unbind(-2)
        right_before *= left_total.unsqueeze(-2)
        left_after *= right_total.unsqueeze(-2)
        total = left_total * right_total
        block *= 2
    out, total = scores @ v, total.transpose(-1, -2)
    # A chunk at a time: its state stays in the processor's cache, and (batch, head) as one dimension saves views.
    steps = zip(*(x.flatten(0, 1).unbind(1) for x in (out, r * before, (k * after).mT, v, total)), strict=True)
    entering, carried = [], state.flatten(0, 1)
    for read_out, read, written, value, left in steps:
        if kept is not None:
            entering.append(carried)
        read_out.baddbmm_(read, carried)
        carried = (left * carried).baddbmm_(written, value)
    if kept is not None:
        states = torch.stack(entering, dim=1).unflatten(0, state.shape[:2])
        kept[:0] = scores, before, after, total.squeeze(-1), states
    return out, carried.view_as(state)


class _Chunked(torch.autograd.Function):
    """`_merge` with a hand-written backward.

    By hand, because autograd would keep every level's intermediate tensors; here a level keeps two
    decay factors. Derivatives with respect to w follow the merges downward, so they too are sums
    without cancellation.
    """

    @staticmethod
    def forward(
        ctx: Any, r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        kept: list[Tensor] = []
        out, state = _merge(r, k, v, w, u, state, kept)
        ctx.save_for_backward(r, k, v, u, *kept)
        return out, state

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_out: Tensor, d_state: Tensor) -> tuple[Tensor, ...]:
        with without_autocast(d_out.device):
            return _Chunked._gradients(ctx.saved_tensors, d_out, d_state)

    @staticmethod
    def _gradients(saved: Sequence[Tensor], d_out: Tensor, d_state: Tensor) -> tuple[Tensor, ...]:
        r, k, v, u, scores, before, after, total, entering, *kept = saved
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
                right_before, left_after = kept.pop(), kept.pop()
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
