"""The studies of a run. Adding one takes its file, its name here and a cell of notebook 04."""

from __future__ import annotations

from dataclasses import dataclass, fields

import pandas as pd

from rwkvgate.experiment.run import Run
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
    """The tables of all studies, each measured where that is not done yet."""
    return Studies(**{study.name: study.ensure(run) for study in STUDIES})


def no_studies() -> Studies:
    """Empty tables, for a run that measures no study."""
    return Studies(**{study.name: study.table([]) for study in STUDIES})
