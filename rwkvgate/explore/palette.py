"""Colour-blind-safe colours of the views: pale is low, as on the live page in its light theme."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SEQUENTIAL, DIVERGING = "Blues", "PuOr"
"""Colour maps of matplotlib, for values and for differences around 0."""


def value_range(values: NDArray[np.float32], palette: str = SEQUENTIAL) -> tuple[float, float]:
    """Ends of a colour scale: the values' own, or symmetric around 0 for differences; (0, 1) without values."""
    known = values[np.isfinite(values)]
    if not known.size:
        return 0.0, 1.0
    low, high = float(known.min()), float(known.max())
    if palette == DIVERGING:
        low, high = -max(abs(low), abs(high)), max(abs(low), abs(high))
    return (low, high) if high > low else (low - 0.01, high + 0.01)


def ink(colour: str) -> str:
    """Black or white, whichever contrasts more with a colour, #rrggbb, by WCAG's relative luminance.

    >>> ink("#ffffff"), ink("#00204d")
    ('#000', '#fff')
    """
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#000" if luminance > 0.179 else "#fff"
