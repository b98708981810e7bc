"""Starts the processes that train an arm together, from a notebook or a script."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections import deque
from pathlib import Path
from typing import Any

import yaml

from rwkvgate.experiment.places import project_root
from rwkvgate.experiment.processes import tied
from rwkvgate.experiment.run import Variant
from rwkvgate.experiment.settings import Settings
from rwkvgate.gate.validation import SettingsError

LAST_LINES = 15
"""Lines of a failed launch that its error repeats."""


def require_devices(settings: Settings) -> None:
    """Refuse more processes than there are GPUs, where there is one at all.

    Raises:
        SettingsError: names both numbers.
    """
    import torch  # here, so that this module is quick to import

    processes, gpus = settings.training.processes, torch.cuda.device_count()
    if processes > 1 and torch.cuda.is_available() and gpus < processes:
        raise SettingsError(
            f"training.processes is {processes}, one for each GPU, and this machine has {gpus} "
            f"GPU{'s' * (gpus > 1)}; it must be at most {gpus}"
        )


def launch(variant: Variant) -> None:
    """Train an arm and seed in `training.processes` processes, and print what they print.

    Raises:
        SettingsError: there are too few GPUs.
        RuntimeError: a process failed or was killed, and so all were stopped. Their checkpoints are kept.
    """
    settings = variant.run.settings
    require_devices(settings)
    _free_memory()
    command, environment = launch_command(variant), os.environ | {"PYTHONPATH": _python_path()}
    print(f"{variant}: {settings.training.processes} processes train together", flush=True)
    last: deque[str] = deque(maxlen=LAST_LINES)
    child = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        env=environment,
        preexec_fn=tied(),
    )
    try:
        assert child.stdout is not None
        for line in child.stdout:
            print(line, end="", flush=True)
            last.append(line)
        status = child.wait()
    except BaseException:  # an interrupted cell must not leave processes that train on
        child.terminate()
        child.wait()
        raise
    if status:
        raise RuntimeError(
            f"the training of {variant}, in {settings.training.processes} processes ended with status "
            f"{status}; the same call resumes from the last checkpoint. Last lines:\n{''.join(last)}"
        )


def launch_command(variant: Variant) -> list[str]:
    """The command line that trains an arm and seed of the run by `accelerate launch`."""
    run = variant.run
    training = run.settings.training
    sections = run.settings.model_dump(mode="json", include={"model", "corpus", "gate", "training", "evaluation"})
    threads = max(1, (os.cpu_count() or 1) // training.processes)
    return [
        *(sys.executable, "-m", "accelerate.commands.launch"),
        *("--config_file", str(config_path(training.sharded))),
        *("--num_processes", str(training.processes), "--num_cpu_threads_per_process", str(threads)),
        *("-m", "rwkvgate.experiment.training.worker", "--profile", run.settings.profile, "--run-dir", str(run.folder)),
        *("--arm", variant.arm.name, "--seed", str(variant.seed), "--settings", _flow(sections)),
    ]


def _flow(sections: dict[str, Any]) -> str:
    """YAML in one line. JSON's 5e-05, without a point, would be a string to YAML."""
    return yaml.safe_dump(sections, default_flow_style=True, width=2**30, allow_unicode=True).strip()


def config_path(sharded: bool) -> Path:
    """accelerate's file for replicated or for sharded models: the checkout's, or the wheel's copy."""
    name = Path("params") / "accelerate" / ("fsdp.yaml" if sharded else "ddp.yaml")
    here = project_root() / name
    return here if here.is_file() else Path(__file__).resolve().parents[2] / name


def _python_path() -> str:
    package = str(Path(__file__).resolve().parents[3])
    given = os.environ.get("PYTHONPATH", "")
    return os.pathsep.join([package, given]) if given else package


def _free_memory() -> None:
    """Free the memory of the first GPU that this process does not need."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
