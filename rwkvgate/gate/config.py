"""`GateConfig`: which gate, as a checked dataclass with a field for each choice, and the named presets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from rwkvgate.gate.validation import Frozen, SettingsError, unknown_name, validate

Site = Literal["output", "time-mixing", "channel-mixing", "mixers"]
SITES: dict[str, tuple[str, ...]] = {
    "output": ("gated_shift",),
    "time-mixing": ("gated_shift_time",),
    "channel-mixing": ("gated_shift_channel",),
    "mixers": ("gated_shift_time", "gated_shift_channel"),
}
"""The attributes of a block that hold a site's gates, in the order in which the block applies them."""

BELONGS: dict[str, tuple[str, tuple[str, ...]]] = {
    "offset": ("shift", ("offset",)),
    "taps": ("shift", ("learned", "convolution", "window")),
    "position": ("shift", ("convolution",)),
    "first_tap": ("shift", ("convolution",)),
    "value": ("gating", ("fixed",)),
    "segment": ("gating", ("hierarchical",)),
}
"""A field, and the choices that require it; with any other choice it must be left out."""

SIZES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "rank": (("learned",), ("low-rank", "attention")),
    "heads": ((), ("per-head", "attention")),
}
"""A field that defaults to a size of the model, and the shifts and gatings that may set it."""


