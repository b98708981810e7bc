"""Tables of scores and times as the experiment measures them, made up."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from rwkvgate.metrics.latency import LATENCY_COLUMNS
from rwkvgate.metrics.measures import tidy
from rwkvgate.metrics.overlap import document_overlap


@pytest.fixture(scope="session")
def results() -> pd.DataFrame:
    """Results of four arms and up to three seeds over 24 documents; enhanced is better than base."""
    rng = np.random.default_rng(7)
    sentence = "the fox saw a dog by the old mill and ran home before the rain came down"
    words = sentence.split()
    references = [" ".join(rng.permutation(words)) for _ in range(24)]
    parts = []
    for arm, seeds, kept in (
        ("base", 1, 5),
        ("base-tuned", 3, 12),
        ("enhanced", 3, 11),
        ("fixed-gate", 3, 9),
    ):
        for seed in range(seeds):
            predictions = []
            for reference in references:
                right = reference.split()
                said = right[: kept + int(rng.integers(-2, 3))]
                said += list(rng.permutation(right[len(said) :]))
                predictions.append(" ".join(said))
            parts.append(tidy(document_overlap(predictions, references), arm=arm, seed=seed))
            tokens = rng.integers(30, 60, size=24)
            scored = {
                "document": range(24),
                "nll": tokens * (2 - kept / 12 + rng.normal(0, 0.05, 24)),
                "tokens": tokens,
                "bytes": tokens * 4,
            }
            parts.append(tidy(pd.DataFrame(scored), arm=arm, seed=seed))
    return pd.concat(parts, ignore_index=True)


@pytest.fixture(scope="session")
def latency() -> pd.DataFrame:
    """Forward and generation times of four arms."""
    times = {"base": 1.0, "base-tuned": 1.004, "enhanced": 1.071, "fixed-gate": 1.045}
    rows = []
    for measure, tokens, scale in (("forward", 128, 0.0431), ("generation", 50, 0.61)):
        for arm, ratio in times.items():
            for seed in range(1 if arm == "base" else 2):
                seconds = scale * ratio * (1 + 0.002 * seed)
                rows.append(
                    {
                        "arm": arm,
                        "seed": seed,
                        "measure": measure,
                        "batch": 1,
                        "tokens": tokens,
                        "seconds_median": seconds,
                        "seconds_low": seconds * 0.98,
                        "seconds_high": seconds * 1.05,
                        "ratio": ratio,
                        "ratio_low": ratio - 0.01,
                        "ratio_high": ratio + 0.012,
                        "repeats": 20,
                        "peak_mib": 512.0,
                        "peak_of": "process",
                        "dtype": "float32",
                        "threads": 2,
                        "device": "cpu",
                    }
                )
    return pd.DataFrame(rows, columns=list(LATENCY_COLUMNS))
