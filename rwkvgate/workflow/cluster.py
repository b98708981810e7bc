"""The memory, time and GPUs that each job of the run graph asks a machine or a cluster for.

Light enough for the run graph to import.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from rwkvgate.experiment.settings import GPU_PROFILES

STEPS = ("setup", "finetune", "evaluate", "ablations", "gate_visualization")
"""The rules of the run graph that execute a notebook."""


class Needs(NamedTuple):
    """Needs of a profile's largest job: the machine's memory in MB (without a GPU's own), and minutes for each step."""

    mem_mb: int
    minutes: Mapping[str, int]


# smoke and cpu: about twice the measured peak of the whole chain with its kernels and graph (1.3 and 2.1 GiB), and many
# times the measured duration of a job. By `training.memory` the most expensive arm takes 1.2 times the base's memory
# (cpu: 308 against 260 MiB; gpu: 4.7 against 4.0 GiB, on the device), so one number serves all arms. t4 and gpu are
# estimates: the file of weights, read and copied once, and torch's CUDA libraries.
NEEDS = {
    "smoke": Needs(2048, {"default": 15}),
    "cpu": Needs(4096, {"default": 60, "ablations": 120}),
    "t4": Needs(14336, {"default": 120, "setup": 180, "ablations": 240}),
    "gpu": Needs(16384, {"default": 120, "setup": 180, "ablations": 240}),
}

Resource = Callable[[Any, int], int] | int


def needs(profile: str, step: str, processes: int = 1) -> dict[str, Resource]:
    """Snakemake's resources for a step: `mem_mb`, `runtime` in minutes and, on a profile with GPUs, `gpu`.

    Memory and time are functions of wildcards and attempt: a job that exceeded them asks for more when it is repeated.
    `gpu` is absent on other profiles, not 0: the Kubernetes executor takes any number for a request.

    Args:
        processes: `training.processes`; fine-tuning has a GPU for each process, every other step has one GPU.

    Raises:
        KeyError: no such profile or step.
    """
    if step not in STEPS:
        raise KeyError(f"{step!r} is no step; allowed: {', '.join(STEPS)}")
    largest = NEEDS[profile]
    minutes = largest.minutes.get(step, largest.minutes["default"])
    resources: dict[str, Resource] = {
        "mem_mb": lambda wildcards, attempt: largest.mem_mb * attempt,
        "runtime": lambda wildcards, attempt: minutes * attempt,
    }
    return resources | ({"gpu": processes if step == "finetune" else 1} if profile in GPU_PROFILES else {})
