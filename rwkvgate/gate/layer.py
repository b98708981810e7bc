"""The gated shift itself: a module on a hidden state."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from rwkvgate.gate.config import GateConfig
from rwkvgate.gate.gating import GATINGS, Gated
from rwkvgate.gate.past import Past
from rwkvgate.gate.shifts import SHIFTS
from rwkvgate.rwkv6.kernels import followed
from rwkvgate.rwkv6.layouts import some
from rwkvgate.rwkv6.precision import wide_dtype, without_autocast
from rwkvgate.rwkv6.token_shift import TokenShift


class GatedShift(nn.Module):
    """norm(h_t + s * g_t * shifted_t): arXiv 2502.15485 (version 1), section 3.2, where s is 1, and its variants.

    Its parameters and its arithmetic are float32 at least; the result is in the type of h.

    Args:
        config: which shift, gating function and normalisation.
        channels: width of the hidden state.
        heads: the model's heads, for a gate that has one value a head.

    Attributes:
        rows: rows that it carries in the state, each of `channels` numbers.
        override: replaces the gate's own values in every pass; None leaves them alone.
        observer: is called with the gate's values, (batch, time, channel), in every pass.

    Raises:
        SettingsError: the width cannot be divided as the config asks.

    Example:
        >>> import torch
        >>> from rwkvgate import GateConfig
        >>> from rwkvgate.rwkv6.token_shift import TokenShift
        >>> gate = GatedShift(GateConfig(norm="none"), channels=8)
        >>> hidden = torch.randn(2, 5, 8)  # (batch, time, channel)
        >>> enhanced, carried = gate(hidden, TokenShift(None), None)
        >>> g = torch.sigmoid(gate.gating.linear(hidden))
        >>> torch.allclose(enhanced[:, 1:], hidden[:, 1:] + g[:, 1:] * hidden[:, :-1])
        True
        >>> torch.equal(carried[:, 0], hidden[:, -1])  # the last state, for the next call
        True
    """

    def __init__(self, config: GateConfig, channels: int, heads: int = 1) -> None:
        super().__init__()
        self.config = config = config.sized(channels, heads)
        self.gate_shift = SHIFTS[config.shift](channels, config)
        self.gating = GATINGS[config.gating](channels, config)
        self.norm = nn.LayerNorm(channels, eps=config.norm_epsilon) if config.norm == "layer" else None
        scale = None if config.layer_scale is None else torch.full((channels,), config.layer_scale)
        self.gate_scale = None if scale is None else nn.Parameter(scale)
        self.rows: int = config.window + self.gating.extra
        self.override: Callable[[Gated, Past], Gated] | None = None
        self.observer: Callable[[Tensor], None] | None = None

    def forward(self, hidden: Tensor, tokens: TokenShift, carried: Tensor | None) -> tuple[Tensor, Tensor]:
        """Enhance the hidden states h, and return what the next call needs of them.

        Args:
            hidden: (B, T, C): batch, time, channel.
            tokens: which positions are real, and how many real tokens came before.
            carried: (B, rows, C), what the call before returned; None at the start of a document.
        """
        with without_autocast(hidden.device):
            past = Past(hidden, tokens, self.config.window, self.gating.extra, carried)  # h_t and those before it
            shifted = self.gate_shift(past)  # (B, T, C); in the paper h_{t-1}
            gated = self.gating(past, shifted)  # g_t, in the paper sigmoid(W h_t + b), (B, T, C), beside shifted_t
            gated = self._watched(gated, past)  # unchanged, but where a reader records or clamps the gate
            if self.config.shift == "recurrent":
                enhanced = self.recurred(past, gated)
            else:
                enhanced = self._normed(self._added(past.now, gated))  # h_t + s * g_t * shifted_t, (B, T, C)
            return past.restore(enhanced, hidden), past.carry()  # (B, T, C), (B, rows, C)

    def _watched(self, gated: Gated, past: Past) -> Gated:
        """Let `override` change the gate's values, and `observer` see them."""
        if self.override is not None:
            gated = self.override(gated, past)
        if self.observer is not None:
            self.observer(past.restore(wide_values(gated, past.now), past.now))
        return gated

    def recurred(self, past: Past, gated: Gated) -> Tensor:
        """y_t = norm(h_t + s * g_t * y_{t-1}), one token after another, (B, T, C); the state carries the last y.

        The gates are all computed before: no matrix product is left in the loop.
        """
        gates = wide_values(gated, past.now)
        if self.gate_scale is not None:
            gates = gates * self.gate_scale
        results = [gated.moved[:, 0]]
        for hidden, g in zip(past.now.unbind(1), gates.unbind(1), strict=True):  # (B, C) both
            results.append(self._normed(torch.addcmul(hidden, g, results[-1])))
        past.extended = torch.stack(results, dim=1)
        return past.tap(0)

    def _normed(self, enhanced: Tensor) -> Tensor:
        return enhanced if self.norm is None else self.norm(enhanced)

    def _added(self, hidden: Tensor, gated: Gated) -> Tensor:
        """hidden + s * factor * moved, all (batch, time, channel)."""
        factor, moved, _ = gated
        if self.gate_scale is not None:
            moved = moved * self.gate_scale
        if factor is None:
            return hidden + moved
        if not isinstance(factor, Tensor):
            return torch.add(hidden, moved, alpha=factor)
        if factor.dim() == moved.dim():
            # The sum takes the factor's memory where nobody else needs it.
            seen = self.observer or any(module._forward_hooks for module in self.gating.modules())
            reuse = not (seen or torch.is_grad_enabled() or followed(hidden))
            return torch.addcmul(hidden, factor, moved, out=factor if reuse else None)
        heads = (factor.shape[-2], -1)  # factor is (B, T, H, 1)
        return torch.addcmul(hidden.unflatten(-1, heads), factor, moved.unflatten(-1, heads)).flatten(-2)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Also load names of earlier versions; in a model, refuse another gate's weights, strictly or not."""
        for name in [name for name in state_dict if name.startswith(prefix)]:
            state_dict[prefix + current_name(name.removeprefix(prefix))] = state_dict.pop(name)
        given = {name.removeprefix(prefix) for name in state_dict if name.startswith(prefix)}
        if prefix and given and (wrong := given ^ self.state_dict().keys()):
            rest[-1].append(f"{prefix} is another gate than that of the weights: {some(wrong)}")
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def __getstate__(self) -> dict[str, Any]:
        """What a copy or a pickle gets: everything but the readers, which watch this gate and no other."""
        return self.__dict__ | {"override": None, "observer": None}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> GatedShift:
        """Follow the model's moves and casts, but never below float32."""

        def at_least_float32(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            narrow = moved.is_floating_point() and wide_dtype(moved.dtype) != moved.dtype
            return tensor.to(moved.device) if narrow else moved

        super()._apply(at_least_float32, recurse)
        return self


def current_name(name: str) -> str:
    """The name of a gate's parameter, from that name or the one it had before: `gate.` is as peft's usual targets are.

    Example:
        >>> current_name("gate.key.weight"), current_name("gating.keys.weight")
        ('gating.keys.weight', 'gating.keys.weight')
    """
    return re.sub(r"^gate\.", "gating.", re.sub(r"^gate\.key\.", "gating.keys.", name))


def wide_values(gated: Gated, like: Tensor) -> Tensor:
    """The gate's values spread over the channels, (batch, time, channel)."""
    values = gated.factor if gated.values is None else gated.values
    if not isinstance(values, Tensor):
        return torch.full_like(like, 1.0 if values is None else values)
    if values.dim() == like.dim():
        return values
    return values.expand(*values.shape[:-1], like.shape[-1] // values.shape[-2]).flatten(-2)
