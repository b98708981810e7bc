"""Open a run in a notebook: `open_notebook` is the one call of the cell below the parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rwkvgate.experiment.open_run import open_run
from rwkvgate.experiment.run import Run
from rwkvgate.workflow.drive import keep_in_drive, notebook_shell


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
) -> Run:
    """Open the run that the parameters cell describes, with what Drive keeps of it, and draw figures in the page.

    The arguments are those of `rwkvgate.experiment.settings.resolve`, in the order of the parameters cell. Drive takes
    part only where Colab's cell, or `RWKVGATE_DRIVE`, names a folder: then what changes is copied there from now on.

    Raises:
        SettingsError: a parameter is unknown or impossible, the profile needs a GPU that is not there, or the run
            folder holds something else.
        DriveError: Drive does not answer.
    """
    if shell := notebook_shell():
        shell.run_line_magic("matplotlib", "inline")
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
    return run
