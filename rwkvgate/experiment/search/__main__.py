"""`python -m rwkvgate.experiment.search`: screen every candidate, confirm the best on fresh seeds, write the tables.

Every finished trial has a file under the run folder's `search/` and is not run again, so a search that was stopped
resumes. `--part 1/2` and `--part 2/2` share a stage between two processes.
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
from rwkvgate.experiment.search.trials import RecallTask, Task, TextTask, Trial, ensure_trial, known_trial
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
        part: this process's share, (1, 2) for the first of two.
        stage: 'screen', 'confirm' or 'all', what to run; 'tables' runs nothing.
        tried: tables of the finished trials.
    """

    folder: Path
    task: Task
    part: tuple[int, int]
    stage: str
    tried: list[pd.DataFrame] = field(default_factory=list)

    def verdicts(self, candidates: Sequence[Arm]) -> list[pd.DataFrame]:
        """The confirmed differences; none while trials of a stage are not finished, for the next stage needs all."""
        grid = [(one, rate, seed) for one in candidates for rate in self.task.rates for seed in SCREENING]
        screened = self._finished("screen", "screening", grid)
        if screened is None:
            return []
        few, best = finalists(screened), best_rates(screened)
        edges = [(one, rate) for one in few for rate in rates_beyond(self.task, best[one.name])]
        further = [(one, rate, seed) for one, rate in edges for seed in SCREENING]
        beyond = self._finished("confirm", "screening, beyond the grid", further)
        if beyond is None:
            return []
        best = best_rates([*screened, *beyond])
        fresh = [(one, best[one.name], seed) for one in few for seed in CONFIRMING]
        confirmed = self._finished("confirm", "confirmation", fresh)
        return [] if confirmed is None else [compared(confirmed)]

    def _finished(self, stage: str, name: str, planned: Sequence[Planned]) -> list[Trial] | None:
        """Run this process's share of the trials where asked; all of them, or None while some are not finished."""
        if self.stage in ("all", stage):
            share = planned[self.part[0] - 1 :: self.part[1]]
            for i, (candidate, rate, seed) in enumerate(share, start=1):
                print(f"{self.task.name}, {name}: trial {i} of {len(share)}", flush=True)
                ensure_trial(self.folder, self.task, candidate, rate, seed)
        trials = [trial for one in planned if (trial := known_trial(self.folder, self.task, *one))]
        self.tried.append(trial_frame(trials, name))
        if len(trials) < len(planned):
            print(f"{self.task.name}: {len(trials)} of {len(planned)} trials of the {name} are finished")
            return None
        return trials


def search(profile: str, chosen: Sequence[Task], part: tuple[int, int], stage: str) -> None:
    """Run the stage on these tasks, and write the tables and the page."""
    root, is_main = project_root(), profile == "cpu"
    candidates = [CANDIDATES[name] for name in (SMOKE["candidates"] if profile == "smoke" else CANDIDATES)]
    searches = [Search(root / "outputs" / profile / "search", task, part, stage) for task in chosen]
    verdicts = [frame for one in searches for frame in one.verdicts(candidates)]
    trials = [frame for one in searches for frame in one.tried]
    target = root / "outputs" / ("search" if is_main else f"{profile}/search")
    path = root / "docs" / "search.md" if is_main else target / "search.md"
    write_tables(target, trials, verdicts, path, {task.name: task.steps for task in chosen})


def write_tables(
    target: Path, trials: list[pd.DataFrame], verdicts: list[pd.DataFrame], path: Path, steps: Mapping[str, int]
) -> None:
    """Write `trials.csv`, everything tried, `verdicts.csv`, the confirmed differences, and the page of both."""
    tables = {}
    for name, frames in (("trials.csv", trials), ("verdicts.csv", verdicts)):
        tables[name] = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
        if frames:
            with write_file(target / name) as fresh:
                tables[name].to_csv(fresh, index=False, float_format="%.6g")
            print(f"\n{target / name}: {len(tables[name])} rows")
    if len(tables["trials.csv"]):
        write_text(path, page(tables["trials.csv"], tables["verdicts.csv"], steps))
        print(path)
    if verdicts:
        print(tables["verdicts.csv"].to_string(index=False, float_format=lambda x: f"{x:.4g}"))


def main() -> None:
    """Run the search, or one stage of it."""
    parser = argparse.ArgumentParser(prog="python -m rwkvgate.experiment.search", description=__doc__)
    parser.add_argument("--profile", default="cpu", choices=("smoke", "cpu", "gpu"))
    parser.add_argument("--part", default="1/1", help="this process's share, as 1/2")
    parser.add_argument("--stage", default="all", choices=("all", "screen", "confirm", "tables"))
    parser.add_argument("--task", default="", help="one task alone")
    arguments = parser.parse_args()
    try:
        first, of = (int(x) for x in arguments.part.split("/"))
        chosen = [t for t in tasks(arguments.profile) if arguments.task in ("", t.name)]
        search(arguments.profile, chosen, (first, of), arguments.stage)
    except SettingsError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
