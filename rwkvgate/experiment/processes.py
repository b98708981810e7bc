"""Processes that end with the one that started them, however that one ended."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from functools import partial

PARENT_DEATH = 1
"""Linux's PR_SET_PDEATHSIG."""


def tied() -> Callable[[], None] | None:
    """What subprocess.Popen takes as `preexec_fn` for a child that ends with this process; None where none can."""
    return partial(end_with_parent, os.getpid()) if sys.platform == "linux" else None


def end_with_parent(parent: int | None = None) -> None:
    """Have this process ended when its parent is, which if it is killed cannot do so itself. Linux alone can.

    Otherwise it would work on beside the next run.

    Args:
        parent: the parent's process id where it is known: if it has ended before this call, this process ends now.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PARENT_DEATH, signal.SIGTERM)
    if parent not in (None, os.getppid()):
        os.kill(os.getpid(), signal.SIGTERM)
