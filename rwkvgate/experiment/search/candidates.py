"""The candidates of the search: every trained arm, and gates that combine parts of several arms."""

from __future__ import annotations

from typing import Any

from rwkvgate.experiment.arms import ARMS, BLACK, Arm
from rwkvgate.gate.config import GateConfig

MATCHED_CONTROLS = ("base-tuned", "lora-tuned")
"""Arms without a gate that a gate has to beat with equal steps, data and learning rates."""


def _variant(name: str, **gate: Any) -> Arm:
    return Arm(name, label=name, description="only in the search", colour=BLACK, gate=GateConfig.build(gate))


IDENTITY: dict[str, Any] = {"norm": "none", "layer_scale": 0.0}
SILENT: dict[str, Any] = {"shift": "convolution", "taps": 4, "first_tap": 0.0, "position": False, "norm": "none"}
"""A convolution of four taps that starts at zero. With it, as with `IDENTITY`, the model starts as its base."""

CANDIDATES: dict[str, Arm] = {name: arm for name, arm in ARMS.items() if arm.trained} | {
    variant.name: variant
    for variant in (
        _variant("identity-low-rank", gating="low-rank", **IDENTITY),
        _variant("identity-routing", gating="routing", **IDENTITY),
        _variant("identity-attention", shift="window", taps=4, gating="attention", heads=4, **IDENTITY),
        _variant("convolution-output", gating="fixed", value=1.0, **SILENT),
        _variant("convolution-gated", **SILENT),
        _variant("convolution-low-rank", gating="low-rank", **SILENT),
        _variant("convolution-position", gating="low-rank", **(SILENT | {"position": True})),
        _variant("convolution-mixers-gated", gating="low-rank", site="mixers", **SILENT),
    )
}
"""Candidates by name, the arms first."""
