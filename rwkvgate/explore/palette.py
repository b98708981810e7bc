"""Perceptually uniform, colour-blind-safe colours of the views, as classes of a style sheet.

Classes, because a notebook that is not trusted keeps no style attributes.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from rwkvgate.rwkv6.extras import extra

STEPS = 64
SEQUENTIAL, DIVERGING = "cividis", "PuOr"
"""Colour maps of matplotlib, for values and for differences around 0."""
PREFIX = {SEQUENTIAL: "g", DIVERGING: "d"}
"""First letter of a map's classes, `g0` to `g63`; `gn` and `dn` mean no value."""


def steps(values: NDArray[np.float32], low: float, high: float) -> NDArray[np.int64]:
    """The step of each value from `low` to `high`, 0 to `STEPS` - 1, clipped; -1 for nan."""
    width = high - low if high > low else 1.0
    shares = np.nan_to_num((np.asarray(values, dtype=np.float64) - low) / width)
    return np.where(np.isnan(values), -1, np.clip((shares * STEPS).astype(np.int64), 0, STEPS - 1))


def class_names(values: NDArray[np.float32], low: float, high: float, palette: str = SEQUENTIAL) -> list[str]:
    """The style class of each value."""
    letter = PREFIX[palette]
    return [f"{letter}n" if step < 0 else f"{letter}{step}" for step in steps(values, low, high).tolist()]


def value_range(values: NDArray[np.float32], palette: str = SEQUENTIAL) -> tuple[float, float]:
    """Ends of a colour scale: the values' own, or symmetric around 0 for differences; (0, 1) without values."""
    known = values[np.isfinite(values)]
    if not known.size:
        return 0.0, 1.0
    low, high = float(known.min()), float(known.max())
    if palette == DIVERGING:
        low, high = -max(abs(low), abs(high)), max(abs(low), abs(high))
    return (low, high) if high > low else (low - 0.01, high + 0.01)


@cache
def hex_colours(palette: str) -> list[str]:
    """The palette's steps as #rrggbb."""
    with extra("explorer"):
        from matplotlib import colormaps
        from matplotlib.colors import to_hex

    return [to_hex(colormaps[palette]((i + 0.5) / STEPS)) for i in range(STEPS)]


@cache
def style_sheet() -> str:
    """The style sheet of every class: background and ink of text."""
    rules = [".rg .gn,.rg .dn{background:#fff;color:#000;outline:1px dotted #999}"]
    for palette, letter in PREFIX.items():
        for step, colour in enumerate(hex_colours(palette)):
            rules.append(f".rg .{letter}{step}{{background:{colour};color:{_ink(colour)}}}")
    return "\n".join(rules)


def _ink(colour: str) -> str:
    """Black or white, whichever contrasts more with the colour by WCAG's relative luminance."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#000" if luminance > 0.179 else "#fff"
