"""RWKV-7 (Goose) in plain PyTorch, as a baseline that the study trains: arXiv 2503.14456, section 4.

The state of a head is a matrix S of values by keys. Each token decays its columns, takes from it what a removal key
reads, and writes a value under a key: a generalised delta rule,

    S_t = S_{t-1} diag(w_t) + (S_{t-1} a_t) b_t^T + v_t k_t^T,    y_t = S_t r_t,    a_t = -kappa_t, b_t = eta_t kappa_t

with kappa_t of length 1 and eta_t, the in-context learning rate, between 0 and 1. `wkv7_recurrent` is that definition,
and `wkv7_chunked` the same by matrix products. Initialisation and ranks are those of the authors' own training code
(the x070 model of the RWKV-LM repository). It reads a text in one pass and gives back no state.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rwkvgate.rwkv6.initialization import init_head
from rwkvgate.rwkv6.loss import next_token_loss

CHUNK = 32
"""Tokens of a chunk. A log decay is above -0.607, so that the factors in one stay below exp(20)."""
STRONGEST = math.exp(-0.5)
"""The negative log of the strongest decay."""
EPSILON = 64e-5
"""Of the normalisation of each head, whatever its size: the reference's."""


def wkv7_recurrent(r: Tensor, w: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """The definition, one token at a time, from an empty state: the oracle of `wkv7_chunked`.

    Args:
        r: (batch, time, head, channel), as are all; w is the logarithm of the decay.

    Returns:
        y, of the same shape.

    Example:
        One head of one channel that keeps half of its state, and removes nothing:

        >>> one = torch.ones(1, 3, 1, 1)
        >>> half = one * torch.tensor(0.5).log()
        >>> wkv7_recurrent(one, half, one, one, 0 * one, one).flatten().tolist()
        [1.0, 1.5, 1.75]
    """
    state = r.new_zeros(r.shape[0], *r.shape[2:], r.shape[-1])  # (B, H, N values, N keys)
    outputs = []
    for t in range(r.shape[1]):
        removed = state @ a[:, t, :, :, None]  # (B, H, N, 1)
        state = state * w[:, t, :, None].exp() + removed * b[:, t, :, None] + v[:, t, :, :, None] * k[:, t, :, None]
        outputs.append((state @ r[:, t, :, :, None]).squeeze(-1))
    return torch.stack(outputs, dim=1)


def wkv7_chunked(r: Tensor, w: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, chunk: int = CHUNK) -> Tensor:
    """The same numbers by chunks, and a step of the state for each; arguments are those of `wkv7_recurrent`.

    What the tokens of a chunk remove, u_t = S_{t-1} a_t, depends on what earlier ones removed: a unit triangular
    system, linear in the state that enters the chunk (the WY form of the delta rule, arXiv 2406.06484). Solved for
    all chunks at once, it leaves one product of small matrices to each step of the state.

    Raises:
        ValueError: `chunk` is below 1.

    Example:
        >>> r, w, k, v, a, b = torch.rand(6, 1, 50, 2, 4, dtype=torch.float64).unbind(0)
        >>> exact = wkv7_recurrent(r, -w / 2, k, v, -a / 9, b)
        >>> torch.allclose(wkv7_chunked(r, -w / 2, k, v, -a / 9, b), exact)
        True
    """
    if chunk < 1:
        raise ValueError(f"chunk is {chunk}; it must be at least 1")
    time, channels = r.shape[1], r.shape[-1]
    r, w, k, v, a, b = (_split(x, chunk) for x in (r, w, k, v, a, b))  # (B, H, chunks, L tokens, N)
    total = w.cumsum(-2)  # log decay from the chunk's start to a token, its own included
    kept, grown = total.exp(), (-total).exp()
    # As columns of a state whose decay is taken out: S_t = R_t diag(exp(total_t)).
    r, a, k, b = r * kept, a * (total - w).exp(), k * grown, b * grown
    own = (a @ k.mT).tril(-1) @ v  # (B, H, chunks, L, N)
    solved = torch.linalg.solve_triangular(
        -(a @ b.mT).tril(-1), torch.cat((a, own), -1), upper=False, unitriangular=True
    )
    # Removed by each token: state @ `through`, and `own`.
    through, own = solved.split(channels, dim=-1)
    read = (r @ b.mT).tril()
    inside = read @ own + (r @ k.mT).tril() @ v
    last = kept[..., -1:, :]
    steps = torch.baddbmm(
        torch.eye(channels, dtype=r.dtype, device=r.device), through.mT.flatten(0, 2), b.flatten(0, 2)
    ).unflatten(0, r.shape[:3])
    steps, added = steps * last, (own.mT @ b + v.mT @ k) * last
    state = torch.zeros_like(added[:, :, 0])
    states = []
    for step, more in zip(steps.unbind(2), added.unbind(2), strict=True):
        states.append(state)
        state = state @ step + more
    out = inside + (r + read @ through) @ torch.stack(states, dim=2).mT
    return out.flatten(2, 3)[:, :, :time].transpose(1, 2)


def _split(x: Tensor, chunk: int) -> Tensor:
    """(batch, time, head, channel) in chunks, (batch, head, chunks, tokens, channel); zeros fill the last."""
    x = F.pad(x, (0, 0, 0, 0, 0, -x.shape[1] % chunk))
    return x.unflatten(1, (-1, chunk)).permute(0, 3, 1, 2, 4).contiguous()


def _shifted(x: Tensor) -> Tensor:
    """The previous token's x minus this one's, (batch, time, channel); before the first token is zero."""
    return F.pad(x, (0, 0, 1, -1)) - x


def _uniform(inputs: int, outputs: int, gain: float) -> nn.Linear:
    """A matrix drawn uniformly from +- gain / sqrt(inputs)."""
    layer = nn.Linear(inputs, outputs, bias=False)
    nn.init.uniform_(layer.weight, -gain * inputs**-0.5, gain * inputs**-0.5)
    return layer


class _LowRank(nn.Module):
    """A low-rank map that starts at zero."""

    def __init__(self, channels: int, factor: float, between: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        rank = max(32, 32 * round(factor * channels**0.5 / 32))  # what the authors suggest
        self.down, self.up = nn.Parameter(torch.zeros(channels, rank)), nn.Parameter(torch.empty(rank, channels))
        nn.init.orthogonal_(self.up, gain=0.1 * max(1.0, (rank / channels) ** 0.5))
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        """x (batch, time, channel), mapped."""
        inner = x @ self.down
        result: Tensor = (inner if self.between is None else self.between(inner)) @ self.up
        return result


class _TimeMixing(nn.Module):
    """Six inputs by token shift, the delta rule, normalisation by head, the bonus and the output gate."""

    def __init__(self, channels: int, heads: int, layer: int, layers: int) -> None:
        super().__init__()
        self.heads = heads
        rising, falling = layer / max(layers - 1, 1), 1 - layer / layers
        ramp = torch.arange(channels) / channels
        powers = torch.tensor((0.2, 0.9, 0.7, 0.7, 0.9, 0.2)) * falling  # r, w, k, v, a, g
        self.shares = nn.Parameter(1 - ramp ** powers.view(-1, 1, 1, 1))  # (6, 1, 1, C)
        line = torch.arange(channels) / (channels - 1)
        zigzag = (torch.arange(channels) % (channels // heads)) / (channels // heads - 1) * 2 - 1
        zigzag = zigzag * zigzag.abs()
        # Its name doubles its learning rate, as the reference does and the base's has it doubled.
        self.time_decay = nn.Parameter(-5.5 + 6 * line ** (1 + rising**0.3) + 2.5 * zigzag)
        self.decay = _LowRank(channels, 2.5, torch.tanh)
        self.rate_start = nn.Parameter(-0.19 + 0.3 * zigzag + 0.4 * (line - 0.5))
        self.rate = _LowRank(channels, 2.5)
        if layer:
            self.first_start = nn.Parameter(0.73 - 0.4 * (line - 0.5))
            self.first = _LowRank(channels, 1.7)
        self.gate = _LowRank(channels, 5, torch.sigmoid)
        self.removal = nn.Parameter(0.71 - 0.1 * (line - 0.5))
        self.replacement = nn.Parameter(torch.full((channels,), 1.02))
        self.bonus = nn.Parameter(torch.full((channels,), -0.04))
        self.receptance, self.key, self.value = (_uniform(channels, channels, gain) for gain in (0.5, 0.05, 0.5))
        self.output = nn.Linear(channels, channels, bias=False)
        nn.init.zeros_(self.output.weight)
        self.norm = nn.GroupNorm(heads, channels, eps=EPSILON)
        nn.init.constant_(self.norm.weight, ((1 + layer) / layers) ** 0.7)

    def forward(self, x: Tensor, first: Tensor | None) -> tuple[Tensor, Tensor]:
        """x (batch, time, channel) to the output of that shape, and the first layer's values, which is `first`."""
        x_r, x_w, x_k, x_v, x_a, x_g = torch.addcmul(x, _shifted(x), self.shares).unbind(0)
        r, k, v = self.receptance(x_r), self.key(x_k), self.value(x_v)
        w = -STRONGEST * torch.sigmoid(self.time_decay + self.decay(x_w))
        if first is None:
            first = v
        else:
            v = torch.lerp(v, first, torch.sigmoid(self.first_start + self.first(x_v)))
        rate = torch.sigmoid(self.rate_start + self.rate(x_a))
        removal = F.normalize((k * self.removal).unflatten(-1, (self.heads, -1)), dim=-1)  # (B, T, H, N)
        k = k * (1 + (rate - 1) * self.replacement)
        r, w, k, v, rate = (z.unflatten(-1, (self.heads, -1)) for z in (r, w, k, v, rate))
        out = wkv7_chunked(r, w, k, v, -removal, removal * rate)
        # A LayerNorm without weights: on a CPU its kernel is several times faster than GroupNorm's.
        out = F.layer_norm(out, out.shape[-1:], eps=EPSILON).flatten(2)
        out = torch.addcmul(self.norm.bias, out, self.norm.weight)
        bonus = (r * k * self.bonus.view(self.heads, -1)).sum(-1, keepdim=True) * v
        return self.output((out + bonus.flatten(2)) * self.gate(x_g)), first


class _Block(nn.Module):
    """Time mixing and channel mixing, each on its normalised input and added to it."""

    def __init__(self, channels: int, heads: int, inner: int, layer: int, layers: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(2))
        self.time = _TimeMixing(channels, heads, layer, layers)
        ramp = torch.arange(channels) / channels
        self.share = nn.Parameter(1 - ramp ** (1 - layer / layers) ** 4)
        self.key = _uniform(channels, inner, 0.5)
        self.value = nn.Linear(inner, channels, bias=False)
        nn.init.zeros_(self.value.weight)

    def forward(self, hidden: Tensor, first: Tensor | None) -> tuple[Tensor, Tensor]:
        """hidden (batch, time, channel) to that after the block, and the first layer's values."""
        mixed, first = self.time(self.norms[0](hidden), first)
        hidden = hidden + mixed
        x = self.norms[1](hidden)
        key = F.relu(self.key(torch.addcmul(x, _shifted(x), self.share)))
        return hidden + self.value(key.square()), first


class Rwkv7ForCausalLM(nn.Module):
    """An RWKV-7 language model, called as a model of transformers is; it carries no state.

    Args:
        inner: channels within the channel mixing; the reference has four times `channels`.

    Raises:
        ValueError: `heads` does not divide `channels`, or leaves a head of one channel.

    Example:
        >>> model = Rwkv7ForCausalLM(vocabulary=9, channels=8, layers=2, heads=2, inner=32)
        >>> model(torch.ones(1, 5, dtype=torch.long)).logits.shape
        torch.Size([1, 5, 9])
    """

    def __init__(self, vocabulary: int, channels: int, layers: int, heads: int, inner: int) -> None:
        super().__init__()
        if channels % heads or channels == heads:
            raise ValueError(f"heads is {heads}; it must divide the {channels} channels into two or more each")
        self.channels, self.heads = channels, heads
        self.embeddings = nn.Embedding(vocabulary, channels)
        nn.init.uniform_(self.embeddings.weight, -1e-4, 1e-4)
        self.first_norm, self.last_norm = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.blocks = nn.ModuleList(_Block(channels, heads, inner, layer, layers) for layer in range(layers))
        self.head = nn.Linear(channels, vocabulary, bias=False)
        init_head(self.head)

    def forward(self, input_ids: Tensor, labels: Tensor | None = None, **_: Any) -> SimpleNamespace:
        """Logits (batch, time, vocabulary), or with labels the mean loss of labelled tokens alone."""
        hidden, first = self.first_norm(self.embeddings(input_ids)), None
        for block in self.blocks:
            hidden, first = block(hidden, first)
        hidden = self.last_norm(hidden)
        if labels is None:
            return SimpleNamespace(logits=self.head(hidden), loss=None)
        return SimpleNamespace(logits=None, loss=next_token_loss(hidden, self.head.weight, labels))

    def wkv_flops(self) -> int:
        """FLOPs of the delta rule per token by its definition: four products with an N x N matrix in each head."""
        return 2 * 4 * len(self.blocks) * self.channels * (self.channels // self.heads)
