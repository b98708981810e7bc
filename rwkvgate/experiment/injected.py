"""Parameters that papermill puts into a notebook: an unknown one is an error here, where papermill only warns."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterable

from rwkvgate.experiment.settings import resolve
from rwkvgate.gate.validation import unknown_name

MARK = "# Parameters"
"""What papermill begins the cell with that it injects."""


def refuse_unknown(cells: Iterable[str]) -> None:
    """Check the names that injected cells assign.

    Args:
        cells: sources of the cells that have run.

    Raises:
        SettingsError: names the parameter, and the one that may have been meant.
    """
    known = tuple(inspect.signature(resolve).parameters)
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
