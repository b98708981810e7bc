"""The order in which calls are timed, and what is recorded beside the times; never how long they take."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rwkvgate.metrics.latency import (
    LATENCY_COLUMNS,
    forward_time,
    generation_time,
    place_of,
    ratio_of_medians,
    time_calls,
    times_of,
)


def test_calls_are_interleaved_and_the_first_rotates():
    order: list[str] = []
    seconds = time_calls({"A": lambda: order.append("A"), "B": lambda: order.append("B")}, repeats=4, warmup=2)
    assert "".join(order) == "ABBAABBAABBA"
    assert seconds["A"].shape == seconds["B"].shape == (4,)
    median, low, high, *ratio = times_of(seconds["B"], seconds["A"])
    assert low <= median <= high and ratio[1] <= ratio[0] <= ratio[2]


def test_the_clock_starts_and_stops_synchronised():
    order: list[str] = []
    time_calls({"a": lambda: order.append("a")}, 2, 0, lambda: order.append("s"))
    assert "".join(order) == "sas" * 2
    with pytest.raises(ValueError, match="repeats is 0"):
        time_calls({}, repeats=0)


def test_ratio_of_medians_is_paired_and_deterministic():
    drift = np.linspace(1, 3, 40)  # a clock that slows down threefold
    ratio = ratio_of_medians(1.1 * drift, drift)
    assert ratio.estimate == pytest.approx(1.1) and ratio.low == pytest.approx(ratio.high)
    noisy = drift * np.random.default_rng(0).normal(1, 0.1, 40)
    assert ratio_of_medians(noisy, drift) == ratio_of_medians(noisy, drift)
    assert np.isnan(ratio_of_medians(np.ones(1), np.ones(1)).low)


@pytest.mark.parametrize("timer", [forward_time, generation_time])
def test_every_arm_has_a_row_with_its_conditions(make_model, timer):
    models = {"base": make_model(0).train(), "enhanced": make_model(1)}
    frame = timer(models, torch.ones(2, 9, dtype=torch.long), repeats=3, seed=4)
    assert list(frame.columns) == list(LATENCY_COLUMNS)
    assert frame["arm"].tolist() == ["base", "enhanced"]
    assert models["base"].training
    row = frame.iloc[1]
    assert row[["batch", "seed", "device", "dtype", "repeats"]].tolist() == [2, 4, "cpu", "float32", 3]
    assert row["tokens"] == (9 if timer is forward_time else 50)
    assert frame.loc[0, "ratio"] == 1 and row["ratio"] > 0
    assert row["threads"] == torch.get_num_threads()
    assert row["peak_mib"] > 0 and row["peak_of"] == "process"
    assert (frame["seconds_low"] <= frame["seconds_high"]).all()


def test_generation_makes_exactly_the_tokens_asked_for(model):
    with torch.no_grad():
        model.head.bias[0] = 1e4  # would end at once if it could
    model.shapes.clear()
    frame = generation_time({"enhanced": model}, torch.ones(1, 3, dtype=torch.long), tokens=6, repeats=1)
    assert [width for _, width in model.shapes][:6] == [3, 1, 1, 1, 1, 1]
    assert np.isnan(frame.loc[0, "ratio"])


def test_dtype_is_that_of_most_parameters(make_model):
    mixed = make_model().bfloat16()
    mixed.head.bias.data = mixed.head.bias.data.float()
    assert place_of(mixed) == ("bfloat16", torch.get_num_threads(), "cpu")