class GateConfig(Frozen):
    """The choices that make a gated shift of a hidden state h: arXiv 2502.15485, and gates that the paper did not try.

    h_t becomes norm(h_t + s * g_t * shifted_t): `shift` chooses shifted_t, `gating` chooses g_t, and `norm` comes last.
    `layer_scale`, the s, is not in the paper: a learned vector (LayerScale, arXiv 2103.17239) that starts at this
    value; at 0, without a norm, the patched network is the base until it has learned. docs/gates.md has every choice's
    equation, cost and source. The defaults are the paper's version 1.

    Example:
        >>> GateConfig.preset("enhanced") == GateConfig()
        True
        >>> GateConfig(gating="fixed", value=0.5).value
        0.5
        >>> GateConfig.build({"gating": "fixd"})
        Traceback (most recent call last):
        rwkvgate.gate.validation.SettingsError: gating is 'fixd' (str) in GateConfig: Input should be 'sigmoid', \
'fixed', 'low-rank', 'per-head', 'attention', 'hierarchical' or 'routing'
    """

    shift: Literal["previous", "offset", "learned", "convolution", "window", "recurrent"] = Field(
        default="previous", description="which past hidden states enter"
    )
    offset: Annotated[int, Field(ge=1, le=256)] | None = Field(
        default=None, description="how many tokens back, at a fixed offset"
    )
    taps: Annotated[int, Field(ge=1, le=64)] | None = Field(default=None, description="past states that the gate reads")
    position: bool | None = Field(default=None, description="whether the taps know the position in the document")
    first_tap: Annotated[float, Field(ge=-1, le=1)] | None = Field(
        default=None, description="start of the newest tap of a convolution; the others start at 0"
    )
    gating: Literal["sigmoid", "fixed", "low-rank", "per-head", "attention", "hierarchical", "routing"] = Field(
        default="sigmoid", description="where the gate's values come from"
    )
    value: Annotated[float, Field(ge=0, le=1)] | None = Field(default=None, description="the gate, where it is fixed")
    rank: Annotated[int, Field(ge=1, le=8192)] | None = Field(
        default=None, description="inner width; default: a 32nd of the model's, at least 16, a multiple of heads"
    )
    heads: Annotated[int, Field(ge=1, le=1024)] | None = Field(
        default=None, description="groups of channels; default: the model's heads"
    )
    segment: Annotated[int, Field(ge=2, le=4096)] | None = Field(default=None, description="tokens of a segment")
    norm: Literal["layer", "none"] = Field(default="layer", description="normalisation after the sum")
    norm_epsilon: Annotated[float, Field(gt=0, lt=1)] = Field(default=1e-5, description="epsilon of that LayerNorm")
    layer_scale: Annotated[float, Field(ge=0, le=1)] | None = Field(
        default=None, description="start of a learned factor of each channel on the shifted state; none where empty"
    )
    site: Site = Field(default="output", description="where in the block the gate sits")

    @model_validator(mode="after")
    def _consistent(self) -> GateConfig:
        for field, (choice, needed) in BELONGS.items():
            chosen, value = getattr(self, choice), getattr(self, field)
            if chosen in needed and value is None:
                raise ValueError(f"{field} is missing; {choice} {chosen!r} needs it")
            if chosen not in needed and value is not None:
                conflict = f"{field} is {value}, and {choice} is {chosen!r}"
                raise ValueError(f"{conflict}; {field} goes with {_one_of(choice, needed)}")
        for field, (shifts, gatings) in SIZES.items():
            if getattr(self, field) is not None and self.shift not in shifts and self.gating not in gatings:
                uses = [_one_of(c, n) for c, n in (("shift", shifts), ("gating", gatings)) if n]
                raise ValueError(f"{field} is {getattr(self, field)}; it goes with {' or '.join(uses)}")
        if (self.shift == "window") != (self.gating == "attention"):
            raise ValueError(
                f"shift is {self.shift!r} and gating is {self.gating!r}; attention, and no other gating, reads a window"
            )
        if self.shift == "recurrent" and self.gating == "routing":
            raise ValueError(
                "shift is 'recurrent' and gating is 'routing'; a recurrent shift goes with a gating that does not read "
                "the shifted state: 'sigmoid', 'fixed', 'low-rank', 'per-head' or 'hierarchical'"
            )
        return self

    @classmethod
    def build(cls, fields: Mapping[str, Any], where: str = "GateConfig") -> GateConfig:
        """The config with these fields.

        Args:
            where: what an error calls their source.

        Raises:
            SettingsError: an unknown key, an impossible value, or choices that do not fit; the message names the
                field, its value and the values allowed.
        """
        return validate(cls, fields, where)

    @classmethod
    def preset(cls, arm: str, **changes: Any) -> GateConfig:
        """The gate of an arm: one of the configurations that the experiment compares, by its name in `PRESETS`.

        Args:
            arm: such as "enhanced", the paper's gate, or "conv-routing", its version 2.
            **changes: fields with other values.

        Raises:
            SettingsError: an unknown arm, one without a gate, or an impossible change.

        Example:
            >>> GateConfig.preset("no-layer-norm").norm
            'none'
            >>> GateConfig.preset("enhanced", shift="offset", offset=2).offset
            2
            >>> GateConfig.preset("enhnced")
            Traceback (most recent call last):
            rwkvgate.gate.validation.SettingsError: unknown gated arm 'enhnced'; did you mean 'enhanced'?
        """
        if arm not in PRESETS:
            raise unknown_name("gated arm", arm, list(PRESETS))
        return cls.build(PRESETS[arm].model_dump() | changes, where=f"the gate of arm {arm!r}")

    def sized(self, channels: int, heads: int = 1) -> GateConfig:
        """This config with the sizes filled in that it leaves to the model.

        Args:
            channels: width of the hidden state.
            heads: the model's heads.

        Raises:
            SettingsError: the width cannot be divided as the config asks.
        """
        fields = self.model_dump()
        if self.shift in SIZES["rank"][0] or self.gating in SIZES["rank"][1]:
            fields["rank"] = self.rank or min(channels, max(16, channels // 32))
        if self.gating in SIZES["heads"][1]:
            fields["heads"] = self.heads or heads
            if self.gating == "attention" and self.rank is None:
                fields["rank"] += -fields["rank"] % fields["heads"]
            if channels % fields["heads"]:
                raise SettingsError(f"heads is {fields['heads']}; it must divide the model's width, {channels}")
            if self.gating == "attention" and fields["rank"] % fields["heads"]:
                raise SettingsError(f"rank is {fields['rank']}; heads, {fields['heads']}, must divide it")
        return self.build(fields)

    @property
    def window(self) -> int:
        """Past hidden states that the shift reads, K; the state carries as many, (K, channel), for each sequence."""
        return self.taps or self.offset or 1


def _one_of(choice: str, values: tuple[str, ...]) -> str:
    return f"{choice} {' or '.join(map(repr, values))}"


_CONVOLUTION: dict[str, Any] = {"shift": "convolution", "taps": 4, "first_tap": 1.0}
"""Version 2's shift: four past outputs, weighted for each channel, starting as the previous one."""

PRESETS: dict[str, GateConfig] = {
    "enhanced": GateConfig(),
    "no-layer-norm": GateConfig(norm="none"),
    "fixed-gate": GateConfig(gating="fixed", value=1.0),
    "enhanced-recurrent": GateConfig(shift="recurrent"),
    "learned-shift": GateConfig(shift="learned", taps=4),
    "conv-routing": GateConfig(**_CONVOLUTION, position=True, gating="routing", norm="none"),
    "conv-only": GateConfig(**_CONVOLUTION, position=True, gating="fixed", value=1.0, norm="none"),
    "routing-only": GateConfig(gating="routing", norm="none"),
    "conv-no-position": GateConfig(**_CONVOLUTION, position=False, gating="routing", norm="none"),
    "ungated-shift": GateConfig(
        shift="convolution",
        taps=3,
        first_tap=0.0,
        position=False,
        gating="fixed",
        value=1.0,
        norm="none",
        site="mixers",
    ),
    "identity-start": GateConfig(norm="none", layer_scale=0.0),
    "low-rank": GateConfig(gating="low-rank"),
    "per-head": GateConfig(gating="per-head"),
    "attention-gate": GateConfig(shift="window", taps=4, gating="attention", heads=4),
    "hierarchical": GateConfig(gating="hierarchical", segment=16),
}
"""The gates of the paper's versions, of its ablations and of the extensions, by the name of their arm.

docs/gates.md has the equations.
"""
