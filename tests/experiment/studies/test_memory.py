"""Gains and losses of all arms together: means over seeds, intervals over items and texts."""

from __future__ import annotations

import numpy as np
import pandas as pd

from rwkvgate.experiment.studies.memory import gains_by_length, loss_by_position
from rwkvgate.metrics.measures import ratio_of_sums
from rwkvgate.metrics.statistics import interval


def gains() -> pd.DataFrame:
    rng = np.random.default_rng(2)
    rows = [
        (arm, seed, probe, length, depth, item, rng.normal(1, 0.5))
        for arm in ("base", "enhanced")
        for seed in (0, 1)
        for probe in ("copying", "passkey")
        for length in (64, 128)
        for depth in ((0.0, 0.5, 1.0) if probe == "passkey" else (np.nan,))
        for item in range(4)
    ]
    return pd.DataFrame(rows, columns=["arm", "seed", "probe", "length", "depth", "item", "gain"])


def positions() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    rows = [
        (arm, seed, kind, text, start, stop, (stop - start) * (2 + rng.random()), stop - start)
        for arm in ("base", "enhanced")
        for seed in (0, 1)
        for kind in ("stories", "natural")
        for text in range(9)
        for start, stop in ((0, 16), (16, 32), (32, 64))
    ]
    return pd.DataFrame(rows, columns=["arm", "seed", "kind", "text", "start", "stop", "nll", "tokens"])


def test_gains_are_means_over_seeds_items_and_depths() -> None:
    frame = gains()
    found = gains_by_length(frame).set_index(["arm", "probe", "length"])
    assert len(found) == 8 and set(found["n"]) == {4, 12}  # items, and items at each of three depths
    part = frame[(frame["arm"] == "base") & (frame["probe"] == "passkey") & (frame["length"] == 64)]
    items = part.groupby(["depth", "item"])["gain"].mean().to_numpy()
    row = found.loc["base", "passkey", 64]
    assert tuple(row[["estimate", "low", "high"]]) == interval(items)[:3]
    np.testing.assert_allclose(row["estimate"], part["gain"].mean())


def test_a_gain_that_is_not_a_number_leaves_a_gap() -> None:
    frame = gains()
    frame.loc[(frame["arm"] == "base") & (frame["probe"] == "copying"), "gain"] = np.nan
    found = gains_by_length(frame)
    gaps = found[found["estimate"].isna()]
    assert set(zip(gaps["arm"], gaps["probe"], strict=True)) == {("base", "copying")} and len(gaps) == 2


def test_losses_are_sums_over_seeds_and_texts() -> None:
    frame = positions()
    found = loss_by_position(frame).set_index(["arm", "kind", "start"]).sort_index()
    part = frame[(frame["arm"] == "enhanced") & (frame["kind"] == "natural")].groupby("start")[["nll", "tokens"]].sum()
    np.testing.assert_allclose(found.loc["enhanced", "natural"]["estimate"], part["nll"] / part["tokens"])
    np.testing.assert_allclose(found.loc["base", "stories"]["position"], [16, np.sqrt(16 * 32), np.sqrt(32 * 64)])
    one = frame[(frame["arm"] == "base") & (frame["kind"] == "stories") & (frame["start"] == 0)]
    means = one.groupby("text")[["nll", "tokens"]].mean().to_numpy()
    expected = interval(means, ratio_of_sums)
    assert tuple(found.loc["base", "stories", 0][["estimate", "low", "high", "n"]]) == expected


def test_one_text_has_no_interval() -> None:
    found = loss_by_position(positions().query("text == 0"))
    assert found["estimate"].notna().all() and found[["low", "high"]].isna().all(axis=None)
