"""Seconds of the statistics alone: every arm's intervals, tests and the ledger, 10,000 resamples, from finished scores.

The scores are those of the newest cpu run, or made up in its shape (300 documents, two seeds) where there is none.
"""

from __future__ import annotations

import time

import numpy as np
import pandas as pd

from rwkvgate.experiment.analysis.comparison import ablations, comparisons, summary
from rwkvgate.experiment.claims import Evidence, ledger
from rwkvgate.experiment.results import FURTHER_METRICS
from rwkvgate.experiment.settings import project_root, resolve
from rwkvgate.experiment.steps.evaluation import HEADLINES
from rwkvgate.metrics.latency import LATENCY_COLUMNS
from rwkvgate.metrics.measures import MEASURES
from rwkvgate.metrics.statistics import RESAMPLES

GOAL = 60


def made_up() -> pd.DataFrame:
    """Scores of the cpu profile's arms in the shape of a run."""
    settings, rng = resolve("cpu").evaluation, np.random.default_rng(0)
    columns = sorted({column for measure in MEASURES.values() for column in measure.columns})
    frames = []
    for arm in settings.arms:
        for seed in range(settings.seeds):
            values = rng.uniform(1, 2, (settings.documents, len(columns)))
            frame = pd.DataFrame(values, columns=columns).rename_axis("document").reset_index()
            frames.append(frame.melt("document", var_name="metric").assign(arm=arm, seed=seed))
    return pd.concat(frames, ignore_index=True)


def main() -> None:
    """Print what each part takes."""
    path = project_root() / "outputs" / "cpu" / "results" / "documents.parquet"
    scores = pd.read_parquet(path) if path.is_file() else made_up()
    arms, metrics = list(dict.fromkeys(scores["arm"])), (*HEADLINES, *FURTHER_METRICS)
    domains = {int(n): ("fairy-tale", "technology")[int(n) % 2] for n in scores["document"].unique()}
    evidence = Evidence(scores, pd.DataFrame(columns=list(LATENCY_COLUMNS)), domains)
    parts = {
        "intervals of every arm and measure": lambda: summary(scores, arms=arms, metrics=metrics),
        "comparisons with base and tuned base": lambda: comparisons(scores, arms=arms, metrics=metrics),
        "ablations": lambda: ablations(scores, metrics=HEADLINES),
        "the ledger": lambda: ledger(evidence),
    }
    total = 0.0
    print(f"{'measured' if path.is_file() else 'made-up'} scores: {len(arms)} arms, {len(metrics)} measures")
    for name, part in parts.items():
        started = time.perf_counter()
        part()
        seconds = time.perf_counter() - started
        total += seconds
        print(f"  {name}: {seconds:.1f} s")
    print(f"statistics alone, {RESAMPLES:,} resamples: {total:.1f} s (goal {GOAL})")


if __name__ == "__main__":
    main()
