"""What a notebook will take, in one line, before it begins: missing steps, predicted time, downloads."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import constants
from huggingface_hub.file_download import repo_folder_name

from rwkvgate.experiment.order import Step
from rwkvgate.experiment.places import place_or_name
from rwkvgate.experiment.plan import SHAPES, device_of, download_bytes, notebook_steps, plan
from rwkvgate.experiment.progress import clock
from rwkvgate.experiment.run import Run
from rwkvgate.experiment.settings import CheckpointSettings
from rwkvgate.gate.validation import SettingsError

WEIGHTS = (".safetensors", ".bin", ".pth")
"""How the names of files with weights end."""


def forecast(run: Run, notebook: str, arm: str = "enhanced", seed: int = 0) -> str:
    """One line: which steps of a notebook are missing, how long they take, and what is downloaded for them.

    Arguments are those of `notebook_steps`.
    """
    steps = notebook_steps(run, notebook, arm, seed)
    missing = [step for step in steps if not step.is_finished]
    device = device_of(run)
    try:
        time = f"about {clock(plan(run, device, missing)['seconds'].sum())}, as counted for {device.name}"
    except SettingsError as error:
        time = f"for an unknown time ({error})"
    work = f"{len(missing)} of {len(steps)} steps are missing: {time}" if missing else "every step is finished"
    return f"{notebook}, profile {run.settings.profile}: {work}; {_downloads(run, missing)}"


def _downloads(run: Run, missing: list[Step]) -> str:
    """What the hub is asked for, in words."""
    model, parts = run.settings.model, []
    if isinstance(model, CheckpointSettings) and not Path(place_or_name(model.checkpoint)).is_dir():
        cached = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=model.checkpoint, repo_type="model")
        size = f" ({download_bytes(run) / 1e9:.1f} GB)" if model.checkpoint in SHAPES else ""
        here = any(path.suffix in WEIGHTS and path.exists() for path in cached.glob("snapshots/*/*"))
        parts += [] if here else [f"{model.checkpoint}{size}"]
    if any(step.name == "corpus" for step in missing):
        parts += [f"the first documents of {one.name}" for one in run.settings.corpus.hub]
    return f"downloads {', '.join(parts)}" if parts else "downloads nothing"
