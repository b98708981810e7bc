"""`python -m rwkvgate.experiment.search`: screen every candidate, confirm the best on fresh seeds, write the tables.

Every finished trial has a file under the run folder's `search/` and is not run again, so a search that was stopped
resumes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from rwkvgate.experiment.arms import Arm
from rwkvgate.experiment.open_run import open_run
from rwkvgate.experiment.places import project_root
from rwkvgate.experiment.search.candidates import CANDIDATES, MATCHED_CONTROLS
from rwkvgate.experiment.search.page import page
from rwkvgate.experiment.search.trials import RecallTask, Task, TextTask, Trial, ensure_trial
from rwkvgate.experiment.search.verdict import best_rates, compared, trial_frame
from rwkvgate.gate.validation import SettingsError
from rwkvgate.rwkv6.files import write_file, write_text

SCREENING, CONFIRMING = (100,), tuple(range(200, 205))
"""Seeds. Those that confirm are not used when the best are chosen."""
CONFIRMED = 3
"""Candidates confirmed on each task, beside the controls and the paper's gate."""
SMOKE: dict[str, Any] = {
    "steps": 4,
    "documents": 6,
    "candidates": ("base-tuned", "lora-tuned", "enhanced", "identity-start"),
}
Planned = tuple[Arm, float, int]
"""A trial to run: candidate, learning rate, seed."""


def tasks(profile: str) -> list[Task]:
    """The tasks: language first, then recall."""
    run, small = open_run(profile=profile), profile == "smoke"
    language, recall = ((3e-3,), (3e-3,)) if small else ((4e-3, 8e-3), (7.5e-4, 1.5e-3))
    tuning, pretraining, recalling = [SMOKE["steps"]] * 3 if small else [220, 150, 400]
    documents = SMOKE["documents"] if small else 300
    return [
        TextTask(run, False, tuning, language, documents),
        TextTask(run, True, pretraining, language, documents),
        RecallTask("associative recall", recalling, recall),
        RecallTask("copying", recalling, recall),
    ]


def rates_beyond(task: Task, best: float) -> tuple[float, ...]:
    """Rates beyond the grid, which a finalist is tried at too: a higher one, and a lower one where the lowest of the
    grid is its best."""
    lowest = min(task.rates)
    return (1.5 * max(task.rates), *([lowest / 2] if best == lowest else []))


def finalists(screened: Sequence[Trial]) -> list[Arm]:
    """The controls, the paper's gate and the best of the others."""
    ranked = best_rates(screened)
    others = [name for name in ranked if name not in (*MATCHED_CONTROLS, "enhanced")]
    chosen = [*MATCHED_CONTROLS, "enhanced", *others[:CONFIRMED]]
    return [CANDIDATES[name] for name in chosen if name in ranked]


@dataclass
class Search:
    """The search on one task, stage by stage.

    Attributes:
        folder: of the trials.
        tried: tables of the finished trials.
    """

    folder: Path
    task: Task
    tried: list[pd.DataFrame] = field(default_factory=list)

    def verdicts(self, candidates: Sequence[Arm]) -> pd.DataFrame:
        """The confirmed differences, once every trial of the task is finished."""
        grid = [(one, rate, seed) for one in candidates for rate in self.task.rates for seed in SCREENING]
        screened = self._finished("screening", grid)
        few, best = finalists(screened), best_rates(screened)
        edges = [(one, rate) for one in few for rate in rates_beyond(self.task, best[one.name])]
        further = [(one, rate, seed) for one, rate in edges for seed in SCREENING]
        beyond = self._finished("screening, beyond the grid", further)
        best = best_rates([*screened, *beyond])
        fresh = [(one, best[one.name], seed) for one in few for seed in CONFIRMING]
        return compared(self._finished("confirmation", fresh))

    def _finished(self, name: str, planned: Sequence[Planned]) -> list[Trial]:
        """The trials of a stage; what is missing is run."""
        trials = []
        for i, (candidate, rate, seed) in enumerate(planned, start=1):
            print(f"{self.task.name}, {name}: trial {i} of {len(planned)}", flush=True)
            trials.append(ensure_trial(self.folder, self.task, candidate, rate, seed))
        self.tried.append(trial_frame(trials, name))
        return trials


def search(profile: str, chosen: Sequence[Task]) -> None:
    """Run what is missing on these tasks, and write the tables and the page."""
    root, is_main = project_root(), profile == "cpu"
    candidates = [CANDIDATES[name] for name in (SMOKE["candidates"] if profile == "smoke" else CANDIDATES)]
    searches = [Search(root / "outputs" / profile / "search", task) for task in chosen]
    verdicts = [one.verdicts(candidates) for one in searches]
    trials = [frame for one in searches for frame in one.tried]
    target = root / "outputs" / ("search" if is_main else f"{profile}/search")
    path = root / "docs" / "search.md" if is_main else target / "search.md"
    write_tables(target, trials, verdicts, path, {task.name: task.steps for task in chosen})


def write_tables(
    target: Path, trials: list[pd.DataFrame], verdicts: list[pd.DataFrame], path: Path, steps: Mapping[str, int]
) -> None:
    """Write `trials.csv`, everything tried, `verdicts.csv`, the confirmed differences, and the page of both."""
    tried, decided = (pd.concat(frames, ignore_index=True) for frames in (trials, verdicts))
    for name, table in (("trials.csv", tried), ("verdicts.csv", decided)):
        with write_file(target / name) as fresh:
            table.to_csv(fresh, index=False, float_format="%.6g")
        print(f"\n{target / name}: {len(table)} rows")
    write_text(path, page(tried, decided, steps))
    print(path)
    print(decided.to_string(index=False, float_format=lambda x: f"{x:.4g}"))


def main() -> None:
    """Run the search."""
    parser = argparse.ArgumentParser(prog="python -m rwkvgate.experiment.search", description=__doc__)
    parser.add_argument("--profile", default="cpu", choices=("smoke", "cpu", "gpu"))
    arguments = parser.parse_args()
    try:
        search(arguments.profile, tasks(arguments.profile))
    except SettingsError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
