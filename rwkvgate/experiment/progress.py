"""Progress in plain lines, with the time left. Lines survive papermill, logs and pipes; bars do not."""

from __future__ import annotations

import time


def clock(seconds: float) -> str:
    """Seconds as minutes and seconds, `3:07`, or with hours, `1:03:07`."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Progress:
    """Prints `label: 40 of 250, loss 3.2, 1:05 left`, at most every `every` seconds, and at the end.

    The time left follows from what was done since the first call: what a resumed work had done before took no time.

    Args:
        label: names the work.
        every: least seconds between two lines.
    """

    def __init__(self, label: str, every: float = 10.0) -> None:
        self.label, self.every = label, every
        self.started = self.printed = time.monotonic()
        self.first: tuple[int, float] | None = None

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Print that `done` of `total` is finished."""
        now = time.monotonic()
        first, since = self.first = self.first or (done, now)
        if done < total and now - self.printed < self.every:
            return
        self.printed = now
        parts = [f"{self.label}: {done} of {total}", *([note] if note else [])]
        if done >= total:
            parts.append(f"took {clock(now - self.started)}")
        elif done > first:
            parts.append(f"{clock((now - since) / (done - first) * (total - done))} left")
        print(", ".join(parts), flush=True)
