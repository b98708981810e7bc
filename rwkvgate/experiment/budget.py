"""A limit of time after which a process stops politely: between two steps, or in a training after a checkpoint.

`RWKVGATE_BUDGET_MINUTES` sets it for every process that is started with it, or `begin` for this one; the minutes count
from there. What is finished is kept, and the same command or notebook, run again, goes on from it.
"""

from __future__ import annotations

import math
import os
import time

from rwkvgate.gate.validation import SettingsError, shown

VARIABLE = "RWKVGATE_BUDGET_MINUTES"
_started = time.monotonic()


class BudgetSpent(RuntimeError):
    """The minutes are spent; the message says what is kept and how to go on."""

    def _render_traceback_(self) -> list[str]:
        # IPython shows this in place of a traceback.
        return [str(self)]


def begin(limit: float) -> None:
    """Set this process's limit in minutes, counted from now; 0 for none.

    Raises:
        SettingsError: it is no number of minutes.
    """
    os.environ[VARIABLE] = str(limit or "")
    _count_from_now()
    minutes()


def _count_from_now() -> None:
    global _started
    _started = time.monotonic()


if hasattr(os, "register_at_fork"):  # a forked kernel is a process of its own
    os.register_at_fork(after_in_child=_count_from_now)


def minutes() -> float:
    """The limit in minutes; infinite where there is none.

    Raises:
        SettingsError: the variable is no number above 0, nor 0 or empty, which mean no limit.
    """
    text = os.environ.get(VARIABLE, "").strip()
    try:
        value = float(text or 0)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise SettingsError(f"{VARIABLE} is {shown(text)}; it must be a number of minutes, or 0 or empty for no limit")
    return value or math.inf


def is_spent() -> bool:
    """Whether this process has worked for longer than the limit."""
    return time.monotonic() - _started >= 60 * minutes()


def stop_if_spent(what: str) -> None:
    """Stop before some work begins, if the minutes are spent.

    Args:
        what: would begin now, in words.

    Raises:
        BudgetSpent: they are.
    """
    if is_spent():
        raise spent(f"{what} is not begun; every step that was finished is kept")


def spent(state: str) -> BudgetSpent:
    """The exception to raise, with what is kept and how to go on."""
    return BudgetSpent(
        f"The budget of {minutes():g} minutes ({VARIABLE}) is spent: {state}. To go on, raise it and run the same again"
    )
