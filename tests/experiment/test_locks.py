"""One process makes a step of a run at a time, and a lock is freed when its holder dies."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rwkvgate.experiment import locks, order
from rwkvgate.experiment.locks import hold
from rwkvgate.experiment.run import Run
from rwkvgate.experiment.settings import resolve
from rwkvgate.experiment.steps import making
from rwkvgate.gate.validation import SettingsError
from tests.experiment.holder import holding

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no file locks")
HOLD = """
import pathlib, sys
from rwkvgate.experiment.locks import hold
root = pathlib.Path(sys.argv[1])
held = hold(root, root / "arms" / "enhanced" / "seed0")
held.__enter__()
"""


@pytest.fixture
def other(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that makes an arm of the run."""
    yield from holding(HOLD, tmp_path)


def test_a_step_that_another_process_makes_is_refused_and_others_are_not(
    other: subprocess.Popen[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "PATIENCE", 0.2)
    refused = pytest.raises(SettingsError, match=f"another process makes arms/enhanced/seed0 in {tmp_path}")
    with refused, hold(tmp_path, tmp_path / "arms" / "enhanced" / "seed0"):
        pass
    with hold(tmp_path, tmp_path / "arms" / "enhanced" / "seed1"), hold(tmp_path, tmp_path / "base"):
        pass


def test_the_kernel_of_a_killed_notebook_is_waited_for(
    other: subprocess.Popen[str], tmp_path: Path, monkeypatch: Any
) -> None:
    plain = locks.take

    def take(*arguments: Any) -> Any:
        assert other.poll() is None
        threading.Timer(0.5, other.kill).start()  # while the lock is waited for
        return plain(*arguments)

    monkeypatch.setattr(locks, "take", take)
    with hold(tmp_path, tmp_path / "arms" / "enhanced" / "seed0"):
        assert other.wait() != 0


def test_what_another_process_has_made_meanwhile_is_not_made_again(tmp_path: Path, monkeypatch: Any) -> None:
    step, made = order.base(Run(resolve(profile="smoke", run_dir=str(tmp_path)))), []

    def make(step: order.Step) -> making.Write:
        made.append(step.name)
        return lambda folder: None

    monkeypatch.setattr(making, "MAKERS", {"corpus": make, "base": make})
    plain = locks.take

    def take(*arguments: Any) -> Any:
        if order.corpus(step.run).is_finished and not step.is_finished:
            making.Work(step).write(lambda folder: None)  # by another process, while this one waits for the lock
        return plain(*arguments)

    monkeypatch.setattr(locks, "take", take)
    making.complete(step)
    assert made == ["corpus"] and step.is_finished
    making.complete(step)
    assert made == ["corpus"]


def failing(code: int) -> Any:
    def fail(*arguments: Any, **options: Any) -> None:
        raise OSError(code, os.strerror(code))

    return fail


def test_a_file_system_without_locks_is_named_and_used(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr("filelock._unix.fcntl.flock", failing(errno.ENOLCK))
    with hold(tmp_path, tmp_path / "base"):
        pass
    message = f"cannot be locked ([Errno {errno.ENOLCK}] {os.strerror(errno.ENOLCK)}): make sure"
    assert message in capsys.readouterr().out


@pytest.mark.parametrize("function", ["filelock._unix.os.open", "pathlib.Path.mkdir"])
@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_a_step_is_not_begun_where_nothing_can_be_written(
    tmp_path: Path, monkeypatch: Any, function: str, code: int
) -> None:
    monkeypatch.setattr(function, failing(code))
    refused = pytest.raises(SettingsError, match=f"cannot be written: {os.strerror(code)}")
    with refused, hold(tmp_path, tmp_path / "base"):
        pass


def test_a_lock_is_free_after_its_block_and_leaves_the_time_of_its_file(tmp_path: Path) -> None:
    for _ in range(2):
        with hold(tmp_path, tmp_path / "base"):
            pass
    path = tmp_path / locks.STEP_LOCKS / "base"
    os.utime(path, (1, 1))
    with hold(tmp_path, tmp_path / "base"):
        assert path.stat().st_mtime == 1
