"""Seconds of a training step, each network beside the base: what a control of equal seconds rests on.

Measured once on a machine where nothing else runs, in turn, and written down; trials do not measure their own time.
The WKV operator is the chunked form in plain PyTorch: beside a faster one every gate would take a larger share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import pandas as pd
import torch

from rwkvgate.experiment.environment import processor
from rwkvgate.experiment.study.annealing import Trainer
from rwkvgate.experiment.study.design import BASE, STAGES, WEIGHT_DECAY, Size, Stage
from rwkvgate.experiment.study.tasks import Task
from rwkvgate.metrics.latency import ratio_of_medians, time_calls
from rwkvgate.rwkv6.files import write_file
from rwkvgate.rwkv6.kernels import wkv_backend

ROUNDS = 41


def step_times(size: Size, task: Task, networks: Sequence[str]) -> pd.DataFrame:
    """A row for each network of this size: `size`, `network`, `seconds` (median), `ratio` to the base's with its 95 %
    interval `low` and `high`, `rounds`, `threads`, `processor`."""
    rows, labels = task.rows(1, seed=0)
    trainers = {
        name: Trainer(task.network(name, size, 0), rows, labels, task.batch, 1e-4, WEIGHT_DECAY) for name in networks
    }
    calls = {name: partial(trainer.step, 0, None) for name, trainer in trainers.items()}
    with wkv_backend("chunked"):
        seconds = time_calls(calls, ROUNDS, warmup=3)
    table = []
    for name, own in seconds.items():
        found = ratio_of_medians(own, seconds[BASE])
        row = {"size": size.name, "network": name, "seconds": float(pd.Series(own).median())}
        table.append(row | {"ratio": found.estimate, "low": found.low, "high": found.high, "rounds": ROUNDS})
    return pd.DataFrame(table).assign(threads=torch.get_num_threads(), processor=processor())


def write_times(path: Path, tasks: Mapping[str, Task], stages: Sequence[Stage]) -> pd.DataFrame:
    """Time the networks of these stages' sizes that the table lacks, and write it.

    Each stands beside the base of the same minutes, whose own row stays that of the first time. A fine-tuning is timed
    only once its base is trained.
    """
    kept = pd.read_csv(path) if path.exists() else pd.DataFrame({"size": [], "network": []})
    for timed in dict.fromkeys(stage.timed for stage in stages):
        alike = [stage for stage in STAGES.values() if stage.timed == timed]
        first, known = alike[0], set(kept.loc[kept["size"] == timed, "network"])
        missing = [n for n in dict.fromkeys(n for stage in alike for n in stage.networks) if n not in {BASE, *known}]
        if not missing or (first.after and tasks[STAGES[first.after].task].saved is None):
            continue
        found = step_times(first.size, tasks[first.task], [BASE, *missing]).assign(size=timed)
        kept = pd.concat([kept, found[~found["network"].isin(known)]], ignore_index=True)
        with write_file(path) as fresh:
            kept.to_csv(fresh, index=False, float_format="%.5g")
    return kept


def ratios(path: Path) -> dict[str, dict[str, float]]:
    """Seconds of a step over the base's, by size and network; empty where they were not measured."""
    if not path.exists():
        return {}
    table = pd.read_csv(path)
    return {str(s): dict(zip(part["network"], part["ratio"], strict=True)) for s, part in table.groupby("size")}
