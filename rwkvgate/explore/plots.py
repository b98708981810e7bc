"""Pictures of a gate trace: plain functions, from a trace to a matplotlib figure."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from torch import Tensor

from rwkvgate.explore.tokens import token_labels
from rwkvgate.explore.traces import GateTrace

LABELLED_TOKENS = 90
"""More tokens than this are not written under the picture; positions are."""


def layers_by_tokens(trace: GateTrace, tokens: Sequence[str], row: int = 0, title: str = "") -> Figure:
    """Mean gate over channels (0-1), layers down, tokens across; layer 1 is the first."""
    return _heatmap(trace.token_means(row), tokens, title or "Mean gate of each layer", "mean gate over channels")


def saturation_by_tokens(trace: GateTrace, tokens: Sequence[str], row: int = 0, title: str = "") -> Figure:
    """Share of channels within 0.05 of 0 or 1 (0-1), layers down, tokens across."""
    return _heatmap(trace.saturation(row), tokens, title or "Saturated channels", "share of channels")


def gate_distribution(trace: GateTrace, row: int = 0, bins: int = 50) -> Figure:
    """How the gate's values over tokens and channels are spread, one curve a layer."""
    figure = Figure(figsize=(7.0, 3.2), layout="constrained")
    axes = figure.subplots()
    colours = _colours(len(trace.values))
    for layer, values in enumerate(trace.values[:, row].float()):
        counts = values.flatten().histc(bins, 0, 1)
        density = (counts / counts.sum() * bins).tolist()
        axes.stairs(
            density,
            [i / bins for i in range(bins + 1)],
            color=colours[layer],
            label=f"layer {layer + 1}",
            lw=1.6,
        )
    axes.set(xlabel="gate value", ylabel="density", xlim=(0, 1))
    axes.set_title("Gate values over tokens and channels", loc="left")
    axes.legend(frameon=False, ncols=2 if len(trace.values) > 6 else 1)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _colours(count: int) -> list[tuple[float, float, float, float]]:
    from matplotlib import colormaps

    return [colormaps["viridis"](0.05 + 0.85 * i / max(count - 1, 1)) for i in range(count)]


def _heatmap(values: Tensor, tokens: Sequence[str], title: str, unit: str) -> Figure:
    layers, time = values.shape
    figure = Figure(figsize=(min(16.0, max(6.0, 2 + 0.15 * time)), 1.6 + 0.34 * layers), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(values.numpy(), aspect="auto", cmap="cividis", interpolation="nearest")
    axes.set_yticks(range(layers), [str(layer + 1) for layer in range(layers)])
    axes.set(ylabel="layer")
    axes.set_title(title, loc="left")
    if time <= LABELLED_TOKENS:
        axes.set_xticks(
            range(time), token_labels(tokens), rotation=90, fontsize=7, family="monospace", parse_math=False
        )
    else:
        axes.set_xlabel("token position")
    figure.colorbar(image, ax=axes, label=unit, pad=0.01)
    return figure
