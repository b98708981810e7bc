"""What each job of the run graph asks of a machine or a cluster: memory, time and a GPU, in one table.

Light enough for the run graph to import.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from rwkvgate.experiment.settings import GPU_PROFILES

STEPS = ("setup", "finetune", "evaluate", "ablations", "gate_visualization")
"""The rules of the run graph that execute a notebook."""


class Needs(NamedTuple):
    """Of the largest job of a profile: the machine's own memory in MB (a GPU's is apart), and minutes by step."""

    mem_mb: int
    minutes: Mapping[str, int]


# About twice what was measured for smoke and cpu (1.3 and 2.1 GiB at the peak of the whole chain, kernels, graph and
# all), and many times what a job took. `training.memory` puts the most expensive arm at 1.2 times the base (cpu:
# 308 against 260 MiB; gpu: 4.7 against 4.0 GiB, on the device), within that room, so one number serves all arms. t4 and
# gpu are reckoned, not measured: the file of weights read and copied once, and torch's CUDA libraries.
NEEDS = {
    "smoke": Needs(2048, {"default": 15}),
    "cpu": Needs(4096, {"default": 60, "ablations": 120}),
    "t4": Needs(14336, {"default": 120, "setup": 180, "ablations": 240}),
    "gpu": Needs(16384, {"default": 120, "setup": 180, "ablations": 240}),
}

Resource = Callable[[Any, int], int] | int


def needs(profile: str, step: str, processes: int = 1) -> dict[str, Resource]:
    """Snakemake's resources for a step: `mem_mb`, `runtime` (minutes) and, where the profile has GPUs, `gpu`.

    Memory and time are functions of wildcards and attempt, since a job that was stopped for either must ask for more
    when it is repeated. `gpu` is absent, not 0, on other profiles: the Kubernetes executor takes any number for a wish.

    Args:
        processes: `training.processes`; a fine-tuning has a GPU for each. All else has one.

    Raises:
        KeyError: no such profile or step.
    """
    if step not in STEPS:
        raise KeyError(f"{step!r} is no step; allowed: {', '.join(STEPS)}")
    found = NEEDS[profile]
    minutes = found.minutes.get(step, found.minutes["default"])
    wanted: dict[str, Resource] = {
        "mem_mb": lambda wildcards, attempt: found.mem_mb * attempt,
        "runtime": lambda wildcards, attempt: minutes * attempt,
    }
    return wanted | ({"gpu": processes if step == "finetune" else 1} if profile in GPU_PROFILES else {})
