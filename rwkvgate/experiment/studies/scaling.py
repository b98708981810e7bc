"""Time and memory of the base and of the paper's gate, against the length of a text and over batch sizes.

The gate is fresh: time does not depend on what it has learned.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd
from torch import nn

from rwkvgate.experiment.run import Run, Variant
from rwkvgate.experiment.steps import ensure_base
from rwkvgate.experiment.steps.arm import build_arm
from rwkvgate.experiment.studies.study import Study
from rwkvgate.metrics.cost import (
    GRID_COLUMNS,
    ONE_PASS,
    SCALING_COLUMNS,
    WINDOWS,
    exponent,
    latency_grid,
    scaling,
)

SHORTEST, FACTOR, SCALING_REPEATS = 256, 4, 3
"""Tokens of the shortest text that is timed, the ratio of one length to the next, and repeats of each."""
GRID_BATCHES, GRID_LENGTHS, GRID_REPEATS = (1, 4, 16), (128, 512), 5


def exponents(table: pd.DataFrame) -> pd.DataFrame:
    """The power of the length that time grows with.

    Args:
        table: of the study `SCALING`.

    Returns:
        One row an arm and mode: `arm`, `mode`, `longest` (tokens), `exponent` with its 95 % interval `low` and `high`
        (nan where fewer than three times were measured), and `points`, the times that it is fitted to.
    """
    rows = [
        (*group, part["tokens"].max(), *exponent(part["tokens"], part["seconds"]))
        for group, part in table.groupby(["arm", "mode"], sort=False)
    ]
    return pd.DataFrame(rows, columns=["arm", "mode", "longest", "exponent", "low", "high", "points"])


def _models(run: Run) -> dict[str, nn.Module]:
    return {"base": ensure_base(run), "enhanced": build_arm(run.variant("enhanced")).eval()}


def _scaling(run: Run, variants: Sequence[Variant]) -> Iterator[pd.DataFrame]:
    lengths = [SHORTEST]
    while lengths[-1] * FACTOR <= run.settings.evaluation.longest:
        lengths.append(lengths[-1] * FACTOR)
    print(f"timing texts of {lengths[0]:,} to {lengths[-1]:,} tokens", flush=True)
    yield scaling(_models(run), lengths, repeats=SCALING_REPEATS)


def _grid(run: Run, variants: Sequence[Variant]) -> Iterator[pd.DataFrame]:
    print("timing batches of several sizes and lengths", flush=True)
    yield latency_grid(_models(run), GRID_BATCHES, GRID_LENGTHS, repeats=GRID_REPEATS)


def _inputs(run: Run) -> dict[str, Any]:
    gate = run.variant("enhanced").gate
    longest = run.settings.evaluation.longest
    return {"gate": gate and gate.model_dump(mode="json"), "longest": longest, "modes": [WINDOWS, ONE_PASS]}


SCALING = Study("scaling", SCALING_COLUMNS, _scaling, _inputs, claim="linear-complexity")
"""Seconds and MiB of reading a text, by its length; see `metrics.cost.scaling`."""
GRID = Study("grid", GRID_COLUMNS, _grid, _inputs)
"""Seconds and MiB of prefill and decoding, by batch size and length; see `metrics.cost.latency_grid`."""
