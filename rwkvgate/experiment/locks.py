"""Locks of a run folder: one run graph at a time, and one process for each step while that step is made.

The operating system holds the locks: a lock is freed when its process ends, however it ends, and none needs unlocking.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from rwkvgate.gate.validation import SettingsError


class HeldError(SettingsError):
    """Another process holds a lock."""


STEP_LOCKS = ".locks"
PATIENCE = 10.0
"""Seconds to wait for a step that another process makes: the kernel of a killed notebook lives on for one or two."""


def take(path: Path, refusal: str, patience: float = 0.0) -> BaseFileLock | None:
    """Take the lock of a file, which is created if it is missing; the lock is held as long as the result is kept.

    Returns None where the file system has no locks, after a warning that two runs may then meet.

    Args:
        refusal: the message if another process holds the lock: what is wrong, and what to do.
        patience: seconds to wait for that process.

    Raises:
        HeldError: another process holds the lock. A `SettingsError`.
        SettingsError: nothing can be written there.
    """
    lock = FileLock(path, timeout=patience, poll_interval=0.1)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise HeldError(refusal) from None
    except OSError as error:
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise SettingsError(f"{path.parent} cannot be written: {error.strerror}") from None
        print(f"{path.parent} cannot be locked ({error}): make sure that no other run works there", flush=True)
        return None
    return lock


@contextmanager
def hold(root: Path, folder: Path) -> Iterator[None]:
    """Reserve a step of the run folder `root` for this process while it makes the step's `folder`.

    Raises:
        SettingsError: another process makes it, and did not finish within `PATIENCE` seconds.
    """
    name = folder.relative_to(root)
    refusal = f"another process makes {name} in {root}. Wait for it, stop it, or choose another run_dir"
    lock = take(root / STEP_LOCKS / ".".join(name.parts), refusal, PATIENCE)
    try:
        yield
    finally:
        if lock is not None:
            lock.release()
