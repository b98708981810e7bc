"""Seconds of a training step, each network beside the base: what a control of equal seconds rests on.

Measured once on a machine where nothing else runs, in turn, and written down; trials do not measure their own time.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pandas as pd
import torch

from rwkvgate.experiment.environment import hardware
from rwkvgate.experiment.study.annealing import Trainer
from rwkvgate.experiment.study.design import BASE, STAGES, WEIGHT_DECAY, Size, build
from rwkvgate.experiment.study.tasks import Task
from rwkvgate.metrics.latency import ratio_of_medians, time_calls
from rwkvgate.rwkv6.files import write_file

ROUNDS = 41


def step_times(size: Size, task: Task) -> pd.DataFrame:
    """A row for each network of this size: `size`, `network`, `seconds` (median), `ratio` to the base's with its 95 %
    interval `low` and `high`, `rounds`, `threads`, `processor`."""
    networks = list(dict.fromkeys(n for stage in STAGES.values() if stage.size == size for n in stage.networks))
    rows, labels = task.rows(1, seed=0)
    trainers = {
        name: Trainer(build(name, size, 0, task.vocabulary), rows, labels, task.batch, 1e-4, WEIGHT_DECAY)
        for name in networks
    }
    calls = {name: partial(trainer.step, 0, None) for name, trainer in trainers.items()}
    seconds = time_calls(calls, ROUNDS, warmup=3)
    table = []
    for name, own in seconds.items():
        found = ratio_of_medians(own, seconds[BASE])
        row = {"size": size.name, "network": name, "seconds": float(pd.Series(own).median())}
        table.append(row | {"ratio": found.estimate, "low": found.low, "high": found.high, "rounds": ROUNDS})
    return pd.DataFrame(table).assign(threads=torch.get_num_threads(), processor=hardware()["processor"])


def write_times(path: Path, tasks: Mapping[str, Task]) -> pd.DataFrame:
    """Time every size of the design and write the table."""
    sizes: dict[Size, Task] = {}
    for stage in STAGES.values():
        sizes.setdefault(stage.size, tasks[stage.task])
    found = pd.concat([step_times(size, task) for size, task in sizes.items()], ignore_index=True)
    with write_file(path) as fresh:
        found.to_csv(fresh, index=False, float_format="%.5g")
    return found


def ratios(path: Path) -> dict[str, dict[str, float]]:
    """Seconds of a step over the base's, by size and network; empty where they were not measured."""
    if not path.exists():
        return {}
    table = pd.read_csv(path)
    return {str(s): dict(zip(part["network"], part["ratio"], strict=True)) for s, part in table.groupby("size")}
