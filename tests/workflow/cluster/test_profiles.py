"""The profiles for clusters are understood by their executors, and their partitions hold every job there is."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from rwkvgate.experiment.settings import GPU_PROFILES, PROFILES
from rwkvgate.workflow.cluster import STEPS, needs

ROOT = Path(__file__).resolve().parents[3]
RETRIES = 2


def lacks(executor: str) -> bool:
    """Whether an executor's plugin is absent."""
    return importlib.util.find_spec(f"snakemake_executor_plugin_{executor}") is None


def plan(name: str, folder: Path, profile: str, *more: str) -> str:
    """What snakemake would do by a profile of this repository."""
    command = [sys.executable, "-m", "snakemake", "--profile", f"profiles/{name}", "--dry-run", *more]
    config = [f"profile={profile}", f"run_dir={folder / 'run'}", "arms=enhanced", "seeds=1"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([*command, "--config", *config], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert not (folder / "run").exists()
    return done.stdout + done.stderr


def asked(text: str) -> list[dict[str, str]]:
    """The resources of every job of a plan, the target of them all apart, which runs nothing."""
    lines = re.findall(r"^\s+resources: (.+)$", text, flags=re.M)
    return [dict(pair.split("=", 1) for pair in line.split(", ")) for line in lines if "runtime=" in line]


@pytest.mark.parametrize("executor", ["slurm", "kubernetes"])
@pytest.mark.parametrize("profile", ["smoke", "gpu"])
def test_a_dry_run_by_the_profile(executor: str, profile: str, tmp_path: Path) -> None:
    if lacks(executor):
        pytest.skip(f"no snakemake-executor-plugin-{executor}: `make test-slurm` installs the extra `cluster`")
    # On Kubernetes the notebooks lie at the root of the image; here they lie in the checkout.
    more = ("--default-storage-prefix", str(ROOT)) if executor == "kubernetes" else ()
    jobs = asked(plan(executor, tmp_path, profile, *more))
    assert len(jobs) == 6
    for job in jobs:
        assert int(job["mem_mb"]) >= 2048 and int(job["runtime"]) >= 15
        assert job.get("gpu") == ("1" if profile == "gpu" else None)
        if executor == "kubernetes":
            assert job["gpu_manufacturer"] == "nvidia" and job["scale"] == "0"


@pytest.mark.skipif(lacks("slurm"), reason="no snakemake-executor-plugin-slurm: `make test-slurm` installs it")
@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("step", STEPS)
def test_every_attempt_has_a_partition(profile: str, step: str) -> None:
    from snakemake_executor_plugin_slurm.partitions import get_best_partition, read_partition_file

    partitions = read_partition_file(ROOT / "profiles" / "slurm" / "partitions.yaml")
    for attempt in range(1, RETRIES + 2):
        found = {name: need(None, attempt) if callable(need) else need for name, need in needs(profile, step).items()}
        job: Any = SimpleNamespace(resources=found, threads=2, name=step)
        silent: Any = SimpleNamespace(warning=print, info=print, debug=print)
        assert get_best_partition(partitions, job, silent) == ("gpu" if profile in GPU_PROFILES else "cpu")


@pytest.mark.parametrize("name", ["slurm", "kubernetes"])
def test_a_profile_repeats_failed_jobs_and_needs_no_unlocking(name: str) -> None:
    settings = yaml.safe_load((ROOT / "profiles" / name / "config.v9+.yaml").read_text())
    assert settings["executor"] == name and settings["retries"] == RETRIES
    assert settings["keep-going"] and settings["rerun-incomplete"] and settings["nolock"]
