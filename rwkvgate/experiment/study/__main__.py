"""`python -m rwkvgate.experiment.study`: run what is missing of the study, in the order of `design.STAGES`.

Several processes may run at once, each on one thread: each takes the next trial that no other works on. A study that
was killed loses at most a minute of each training, and goes on when it is started again.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from rwkvgate.experiment.locks import HeldError, take
from rwkvgate.experiment.places import project_root
from rwkvgate.experiment.progress import Progress, clock
from rwkvgate.experiment.study.design import DATA, GENRES, MOST_FORGOTTEN, STAGES, Stage
from rwkvgate.experiment.study.inside import Inside, Repeated
from rwkvgate.experiment.study.long_range import LongTexts
from rwkvgate.experiment.study.page import write_page
from rwkvgate.experiment.study.stories import Stories
from rwkvgate.experiment.study.tasks import BetterBase, Books, Memory, Task
from rwkvgate.experiment.study.texts import TEST, VALIDATION, books, long_texts
from rwkvgate.experiment.study.timing import ratios, write_times
from rwkvgate.experiment.study.trials import Plan, Trial, Trials, made_with
from rwkvgate.experiment.study.tuning import Tuned
from rwkvgate.gate.validation import SettingsError, unknown_name

FURTHEST, FURTHEST_TUNED = 2, 6
"""Rates added beyond one edge of the grid, at most; more in fine-tuning, where adapters learn best at higher ones."""
ANEW = "use what they were made with, or move outputs/study away to begin anew"
IDLE = 0.5
"""The largest load of a machine that is idle."""


def best_rates(trials: Sequence[Trial], freely: bool = False) -> dict[str, float]:
    """Each network's rate with the lowest mean validation loss at the largest budget that all its trials have.

    Of fine-tunings it is the lowest among the rates that forget at most `MOST_FORGOTTEN`, and where none does, the rate
    that forgets least is taken; unless they are chosen `freely`.
    """
    losses: dict[str, dict[float, list[tuple[float, float]]]] = {}
    for trial in trials:
        largest = max(trial.plan.budgets)
        found = (trial.forgotten.get(largest, 1.0), trial.validation[largest])
        losses.setdefault(trial.plan.network, {}).setdefault(trial.plan.rate, []).append(found)

    def badness(several: list[tuple[float, float]]) -> tuple[float, float]:
        forgotten, loss = np.mean(several, axis=0)
        return 0.0 if freely else max(float(forgotten), MOST_FORGOTTEN), float(loss) if loss == loss else np.inf

    return {name: min(by_rate, key=lambda r: badness(by_rate[r])) for name, by_rate in losses.items()}


class Study:
    """The study: which trials each stage has, as far as earlier ones are finished."""

    def __init__(self, trials: Trials) -> None:
        self.trials = trials

    def plans(self, stage: Stage) -> list[Plan]:
        """The trials of a stage, seed by seed, so that every network has as many; those of its edges come last.

        Empty while the stage that chooses its rates, or trains its base, is not finished.
        """
        if stage.after and not self.rates(STAGES[stage.after]):
            return []
        chosen: dict[str, tuple[float, ...]]
        if not stage.rates:
            rates = self.rates(STAGES[stage.rated], stage.freely)
            chosen = {network: (rates[network],) for network in stage.networks} if rates else {}
        else:
            chosen = dict.fromkeys(stage.networks, stage.rates)
        plans = self._plans(stage, chosen)
        furthest = FURTHEST_TUNED if stage.after else FURTHEST
        for _ in range(furthest if stage.rates and not stage.sweep else 0):
            found = [self.trials.known(plan) for plan in plans]
            finished = [trial for trial in found if trial is not None]
            if len(finished) < len(plans):
                break
            for freely in (False, True) if stage.after else (False,):
                for network, rate in best_rates(finished, freely).items():
                    tried = chosen[network]
                    beyond = {min(tried): (rate / 2,), max(tried): (rate * 2,)}.get(rate, ())
                    chosen[network] = (*tried, *beyond)
            plans = self._plans(stage, chosen)
        return plans

    def rates(self, stage: Stage, freely: bool = False) -> dict[str, float]:
        """The best rates of a stage, as `best_rates` has them; empty while it is not finished."""
        found = [self.trials.known(plan) for plan in self.plans(stage)]
        finished = [trial for trial in found if trial is not None]
        return best_rates(finished, freely) if len(finished) == len(found) else {}

    def run(self, stages: Sequence[Stage]) -> None:
        """Run what is missing of these stages, and no other process works on; first what others have made ready."""
        while any(self._run_next(stage) for stage in stages):
            pass
        for stage in stages:
            print(f"{stage.name}: {self.count(stage)}", flush=True)

    def refuse_others(self, run: bool) -> None:
        """Refuse a folder whose trials are all of another study: its page and base would be replaced by empty ones.

        Args:
            run: whether trials are to be run: then refuse to add to those that were made with other packages, too.

        Raises:
            SettingsError: they are of another protocol, other texts, or another build of torch or of a package.
        """
        folder = self.trials.folder
        own = [trial for stage in STAGES.values() for trial in self.finished(stage)[0]]
        if any(folder.glob("*/*.json")) and not own:
            raise SettingsError(
                f"{folder} holds trials, and none of this protocol, these texts and torch {torch.__version__}; {ANEW}"
            )
        here = made_with()
        for trial in own if run else ():
            for name, version in trial.made.items():
                if name != "commit" and here.get(name) != version:
                    found = here.get(name, "missing")
                    raise SettingsError(f"{folder} holds trials made with {name} {version}, here it is {found}; {ANEW}")

    def finished(self, stage: Stage) -> tuple[list[Trial], int]:
        """The finished trials of a stage, and how many it has; 0 while it waits for another stage."""
        plans = self.plans(stage)
        return [trial for plan in plans if (trial := self.trials.known(plan)) is not None], len(plans)

    def count(self, stage: Stage) -> str:
        """How much of a stage is finished, in words."""
        finished, planned = self.finished(stage)
        return (
            f"{len(finished)} of {planned} trials are finished"
            if planned
            else f"waits for {stage.rated or stage.after}"
        )

    def _run_next(self, stage: Stage) -> bool:
        """Run the stage's next trial; False where there is none."""
        plans = self.plans(stage)
        found = {plan: self.trials.known(plan) for plan in plans}
        took = [trial.seconds for trial in found.values() if trial is not None]
        missing = [plan for plan, trial in found.items() if trial is None]
        for plan in missing:
            try:
                lock = take(self.trials.path(plan).with_suffix(".lock"), f"another process runs {plan}")
            except HeldError:
                continue
            try:
                if self.trials.known(plan) is None:
                    left = f", {clock(float(np.median(took)) * len(missing))} of a process left" if took else ""
                    print(f"{stage.name}: {plan}, {len(missing)} of {len(plans)} missing{left}", flush=True)
                    self.trials.run(plan, Progress("  step", every=60))
                    return True
            finally:
                if lock is not None:
                    lock.release()
        return False

    @staticmethod
    def _plans(stage: Stage, rates: Mapping[str, tuple[float, ...]]) -> list[Plan]:
        return [
            Plan(stage.size, network, rate, seed, stage.steps(network), stage.task)
            for seed in sorted({seed for network in rates for seed in stage.seeded(network)})
            for network, several in rates.items()
            for rate in several
            if seed in stage.seeded(network)
        ]


