"""Planted judgements, and how often the intervals hold what was planted.

`python -m tests.experiment.rating.coverage` prints the table of docs/rating.md.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from scipy.optimize import brentq
from scipy.special import expit

from rwkvgate.experiment.rating.preferences import preferences

CASES = [(n, 1, 0.0, 0.0) for n in (20, 50, 200)]
CASES += [(50, 3, 0.0, 0.0), (50, 3, 1.0, 0.0), (50, 3, 1.0, 0.5), (50, 6, 1.0, 0.5), (100, 10, 1.0, 0.5)]
"""Prompts, raters, and the standard deviations of a preference's log odds between prompts and between raters."""
REPEATS = 300


def planted(
    strengths: dict[str, float],
    prompts: int = 150,
    raters: int = 1,
    *,
    ties: float = 0.0,
    spread: tuple[float, float] = (0.0, 0.0),
    seed: int = 0,
) -> pd.DataFrame:
    """Judgements of scripted raters who follow Bradley and Terry's model, on sides drawn by chance.

    With a `spread` over prompts and raters, the log odds that the arm first in the alphabet is preferred vary.
    """
    rng, rows, arms = np.random.default_rng(seed), [], list(strengths)
    by_prompt, by_rater = (width * rng.normal(size=n) for width, n in zip(spread, (prompts, raters), strict=True))
    for document in range(prompts):
        for rater in range(raters):
            a, b = rng.permutation(arms)[:2]
            shift = (by_prompt[document] + by_rater[rater]) * (1 if a < b else -1)
            answer = (
                "tie"
                if rng.random() < ties
                else "A"
                if rng.random() < expit(strengths[a] - strengths[b] + shift)
                else "B"
            )
            rows.append((f"scripted-{rater}", document, document, a, b, answer))
    return pd.DataFrame(rows, columns=["rater", "pair", "document", "a", "b", "answer"])


def coverage(share: float, prompts: int, raters: int, *spread: float) -> float:
    """Share of simulated ratings whose 95 % interval holds the share of judgements that prefer `x` to `y`."""
    noise = math.hypot(*spread) * np.random.default_rng(1).normal(size=100_000)
    strength = brentq(lambda value: expit(value + noise).mean() - share, -9, 9)
    covered = 0
    for seed in range(REPEATS):
        frame = planted({"x": strength, "y": 0.0}, prompts, raters, spread=(spread[0], spread[1]), seed=seed)
        row = preferences(frame, "y", resamples=500, seed=seed).iloc[0]
        covered += bool(row["preferred_low"] <= share <= row["preferred_high"])
    return covered / REPEATS


if __name__ == "__main__":
    print("| Prompts | Raters | sd over prompts | sd over raters | share 0.5 | share 0.7 |\n|---|---|---|---|---|---|")
    for case in CASES:
        cells = [*map(str, case), *(f"{100 * coverage(share, *case):.0f} %" for share in (0.5, 0.7))]
        print(f"| {' | '.join(cells)} |", flush=True)
