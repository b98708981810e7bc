"""Reading in windows: progress, stopping, refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rwkvgate.explore.observing import observing
from rwkvgate.explore.reading import Stopped, read
from rwkvgate.gate.patch import gates_of


def test_a_reading_reports_progress_and_stops_between_windows(tiny_model: Any, tokens: Any) -> None:
    model, done = tiny_model("enhanced"), list[tuple[int, int]]()
    read(model, tokens(1, 10), window=4, progress=lambda *counts: done.append(counts))
    assert done == [(4, 10), (8, 10), (10, 10)]
    done.clear()
    with pytest.raises(Stopped, match="after 4 of 10"), observing(model, lambda gate, values: None):
        read(model, tokens(1, 10), window=4, progress=lambda *counts: done.append(counts), stopped=lambda: bool(done))
    assert all(gate.observer is None for gate in gates_of(model))
    with pytest.raises(ValueError, match="window is 0"):
        read(model, tokens(1, 10), window=0)


@pytest.mark.parametrize(
    ("ids", "problem"),
    [([[37]], "ids must be from 0 to 36"), ([[-1]], "input_ids hold -1"), ([[1.5]], "they must be torch.int64")],
)
def test_ids_outside_the_vocabulary_are_refused(tiny_model: Any, ids: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        read(tiny_model("enhanced"), torch.tensor(ids))
