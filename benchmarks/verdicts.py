"""Seconds of the statistics alone: intervals, comparisons and verdicts, 10,000 resamples, from finished scores.

The scores are those of the newest cpu run, or random ones of its shape (300 documents, two seeds) where there is none.
"""

from __future__ import annotations

import time

import numpy as np
import pandas as pd

from rwkvgate.experiment.analysis.comparison import comparisons, pairs_of, pooled_times, summary
from rwkvgate.experiment.claims import Evidence, claim_pairs, decide_claims
from rwkvgate.experiment.places import project_root
from rwkvgate.experiment.results import FURTHER_METRICS
from rwkvgate.experiment.settings import resolve
from rwkvgate.experiment.steps.evaluation import HEADLINES
from rwkvgate.metrics.latency import LATENCY_COLUMNS
from rwkvgate.metrics.measures import MEASURES
from rwkvgate.metrics.statistics import RESAMPLES

GOAL = 60


def random_scores() -> pd.DataFrame:
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
    scores = pd.read_parquet(path) if path.is_file() else random_scores()
    arms, metrics = list(dict.fromkeys(scores["arm"])), (*HEADLINES, *FURTHER_METRICS)
    domains = {int(n): ("fairy-tale", "technology")[int(n) % 2] for n in scores["document"].unique()}
    pairs = [*pairs_of(arms, metrics, ablation_metrics=HEADLINES), *claim_pairs(domains.values())]
    print(f"{'measured' if path.is_file() else 'random'} scores: {len(arms)} arms, {len(metrics)} measures")
    started = time.perf_counter()
    summary(scores, arms=arms, metrics=metrics)
    summarised = time.perf_counter()
    compared = comparisons(scores, pairs, domains=domains)
    finished = time.perf_counter()
    decide_claims(Evidence(compared, pooled_times(pd.DataFrame(columns=list(LATENCY_COLUMNS)))))
    decided = time.perf_counter()
    print(f"  intervals of every arm and measure: {summarised - started:.1f} s")
    print(f"  {len(compared)} comparisons: {finished - summarised:.1f} s")
    print(f"  verdicts: {decided - finished:.1f} s")
    print(f"statistics alone, {RESAMPLES:,} resamples: {decided - started:.1f} s (goal {GOAL})")


if __name__ == "__main__":
    main()
