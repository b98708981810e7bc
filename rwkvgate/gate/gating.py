"""Gating functions: how much of the shifted state each token lets in.

Each is a module from a `Past` and the shifted state to a `Gated`; the layer then adds factor * moved to the hidden
state. docs/gates.md has their equations. Sigmoids are computed in place: fresh memory would cost as much as the
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
from rwkvgate.rwkv6.linear import Linear

CLOSED = -2.0
"""Initial bias of a routing gate: an eighth of the shifted state, seven eighths of the current one."""


class Gated(NamedTuple):
    """What a gate adds to the hidden state, factor * moved, and the gate's values for a reader.

    `factor` is a number, (batch, time, channel), or (batch, time, head, 1); None is 1. `moved` is (batch, time,
    channel). `values`, in [0, 1], is shaped like a factor; None where it is the factor.
    """

    factor: Tensor | float | None
    moved: Tensor
    values: Tensor | None = None


class Gating(nn.Module):
    """Base of the gating functions.

    Attributes:
        extra: rows that the function keeps in the state, beside the past hidden states.
    """

    extra = 0


class Fixed(Gating):
    """The same value everywhere: the paper's ablation."""

    def __init__(self, channels: int, config: GateConfig) -> None:
        super().__init__()
        self.value = config.value

    def forward(self, past: Past, shifted: Tensor) -> Gated:
        """value * shifted."""
        return Gated(self.value, shifted)


class Sigmoid(Gating):
    """g_t = sigmoid(W h_t + b), one fully connected layer on the current state: the paper's gate."""

    def __init__(self, channels: int, config: GateConfig) -> None:
        super().__init__()
        self.linear = Linear(channels, channels)

    def forward(self, past: Past, shifted: Tensor) -> Gated:
        """g * shifted, g (batch, time, channel)."""
        return Gated(_sigmoid(self.linear, past.now), shifted)


class LowRank(Gating):
    """g_t = sigmoid(W2 W1 h_t + b), through `rank` channels."""

    def __init__(self, channels: int, config: GateConfig) -> None:
        super().__init__()
        self.down = Linear(channels, config.rank, bias=False)
        self.up = Linear(config.rank, channels)

    def forward(self, past: Past, shifted: Tensor) -> Gated:
        """g * shifted, g (batch, time, channel)."""
        return Gated(_sigmoid(self.up, self.down(past.now)), shifted)


class PerHead(Gating):
    """g_t = sigmoid(W h_t + b) with one value for each group of channels."""

    def __init__(self, channels: int, config: GateConfig) -> None:
        super().__init__()
        self.linear = Linear(channels, config.heads)

    def forward(self, past: Past, shifted: Tensor) -> Gated:
        """g * shifted, g (batch, time, head, 1)."""
        return Gated(_sigmoid(self.linear, past.now).unsqueeze(-1), shifted)


class Routing(Gating):
    """r_t = sigmoid(W h_t + V shifted_t + b), and h_t moves that share of the way to the shifted state.

    A convex mix, (1 - r) h + r shifted, in place of a sum. It starts nearly closed: half of every layer's output
    replaced by its neighbour's would undo a trained base.
    """

    def __init__(self, channels: int, config: GateConfig) -> None:
        super().__init__()
        self.current = Linear(channels, channels)
        self.shifted = Linear(channels, channels, bias=False)
        nn.init.constant_(self.current.bias, CLOSED)

    def forward(self, past: Past, shifted: Tensor) -> Gated:
        """r * (shifted - h), r (batch, time, channel)."""
        return Gated(self.current(past.now).add_(self.shifted(shifted)).sigmoid_(), shifted - past.now)


