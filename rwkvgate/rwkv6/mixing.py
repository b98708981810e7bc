"""The two mixers of a block: time mixing around the WKV operator, and channel mixing (arXiv 2404.05892, section 4)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rwkvgate.rwkv6.configuration import Rwkv6Config
from rwkvgate.rwkv6.kernels import followed
from rwkvgate.rwkv6.layouts import MIXES
from rwkvgate.rwkv6.linear import Linear, baddbmm, linear
from rwkvgate.rwkv6.precision import widened
from rwkvgate.rwkv6.state import LayerState
from rwkvgate.rwkv6.token_shift import TokenShift
from rwkvgate.rwkv6.wkv import wkv6


class LayerNorm(nn.LayerNorm):
    """LayerNorm computed and returned in float32 at least, whatever the types of input and weights."""

    def forward(self, x: Tensor) -> Tensor:
        """x (..., channel) normalised."""
        x = widened(x)
        return F.layer_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)


class HeadNorm(nn.GroupNorm):
    """The group norm of the heads, each by itself."""

    def forward(self, heads: Tensor) -> Tensor:
        """heads (batch, time, head, size) normalised, (batch, time, head * size)."""
        # A LayerNorm without weights: on a CPU its kernel is several times faster than GroupNorm's.
        normal = F.layer_norm(heads, heads.shape[-1:], eps=self.eps).flatten(2)
        return torch.addcmul(self.bias.to(normal.dtype), normal, self.weight.to(normal.dtype))


class Rwkv6Attention(nn.Module):
    """Time mixing: data-dependent token shift, the WKV operator, per-head normalisation, output gate."""

    def __init__(self, config: Rwkv6Config, layer: int) -> None:
        super().__init__()
        hidden, width = config.hidden_size, config.attention_hidden_size
        self.layer, self.head_size = layer, config.head_size
        assert config.time_mix_rank is not None  # the config fills it in
        for name in ("x", *MIXES):
            setattr(self, f"time_maa_{name}", nn.Parameter(torch.empty(1, 1, hidden)))
        self.time_maa_w1 = nn.Parameter(torch.empty(hidden, len(MIXES) * config.time_mix_rank))
        self.time_maa_w2 = nn.Parameter(torch.empty(len(MIXES), config.time_mix_rank, hidden))
        self.time_decay = nn.Parameter(torch.empty(1, 1, width))
        self.time_decay_w1 = nn.Parameter(torch.empty(hidden, config.time_decay_rank))
        self.time_decay_w2 = nn.Parameter(torch.empty(config.time_decay_rank, width))
        self.time_faaaa = nn.Parameter(torch.empty(config.num_attention_heads, config.head_size))
        self.receptance = Linear(hidden, width, bias=False)
        self.key = Linear(hidden, width, bias=False)
        self.value = Linear(hidden, width, bias=False)
        self.gate = Linear(hidden, width, bias=False)
        self.output = Linear(width, hidden, bias=False)
        self.ln_x = HeadNorm(config.num_attention_heads, width, eps=config.group_norm_epsilon)

    def forward(self, x: Tensor, shift: TokenShift, state: LayerState | None) -> tuple[Tensor, Tensor, Tensor]:
        """Mix over time.

        Args:
            x: (B, T, C): batch, time, channel.

        Returns:
            The output (B, T, C), x at the last token (B, C), and the WKV state (B, H, S, S): H heads of S channels.
        """
        previous, carried = shift(x, state.attention_shift if state else None)
        x_w, x_k, x_v, x_r, x_g = self._mixes(x, previous - x)  # (B, T, C) each
        heads = (*x.shape[:2], -1, self.head_size)
        r = self.receptance(x_r).view(heads)  # (B, T, H, S), as k, v and w
        # At padding a zero key writes nothing and a zero log decay forgets nothing.
        k = shift.silence(self.key(x_k)).view(heads)
        v = self.value(x_v).view(heads)
        moved = linear(torch.tanh(linear(x_w, self.time_decay_w1.t())), self.time_decay_w2.t())
        decay = widened(self.time_decay) + widened(moved)
        w = shift.silence(-torch.exp(decay)).view(heads)
        out, wkv = wkv6(r, k, v, w, self.time_faaaa, state.wkv if state else None)
        out = self.ln_x(out).to(x.dtype)  # (B, T, H * S)
        return self.output(out * F.silu(self.gate(x_g))), carried, wkv

    def _mixes(self, x: Tensor, delta: Tensor) -> tuple[Tensor, ...]:
        """The five inputs: x moved towards the previous token by a learned and a data-dependent share."""
        z = torch.tanh(linear(torch.addcmul(x, delta, self.time_maa_x), self.time_maa_w1.t()))  # (B, T, 5 * rank)
        z = z.unflatten(-1, (len(MIXES), -1)).flatten(0, 1).transpose(0, 1)  # (5, B * T, rank)
        learned = torch.cat([getattr(self, f"time_maa_{name}") for name in MIXES])  # (5, 1, C)
        share = baddbmm(learned, z, self.time_maa_w2).unflatten(1, x.shape[:2])  # (5, B, T, C)
        own = share.dtype == x.dtype and not followed(x)
        if own and torch.is_grad_enabled() and x.device.type == "cpu" and x.dtype.itemsize >= 4:
            mixes: tuple[Tensor, ...] = _Moved.apply(x, delta, share)
            return mixes
        # Without gradients the result overwrites the shares: fresh memory would cost more than the arithmetic.
        reuse = own and not torch.is_grad_enabled()
        return torch.addcmul(x, delta, share, out=share if reuse else None).unbind(0)


class _Moved(torch.autograd.Function):
    """x (B, T, C) moved by shares (5, B, T, C) of delta (B, T, C), as a tensor for each share.

    The backward of `torch.addcmul` goes over all five three times, through memory; this one over each at once, while it
    is in the processor's cache.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, delta: Tensor, share: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(delta, share)
        return torch.addcmul(x, delta, share).unbind(0)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        delta, share = ctx.saved_tensors
        if torch.is_grad_enabled():  # for gradients of gradients
            every = torch.stack(slopes)
            return every.sum(0), (every * share).sum(0), every * delta
        of_x, of_delta, of_share = torch.zeros_like(delta), torch.zeros_like(delta), torch.empty_like(share)
        for slope, part, of_part in zip(slopes, share, of_share, strict=True):
            of_x += slope
            of_delta.addcmul_(slope, part)
            torch.mul(slope, delta, out=of_part)
        return of_x, of_delta, of_share


