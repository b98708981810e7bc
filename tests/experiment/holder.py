"""Another process that holds something, until it is killed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.lines import next_line

WAIT = """
print("held", flush=True)
input()
"""


def holding(code: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has run the code, with the folder as its argument, and waits; for a fixture to yield from."""
    command = [sys.executable, "-c", code + WAIT, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert next_line(holder) == "held\n"
            yield holder
        finally:
            holder.kill()
