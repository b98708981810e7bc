"""What the page says of the memory tasks, on a planted advantage."""

from __future__ import annotations

import re

import numpy as np
import pytest

from rwkvgate.experiment.study.analysis import recalled_shares
from rwkvgate.experiment.study.design import SIZES, cost
from rwkvgate.experiment.study.memory_page import shares_parts
from rwkvgate.experiment.study.tasks import Memory
from rwkvgate.experiment.study.trials import Plan, Trial

SIZE, SECONDS = SIZES["64x2"], {"64x2": {"base": 1.0, "enhanced": 1.1}}


def trial(network: str, seed: int, longest: float) -> Trial:
    """A network that misses a twentieth of all, but of the longest sequences this share, with noise by seed."""
    noise = np.random.default_rng([seed, len(network)]).normal(0, 0.005)
    missed = {times: (longest if times == 8 else 0.05) + noise for times in Memory.TIMES}
    budgets = (1600, 2080) if network == "base" else (1600,)
    test = [missed[times] for _ in Memory.NAMES for times in Memory.TIMES for _ in range(Memory.TESTED)]
    shares = {f"{name} x{times}": 1 - missed[times] for name in Memory.NAMES for times in Memory.TIMES}
    parameters, flops = cost(network, SIZE, Memory.vocabulary)
    return Trial(
        plan=Plan(SIZE, network, 4e-3, seed, budgets, "memory"),
        parameters=parameters,
        flops=flops,
        validation=dict.fromkeys(budgets, 1.0),
        test=dict.fromkeys(budgets, test),
        weights=Memory().weights,
        losses=[],
        diverged=None,
        seconds=1.0,
        processor="a processor",
        shares=dict.fromkeys(budgets, shares),
    )


def test_who_remembers_for_longer_is_told_apart_by_length() -> None:
    trials = [trial("base", seed, 0.4) for seed in range(5)] + [trial("enhanced", seed, 0.2) for seed in range(5)]
    told = "\n".join(shares_parts(trials, recalled_shares(trials), SECONDS))
    found = re.findall(r"\| (x\d) \| 5 \| (\S+) \[", told.replace("−", "-"))
    assert [name for name, _ in found] == ["x1", "x2", "x4", "x8"]
    assert [float(less) for _, less in found] == pytest.approx([0, 0, 0, -0.2], abs=0.01)
    assert "| base | 5 | 5 |" in told and "| enhanced | 5 | 5 | – |" in told


def test_a_base_alone_is_shown_without_differences() -> None:
    trials = [trial("base", seed, 0.4) for seed in range(2)]
    told = "\n".join(shares_parts(trials, recalled_shares(trials), SECONDS))
    assert "| base | recall | 95." in told and "remembers for longer" not in told