class Rwkv6FeedForward(nn.Module):
    """Channel mixing: token shift, squared ReLU, receptance."""

    def __init__(self, config: Rwkv6Config, layer: int) -> None:
        super().__init__()
        hidden, inner = config.hidden_size, config.intermediate_size
        self.layer = layer
        self.time_maa_k = nn.Parameter(torch.empty(1, 1, hidden))
        self.time_maa_r = nn.Parameter(torch.empty(1, 1, hidden))
        self.key = Linear(hidden, inner, bias=False)
        self.receptance = Linear(hidden, hidden, bias=False)
        self.value = Linear(inner, hidden, bias=False)

    def forward(self, x: Tensor, shift: TokenShift, state: LayerState | None) -> tuple[Tensor, Tensor]:
        """Mix over channels: x (B, T, C) to the output (B, T, C) and x at the last token (B, C)."""
        previous, carried = shift(x, state.feed_forward_shift if state else None)
        delta = previous - x
        key = F.relu(self.key(torch.addcmul(x, delta, self.time_maa_k)))  # (B, T, inner)
        receptance = torch.sigmoid(self.receptance(torch.addcmul(x, delta, self.time_maa_r)))
        if key.dtype != torch.float16:
            return receptance * self.value(key.square() if torch.is_grad_enabled() else key.square_()), carried
        # float16 ends at 65,504, the square of 256, so each token's keys are divided by the largest before squaring.
        largest = key.detach().amax(-1, keepdim=True).clamp(min=1)
        value = self.value((key / largest).square())
        return widened(receptance) * widened(value) * widened(largest).square(), carried
