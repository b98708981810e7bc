"""`python -m rwkvgate.experiment.search`: screen every candidate, confirm the best on fresh seeds, write the tables.

Trials are kept one by one under the run folder's `search/`; what is there is not run again, so the search can be
stopped at any time and goes on where it was. `--part 1/2` and `--part 2/2` share a stage between two processes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from rwkvgate.experiment.open_run import open_run
from rwkvgate.experiment.search.candidates import CANDIDATES, CONTROLS, Candidate
from rwkvgate.experiment.search.page import page
from rwkvgate.experiment.search.trials import RecallTask, Task, TextTask, Trial, ensure_trial, known_trials
from rwkvgate.experiment.search.verdict import best_rates, compared, everything, ranking
from rwkvgate.experiment.settings import project_root
from rwkvgate.gate.validation import SettingsError
from rwkvgate.rwkv6.files import write_file, write_text

SCREENING, CONFIRMING = (100,), tuple(range(200, 205))
"""Seeds; those that confirm have not been seen when the best are chosen."""
CONFIRMED = 3
"""Candidates confirmed of each task, beside the controls and the paper's gate."""
Planned = tuple[Candidate, float, int]
"""A trial to be: candidate, learning rate, seed."""
SMOKE: dict[str, Any] = {
    "steps": 4,
    "documents": 6,
    "candidates": ("base-tuned", "lora-tuned", "enhanced", "identity-start"),
}


def tasks(profile: str) -> list[Task]:
    """The tasks: language first, then recall."""
    small = profile == "smoke"
    run = open_run(profile=profile)
    rates: dict[str, tuple[float, ...]]
    documents = SMOKE["documents"] if small else 300
    steps = {"fine-tuning": 220, "pretraining": 150, "recall": 400}
    if small:
        steps = dict.fromkeys(steps, SMOKE["steps"])
    rates = {"fine-tuning": (4e-3, 8e-3), "pretraining": (4e-3, 8e-3), "recall": (7.5e-4, 1.5e-3)}
    if small:
        rates = dict.fromkeys(rates, (3e-3,))
    return [
        TextTask(run, False, steps["fine-tuning"], rates["fine-tuning"], documents),
        TextTask(run, True, steps["pretraining"], rates["pretraining"], documents),
        RecallTask("associative recall", steps["recall"], rates["recall"]),
        RecallTask("copying", steps["recall"], rates["recall"]),
    ]


def outward(task: Task, best: float) -> tuple[float, ...]:
    """Rates beyond the grid, which a candidate to be confirmed is tried at too: a higher one, and a lower one where the
    lowest of the grid is its best."""
    lowest = min(task.rates)
    return (1.5 * max(task.rates), *([lowest / 2] if best == lowest else []))


def trial_list(
    task: Task, candidates: Iterable[Candidate], rates: dict[str, float] | None, seeds: Iterable[int]
) -> list[Planned]:
    """Every (candidate, rate, seed): all rates, or each candidate's best."""
    return [
        (candidate, rate, seed)
        for candidate in candidates
        for rate in (task.rates if rates is None else (rates[candidate.name],))
        for seed in seeds
    ]


def run_part(folder: Path, task: Task, wanted: list[Planned], part: tuple[int, int]) -> None:
    """Run this process's share of a list of trials."""
    own = wanted[part[0] - 1 :: part[1]]
    for i, (candidate, rate, seed) in enumerate(own, start=1):
        print(f"{task.name}: trial {i} of {len(own)}", flush=True)
        ensure_trial(folder, task, candidate, rate, seed)


def finalists(screened: list[Trial], candidates: dict[str, Candidate]) -> list[Candidate]:
    """Controls, the paper's gate and the best of the others."""
    rates = best_rates(screened)
    order = [name for name in ranking(screened, rates) if name not in (*CONTROLS, "enhanced")]
    chosen = [*CONTROLS, "enhanced", *order[:CONFIRMED]]
    return [candidates[name] for name in chosen if name in rates]


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


def search(profile: str, chosen: list[Task], part: tuple[int, int], stage: str) -> None:
    """The stages asked for, of these tasks."""
    folder = project_root() / "outputs" / profile / "search"
    names = SMOKE["candidates"] if profile == "smoke" else tuple(CANDIDATES)
    candidates = {name: CANDIDATES[name] for name in names}
    every, verdicts = [], []
    for task in chosen:
        if stage in ("all", "screen"):
            run_part(folder, task, trial_list(task, candidates.values(), None, SCREENING), part)
        screened = known_trials(folder, task, list(candidates.values()), SCREENING)
        every.append(everything(screened, "screening"))
        expected = len(candidates) * len(task.rates) * len(SCREENING)
        if len(screened) < expected:
            print(f"{task.name}: {len(screened)} of {expected} screening trials are there; nothing is confirmed yet")
            continue
        few = finalists(screened, candidates)
        best = best_rates(screened)
        further = [
            (candidate, rate, seed)
            for candidate in few
            for rate in outward(task, best[candidate.name])
            for seed in SCREENING
        ]
        further.sort(key=lambda trial: trial[1])  # so that two parts have as much to do
        outside = tuple(dict.fromkeys(rate for _, rate, _ in further))
        if stage in ("all", "confirm"):
            run_part(folder, task, further, part)
        beyond = known_trials(folder, task, few, SCREENING, outside)
        if len(beyond) < len(further):
            print(f"{task.name}: {len(beyond)} of {len(further)} trials beyond the grid are there")
            continue
        every.append(everything(beyond, "screening, beyond the grid"))
        rates = best_rates([*screened, *beyond])
        if stage in ("all", "confirm"):
            run_part(folder, task, trial_list(task, few, rates, CONFIRMING), part)
        confirmed = known_trials(folder, task, few, CONFIRMING, (*task.rates, *outside))
        confirmed = [t for t in confirmed if t.rate == rates[t.candidate]]
        every.append(everything(confirmed, "confirmation"))
        wanted = len(few) * len(CONFIRMING)
        if len(confirmed) < wanted:
            print(f"{task.name}: {len(confirmed)} of {wanted} confirming trials are there; nothing is decided yet")
            continue
        verdicts.append(compared(confirmed))
    main_one = profile == "cpu"
    target = project_root() / "outputs" / ("search" if main_one else f"{profile}/search")
    told = project_root() / "docs" / "search.md" if main_one else target / "search.md"
    write_tables(target, every, verdicts, told, {task.name: task.steps for task in chosen})


def write_tables(
    target: Path, every: list[pd.DataFrame], verdicts: list[pd.DataFrame], told: Path, steps: Mapping[str, int]
) -> None:
    """`trials.csv`, everything that was tried, `verdicts.csv`, the confirmed differences, and the page of both."""
    tables = {}
    for name, frames in (("trials.csv", every), ("verdicts.csv", verdicts)):
        tables[name] = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
        if frames:
            with write_file(target / name) as fresh:
                tables[name].to_csv(fresh, index=False, float_format="%.6g")
            print(f"\n{target / name}: {len(tables[name])} rows")
    if len(tables["trials.csv"]):
        write_text(told, page(tables["trials.csv"], tables["verdicts.csv"], steps))
        print(told)
    if verdicts:
        print(pd.concat(verdicts, ignore_index=True).to_string(index=False, float_format=lambda x: f"{x:.4g}"))


if __name__ == "__main__":
    main()
