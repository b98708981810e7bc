"""What an arm of the experiment is (`ARMS`): a gate, or none, plus what is trained.

Adding one is one entry here: every other place (settings, tables, figures, the run graph) asks this one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rwkvgate.gate.config import GateConfig
from rwkvgate.settings import unknown_name


@dataclass(frozen=True)
class Arm:
    """One arm of the experiment: its gate, whether it is tuned, and what a table says of it.

    `lora` gives a gateless arm low-rank adapters with as many parameters as the paper's gate has.
    """

    name: str
    label: str
    description: str
    gate: GateConfig | None = None
    trained: bool = True
    lora: bool = False


CONVOLUTION: dict[str, Any] = {"shift": "convolution", "taps": 4, "first_tap": 1.0}
"""Version 2's shift: four past outputs, weighted for each channel, starting as the previous one."""

ARMS: dict[str, Arm] = {
    arm.name: arm
    for arm in (
        Arm("base", "Base", "the untouched network", trained=False),
        Arm("base-tuned", "Base, tuned", "equal-budget control: tuned alike, without a gate"),
        Arm(
            "lora-tuned",
            "LoRA, tuned",
            "equal-size control: low-rank adapters with the gate's number of parameters",
            lora=True,
        ),
        Arm("enhanced-untrained", "Enhanced, untrained", "gated, not tuned", GateConfig(), trained=False),
        Arm("enhanced", "Enhanced", "the paper's gate as written, tuned", GateConfig()),
        Arm("no-layer-norm", "No layer norm", "the paper's ablation without LayerNorm", GateConfig(norm="none")),
        Arm(
            "fixed-gate",
            "Fixed gate",
            "the paper's ablation with the gate at 1",
            GateConfig(gating="fixed", value=1.0),
        ),
        Arm(
            "learned-shift",
            "Learned shift",
            "the paper's gate; how far back to look is predicted from the previous hidden state",
            GateConfig(shift="learned", taps=4),
        ),
        Arm(
            "conv-routing",
            "Convolution, routing",
            "version 2: position-aware convolutional shift, gated routing",
            GateConfig(**CONVOLUTION, position=True, gating="routing", norm="none"),
        ),
        Arm(
            "conv-only",
            "Convolution only",
            "version 2's position-aware convolutional shift, added without a gate",
            GateConfig(**CONVOLUTION, position=True, gating="fixed", value=1.0, norm="none"),
        ),
        Arm(
            "routing-only",
            "Routing only",
            "version 2's routing between a token and the one before it",
            GateConfig(gating="routing", norm="none"),
        ),
        Arm(
            "conv-no-position",
            "No position",
            "version 2 with taps that are the same everywhere in a document",
            GateConfig(**CONVOLUTION, position=False, gating="routing", norm="none"),
        ),
        Arm(
            "ungated-shift",
            "Ungated shift",
            "a plain residual convolution before both mixers, as in Canon layers (arXiv 2512.17351)",
            GateConfig(
                shift="convolution",
                taps=3,
                first_tap=0.0,
                position=False,
                gating="fixed",
                value=1.0,
                norm="none",
                site="mixers",
            ),
        ),
        Arm(
            "identity-start",
            "Identity start",
            "our repair: no LayerNorm on the stream, and the base exactly until it has learned",
            GateConfig(norm="none", layer_scale=0.0),
        ),
        Arm("low-rank", "Low rank", "the paper's gate through a narrow layer", GateConfig(gating="low-rank")),
        Arm("per-head", "Per head", "the paper's gate with one value a head", GateConfig(gating="per-head")),
        Arm(
            "attention-gate",
            "Attention gate",
            "the last four states let in by a small normalised scoring",
            GateConfig(shift="window", taps=4, gating="attention", heads=4),
        ),
        Arm(
            "hierarchical",
            "Hierarchical",
            "the paper's gate under a slower one over segments of 16 tokens",
            GateConfig(gating="hierarchical", segment=16),
        ),
    )
}


def find_arm(name: str) -> Arm:
    """The arm of that name.

    Raises:
        SettingsError: there is none; the nearest is suggested.
    """
    if name not in ARMS:
        raise unknown_name("arm", name, list(ARMS))
    return ARMS[name]
