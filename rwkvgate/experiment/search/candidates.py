"""What is tried: every trained arm, and variants that combine what the arms have one of each."""

from __future__ import annotations

from dataclasses import dataclass

from rwkvgate.experiment.arms import ARMS
from rwkvgate.gate.config import GateConfig

CONTROLS = ("base-tuned", "lora-tuned")
"""What a gate has to beat at equal steps, data and learning-rate grid."""


@dataclass(frozen=True)
class Candidate:
    """A gate, or a control without one; `lora` adds low-rank adapters of the paper's gate's size."""

    name: str
    gate: GateConfig | None = None
    lora: bool = False


def _silent_convolution(**fields: object) -> GateConfig:
    """A convolution of four taps that starts at nothing, so that the model starts as its base."""
    start = {"shift": "convolution", "taps": 4, "first_tap": 0.0, "position": False, "norm": "none"}
    return GateConfig.build(start | fields)


VARIANTS = (
    Candidate("identity-low-rank", GateConfig(gating="low-rank", norm="none", layer_scale=0.0)),
    Candidate("identity-routing", GateConfig(gating="routing", norm="none", layer_scale=0.0)),
    Candidate(
        "identity-attention",
        GateConfig(shift="window", taps=4, gating="attention", heads=4, norm="none", layer_scale=0.0),
    ),
    Candidate("convolution-output", _silent_convolution(gating="fixed", value=1.0)),
    Candidate("convolution-gated", _silent_convolution()),
    Candidate("convolution-low-rank", _silent_convolution(gating="low-rank")),
    Candidate("convolution-position", _silent_convolution(gating="low-rank", position=True)),
    Candidate("convolution-mixers-gated", _silent_convolution(gating="low-rank", site="mixers")),
)

CANDIDATES: dict[str, Candidate] = {
    candidate.name: candidate
    for candidate in (
        *(Candidate(arm.name, arm.gate, arm.lora) for arm in ARMS.values() if arm.trained),
        *VARIANTS,
    )
}
