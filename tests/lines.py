"""Lines from processes that answer one at a time; a process that hangs or has died fails the test, with its errors."""

from __future__ import annotations

import select
import subprocess
from typing import IO

PATIENCE = 120.0
"""Seconds in which a process must say its next line."""


def next_line(process: subprocess.Popen[str], errors: IO[str] | None = None) -> str:
    """The next line of a process that has said nothing beyond it; `errors` is the file of its error output."""
    assert process.stdout is not None
    ready = select.select([process.stdout], [], [], PATIENCE)[0]
    if ready and (line := process.stdout.readline()):
        return line
    if errors is not None:
        errors.seek(0)
    told = errors.read()[-2000:] if errors is not None else "its errors are among the test's"
    raise AssertionError(f"{process.args} {'has ended' if ready else f'said nothing for {PATIENCE:.0f} s'}: {told}")
