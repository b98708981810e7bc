"""Locks of a run folder: one run graph at a time, and one process for each step while it is made.

The kernel keeps them, so a lock dies with its holder, however that ended, and nothing has to be unlocked.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

from rwkvgate.gate.validation import SettingsError

STEP_LOCKS = ".locks"
PATIENCE = 10.0
"""Seconds to wait for a step that another process makes: the kernel of a killed notebook lives on for one or two."""
PAUSE = 0.1
HELD = {errno.EAGAIN, errno.EACCES, errno.EWOULDBLOCK}
"""What the system calls a lock that another process has. Anything else is a file system without locks."""


def take(path: Path, refusal: str, patience: float = 0.0) -> IO[str] | None:
    """Take the lock of a file, which is made if need be; what is returned must be kept as long as the lock.

    None where the platform has no file locks, or the file system: that is said, for then two runs may meet.

    Args:
        refusal: what is wrong, and what to do, if another process has it.
        patience: seconds to wait for that process.

    Raises:
        SettingsError: another process has it.
    """
    if fcntl is None:
        return None
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, until = path.open("a"), time.monotonic() + patience  # "a" leaves the time of a file that is there
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return handle
        except OSError as error:
            if error.errno not in HELD:
                handle.close()
                print(f"{path.parent} cannot be locked ({error}): see to it that no other run works there", flush=True)
                return None
            if time.monotonic() >= until:
                handle.close()
                raise SettingsError(refusal) from None
        time.sleep(PAUSE)


@contextmanager
def hold(root: Path, folder: Path) -> Iterator[None]:
    """Keep a step of the run folder `root` to this process, while it makes the step's `folder`.

    Raises:
        SettingsError: another process makes it, and did not end in `PATIENCE` seconds.
    """
    name = folder.relative_to(root)
    refusal = f"another process makes {name} in {root}. Wait for it, stop it, or give another run_dir"
    handle = take(root / STEP_LOCKS / ".".join(name.parts), refusal, PATIENCE)
    try:
        yield
    finally:
        if handle is not None:
            handle.close()
