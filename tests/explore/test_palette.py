"""Colours: even steps, ends of a scale, nothing for nan."""

from __future__ import annotations

import numpy as np
import pytest

from rwkvgate.explore.palette import DIVERGING, SEQUENTIAL, class_names, hex_colours, steps, value_range


def test_colours_are_even_and_know_their_ends() -> None:
    assert steps(np.array([-1, 0, 0.5, 1, 2, np.nan], np.float32), 0, 1).tolist() == [0, 0, 32, 63, 63, -1]
    assert class_names(np.array([np.nan, 0], np.float32), 0, 1, DIVERGING) == ["dn", "d0"]
    assert value_range(np.array([0.1, -0.3], np.float32), DIVERGING) == pytest.approx((-0.3, 0.3))
    assert value_range(np.array([np.nan], np.float32)) == (0, 1)
    low, high = value_range(np.array([0.5], np.float32))
    assert low < 0.5 < high
    brightness = [
        int(colour[1:3], 16) + int(colour[3:5], 16) + int(colour[5:], 16) for colour in hex_colours(SEQUENTIAL)
    ]
    assert brightness[0] < brightness[32] < brightness[63]
