"""Pictures of a gate trace: plain functions, from a trace to a matplotlib figure."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
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


def effects_by_layer(effects: pd.DataFrame, counted: float = 0.2) -> Figure:
    """`linguistics.group_effects` of several arms and seeds: a panel a group, layers across, effects in sd of the gate.

    Args:
        effects: with columns `arm` and `seed`; nan is left out, and a group without any effect says so.
        counted: the effect from which on one counts, marked on both sides.
    """
    groups = list(dict.fromkeys(effects["group"])) or ["boundary"]
    figure = Figure(figsize=(2.4 * len(groups), 2.6), layout="constrained")
    panels = figure.subplots(1, len(groups), sharey=True, squeeze=False)[0]
    for axes, group in zip(panels, groups, strict=True):
        rows = effects[(effects["group"] == group) & effects["effect"].notna()]
        for shift, ((arm, seed), part) in enumerate(rows.groupby(["arm", "seed"])):
            at = part["layer"].to_numpy(dtype=float) + 0.12 * shift
            # Of very few documents a percentile interval may miss the estimate.
            bars = [(part["effect"] - part["low"]).clip(lower=0), (part["high"] - part["effect"]).clip(lower=0)]
            axes.errorbar(at, part["effect"], yerr=bars, fmt="o-", ms=4, lw=1, capsize=2, label=f"{arm}, seed {seed}")
        for side in (-counted, counted):
            axes.axhline(side, color="#7F7F7F", lw=0.8, ls="--")
        axes.axhline(0, color="#000000", lw=0.6)
        if rows.empty:
            axes.text(0.5, 0.9, "no matched control", ha="center", transform=axes.transAxes)
        else:
            axes.set_xticks(sorted(set(rows["layer"])))
        axes.set_title(group, loc="left")
        axes.set(xlabel="layer")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set(ylabel="difference (sd of the gate)")
    if not effects.empty:
        panels[0].legend(frameon=False, fontsize=7)
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
