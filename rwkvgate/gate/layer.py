"""The gated shift itself: a module on a block's output."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from rwkvgate.gate.config import GateConfig
from rwkvgate.rwkv6.wkv import without_autocast

Shift = Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor]]
"""x and what was carried, to x at the previous real token and what to carry: a `TokenShift`."""


class GatedShift(nn.Module):
    """h_t + s * g_t * h_{t-1}, normalised: arXiv 2502.15485 (version 1), section 3.2, where s is 1.

    g_t = sigmoid(W h_t + b) reads the current hidden state; h_{-1} = 0. Parameters are kept in float32
    whatever the base's type, and the output has the base's type.

    Args:
        config: which gate and which normalisation.
        channels: width of the residual stream.
    """

    def __init__(self, config: GateConfig, channels: int) -> None:
        super().__init__()
        self.config = config
        self.gate = nn.Linear(channels, channels) if config.gating == "sigmoid" else None
        self.norm = nn.LayerNorm(channels, eps=config.norm_epsilon) if config.norm == "layer" else None
        scale = None if config.layer_scale is None else torch.full((channels,), config.layer_scale)
        self.gate_scale = None if scale is None else nn.Parameter(scale)

    def gate_values(self, hidden: Tensor) -> Tensor:
        """g for every token and channel, in [0, 1], shaped like hidden, (batch, time, channel); without s."""
        if self.gate is None:
            return torch.full_like(hidden, self.config.value)
        with without_autocast(hidden.device):
            return torch.sigmoid(self.gate(hidden.to(self.gate.weight.dtype)))

    def forward(self, hidden: Tensor, shift: Shift, carried: Tensor | None) -> tuple[Tensor, Tensor]:
        """hidden (batch, time, channel) to the enhanced hidden and what to carry, (batch, 1, channel)."""
        previous, last = shift(hidden, None if carried is None else carried[:, 0])
        if self.gate is None and self.gate_scale is None:
            enhanced = torch.add(hidden, previous, alpha=self.config.value)
        else:
            factor = self.gate_values(hidden)
            if self.gate_scale is not None:
                factor = factor * self.gate_scale
            enhanced = torch.addcmul(hidden, factor.to(hidden.dtype), previous)
        if self.norm is not None:
            enhanced = self.norm(enhanced.to(self.norm.weight.dtype))
        return enhanced.to(hidden.dtype), last.unsqueeze(1)
