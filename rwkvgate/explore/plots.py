"""The figure of gate effects at groups of tokens."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure


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
