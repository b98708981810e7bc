"""Tokens a second of training through transformers' Trainer beside a plain PyTorch loop, in turns. `make bench`."""

from __future__ import annotations

import statistics
import time

import numpy as np
import torch
from torch.nn.utils import clip_grad_norm_

from rwkvgate import Rwkv6Config, Rwkv6ForCausalLM
from rwkvgate.settings import Schedule, resolve
from rwkvgate.training import build_optimizer, collate, train

STEPS, TURNS = 40, 3


def new_model() -> Rwkv6ForCausalLM:
    """The cpu profile's base, untrained."""
    torch.manual_seed(0)
    return Rwkv6ForCausalLM(Rwkv6Config(**resolve("cpu").model.model_dump(exclude={"pretraining"})))


def plain(rows: list[list[int]], schedule: Schedule) -> float:
    """Tokens a second of the shortest loop that does the same work."""
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


def main() -> None:
    """Print both rates, their ratio, and the spread over turns."""
    schedule = resolve("cpu").model.pretraining.model_copy(update={"steps": STEPS, "warmup_steps": 2})
    rng = np.random.default_rng(0)
    shape = (schedule.steps * schedule.batch_size, schedule.length)
    rows = rng.integers(1, resolve("cpu").model.vocab_size, shape).tolist()
    ratios = []
    for turn in range(TURNS):
        loop = plain(rows, schedule)
        log = train(new_model(), rows, schedule, label=f"Trainer, turn {turn + 1}", seed=0)
        ratios.append(log.tokens_per_second / loop)
        print(f"turn {turn + 1}: loop {loop:,.0f}, Trainer {log.tokens_per_second:,.0f} tokens a second")
    middle = statistics.median(ratios)
    print(f"Trainer reaches {100 * middle:.0f} % of the loop ({min(ratios):.2f} to {max(ratios):.2f}; goal 90 %)")


if __name__ == "__main__":
    main()
