"""Every combination of shift and gating that makes sense, and the oracle that they are held against.

The oracle knows one token at a time and the equations of docs/gates.md, nothing of batches, padding or states.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rwkvgate import GateConfig
from rwkvgate.gate.layer import GatedShift

SHIFTS: dict[str, dict[str, Any]] = {
    "previous": {},
    "offset": {"shift": "offset", "offset": 3},
    "learned": {"shift": "learned", "taps": 3, "rank": 5},
    "convolution": {"shift": "convolution", "taps": 3, "first_tap": 1.0, "position": False},
    "positioned": {"shift": "convolution", "taps": 3, "first_tap": 1.0, "position": True},
    "recurrent": {"shift": "recurrent"},
}
GATINGS: dict[str, dict[str, Any]] = {
    "sigmoid": {},
    "fixed": {"gating": "fixed", "value": 0.5},
    "low-rank": {"gating": "low-rank", "rank": 5},
    "per-head": {"gating": "per-head", "heads": 4},
    "hierarchical": {"gating": "hierarchical", "segment": 4},
    "routing": {"gating": "routing"},
}
AROUND: dict[str, dict[str, Any]] = {
    "norm": {},
    "bare": {"norm": "none"},
    "identity": {"norm": "none", "layer_scale": 0.0},
    "scaled norm": {"layer_scale": 0.5},
}
SITES = ("output", "time-mixing", "channel-mixing", "mixers")

REFUSED = {"recurrent, routing"}
PAIRS = {f"{s}, {g}": SHIFTS[s] | GATINGS[g] for s in SHIFTS for g in GATINGS if f"{s}, {g}" not in REFUSED} | {
    "attention": {"shift": "window", "taps": 3, "gating": "attention", "heads": 4, "rank": 8}
}
COMBINATIONS = {f"{pair}, {around}": GateConfig(**PAIRS[pair], **AROUND[around]) for pair in PAIRS for around in AROUND}
"""Every shift with every gating that it goes with and everything around them, on the block's output."""
SPREAD = {
    f"{pair}, {around}, {site}": GateConfig(**PAIRS[pair], **AROUND[around], site=site)
    for i, pair in enumerate(PAIRS)
    for around, site in [
        (list(AROUND)[(i + i // 4) % 4], SITES[i % 4]),
        (list(AROUND)[(i + 2) % 4], SITES[(i + 1) % 4]),
    ]
}
"""Every shift with every gating twice, the surroundings and sites in turn: for what is slow to test."""


def plain_shift(gate: GatedShift, past: list[Tensor], position: int) -> Tensor:
    """shifted_t of one token, from the states before it, the newest first."""
    shift, config = gate.gate_shift, gate.config
    if config.shift == "offset":
        return past[config.offset - 1]
    if config.shift == "learned":
        inner = torch.tanh(shift.inner.weight @ past[0] + shift.inner.bias)
        odds = torch.exp(shift.outer.weight @ inner + shift.outer.bias)
        return sum(p * h for p, h in zip(odds / odds.sum(), past, strict=False))
    if config.shift == "convolution":
        total = torch.zeros_like(past[0])
        for j in range(config.taps):
            weight = shift.weight[j]
            if config.position:
                for i, scale in enumerate((1, 4, 16, 64, 256, 1024, 4096)):
                    weight = weight + shift.position_weight[j, i] * (position / (position + scale))
            total = total + weight * past[j]
        return total
    return past[0]


def plain_moved(gate: GatedShift, h: Tensor, past: list[Tensor], segment_mean: Tensor, position: int) -> Tensor:
    """What is added to h_t before its scale: g_t * shifted_t and its kin."""
    g, config = gate.gating, gate.config

    def sigmoid(layer: Any, x: Tensor) -> Tensor:
        return 1 / (1 + torch.exp(-(layer.weight @ x + (0 if layer.bias is None else layer.bias))))

    if config.gating == "attention":
        query = (g.query.weight @ h + g.query.bias).view(config.heads, -1)
        scores = []
        for before in past[: config.taps]:
            key = (g.keys.weight @ before).view(config.heads, -1)
            scores.append(torch.exp((query * key).sum(1) / query.shape[1] ** 0.5))
        total = 1 + sum(scores)
        share = [(score / total).repeat_interleave(len(h) // config.heads) for score in scores]
        return sum(a * before for a, before in zip(share, past, strict=False))
    shifted = plain_shift(gate, past, position)
    if config.gating == "fixed":
        return config.value * shifted
    if config.gating == "low-rank":
        return shifted / (1 + torch.exp(-(g.up.weight @ (g.down.weight @ h) + g.up.bias)))
    if config.gating == "per-head":
        return sigmoid(g.linear, h).repeat_interleave(len(h) // config.heads) * shifted
    if config.gating == "hierarchical":
        return sigmoid(g.token, h) * sigmoid(g.slow, segment_mean) * shifted
    if config.gating == "routing":
        share = 1 / (1 + torch.exp(-(g.current.weight @ h + g.current.bias + g.shifted.weight @ shifted)))
        return share * (shifted - h)
    return sigmoid(g.linear, h) * shifted


def plain_gate(gate: GatedShift, hidden: Tensor) -> Tensor:
    """The gated shift of one document, hidden (time, channel), token by token."""
    config, zero = gate.config, torch.zeros_like(hidden[0])
    rows = []
    for t, h in enumerate(hidden):
        before = rows if config.shift == "recurrent" else hidden
        past = [before[t - j] if t >= j else zero for j in range(1, 8)]
        mean = zero
        if config.segment and t >= config.segment:
            start = (t // config.segment - 1) * config.segment
            mean = sum(hidden[start : start + config.segment]) / config.segment
        moved = plain_moved(gate, h, past, mean, t)
        out = h + (1 if gate.gate_scale is None else gate.gate_scale) * moved
        if gate.norm is not None:
            centred = out - out.mean()
            out = centred / torch.sqrt(centred.square().mean() + 1e-5) * gate.norm.weight + gate.norm.bias
        rows.append(out)
    return torch.stack(rows)
