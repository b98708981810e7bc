"""One layer of the network: the two mixers on a residual stream, and the places for gates."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from rwkvgate.rwkv6.configuration import Rwkv6Config
from rwkvgate.rwkv6.layouts import GATE
from rwkvgate.rwkv6.mixing import LayerNorm, Rwkv6Attention, Rwkv6FeedForward
from rwkvgate.rwkv6.state import LayerState
from rwkvgate.rwkv6.token_shift import TokenShift


class Rwkv6Block(GradientCheckpointingLayer):
    """One layer: time mixing and channel mixing, each behind a LayerNorm, on a residual stream.

    The stream is float32 at least; the mixers work in the type of their weights.

    `gated_shift` is None in RWKV-6. `rwkvgate.gate.patch` puts a module there, which is called with the block's output,
    the token shift and its own rows of the state, and returns the new output and the new rows. `gated_shift_time` and
    `gated_shift_channel` work alike on the normalised inputs of the two mixers.
    """

    def __init__(self, config: Rwkv6Config, layer: int) -> None:
        super().__init__()
        if layer == 0:
            self.pre_ln = LayerNorm(config.hidden_size, eps=config.layer_norm_epsilon)
        self.ln1 = LayerNorm(config.hidden_size, eps=config.layer_norm_epsilon)
        self.ln2 = LayerNorm(config.hidden_size, eps=config.layer_norm_epsilon)
        self.attention = Rwkv6Attention(config, layer)
        self.feed_forward = Rwkv6FeedForward(config, layer)
        self.layer = layer
        self.gated_shift_time: nn.Module | None = None
        self.gated_shift_channel: nn.Module | None = None
        self.gated_shift: nn.Module | None = None

    def forward(self, hidden: Tensor, shift: TokenShift, state: LayerState | None) -> tuple[Tensor, LayerState]:
        """Apply the block to hidden (B, T, C): its output, (B, T, C), and the state after the last token."""
        if self.layer == 0:
            hidden = self.pre_ln(hidden)
        dtype = self.attention.time_maa_x.dtype
        rows: list[Tensor] = []  # of the state, one part for each gate
        past = state.gate if state else None
        x = _gated(self.gated_shift_time, self.ln1(hidden), shift, past, rows)
        attention, attention_shift, wkv = self.attention(x.to(dtype), shift, state)
        hidden = hidden + attention
        x = _gated(self.gated_shift_channel, self.ln2(hidden), shift, past, rows)
        feed_forward, feed_forward_shift = self.feed_forward(x.to(dtype), shift, state)
        hidden = _gated(self.gated_shift, hidden + feed_forward, shift, past, rows)
        gate = torch.cat(rows, dim=1) if len(rows) > 1 else rows[0] if rows else None
        return hidden, LayerState(attention_shift, wkv, feed_forward_shift, gate)

    @property
    def gates(self) -> list[nn.Module]:
        """The block's gates in the order in which it applies them; none in an unpatched block."""
        gates = (self.gated_shift_time, self.gated_shift_channel, self.gated_shift)
        return [gate for gate in gates if gate is not None]

    @property
    def gate_rows(self) -> int:
        """Number of rows that the block's gates keep in the state; 0 in an unpatched block."""
        return sum(gate.rows for gate in self.gates)

    @property
    def is_reentrant(self) -> bool:
        """Whether training checkpoints the block in a way that follows no tensor inside a `LayerState`."""
        how = getattr(getattr(self, "_gradient_checkpointing_func", None), "keywords", {})
        return self.training and self.gradient_checkpointing and bool(how.get("use_reentrant"))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Also refuse, strictly or not, a block's weights with a gate where it has none, or the other way round."""
        own = any(True for gate in self.gates for _ in gate.parameters())
        given = any(name.startswith(prefix + GATE) for name in state_dict)
        if given and not own:
            rest[-1].append(f"{prefix} is without a gate, and the weights hold one: patch the model first")
        if own and not given and f"{prefix}ln1.weight" in state_dict:
            rest[-1].append(f"{prefix} has a gate, and the weights hold none: they are an unpatched model's")
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _gated(gate: nn.Module | None, x: Tensor, shift: TokenShift, past: Tensor | None, rows: list[Tensor]) -> Tensor:
    """x (B, T, C) through a gate, if there is one; its new rows of the state are appended to `rows`."""
    if gate is None:
        return x
    if past is not None:
        start = sum(part.shape[1] for part in rows)
        past = past[:, start : start + gate.rows]
    x, carried = gate(x, shift, past)
    rows.append(carried)
    return x
