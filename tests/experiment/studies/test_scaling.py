"""The exponents of time against length: one per arm and mode."""

from __future__ import annotations

import numpy as np
import pandas as pd

from rwkvgate.experiment.studies.scaling import exponents


def test_exponents_are_fitted_for_each_arm_and_mode() -> None:
    lengths = [256 * 4**i for i in range(5)]
    powers = {("base", "windows"): 1.0, ("base", "one pass"): 1.5, ("enhanced", "windows"): 1.0}
    rows = [
        (arm, mode, n, repeat, 1e-4 * n**power * (1 + 0.001 * repeat))
        for (arm, mode), power in powers.items()
        for n in lengths
        for repeat in range(3)
    ]
    found = exponents(pd.DataFrame(rows, columns=["arm", "mode", "tokens", "repeat", "seconds"]))
    assert list(zip(found["arm"], found["mode"], strict=True)) == list(powers)
    np.testing.assert_allclose(found["exponent"], list(powers.values()), atol=1e-3)
    assert (found["low"] < found["exponent"]).all() and (found["exponent"] < found["high"]).all()
    assert (found["longest"] == 65536).all() and (found["points"] == 9).all()
