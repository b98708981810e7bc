"""Open a run from a notebook's parameters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rwkvgate.experiment import budget
from rwkvgate.experiment.corpora.local import check_source
from rwkvgate.experiment.parameters import refuse_unknown
from rwkvgate.experiment.run import Run, open_folder
from rwkvgate.experiment.settings import CheckpointSettings, ModelSettings, require_hardware, require_reporter, resolve
from rwkvgate.gate.validation import SettingsError


def open_run(arm: str = "enhanced", seed: int = 0, **parameters: Any) -> Run:
    """Open the run that a notebook's parameters describe, after checking settings, arm, gate and run folder.

    Args:
        arm: the notebook's arm; `run.variant(arm, seed)` is the arm with its seed and folder.
        seed: the notebook's training seed.
        parameters: of `rwkvgate.experiment.settings.resolve`.

    Raises:
        SettingsError: a parameter is unknown or has an impossible value, the profile needs a GPU and there is none, the
            run folder holds something else or cannot be written, the corpus is no file of text, the budget of time is
            no number, or papermill injected a parameter that no notebook has.
    """
    import torch
    from transformers.utils.logging import disable_progress_bar

    refuse_unknown(cells_so_far())
    budget.minutes()  # refuses what is no number
    disable_progress_bar()  # progress bars leave widget state in notebooks; `Progress` prints lines
    settings = resolve(**parameters)
    require_hardware(settings.profile)
    require_reporter(settings.training.report_to)
    check_source(settings.corpus.source)
    run = Run(settings)
    variant, model = run.variant(arm, seed), settings.model
    if variant.gate is not None and isinstance(model, ModelSettings):
        variant.gate.sized(model.hidden_size, model.hidden_size // model.head_size)
    run.variants()
    half = isinstance(model, CheckpointSettings) and model.dtype == "float16"
    if half and variant.arm.trained and not torch.cuda.is_available():
        raise SettingsError("training in float16 needs a CUDA device; model.dtype float32 runs on this machine")
    with usable(run.folder):
        return open_folder(settings)


@contextmanager
def usable(folder: Path) -> Iterator[None]:
    """A block that opens a run folder: what the file system answers becomes a sentence.

    Raises:
        SettingsError: the disk is full or read-only, a link leads in a circle, a permission lacks.
    """
    try:
        yield
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise SettingsError(
            f"run_dir {folder} cannot be used: {error.strerror or error}{where}. "
            "It must be a folder that can be written, on a disk with room"
        ) from None


def cells_so_far() -> list[str]:
    """Sources of the cells executed in this kernel; empty outside a notebook."""
    try:
        from IPython.core.getipython import get_ipython
    except ImportError:  # the library works without IPython
        return []
    shell = get_ipython()
    manager = getattr(shell, "history_manager", None)
    return [str(cell) for cell in manager.input_hist_raw] if manager is not None else []
