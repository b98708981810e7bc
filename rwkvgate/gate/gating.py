"""Gating functions: how much of the shifted state each token lets in.

Each is a module from a `Past` and the shifted state to a `Gated`; the layer then adds factor * moved to the
hidden state. docs/gates.md has their equations. Sigmoids are taken in place: fresh memory would cost as much as the
arithmetic.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rwkvgate.gate.config import GateConfig
from rwkvgate.gate.past import Past, gather_rows
from rwkvgate.gate.shifts import weighted

CLOSED = -2.0
"""Start of a routing gate's bias: an eighth of the shifted state, seven of the current one."""


class Gated(NamedTuple):
    """What a gate adds to the hidden state, factor * moved, and the gate's values as a reader would see them.

    `factor` is a number, (batch, time, channel), or (batch, time, head, 1); None is 1. `moved` is (batch, time,
    channel). `values`, in [0, 1], is shaped like a factor; None where it is the factor.
    """

    factor: Tensor | float | None
    moved: Tensor
    values: Tensor | None = None


class Fixed(nn.Module):
    """The same value everywhere: the paper's ablation."""

    extra = 0

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, past: Past, shifted: Tensor) -> Gated:
        """value * shifted."""
        return Gated(self.value, shifted)


class Sigmoid(nn.Module):
    """g_t = sigmoid(W h_t + b), one fully connected layer on the current state: the paper's gate."""

    extra = 0

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, channels)

    def forward(self, past: Past, shifted: Tensor) -> Gated:
        """g * shifted."""
        return Gated(self.linear(past.now).sigmoid_(), shifted)


class LowRank(nn.Module):
    """g_t = sigmoid(W2 W1 h_t + b), through `rank` channels."""

    extra = 0

    def __init__(self, channels: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Linear(channels, rank, bias=False)
        self.up = nn.Linear(rank, channels)

    def forward(self, past: Past, shifted: Tensor) -> Gated:
        """g * shifted."""
        return Gated(self.up(self.down(past.now)).sigmoid_(), shifted)


class PerHead(nn.Module):
    """g_t = sigmoid(W h_t + b) with one value for each group of channels."""

    extra = 0

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, heads)

    def forward(self, past: Past, shifted: Tensor) -> Gated:
        """g * shifted, g (batch, time, head, 1)."""
        return Gated(self.linear(past.now).sigmoid_().unsqueeze(-1), shifted)


class Routing(nn.Module):
    """r_t = sigmoid(W h_t + V shifted_t + b), and h_t moves that share of the way to the shifted state.

    A convex mix, (1 - r) h + r shifted, in place of a sum. It starts nearly closed: half of every layer's output
    replaced by its neighbour's would undo a trained base.
    """

    extra = 0

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.current = nn.Linear(channels, channels)
        self.shifted = nn.Linear(channels, channels, bias=False)
        nn.init.constant_(self.current.bias, CLOSED)

    def forward(self, past: Past, shifted: Tensor) -> Gated:
        """r * (shifted - h)."""
        return Gated(self.current(past.now).add_(self.shifted(shifted)).sigmoid_(), shifted - past.now)


