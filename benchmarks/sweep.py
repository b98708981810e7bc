"""What the run graph costs, and what two cores gain: `python benchmarks/sweep.py [smoke|cpu]`.

First the smoke chain, one job at a time: each job's wall time, less its cells' own and the start of its kernel, is what
snakemake, papermill and the shell add. Then eight single-core trainings of the profile, one at a time and two together.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from base64 import urlsafe_b64encode
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from rwkvgate.experiment.progress import clock

ROOT = Path(__file__).resolve().parents[1]
ARMS, SEEDS = ("base-tuned", "enhanced", "no-layer-norm", "fixed-gate"), 2
JOB_SECONDS, SHARE, GAIN = 10.0, 0.10, 1.7
"""Goals: seconds a job, share of the chain without its kernels' starts, and how much faster two cores are."""


class Job(NamedTuple):
    """Seconds of one job: all of it, its cells' own, and from papermill's start to its first cell."""

    name: str
    wall: float
    cells: float
    kernel: float

    @property
    def added(self) -> float:
        """What neither the cells nor the kernel's start took."""
        return self.wall - self.cells - self.kernel


def snakemake(cores: int, config: tuple[str, ...], targets: list[str]) -> float:
    """Run the graph with as many cores; seconds."""
    command = [sys.executable, "-m", "snakemake", *targets, "--cores", str(cores), "--nolock", "--quiet", "--config"]
    # As the Makefile has it: threads that wait give their core away soon.
    environment = os.environ | {"GOMP_SPINCOUNT": "10000"}
    started = time.monotonic()
    done = subprocess.run([*command, *config], cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stdout[-2000:] + done.stderr[-3000:])
    return time.monotonic() - started


def job_of(path: Path) -> Job:
    """The times of the job that made an executed notebook: snakemake's record of it, and papermill's in it."""
    record = ROOT / ".snakemake" / "metadata" / urlsafe_b64encode(str(path).encode()).decode()
    graph = json.loads(record.read_text())
    notebook = json.loads(path.read_text(encoding="utf-8"))
    cells = [cell["metadata"].get("papermill", {}) for cell in notebook["cells"]]
    executed = [cell for cell in cells if cell.get("start_time") and cell.get("duration") is not None]
    first, began = executed[0]["start_time"], notebook["metadata"]["papermill"]["start_time"]
    return Job(
        path.stem,
        graph["endtime"] - graph["starttime"],
        sum(cell["duration"] for cell in executed),
        (datetime.fromisoformat(first) - datetime.fromisoformat(began)).total_seconds(),
    )


def overhead(scratch: Path) -> None:
    """The smoke chain, one job at a time."""
    run = scratch / "chain"
    wall = snakemake(1, ("profile=smoke", f"run_dir={run}"), [])
    jobs = [job_of(path) for path in sorted((run / "notebooks").glob("*.ipynb"))]
    kernels, cells = (sum(getattr(job, name) for job in jobs) for name in ("kernel", "cells"))
    for name in ("added", "kernel", "cells"):
        seconds = [getattr(job, name) for job in jobs]
        said = f"{statistics.median(seconds):6.2f} s a job, at most {max(seconds):.2f}"
        print(f"{name:>7}: {said}" + (f" (goal {JOB_SECONDS:.0f})" if name == "added" else ""))
    added = wall - cells - kernels
    print(
        f"smoke chain: {len(jobs)} jobs in {clock(wall)}; kernels' starts {kernels:.0f} s, the graph {added:.0f} s, "
        f"{100 * added / wall:.1f} % (goal {100 * SHARE:.0f} %)"
    )


def gain(scratch: Path, profile: str) -> None:
    """Eight trainings, one at a time and two together, from the same base."""
    spent, jobs = {}, len(ARMS) * SEEDS
    for cores in (1, 2):
        run = scratch / f"cores{cores}"
        config = (f"profile={profile}", f"run_dir={run}", f"arms={','.join(ARMS)}", f"seeds={SEEDS}", "studies=off")
        if cores == 2:
            kept = ("corpus", "base", "notebooks/01_setup.ipynb", "manifest.json")
            for name in kept:
                copy(scratch / "cores1" / name, run / name)
        snakemake(1, config, [str(run / "notebooks" / "01_setup.ipynb")])
        targets = [f"{run}/notebooks/02_finetune.{arm}.seed{seed}.ipynb" for arm in ARMS for seed in range(SEEDS)]
        spent[cores] = snakemake(cores, config, targets)
        print(f"{jobs} trainings of profile {profile}, {cores} at a time: {spent[cores]:.1f} s", flush=True)
    print(f"two cores are {spent[1] / spent[2]:.2f} times as fast as one (goal {GAIN})")


def copy(source: Path, target: Path) -> None:
    """A file or folder with its times, which snakemake goes by."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copy2(source, target)


def main() -> None:
    """Both measurements in a scratch folder."""
    profile = sys.argv[1] if len(sys.argv) > 1 else "smoke"
    with tempfile.TemporaryDirectory(prefix="rwkvgate-") as folder:
        scratch = Path(folder).resolve()
        overhead(scratch)
        gain(scratch, profile)


if __name__ == "__main__":
    main()
