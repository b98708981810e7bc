"""Progress in lines: the time left counts what was done since the first call alone."""

from __future__ import annotations

from typing import Any

import pytest

from rwkvgate.experiment import progress


@pytest.mark.parametrize(("begun", "left"), [(0, "1:42"), (50, "0:52")])
def test_what_was_done_before_takes_no_time(begun: int, left: str, monkeypatch: Any, capsys: Any) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    told = progress.Progress("training", every=8)
    for done in range(begun, begun + 11):  # a second for each
        told(done, 110)
        now[0] += 1
    assert capsys.readouterr().out == f"training: {begun + 8} of 110, {left} left\n"
    told(110, 110, "loss 3.2")
    assert capsys.readouterr().out == "training: 110 of 110, loss 3.2, took 0:11\n"
