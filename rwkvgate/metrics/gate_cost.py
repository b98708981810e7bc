"""What a gate costs, in closed form: parameters, multiply-adds, and numbers carried in the state."""

from __future__ import annotations

from dataclasses import dataclass

from rwkvgate.gate.config import PRESETS, SITES, GateConfig
from rwkvgate.gate.gating import Hierarchical
from rwkvgate.gate.shifts import POSITION_SCALES


@dataclass(frozen=True)
class GateCost:
    """The gates of one block.

    `flops` are those of matrix products, two for each multiply-add, for one sequence from its start:
    what torch.utils.flop_counter counts. Elementwise work, a few operations for each channel and tap, is
    not among them. `state` is numbers carried for each sequence.
    """

    parameters: int
    flops: int
    state: int


def gate_cost(config: GateConfig, channels: int, heads: int = 1, tokens: int = 1) -> GateCost:
    """The cost of a block's gates on a model of this width.

    Args:
        config: which gate.
        channels: width of the hidden state, C.
        heads: the model's heads.
        tokens: length of the sequence whose `flops` are counted.

    Raises:
        SettingsError: the width cannot be divided as the config asks.
    """
    config = config.sized(channels, heads)
    parts = [_shift_cost(config, channels, tokens), _gating_cost(config, channels, tokens)]
    parameters = sum(cost[0] for cost in parts)
    if config.norm == "layer":
        parameters += 2 * channels
    if config.layer_scale is not None:
        parameters += channels
    extra = Hierarchical.extra if config.gating == "hierarchical" else 0
    places = len(SITES[config.site])
    return GateCost(
        parameters=places * parameters,
        flops=places * 2 * sum(cost[1] for cost in parts),
        state=places * (config.window + extra) * channels,
    )


def _shift_cost(config: GateConfig, channels: int, tokens: int) -> tuple[int, int]:
    """Parameters and multiply-adds of the shift operator."""
    taps, rank = config.taps or 0, config.rank or 0
    if config.shift == "learned":
        return (channels + 1) * rank + (rank + 1) * taps, tokens * rank * (channels + taps)
    if config.shift == "convolution":
        modulation = taps * len(POSITION_SCALES) * channels if config.position else 0
        return taps * channels + modulation, tokens * modulation
    return 0, 0


def _gating_cost(config: GateConfig, channels: int, tokens: int) -> tuple[int, int]:
    """Parameters and multiply-adds of the gating function."""
    rank, heads = config.rank or 0, config.heads or 0
    square = channels * channels
    match config.gating:
        case "fixed":
            return 0, 0
        case "low-rank":
            return (2 * rank + 1) * channels, tokens * 2 * rank * channels
        case "per-head":
            return heads * (channels + 1), tokens * heads * channels
        case "attention":
            keys = tokens + config.window  # those of the states carried are taken anew
            return rank * (2 * channels + 1), (tokens + keys) * rank * channels
        case "hierarchical":
            assert config.segment is not None
            # The slow gate is taken once a segment, whole or not, or once a token where those are fewer.
            segments = min(tokens, tokens // config.segment + 2)
            return 2 * (square + channels), (tokens + segments) * square
        case "routing":
            return 2 * square + channels, tokens * 2 * square
        case _:
            return square + channels, tokens * square


def cost_table(channels: int, heads: int, layers: int, tokens: int) -> str:
    """Every gated arm's cost on a model of this shape, as a Markdown table."""
    lines = ["| arm | parameters | multiply-adds a token | state, numbers a sequence |", "|---|---|---|---|"]
    for name, gate in PRESETS.items():
        cost = gate_cost(gate, channels, heads, tokens)
        adds = layers * cost.flops / 2 / tokens
        lines.append(f"| `{name}` | {layers * cost.parameters:,} | {adds:,.0f} | {layers * cost.state:,} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(cost_table(channels=2048, heads=32, layers=24, tokens=1024))