class Attention(Gating):
    """The last K states, each let in by a normalised score of its key against the current state's query.

    For each head, a_tj = exp(q_t . k_{t-j} / sqrt(d)) / (1 + sum over i of exp(q_t . k_{t-i} / sqrt(d))), and
    sum over j = 1..K of a_tj h_{t-j} is added. The 1 is a state that holds nothing: a gate that may close. The
    gate's value is the sum of a_tj, the share of the past.
    """

    def __init__(self, channels: int, config: GateConfig) -> None:
        super().__init__()
        self.heads = config.heads or 1
        self.query = Linear(channels, config.rank)
        self.keys = Linear(channels, config.rank, bias=False)

    def forward(self, past: Past, shifted: None) -> Gated:
        """The sum of the scored states, (batch, time, channel)."""
        query = self.query(past.now).unflatten(-1, (self.heads, -1))  # (B, T, H, d)
        keys = self.keys(past.extended).unflatten(-1, (self.heads, -1))  # (B, K + T, H, d)
        time, window = past.now.shape[1], past.window
        taps = [keys[:, window - back : window - back + time] for back in range(1, window + 1)]
        scores = torch.stack([(query * key).sum(-1) for key in taps], dim=-1) / math.sqrt(query.shape[-1])
        weights = F.pad(scores, (1, 0)).softmax(-1)[..., 1:]  # a, (B, T, H, K), the newest state first
        size = past.now.shape[-1] // self.heads
        wide = (w.unsqueeze(-1).expand(*w.shape, size).flatten(-2) for w in weights.unbind(-1))  # each (B, T, C)
        return Gated(None, weighted(past, wide), weights.sum(-1).unsqueeze(-1))


class Hierarchical(Gating):
    """A token's gate under a slower one over segments: g_t = sigmoid(W h_t + b) * sigmoid(U m_t + c).

    m_t is the mean hidden state of the last complete segment of S tokens before the token's own, 0 in a document's
    first segment; so the slow gate changes once a segment. The state keeps the sum of the current segment so far, and
    the mean of the segment before.
    """

    extra = 2

    def __init__(self, channels: int, config: GateConfig) -> None:
        super().__init__()
        self.segment = config.segment or 1
        self.token = Linear(channels, channels)
        self.slow = Linear(channels, channels)

    def summaries(self, past: Past) -> tuple[Tensor, Tensor]:
        """The mean of the segment before each segment that this pass touches, (batch, segments, channel), and
        which of these segments each token is in, (batch, time). Replaces the past's extra rows."""
        now, size = past.now, self.segment
        batch, time, _ = now.shape
        inside = past.positions()[:, :1] % size  # tokens of the first segment that earlier passes read, (B or 1, 1)
        count = time // size + 2
        # Token j of segment i stands at column i * size + j - inside of this pass.
        columns = torch.arange(count * size, device=now.device)[None] - inside
        real = ((columns >= 0) & (columns < past.ends())).expand(batch, -1)
        tokens = gather_rows(now, columns.clamp(0, time - 1).expand(batch, -1)).masked_fill(~real.unsqueeze(-1), 0)
        sums = tokens.unflatten(1, (count, size)).sum(2)  # (B, segments, C)
        begun, before = past.extra.unbind(1)
        sums = torch.cat((sums[:, :1] + begun.unsqueeze(1), sums[:, 1:]), dim=1)
        means = torch.cat((before.unsqueeze(1), sums[:, :-1] / size), dim=1)
        current = ((inside + past.ends()) // size).expand(batch, 1)
        past.extra = torch.cat((gather_rows(sums, current), gather_rows(means, current)), dim=1)
        return means, ((torch.arange(time, device=now.device)[None] + inside) // size).expand(batch, -1)

    def forward(self, past: Past, shifted: Tensor) -> Gated:
        """g * shifted, g (batch, time, channel)."""
        means, segments = self.summaries(past)
        if segments.shape[1] < means.shape[1]:  # fewer tokens than segments: one at a time, in generation
            slow = torch.sigmoid(self.slow(gather_rows(means, segments)))
        else:
            slow = gather_rows(torch.sigmoid(self.slow(means)), segments)
        return Gated(_sigmoid(self.token, past.now) * slow, shifted)


GATINGS: dict[str, type[Gating]] = {
    "sigmoid": Sigmoid,
    "fixed": Fixed,
    "low-rank": LowRank,
    "per-head": PerHead,
    "attention": Attention,
    "hierarchical": Hierarchical,
    "routing": Routing,
}
"""The module of each value of `GateConfig.gating`, made from the model's width and a config with every size."""


def _sigmoid(layer: nn.Module, x: Tensor) -> Tensor:
    """sigmoid(layer(x)), in the memory of the layer's result unless a hook may have kept that."""
    result: Tensor = layer(x)
    return result.sigmoid() if layer._forward_hooks else result.sigmoid_()