class Attention(nn.Module):
    """The last K states, each let in by a normalised score of its key against the current state's query.

    For each head, a_tj = exp(q_t . k_{t-j} / sqrt(d)) / (1 + sum over i of exp(q_t . k_{t-i} / sqrt(d))), and
    sum over j = 1..K of a_tj h_{t-j} is added. The 1 is a state that holds nothing: a gate that may close. The
    gate's value is the sum of a_tj, the share of the past.
    """

    extra = 0

    def __init__(self, channels: int, heads: int, rank: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(channels, rank)
        self.key = nn.Linear(channels, rank, bias=False)

    def weights(self, past: Past) -> Tensor:
        """a, (batch, time, head, K), the newest state first."""
        query = self.query(past.now).unflatten(-1, (self.heads, -1))
        keys = self.key(past.extended).unflatten(-1, (self.heads, -1))
        time, window = past.now.shape[1], past.window
        taps = [keys[:, window - back : window - back + time] for back in range(1, window + 1)]
        scores = torch.stack([(query * key).sum(-1) for key in taps], dim=-1) / math.sqrt(query.shape[-1])
        return F.pad(scores, (1, 0)).softmax(-1)[..., 1:]

    def forward(self, past: Past, shifted: Tensor | None) -> Gated:
        """The scored states, (batch, time, channel)."""
        weights = self.weights(past)
        size = past.now.shape[-1] // self.heads
        wide = (w.unsqueeze(-1).expand(*w.shape, size).flatten(-2) for w in weights.unbind(-1))
        return Gated(None, weighted(past, wide), weights.sum(-1).unsqueeze(-1))


class Hierarchical(nn.Module):
    """A token's gate under a slower one over segments: g_t = sigmoid(W h_t + b) * sigmoid(U m_t + c).

    m_t is the mean hidden state of the last whole segment of S tokens before the token's own, 0 in a document's
    first segment; so the slow gate changes once a segment. Kept in the state: the sum of the segment begun, and
    the mean of the one before.
    """

    extra = 2

    def __init__(self, channels: int, segment: int) -> None:
        super().__init__()
        self.segment = segment
        self.token = nn.Linear(channels, channels)
        self.slow = nn.Linear(channels, channels)

    def summaries(self, past: Past) -> tuple[Tensor, Tensor]:
        """The mean of the segment before each segment that this pass touches, (batch, segments, channel), and
        which of these segments each token is in, (batch, time). Replaces the past's extra rows."""
        now, size = past.now, self.segment
        batch, time, _ = now.shape
        inside = past.positions()[:, :1] % size  # tokens of the first segment that were there before
        count = time // size + 2
        # Token j of segment i stands at column i * size + j - inside of this pass.
        columns = torch.arange(count * size, device=now.device)[None] - inside
        real = ((columns >= 0) & (columns < past.ends())).expand(batch, -1)
        tokens = gather_rows(now, columns.clamp(0, time - 1).expand(batch, -1)).masked_fill(~real.unsqueeze(-1), 0)
        sums = tokens.unflatten(1, (count, size)).sum(2)
        begun, before = past.extra.unbind(1)
        sums = torch.cat((sums[:, :1] + begun.unsqueeze(1), sums[:, 1:]), dim=1)
        means = torch.cat((before.unsqueeze(1), sums[:, :-1] / size), dim=1)
        current = ((inside + past.ends()) // size).expand(batch, 1)
        past.extra = torch.cat((gather_rows(sums, current), gather_rows(means, current)), dim=1)
        return means, ((torch.arange(time, device=now.device)[None] + inside) // size).expand(batch, -1)

    def forward(self, past: Past, shifted: Tensor) -> Gated:
        """g * shifted."""
        means, segments = self.summaries(past)
        if segments.shape[1] < means.shape[1]:  # fewer tokens than segments: one at a time, in generation
            slow = torch.sigmoid(self.slow(gather_rows(means, segments)))
        else:
            slow = gather_rows(torch.sigmoid(self.slow(means)), segments)
        return Gated(self.token(past.now).sigmoid_() * slow, shifted)


def build_gating(config: GateConfig, channels: int) -> nn.Module:
    """The gating function of a sized config."""
    match config.gating:
        case "fixed":
            assert config.value is not None
            return Fixed(config.value)
        case "low-rank":
            assert config.rank is not None
            return LowRank(channels, config.rank)
        case "per-head":
            assert config.heads is not None
            return PerHead(channels, config.heads)
        case "attention":
            assert config.heads is not None and config.rank is not None
            return Attention(channels, config.heads, config.rank)
        case "hierarchical":
            assert config.segment is not None
            return Hierarchical(channels, config.segment)
        case "routing":
            return Routing(channels)
        case _:
            return Sigmoid(channels)
