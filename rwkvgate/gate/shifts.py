"""Shift operators: which past hidden states a gate lets in, as one shifted state for every token.

Each is a module from a `Past` to shifted_t, (batch, time, channel). docs/gates.md has their equations.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from rwkvgate.gate.config import GateConfig
from rwkvgate.gate.past import Past
from rwkvgate.rwkv6.linear import Linear

POSITION_SCALES = (1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0)
"""Positions, in tokens, around which the position features change."""
FIRST_SHARE = 0.9
"""The share of the previous state in a learned shift before training."""


class Offset(nn.Module):
    """h_{t-k}, at a fixed offset k; the paper's shift is k = 1."""

    def __init__(self, channels: int, config: GateConfig) -> None:
        super().__init__()
        self.offset = config.offset or 1

    def forward(self, past: Past) -> Tensor:
        """The state `offset` tokens back, (batch, time, channel)."""
        return past.tap(self.offset)


class LearnedShift(nn.Module):
    """How far back to look, predicted from the previous hidden state by a small MLP.

    shifted_t = sum over j of p_tj h_{t-j}, with p_t = softmax(V tanh(U h_{t-1} + a) + b) over j = 1..K: a soft
    choice of the offset, because a hard one has no gradient. V starts at 0 and b so that p_t1 is 0.9: nearly the
    paper's fixed shift.
    """

    def __init__(self, channels: int, config: GateConfig) -> None:
        super().__init__()
        taps = config.taps or 1
        self.inner = Linear(channels, config.rank)
        self.outer = Linear(config.rank, taps)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)
        if taps > 1:
            with torch.no_grad():
                self.outer.bias[0] = math.log(FIRST_SHARE / (1 - FIRST_SHARE) * (taps - 1))

    def forward(self, past: Past) -> Tensor:
        """The mixture of the last K states, (batch, time, channel)."""
        logits = self.outer(torch.tanh(self.inner(past.tap(1))))  # (B, T, K), the newest state first
        return weighted(past, logits.softmax(-1).unsqueeze(-2).unbind(-1))


class Convolution(nn.Module):
    """A causal depthwise convolution over the past states: K taps with a weight for each channel.

    shifted_t = sum over j = 1..K of (w_j + A_j^T f(n_t)) * h_{t-j}. Where `position` is off, A is absent. n_t is
    the token's position in its document, and the features f_i = n / (n + s_i), which are sigmoids of
    log n - log s_i, grow from 0 towards 1 around the scale s_i: bounded at any length. Those of scales beyond the
    longest trained text still grow there, and extrapolate. A starts at 0: a plain convolution.
    """

    def __init__(self, channels: int, config: GateConfig) -> None:
        super().__init__()
        taps, features = config.taps or 1, len(POSITION_SCALES)
        self.weight = nn.Parameter(torch.zeros(taps, channels))
        with torch.no_grad():
            self.weight[0] = config.first_tap
        self.position_weight = nn.Parameter(torch.zeros(taps, features, channels)) if config.position else None

    def forward(self, past: Past) -> Tensor:
        """The weighted past states, (batch, time, channel)."""
        if self.position_weight is None:
            return weighted(past, self.weight)
        positions = past.positions().to(past.now.dtype).unsqueeze(-1)  # (B or 1, T, 1)
        features = positions / (positions + positions.new_tensor(POSITION_SCALES))  # (B or 1, T, features)
        return weighted(past, (w + features @ a for w, a in zip(self.weight, self.position_weight, strict=True)))


class Window(nn.Module):
    """No shifted state: the attention gating reads the last K states itself."""

    def __init__(self, channels: int, config: GateConfig) -> None:
        super().__init__()

    def forward(self, past: Past) -> None:
        """None."""
        return None


class Recurrent(nn.Module):
    """y_{t-1}, the gate's own previous result: known for the first token, and made by the layer for the others."""

    def __init__(self, channels: int, config: GateConfig) -> None:
        super().__init__()

    def forward(self, past: Past) -> Tensor:
        """The result before the pass, (batch, 1, channel)."""
        return past.extended[:, :1]


SHIFTS: dict[str, type[nn.Module]] = {
    "previous": Offset,
    "offset": Offset,
    "learned": LearnedShift,
    "convolution": Convolution,
    "window": Window,
    "recurrent": Recurrent,
}
"""The module of each value of `GateConfig.shift`, made from the model's width and a config with every size."""


def weighted(past: Past, weights: Iterable[Tensor]) -> Tensor:
    """The sum over j = 1, 2, ... of weights_j * h_{t-j}; each weight broadcasts to (batch, time, channel)."""
    total: Tensor | None = None
    for back, weight in enumerate(weights, start=1):
        tap = past.tap(back)
        total = weight * tap if total is None else torch.addcmul(total, tap, weight)
    assert total is not None
    return total
