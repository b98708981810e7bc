"""Explore the gate: record its values, clamp them, and view both in a notebook or in one page.

The names below are imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rwkvgate.explore.explorer import GateExplorer
    from rwkvgate.explore.interventions import clamp_gate
    from rwkvgate.explore.summaries import summarize_gates
    from rwkvgate.explore.traces import record_gates

_HOMES = {
    "GateExplorer": "rwkvgate.explore.explorer",
    "clamp_gate": "rwkvgate.explore.interventions",
    "record_gates": "rwkvgate.explore.traces",
    "summarize_gates": "rwkvgate.explore.summaries",
}

__all__ = ["GateExplorer", "clamp_gate", "record_gates", "summarize_gates"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'rwkvgate.explore' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
