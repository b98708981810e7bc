"""What a gate is (`GateConfig`), and what an arm of the experiment is (`ARMS`).

An arm is a gate, or none, plus whether it is trained. Adding one is one entry in `ARMS`: every other
place (settings, tables, figures, the run graph) asks this one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from rwkvgate.settings import Frozen, unknown_name, validate


class GateConfig(Frozen):
    """The gated shift of one block's output h, arXiv 2502.15485 (version 1), section 3.2.

    `gating` "sigmoid" is the paper's g_t = sigmoid(W h_t + b), `gating` "fixed" the constant `value` of
    its ablation. `norm` "layer" ends in the paper's LayerNorm, "none" in nothing. `layer_scale`, not in the
    paper, multiplies the shifted state by a learned vector that starts at this value (LayerScale, arXiv
    2103.17239): at 0, without a norm, the patched network is the base exactly until it has learned.

    Raises:
        SettingsError: (from `GateConfig.build`) an unknown key or an impossible value.
    """

    gating: Literal["sigmoid", "fixed"] = Field(default="sigmoid", description="where the gate's values come from")
    value: Annotated[float, Field(ge=0, le=1)] | None = Field(default=None, description="the gate, where it is fixed")
    norm: Literal["layer", "none"] = Field(default="layer", description="normalisation after the sum")
    norm_epsilon: Annotated[float, Field(gt=0, lt=1)] = Field(default=1e-5, description="epsilon of that LayerNorm")
    layer_scale: Annotated[float, Field(ge=0, le=1)] | None = Field(
        default=None, description="start of a learned factor of each channel on the shifted state; none where empty"
    )

    @model_validator(mode="after")
    def _consistent(self) -> GateConfig:
        if (self.gating == "fixed") != (self.value is not None):
            raise ValueError(
                f"gating is {self.gating!r} and value is {self.value}; a fixed gate, and no other, has one"
            )
        return self

    @classmethod
    def build(cls, fields: Mapping[str, Any], where: str = "GateConfig") -> GateConfig:
        """The config with these fields, or an error in the words of `rwkvgate.settings`."""
        return validate(cls, fields, where)

    @classmethod
    def preset(cls, arm: str, **changes: Any) -> GateConfig:
        """The gate of an arm, with fields changed where named.

        Raises:
            SettingsError: an unknown arm, one without a gate, or an impossible change.
        """
        preset = find_arm(arm).gate
        if preset is None:
            raise unknown_name("gated arm", arm, [name for name, other in ARMS.items() if other.gate])
        return cls.build(preset.model_dump() | changes, where=f"the gate of arm {arm!r}")


@dataclass(frozen=True)
class Arm:
    """One arm of the experiment: its gate, whether it is tuned, and what a table says of it.

    `lora` gives a gateless arm low-rank adapters with as many parameters as the paper's gate has.
    """

    name: str
    label: str
    description: str
    gate: GateConfig | None
    trained: bool
    lora: bool = False


ARMS: dict[str, Arm] = {
    arm.name: arm
    for arm in (
        Arm("base", "Base", "the untouched network", gate=None, trained=False),
        Arm(
            "base-tuned",
            "Base, tuned",
            "equal-budget control: tuned alike, without a gate",
            gate=None,
            trained=True,
        ),
        Arm(
            "lora-tuned",
            "LoRA, tuned",
            "equal-size control: low-rank adapters with the gate's number of parameters",
            gate=None,
            trained=True,
            lora=True,
        ),
        Arm("enhanced-untrained", "Enhanced, untrained", "gated, not tuned", gate=GateConfig(), trained=False),
        Arm("enhanced", "Enhanced", "the paper's gate as written, tuned", gate=GateConfig(), trained=True),
        Arm(
            "no-layer-norm",
            "No layer norm",
            "the paper's ablation without LayerNorm",
            gate=GateConfig(norm="none"),
            trained=True,
        ),
        Arm(
            "fixed-gate",
            "Fixed gate",
            "the paper's ablation with the gate at 1",
            gate=GateConfig(gating="fixed", value=1.0),
            trained=True,
        ),
        Arm(
            "identity-start",
            "Identity start",
            "our repair: no LayerNorm on the stream, and the base exactly until it has learned",
            gate=GateConfig(norm="none", layer_scale=0.0),
            trained=True,
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