def main() -> None:
    """Run the study, or some of its stages."""
    parser = argparse.ArgumentParser(prog="python -m rwkvgate.experiment.study", description=__doc__)
    parser.add_argument("--stage", action="append", default=[], help="one stage alone; may be given again")
    parser.add_argument(
        "--time", action="store_true", help="time the training steps that seconds.csv lacks; the machine must be idle"
    )
    parser.add_argument("--page", action="store_true", help="write tables, figures and docs/study.md, and run nothing")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    root = project_root() / "outputs" / "study"
    try:
        if arguments.time and (load := os.getloadavg()[0]) > IDLE:  # asked first, for to read the trials is a load too
            raise SettingsError(f"the machine's load is {load:.2f}; to time steps it must be idle, at most {IDLE}")
        for name in arguments.stage:
            if name not in STAGES:
                raise unknown_name("stage", name, list(STAGES))
        texts = books(root / "texts")
        held_out = (long_texts(root / "texts", place) for place in (VALIDATION, TEST))
        base = BetterBase(texts, root / "bases" / "64x4.safetensors")
        tasks: dict[str, Task] = {"books": Books(texts), "memory": Memory(), "inside": Inside(texts), "base": base}
        tasks |= {"long": LongTexts(texts, *held_out), "stories": Stories(texts)}
        tasks |= {name: Repeated(texts, share) for name, share in DATA.items() if share > 1}
        tasks |= {f"tuned-{genre}": Tuned(genre, base, root / "texts") for genre in GENRES}
        study = Study(Trials(root / "trials", tasks))
        stages = [STAGES[name] for name in arguments.stage or STAGES]
        study.refuse_others(run=not (arguments.time or arguments.page))
        if arguments.time:
            print(write_times(root / "seconds.csv", study.trials.tasks, stages).to_string(index=False))
        elif not arguments.page:
            study.run(stages)
        lock = take(root / ".page.lock", "another process writes the study's page", patience=600)
        found = {name: study.finished(stage) for name, stage in STAGES.items()}
        write_page(project_root() / "docs" / "study.md", root, found, ratios(root / "seconds.csv"))
        if lock is not None:
            lock.release()
        for stage in STAGES.values():
            print(f"{stage.name}: {study.count(stage)}")
    except SettingsError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
