"""Reading in windows: refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rwkvgate.explore.reading import read


def test_a_window_holds_at_least_one_token(tiny_model: Any, tokens: Any) -> None:
    with pytest.raises(ValueError, match="window is 0"):
        read(tiny_model("enhanced"), tokens(1, 10), window=0)


@pytest.mark.parametrize(
    ("ids", "problem"),
    [([[37]], "ids must be from 0 to 36"), ([[-1]], "input_ids hold -1"), ([[1.5]], "they must be torch.int64")],
)
def test_ids_outside_the_vocabulary_are_refused(tiny_model: Any, ids: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        read(tiny_model("enhanced"), torch.tensor(ids))
