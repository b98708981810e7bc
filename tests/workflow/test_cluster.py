"""What jobs ask of a machine."""

from __future__ import annotations

import pytest

from rwkvgate.experiment.settings import GPU_PROFILES, PROFILES
from rwkvgate.workflow.cluster import NEEDS, STEPS, needs


def asked(profile: str, step: str, attempt: int = 1) -> dict[str, int]:
    """The resources of an attempt, as snakemake evaluates them."""
    return {k: v(None, attempt) if callable(v) else v for k, v in needs(profile, step).items()}


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("step", STEPS)
def test_every_step_of_every_profile_asks_for_memory_time_and_a_gpu_where_it_needs_one(profile: str, step: str) -> None:
    first, second = asked(profile, step), asked(profile, step, attempt=2)
    assert set(NEEDS) == set(PROFILES)
    assert first["mem_mb"] >= 2048 and first["runtime"] >= 15
    assert all(second[name] == 2 * first[name] for name in ("mem_mb", "runtime"))
    assert first.get("gpu") == second.get("gpu") == (1 if profile in GPU_PROFILES else None)


def test_a_training_in_several_processes_has_a_gpu_for_each() -> None:
    assert needs("gpu", "finetune", processes=4)["gpu"] == 4 and needs("gpu", "evaluate", processes=4)["gpu"] == 1
    assert "gpu" not in needs("cpu", "finetune", processes=4)


def test_an_unknown_step_is_refused() -> None:
    with pytest.raises(KeyError, match="no step; allowed: setup"):
        needs("smoke", "train")
