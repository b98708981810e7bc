"""The studies of a run. Adding one takes its file, its name here and a cell of notebook 04."""

from __future__ import annotations

import math
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields
from functools import partial
from multiprocessing import get_context

import pandas as pd
import torch

from rwkvgate.experiment import budget
from rwkvgate.experiment.plan import CPU, predicted
from rwkvgate.experiment.processes import end_with_parent
from rwkvgate.experiment.run import Run, after_step
from rwkvgate.experiment.steps.base import best_device
from rwkvgate.experiment.steps.making import makes
from rwkvgate.experiment.studies.boundaries import EFFECTS
from rwkvgate.experiment.studies.clamps import CLAMPS, LET_IN
from rwkvgate.experiment.studies.edits import CHANGES, REWRITTEN
from rwkvgate.experiment.studies.responses import RESPONSES
from rwkvgate.experiment.studies.saturation import SATURATION
from rwkvgate.experiment.studies.scaling import GRID, SCALING

STUDIES = (SCALING, GRID, EFFECTS, RESPONSES, CHANGES, REWRITTEN, SATURATION, CLAMPS, LET_IN)
for _study in STUDIES:
    makes(_study.name)(_study.make)


@dataclass(frozen=True)
class Studies:
    """The tables of all studies of a run, by the study's name; each is described in the study's file."""

    scaling: pd.DataFrame
    grid: pd.DataFrame
    effects: pd.DataFrame
    responses: pd.DataFrame
    changes: pd.DataFrame
    rewritten: pd.DataFrame
    saturation: pd.DataFrame
    clamps: pd.DataFrame
    let_in: pd.DataFrame

    def frames(self) -> dict[str, pd.DataFrame]:
        """The tables by name."""
        return {item.name: getattr(self, item.name) for item in fields(self)}


def ensure_studies(run: Run) -> Studies:
    """The tables of all studies, each measured where that is not done yet; on a CPU as many at once as it has threads.

    Those that measure times come first, beside nothing. A process for each thread imports torch again, which several
    studies are worth and one is not. Where a step is copied to Drive, or minutes are counted, this process makes all.
    """
    for study in STUDIES:
        if study.timed:
            study.ensure(run)
    missing = [study for study in STUDIES if not study.step(run).is_finished]
    missing.sort(key=lambda study: predicted(study.step(run), CPU), reverse=True)
    workers = min(torch.get_num_threads(), len(missing))
    if workers > 1 and best_device().type == "cpu" and not after_step and not math.isfinite(budget.minutes()):
        with ProcessPoolExecutor(workers, get_context("spawn"), end_with_parent, (os.getpid(),)) as pool:
            list(pool.map(partial(_ensure, run), [study.name for study in missing]))  # whose errors it raises
    return Studies(**{study.name: study.ensure(run) for study in STUDIES})


def _ensure(run: Run, name: str) -> None:
    """Make one study on one thread, as a process beside others."""
    torch.set_num_threads(1)
    next(study for study in STUDIES if study.name == name).ensure(run)


def no_studies() -> Studies:
    """Empty tables, for a run that measures no study."""
    return Studies(**{study.name: study.table([]) for study in STUDIES})
