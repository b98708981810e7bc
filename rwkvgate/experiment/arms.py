"""The arms of the experiment (`ARMS`): networks that are compared, each a base with or without a gate, tuned or not.

A new arm is one entry here and, if its gate is new, one in `rwkvgate.gate.config.PRESETS`. Settings, tables, figures
and the run graph read this list.
"""

from __future__ import annotations

from dataclasses import dataclass

from rwkvgate.gate.config import GateConfig
from rwkvgate.gate.validation import unknown_name

BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILLION, PURPLE = "#A89A00", "#0072B2", "#D55E00", "#CC79A7"
"""Okabe and Ito's palette, distinct for colour-blind readers; the yellow is darker, for thin lines on white."""


@dataclass(frozen=True)
class Arm:
    """One arm of the experiment.

    Attributes:
        name: in settings, folders and tables.
        label: in figures.
        description: in tables.
        colour: in figures, hexadecimal RGB. Similar arms share one, so no figure distinguishes arms by colour alone.
        gate: the gate that the base is patched with; None for an arm without a gate.
        trained: whether the arm is fine-tuned.
        lora: whether the base gets low-rank adapters, with as many parameters as the paper's gate, in place of a gate.
    """

    name: str
    label: str
    description: str
    colour: str
    gate: GateConfig | None = None
    trained: bool = True
    lora: bool = False


def _gated(name: str, label: str, description: str, colour: str) -> Arm:
    return Arm(name, label, description, colour, GateConfig.preset(name))


_ARMS = (
    Arm("base", "Base", "the untouched network", BLACK, trained=False),
    Arm("base-tuned", "Base, tuned", "equal-budget control: tuned alike, without a gate", BLUE),
    Arm(
        "lora-tuned",
        "LoRA, tuned",
        "equal-size control: low-rank adapters with the gate's number of parameters",
        SKY,
        lora=True,
    ),
    Arm("enhanced-untrained", "Enhanced, untrained", "gated, not tuned", YELLOW, GateConfig(), trained=False),
    _gated("enhanced", "Enhanced", "the paper's gate as written, tuned", VERMILLION),
    _gated("no-layer-norm", "No layer norm", "the paper's ablation without LayerNorm", ORANGE),
    _gated("fixed-gate", "Fixed gate", "the paper's ablation with the gate at 1", PURPLE),
    _gated(
        "enhanced-recurrent",
        "Enhanced, recurrent",
        "another reading of the paper: the gate lets in its own previous result, a recurrence over time",
        VERMILLION,
    ),
    _gated(
        "learned-shift",
        "Learned shift",
        "the paper's gate; how far back to look is predicted from the previous hidden state",
        ORANGE,
    ),
    _gated(
        "conv-routing",
        "Convolution, routing",
        "version 2: position-aware convolutional shift, gated routing",
        GREEN,
    ),
    _gated(
        "conv-only", "Convolution only", "version 2's position-aware convolutional shift, added without a gate", GREEN
    ),
    _gated("routing-only", "Routing only", "version 2's routing between a token and the one before it", GREEN),
    _gated("conv-no-position", "No position", "version 2 with taps that are the same everywhere in a document", GREEN),
    _gated(
        "ungated-shift",
        "Ungated shift",
        "a plain residual convolution before both mixers, as in Canon layers (arXiv 2512.17351)",
        SKY,
    ),
    _gated(
        "identity-start",
        "Identity start",
        "our repair: no LayerNorm on the stream, and the base exactly until it has learned",
        PURPLE,
    ),
    _gated("low-rank", "Low rank", "the paper's gate through a narrow layer", YELLOW),
    _gated("per-head", "Per head", "the paper's gate with one value a head", YELLOW),
    _gated("attention-gate", "Attention gate", "the last four states let in by a small normalised scoring", YELLOW),
    _gated("hierarchical", "Hierarchical", "the paper's gate under a slower one over segments of 16 tokens", YELLOW),
)
ARMS: dict[str, Arm] = {arm.name: arm for arm in _ARMS}
"""All arms by name, in the order of tables and figures."""


def find_arm(name: str) -> Arm:
    """The arm of that name.

    Raises:
        SettingsError: there is no such arm; the message suggests the most similar name.
    """
    if not isinstance(name, str) or name not in ARMS:  # a list, from YAML, has no hash
        raise unknown_name("arm", name, list(ARMS))
    return ARMS[name]
