"""Ends of colour scales."""

from __future__ import annotations

import numpy as np
import pytest

from rwkvgate.explore.palette import DIVERGING, value_range


def test_scales_know_their_ends() -> None:
    assert value_range(np.array([0.1, -0.3], np.float32), DIVERGING) == pytest.approx((-0.3, 0.3))
    assert value_range(np.array([np.nan], np.float32)) == (0, 1)
    low, high = value_range(np.array([0.5], np.float32))
    assert low < 0.5 < high
