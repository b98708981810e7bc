"""Saturation in a table: means over seeds for each arm and layer."""

from __future__ import annotations

import pandas as pd

from rwkvgate.experiment.studies.saturation import COLUMNS, saturation_by_layer


def test_saturation_is_a_mean_over_seeds() -> None:
    rows = [("enhanced", seed, layer, 0.1 * seed, 0.5, 0.01 * layer) for seed in (0, 1) for layer in (1, 2)]
    found = saturation_by_layer(pd.DataFrame(rows, columns=list(COLUMNS)))
    expected = {"arm": "enhanced", "layer": [1, 2], "saturated": 0.05, "mean": 0.5, "deviation": [0.01, 0.02]}
    pd.testing.assert_frame_equal(found, pd.DataFrame(expected))
