"""The gated shift itself: a module on a hidden state."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from rwkvgate.gate.config import GateConfig
from rwkvgate.gate.gating import Gated, build_gating
from rwkvgate.gate.past import Past
from rwkvgate.gate.shifts import build_shift
from rwkvgate.rwkv6.precision import without_autocast
from rwkvgate.rwkv6.token_shift import TokenShift


class GatedShift(nn.Module):
    """norm(h_t + s * g_t * shifted_t): arXiv 2502.15485 (version 1), section 3.2, where s is 1, and its kin.

    Computed in float32 at least, where its parameters are too, and returned in the type of h.

    Args:
        config: which shift, gating function and normalisation.
        channels: width of the hidden state.
        heads: the model's heads, for a gate that has one value a head.

    Attributes:
        rows: rows that it carries in the state, each of `channels` numbers.
        override: puts other values in place of the gate's own, in every pass; None leaves them alone.
        observer: called with the gate's values, (batch, time, channel), in every pass; None for nobody.

    Raises:
        SettingsError: the width cannot be divided as the config asks.
    """

    def __init__(self, config: GateConfig, channels: int, heads: int = 1) -> None:
        super().__init__()
        self.config = config = config.sized(channels, heads)
        self.gate_shift = build_shift(config, channels)
        self.gate = build_gating(config, channels)
        self.norm = nn.LayerNorm(channels, eps=config.norm_epsilon) if config.norm == "layer" else None
        scale = None if config.layer_scale is None else torch.full((channels,), config.layer_scale)
        self.gate_scale = None if scale is None else nn.Parameter(scale)
        self.rows: int = config.window + self.gate.extra
        self.override: Callable[[Gated, Past], Gated] | None = None
        self.observer: Callable[[Tensor], None] | None = None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> GatedShift:
        """Moves and casts of the model, but never below float32."""

        def kept(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            low = moved.is_floating_point() and torch.promote_types(moved.dtype, torch.float32) != moved.dtype
            return tensor.to(moved.device) if low else moved

        super()._apply(kept, recurse)
        return self

    def forward(self, hidden: Tensor, tokens: TokenShift, carried: Tensor | None) -> tuple[Tensor, Tensor]:
        """hidden (batch, time, channel) to the enhanced hidden and what to carry, (batch, rows, channel).

        Args:
            tokens: which positions are real, and how many real tokens came before.
            carried: what the pass before returned; None at the start of a document.
        """
        with without_autocast(hidden.device):
            past = Past(hidden, tokens, self.config.window, self.gate.extra, carried)
            shifted = None if self.gate_shift is None else self.gate_shift(past)
            gated = self.gate(past, shifted)
            if self.override is not None:
                gated = self.override(gated, past)
            if self.observer is not None:
                self.observer(past.restore(wide_values(gated, past.now), past.now))
            reuse = self.observer is None and not torch.is_grad_enabled()
            enhanced = _added(past.now, gated, self.gate_scale, reuse)
            if self.norm is not None:
                enhanced = self.norm(enhanced)
            return past.restore(enhanced, hidden), past.carry()


def _added(hidden: Tensor, gated: Gated, scale: Tensor | None, reuse: bool) -> Tensor:
    """hidden + scale * factor * moved; in the factor's memory, where nobody else needs it and it has the size."""
    factor, moved = gated.factor, gated.moved
    if scale is not None:
        moved = moved * scale
    if factor is None:
        return hidden + moved
    if not isinstance(factor, Tensor):
        return torch.add(hidden, moved, alpha=factor)
    if factor.dim() == moved.dim():
        return torch.addcmul(hidden, factor, moved, out=factor if reuse else None)
    heads = (factor.shape[-2], -1)
    return torch.addcmul(hidden.unflatten(-1, heads), factor, moved.unflatten(-1, heads)).flatten(-2)


def wide_values(gated: Gated, like: Tensor) -> Tensor:
    """The gate's values spread over the channels, (batch, time, channel)."""
    values = gated.factor if gated.values is None else gated.values
    if not isinstance(values, Tensor):
        return torch.full_like(like, 1.0 if values is None else values)
    if values.dim() == like.dim():
        return values
    return values.expand(*values.shape[:-1], like.shape[-1] // values.shape[-2]).flatten(-2)
