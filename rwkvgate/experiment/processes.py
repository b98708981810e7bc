"""Processes that end with their parent, or with another process, even if that is killed."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import threading
from collections.abc import Callable
from functools import partial

PARENT_DEATH = 1
"""Linux's PR_SET_PDEATHSIG."""


def tied() -> Callable[[], None] | None:
    """A `preexec_fn` for subprocess.Popen that makes the child end with this process; None outside Linux."""
    return partial(end_with_parent, os.getpid()) if sys.platform == "linux" else None


def end_with_parent(parent: int | None = None) -> None:
    """Let Linux end this process when its parent ends, however that happens; nothing on other systems.

    Otherwise it would continue beside the next run.

    Args:
        parent: the parent's process id, if known: if the parent has ended before this call, this process ends now.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PARENT_DEATH, signal.SIGTERM)
    if parent not in (None, os.getppid()):
        os.kill(os.getpid(), signal.SIGTERM)


def end_with(process: int) -> None:
    """End this process as soon as another one ends, however that happens; nothing where there is no pidfd_open.

    For a grandchild, which Linux does not end with its grandparent. What it has started with `tied` ends too.
    """
    if not hasattr(os, "pidfd_open"):
        return
    try:
        watched = os.pidfd_open(process)
    except OSError:
        _kill()

    def watch() -> None:
        select.select([watched], [], [])  # readable once that process has ended
        _kill()

    threading.Thread(target=watch, daemon=True).start()


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
