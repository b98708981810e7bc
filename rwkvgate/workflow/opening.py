"""Open a run in a notebook: `open_notebook` is the one call of the cell below the parameters."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rwkvgate.experiment.open_run import open_run
from rwkvgate.experiment.order import VISUALIZATION
from rwkvgate.experiment.places import project_root
from rwkvgate.experiment.run import Run, read_manifest
from rwkvgate.experiment.settings import PROFILE_VARIABLE
from rwkvgate.gate.validation import SettingsError
from rwkvgate.rwkv6.files import write_folder
from rwkvgate.workflow.drive import keep_in_drive, notebook_shell
from rwkvgate.workflow.execute import HEAD

REFERENCE, COPY = "outputs/reference", "outputs/committed"
"""The committed run below the checkout, and what is opened of it."""


def runs_in_graph() -> bool:
    """Whether the run graph executes this notebook, perhaps beside others: then nothing should be timed in it."""
    return HEAD in os.environ


def open_notebook(
    profile: str,
    run_dir: str,
    arm: str,
    seed: int,
    model: Mapping[str, Any],
    corpus: Mapping[str, Any],
    gate: Mapping[str, Any],
    training: Mapping[str, Any],
    evaluation: Mapping[str, Any],
    committed: bool = False,
) -> Run:
    """Open the run that the parameters cell describes, with what Drive keeps of it, and draw figures in the page.

    The arguments are those of `rwkvgate.experiment.settings.resolve`, in the order of the parameters cell. Drive takes
    part only where Colab's cell, or `RWKVGATE_DRIVE`, names a folder: then what changes is copied there from now on.

    Args:
        committed: with parameters that name no run, open the committed one, which needs no training and no download.

    Raises:
        SettingsError: a parameter is unknown or impossible, the profile needs a GPU that is not there, or the run
            folder holds something else.
        DriveError: Drive does not answer.
    """
    if shell := notebook_shell():
        shell.run_line_magic("matplotlib", "inline")
    sections = (model, corpus, gate, training, evaluation)
    names_none = profile == "auto" and not os.environ.get(PROFILE_VARIABLE) and not run_dir and not any(sections)
    if committed and names_none and (found := committed_run(arm, seed)):
        print(f"This is the committed model of profile {found.settings.profile}: {found.variant(arm, seed)}.")
        return found
    run = open_run(
        profile=profile,
        run_dir=run_dir,
        arm=arm,
        seed=seed,
        model=model,
        corpus=corpus,
        gate=gate,
        training=training,
        evaluation=evaluation,
    )
    keep_in_drive(run)
    if committed and names_none:
        from rwkvgate.experiment.forecast import forecast  # here: it loads torch, which a refusal need not wait for

        print(f"{REFERENCE} holds no weights of {run.variant(arm, seed)}.", forecast(run, VISUALIZATION, arm, seed))
    return run


def committed_run(arm: str, seed: int) -> Run | None:
    """A copy of the checkout's `outputs/reference`, where that holds the weights of an arm and seed; else None.

    The copy is for what the notebook writes: the committed files stay as they are.

    Raises:
        SettingsError: there is no such arm or seed.
    """
    from rwkvgate.workflow.app import finished_arms, open_finished  # here: they import the explorer

    source, target = project_root() / REFERENCE, project_root() / COPY
    try:
        run = open_finished(source)
        if str(run.variant(arm, seed)) not in finished_arms(run):
            return None
    except SettingsError:
        return None
    if not _is_copy(target, source):
        with write_folder(target) as fresh:
            shutil.copytree(source, fresh, dirs_exist_ok=True)
    return open_finished(target)


def _is_copy(target: Path, source: Path) -> bool:
    """Whether a folder is an undamaged copy of a committed run."""
    from rwkvgate.experiment.steps.kept import kept  # here, as above
    from rwkvgate.workflow.app import open_finished

    try:
        models = [kept(open_finished(folder)) is not None for folder in (source, target)]
        return read_manifest(target) == read_manifest(source) and models[0] == models[1]
    except SettingsError:
        return False
