"""Wall time and peak memory of the whole chain into a fresh run folder: `python benchmarks/reproduce.py smoke|cpu`.

Beside it where the time goes: the seconds of each kind of step, by the steps' own records, and what is left of the
notebooks' time: kernels, from the start to the end outside of cells; imports and opening, the cells as far as the one
that opens the run; and statistics, tables and figures. Jobs run beside each other, so that these add up to more than
the wall time.

Memory is the proportional set size of every process below the chain's, summed and sampled every few seconds (Linux): to
read it takes the system a tenth of a second, which the chain would lack.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd

from rwkvgate.experiment import order
from rwkvgate.experiment.open_run import open_run
from rwkvgate.experiment.progress import clock
from rwkvgate.experiment.run import RECORD
from rwkvgate.experiment.steps.base import read_log

GOALS = {"smoke": 2 * 60, "cpu": 15 * 60}
PEAK_MIB = 4096
BETWEEN_SAMPLES = 4.0
"""Seconds."""


def family(root: int) -> list[int]:
    """A process and all its descendants."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents.setdefault(int(fields[1]), []).append(int(entry.parent.name))
    found, todo = [], [root]
    while todo:
        found.append(todo.pop())
        todo.extend(parents.get(found[-1], []))
    return found


def memory_mib(root: int) -> float:
    """Proportional set size of a process and its descendants, MiB; 0 where the system does not say."""
    total = 0
    for process in family(root):
        try:
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


def parts(run: Path) -> pd.DataFrame:
    """Seconds and number of a finished run's steps by their name, and of the notebooks' parts without the steps."""
    records = [json.loads(path.read_text()) for path in run.rglob(RECORD)]
    steps = pd.DataFrame(records)[["step", "seconds"]].groupby("step")["seconds"].agg(["count", "sum"])
    notebooks = {path.name: json.loads(path.read_text()) for path in (run / "notebooks").glob("*.ipynb")}
    spent = {name: notebook["metadata"]["papermill"]["duration"] for name, notebook in notebooks.items()}
    whole = pd.Series(spent).groupby(lambda name: f"notebook {name[:2]}, its steps included").agg(["count", "sum"])
    opening, others = map(sum, zip(*map(seconds_of_cells, notebooks.values()), strict=True))
    rest = {
        "kernels": sum(spent.values()) - opening - others,
        "imports and opening": opening,
        "statistics, tables, figures": others - steps["sum"].sum(),
    }
    return pd.concat([steps, whole, pd.DataFrame({"count": len(spent), "sum": rest})])


def seconds_of_cells(notebook: dict[str, Any]) -> tuple[float, float]:
    """The seconds of an executed notebook's cells as far as the one that opens the run, and of the others."""
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    seconds = [cell["metadata"]["papermill"]["duration"] or 0.0 for cell in cells]
    opens = next(i for i, cell in enumerate(cells) if "open_notebook(" in "".join(cell["source"])) + 1
    return sum(seconds[:opens]), sum(seconds[opens:])


def main() -> None:
    """Run the chain and print its time and peak memory beside the goals."""
    profile = sys.argv[1] if len(sys.argv) > 1 else "smoke"
    with tempfile.TemporaryDirectory(prefix="rwkvgate-") as scratch:
        folder = str(Path(scratch) / "run")
        command = ["make", "--no-print-directory", "reproduce", f"PROFILE={profile}", f"RUN_DIR={folder}"]
        started, peak = time.monotonic(), 0.0
        with (Path(scratch) / "log").open("w") as log:
            chain = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=os.environ)
            while chain.poll() is None:
                peak = max(peak, memory_mib(chain.pid))
                with suppress(subprocess.TimeoutExpired):
                    chain.wait(BETWEEN_SAMPLES)
        spent = time.monotonic() - started
        if chain.returncode:
            sys.exit((Path(scratch) / "log").read_text()[-3000:])
        table = parts(Path(folder))
        log_of_base = read_log(order.base(open_run(profile=profile, run_dir=folder)))
        training = [record["loss"] for record in log_of_base.history if "loss" in record][-1]
        validation = [record["validation_loss"] for record in log_of_base.history if "validation_loss" in record][-1]
    print(f"make reproduce, profile {profile}: {clock(spent)} (goal {clock(GOALS.get(profile, 0))})")
    print(f"peak memory of all processes: {peak:,.0f} MiB (goal {PEAK_MIB:,})")
    print(table.sort_values("sum", ascending=False).round(1).to_string(header=["steps", "seconds"]))
    gap = 100 * (validation / training - 1)
    print(f"base: training loss {training:.3f}, validation {validation:.3f} nats a token, {gap:+.1f} % (goal 15 %)")


if __name__ == "__main__":
    main()
