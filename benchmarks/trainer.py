"""Tokens per second of training through transformers' Trainer and in a plain PyTorch loop; the cost of checkpoints.

`make bench` runs it.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch.nn.utils import clip_grad_norm_

from rwkvgate import Rwkv6Config, Rwkv6ForCausalLM
from rwkvgate.experiment.settings import Schedule, resolve
from rwkvgate.experiment.training import collate, train
from rwkvgate.experiment.training.checkpointing import ResumableTrainer, Saver
from rwkvgate.experiment.training.loop import build_optimizer

STEPS, TURNS = 40, 3
CHECKPOINTED = 200
"""Steps of the training whose checkpoints are timed: enough for some by the clock, beside the last one."""


def new_model() -> Rwkv6ForCausalLM:
    """The cpu profile's base, untrained."""
    torch.manual_seed(0)
    return Rwkv6ForCausalLM(Rwkv6Config(**resolve("cpu").model.model_dump(exclude={"pretraining"})))


def plain(rows: list[list[int]], schedule: Schedule) -> float:
    """Tokens per second of the shortest loop that does the same work."""
    model = new_model().train()
    optimizer, scheduler = build_optimizer(model, schedule)
    started, size = time.perf_counter(), schedule.batch_size
    for i in range(schedule.steps):
        batch = collate([{"input_ids": row} for row in rows[i * size : (i + 1) * size]])
        model(**batch).loss.backward()
        clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    return sum(map(len, rows)) / (time.perf_counter() - started)


def rows_of(schedule: Schedule) -> list[list[int]]:
    """Random tokens for every step."""
    shape = (schedule.steps * schedule.batch_size, schedule.length)
    rows: list[list[int]] = np.random.default_rng(0).integers(1, resolve("cpu").model.vocab_size, shape).tolist()
    return rows


def checkpointed(schedule: Schedule) -> tuple[int, float, float]:
    """Number of checkpoints of a training, seconds spent in writing and sealing them, and seconds in total."""
    spent: list[float] = []
    write, seal = ResumableTrainer._save_checkpoint, Saver.on_save

    def timed(call: Any) -> Any:
        def run(*args: Any, **kwargs: Any) -> None:
            started = time.perf_counter()
            call(*args, **kwargs)
            spent.append(time.perf_counter() - started)

        return run

    with (
        tempfile.TemporaryDirectory() as folder,
        patch.object(ResumableTrainer, "_save_checkpoint", timed(write)),
        patch.object(Saver, "on_save", timed(seal)),
    ):
        log = train(new_model(), rows_of(schedule), schedule, label="checkpoints", seed=0, checkpoints=Path(folder))
    return len(spent) // 2, sum(spent), log.seconds


def main() -> None:
    """Print both rates, their ratio, and the spread over turns; then the share of checkpoints."""
    schedule = resolve("cpu").model.pretraining.model_copy(update={"steps": STEPS, "warmup_steps": 2})
    rows, ratios = rows_of(schedule), []
    for turn in range(TURNS):
        loop = plain(rows, schedule)
        log = train(new_model(), rows, schedule, label=f"Trainer, turn {turn + 1}", seed=0)
        ratios.append(log.tokens_per_second / loop)
        print(f"turn {turn + 1}: loop {loop:,.0f}, Trainer {log.tokens_per_second:,.0f} tokens per second")
    middle = statistics.median(ratios)
    print(f"Trainer reaches {100 * middle:.0f} % of the loop ({min(ratios):.2f} to {max(ratios):.2f}; goal 90 %)")
    count, seconds, total = checkpointed(schedule.model_copy(update={"steps": CHECKPOINTED}))
    share = f"{100 * seconds / total:.2f} % (goal 3 %)"
    print(f"{count} checkpoints took {seconds:.2f} s of a training of {total:.1f} s, {share}")


if __name__ == "__main__":
    main()
