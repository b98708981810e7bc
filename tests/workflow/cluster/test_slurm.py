"""A smoke sweep on a real Slurm: its node is killed under a training, a job is killed, and the results are whole."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file

from tests.workflow.cluster.slurm import Slurm, missing, until

ROOT = Path(__file__).resolve().parents[3]
ASKED = os.environ.get("RWKVGATE_SLURM") == "1"
pytestmark = [
    pytest.mark.skipif(not ASKED, reason="takes minutes and starts daemons: `make test-slurm` asks for it"),
    pytest.mark.skipif(ASKED and bool(missing()), reason=missing()),
]
SWEEP = ("profile=smoke", "run_dir=runs/sweep", "arms=base-tuned,enhanced", "seeds=2", "studies=off")
HERE = ("--slurm-no-account", "--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "3")
"""This cluster keeps no accounts, so its queue says how jobs ended."""
STEPS = 60


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    """A running cluster."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    folder.chmod(0o755)  # munge runs as a user of its own
    cluster = Slurm(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout whose smoke trainings last long enough to be killed."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("Snakefile", "notebooks", "profiles"):
        (folder / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "params", folder / "params")
    settings = yaml.safe_load((folder / "params" / "smoke.yaml").read_text())
    settings["training"]["steps"] = STEPS
    (folder / "params" / "smoke.yaml").write_text(yaml.safe_dump(settings))
    return folder


def start(project: Path, slurm: Slurm, log: Path, *words: str) -> subprocess.Popen[bytes]:
    """snakemake in the project, as a head process that is not waited for."""
    environment = os.environ | slurm.environment | {"PYTHONPATH": str(ROOT), "RWKVGATE_SAVE_SECONDS": "0"}
    command = [sys.executable, "-m", "snakemake", "--set-threads", "setup=1", "--nolock", *words]
    with log.open("wb") as out:
        return subprocess.Popen(command, cwd=project, env=environment, stdout=out, stderr=subprocess.STDOUT)


def ended(head: subprocess.Popen[bytes], log: Path) -> tuple[int, str]:
    """How a head process ended, and what it printed."""
    try:
        return head.wait(timeout=1500), log.read_text(errors="replace")
    finally:
        head.kill()


def on_slurm(*config: str) -> tuple[str, ...]:
    """Words for a run on the cluster with the profile of this repository."""
    return ("--profile", "profiles/slurm", *HERE, "--config", *config)


def test_a_sweep_outlives_its_node_and_its_jobs(slurm: Slurm, project: Path, tmp_path: Path) -> None:
    run = project / "runs" / "sweep"
    head = start(project, slurm, tmp_path / "log", *on_slurm(*SWEEP))

    def checkpoint() -> Path | None:
        assert head.poll() is None, (tmp_path / "log").read_text()[-3000:]
        return next(iter(run.glob("checkpoints/enhanced.seed*/*/checkpoint-*/sealed.json")), None)

    try:
        until(checkpoint, "a checkpoint", 600, pause=0.02)
        slurm.kill_node()
        found = checkpoint()
        assert found is not None, "the training had ended already"
        arm, seed = found.parents[2].name.split(".seed")
        until(lambda: slurm.node_state() == "down", "the controller to miss its node")
        second = start(project, slurm, tmp_path / "second", "--cores", "1", "--config", *SWEEP)
        code, said = ended(second, tmp_path / "second")
        assert code and f"another run works in {run}" in said
        slurm.start_node()
        until(lambda: evaluations(slurm), "an evaluation to run", 600)
        victim = evaluations(slurm)[0]
        until(lambda: slurm.processes(victim), "its processes")
        for process in slurm.processes(victim):
            os.kill(process, 9)
    except BaseException:
        head.terminate()
        raise
    code, said = ended(head, tmp_path / "log")
    assert code == 0, said[-4000:]
    assert_whole(run)
    assert_asked(slurm, victim)
    told = json.loads((run / "notebooks" / f"02_finetune.{arm}.seed{seed}.ipynb").read_text())
    assert re.search(r"resumes from step \d+", json.dumps(told)), "the killed training began anew"
    assert_same_as_alone(project, slurm, run, arm, seed, tmp_path)


def evaluations(slurm: Slurm) -> list[str]:
    """Ids of the evaluations that run now."""
    jobs = slurm.jobs("JobId", "JobState", "Comment")
    return [job["JobId"] for job in jobs if job["JobState"] == "RUNNING" and job["Comment"].startswith("rule_evaluate")]


def assert_whole(run: Path) -> None:
    """Every arm and seed is in the tables, and nothing of the kills is left."""
    documents = pd.read_parquet(run / "results" / "documents.parquet")
    pairs = set(documents[["arm", "seed"]].itertuples(index=False, name=None))
    assert pairs == {("base", 0), *((arm, seed) for arm in ("base-tuned", "enhanced") for seed in (0, 1))}
    assert (run / "report.html").is_file()
    assert len(list((run / "notebooks").glob("*.ipynb"))) == 1 + 4 + 5 + 2
    assert not list(run.rglob("checkpoint-*")) and not list((run / "notebooks").glob("*.failed.ipynb"))


def assert_asked(slurm: Slurm, victim: str) -> None:
    """Jobs asked for their memory, time and cores; one was queued again by Slurm, one sent again with more."""
    jobs = slurm.jobs("JobId", "JobState", "Partition", "Restarts", "TimeLimit", "TRES", "Comment", "TresPerJob")
    assert {job["Partition"] for job in jobs} == {"cpu"} and not any(job["TresPerJob"] for job in jobs)
    assert any(int(job["Restarts"]) for job in jobs), "no job was queued again"
    first = next(job for job in jobs if job["JobId"] == victim)
    assert first["JobState"] == "FAILED" and "mem=2G" in first["TRES"] and first["TimeLimit"] == "00:15:00"
    again = [job for job in jobs if job["Comment"] == first["Comment"] and job["JobId"] != victim]
    assert [job["JobState"] for job in again] == ["COMPLETED"]
    assert "mem=4G" in again[0]["TRES"] and again[0]["TimeLimit"] == "00:30:00"


def assert_same_as_alone(project: Path, slurm: Slurm, run: Path, arm: str, seed: str, tmp_path: Path) -> None:
    """The killed training's weights are those of one that nobody killed, on this machine, bit for bit."""
    words = ("--cores", "1", "--config", *[word.replace("runs/sweep", "runs/alone") for word in SWEEP])
    target = str(project / "runs" / "alone" / "notebooks" / f"02_finetune.{arm}.seed{seed}.ipynb")
    code, said = ended(start(project, slurm, tmp_path / "alone", target, *words), tmp_path / "alone")
    assert code == 0, said[-3000:]
    weights = f"arms/{arm}/seed{seed}/weights.safetensors"
    left, right = (load_file(str(folder / weights)) for folder in (run, project / "runs" / "alone"))
    assert left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_a_gpu_job_goes_to_the_partition_with_gpus(slurm: Slurm, project: Path, tmp_path: Path) -> None:
    config = ("profile=t4", "run_dir=runs/gpu", "arms=enhanced", "seeds=1")
    words = on_slurm(*config)
    code, said = ended(start(project, slurm, tmp_path / "log", "--retries", "0", *words), tmp_path / "log")
    asked = slurm.jobs("Comment", "Partition", "TresPerJob", "TRES", "TimeLimit")[-1]
    assert asked["Comment"] == "rule_setup" and asked["Partition"] == "gpu" and asked["TresPerJob"] == "gres:gpu:1"
    assert "mem=14G" in asked["TRES"] and asked["TimeLimit"] == "03:00:00"
    # Its GPU is a file without a device behind it: the notebook says so, and the head passes it on.
    assert code and "profile 't4' needs a GPU" in said
