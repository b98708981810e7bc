"""Background work of the widgets: one job at a time in a thread."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event, Thread


class Worker:
    """Runs jobs in a thread; a new job asks the one before to stop."""

    def __init__(self) -> None:
        self._stop = Event()
        self._thread: Thread | None = None

    def start(self, job: Callable[[Callable[[], bool]], None]) -> None:
        """Run `job(stopped)` in a thread; `stopped()` turns true when the job should end."""
        self.stop()
        self._stop = stop = Event()
        self._thread = Thread(target=job, args=(stop.is_set,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ask the job to end; it does so when it next calls `stopped`."""
        self._stop.set()

    @property
    def running(self) -> bool:
        """Whether a job is running."""
        return self._thread is not None and self._thread.is_alive()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for the job; returns whether it has ended."""
        if self._thread is not None:
            self._thread.join(seconds)
        return not self.running
