"""Opening a run from a notebook's parameters."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterable
from typing import Any

from rwkvgate.experiment.run import Run, open_folder
from rwkvgate.experiment.settings import CheckpointSettings, ModelSettings, require_hardware, resolve
from rwkvgate.gate.validation import SettingsError, unknown_name

MARK = "# Parameters"
"""What papermill begins the cell with that it injects."""


def open_run(arm: str = "enhanced", seed: int = 0, **parameters: Any) -> Run:
    """The run that a notebook's parameters describe: settings, arm, gate and folder checked.

    Args:
        arm: the notebook's arm; `run.variant(arm, seed)` is what it works on.
        seed: the notebook's training seed.
        parameters: those of `rwkvgate.experiment.settings.resolve`.

    Raises:
        SettingsError: any of them is unknown or impossible, the profile needs a GPU that is not there,
            or the run folder belongs to something else; or papermill was given a parameter that no notebook has.
    """
    import torch
    from transformers.utils.logging import disable_progress_bar

    refuse_unknown(cells_so_far())
    disable_progress_bar()  # its bars would leave widget state in notebooks; `Progress` prints lines
    settings = resolve(**parameters)
    require_hardware(settings.profile)
    run = Run(settings)
    variant, model = run.variant(arm, seed), settings.model
    if variant.gate is not None and isinstance(model, ModelSettings):
        variant.gate.sized(model.hidden_size, model.hidden_size // model.head_size)
    run.variants()
    half = isinstance(model, CheckpointSettings) and model.dtype == "float16"
    if half and variant.arm.trained and not torch.cuda.is_available():
        raise SettingsError("training in float16 needs a CUDA device; model.dtype float32 runs on this machine")
    return open_folder(settings)


def refuse_unknown(cells: Iterable[str]) -> None:
    """Check the names that injected cells assign.

    Args:
        cells: sources of the cells that have run.

    Raises:
        SettingsError: names the parameter, and the one that may have been meant.
    """
    known = ("arm", "seed", *inspect.signature(resolve).parameters)
    for cell in cells:
        if not cell.startswith(MARK):
            continue
        for node in ast.parse(cell).body:
            targets = node.targets if isinstance(node, ast.Assign) else []
            for target in targets:
                if isinstance(target, ast.Name) and target.id not in known:
                    raise unknown_name("parameter", target.id, known)


def cells_so_far() -> list[str]:
    """The cells that have run in this kernel; none outside one."""
    try:
        from IPython.core.getipython import get_ipython
    except ImportError:  # the package alone needs none
        return []
    shell = get_ipython()
    manager = getattr(shell, "history_manager", None)
    return [str(cell) for cell in manager.input_hist_raw] if manager is not None else []
