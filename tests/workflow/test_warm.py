"""The run graph's warm process: kernels that are forks of it, as if started alone, and none that outlives papermill."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
import psutil
import pytest

from rwkvgate.workflow import warm
from rwkvgate.workflow.warm import LAUNCHER, WARM, launch
from tests.lines import next_line

ROOT = Path(__file__).resolve().parents[2]
HEAD = "from rwkvgate.workflow.warm import start_warm; print(start_warm(), flush=True); input()"
TOLD = """
import json, os, sys
loaded = "torch" in sys.modules
import torch
here = [os.environ["MARK"], os.getcwd(), torch.get_num_threads(), os.getpgrp() == os.getpid()]
print(json.dumps([loaded, os.getppid(), here]))
"""
SLOW = """
import os, pathlib, time
pathlib.Path("kernel.tmp").write_text(str(os.getpid()))
os.replace("kernel.tmp", "kernel")
time.sleep(60)
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere kernels start as ever")


@pytest.fixture(scope="module")
def head() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A run graph's head, and the address of its warm process."""
    process = subprocess.Popen(
        [sys.executable, "-c", HEAD], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    yield process, next_line(process).strip()
    ends_with_its_warm_process(process)


def ends_with_its_warm_process(head: subprocess.Popen[str]) -> None:
    """Kill a head: its warm process ends too."""
    child = psutil.Process(head.pid).children()[0]
    head.kill()
    head.wait()
    assert not psutil.wait_procs([child], timeout=60)[1]


def papermill(folder: Path, source: str, address: str, kernel: str = "python3") -> subprocess.Popen[bytes]:
    """papermill that executes one cell."""
    cell = nbformat.v4.new_code_cell(source, id="one")
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), folder / "in.ipynb")
    words = [sys.executable, "-m", "rwkvgate.workflow.execute", "in.ipynb", "out.ipynb", "-k", kernel]
    environment = os.environ | {"PYTHONPATH": str(ROOT), WARM: address, "OMP_NUM_THREADS": "1", "MARK": "é"}
    return subprocess.Popen(words, cwd=folder, env=environment, stderr=subprocess.PIPE)


def told(folder: Path, address: str) -> tuple[bool, int, list[object]]:
    """Whether a kernel had torch before it asked for it, its parent, and what else it says of itself."""
    process = papermill(folder, TOLD, address)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors.decode()
    output = nbformat.read(folder / "out.ipynb", as_version=4).cells[0].outputs[0]
    loaded, parent, here = json.loads(output.text)
    return loaded, parent, here


def test_a_fork_is_as_a_kernel_that_was_started(head: tuple[subprocess.Popen[str], str], tmp_path: Path) -> None:
    process, address = head
    parent = psutil.Process(process.pid).children()[0]
    forked = told(tmp_path, address)
    assert forked[:2] == (True, parent.pid)
    started = told(tmp_path, "nobody-answers")
    assert not started[0] and started[1] != parent.pid
    assert forked[2] == started[2] == ["é", str(tmp_path), 1, True]
    assert not parent.children()  # not even as a zombie


def test_it_ends_with_its_papermill(head: tuple[subprocess.Popen[str], str], tmp_path: Path) -> None:
    process = papermill(tmp_path, SLOW, head[1])
    patience = time.monotonic() + 60
    while not (tmp_path / "kernel").exists():
        assert process.poll() is None and time.monotonic() < patience, "the kernel was not started"
        time.sleep(0.02)
    kernel = psutil.Process(int((tmp_path / "kernel").read_text()))
    assert kernel.ppid() != process.pid
    process.kill()
    assert not psutil.wait_procs([kernel], timeout=10)[1]  # of the minute for which it would sleep


def test_a_kernel_that_dies_is_a_failure(head: tuple[subprocess.Popen[str], str], tmp_path: Path) -> None:
    process = papermill(tmp_path, "import os; os._exit(3)", head[1])
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 138 and b"Kernel died" in errors  # papermill's code for it


def test_a_warm_process_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    command = [sys.executable, "-c", "raise SystemExit(7)", LAUNCHER]
    address = f"rwkvgate-deaf-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"\0{address}")
        server.listen()
        monkeypatch.setenv(WARM, address)
        monkeypatch.setattr(warm, "PATIENCE", 0.1)
        deaf = launch(command, env=dict(os.environ))
        monkeypatch.setattr(warm, "_user", lambda _: os.getuid() + 1)  # somebody else, who has taken the name
        monkeypatch.setattr(warm, "PATIENCE", 60.0)
        foreign = launch(command, env=dict(os.environ))
        asked, nothing = (server.accept()[0] for _ in range(2))
        with asked, nothing:
            assert asked.recv(64) and not nothing.recv(64)  # nobody else gets to see the environment
    for process in (deaf, foreign):
        assert isinstance(process, subprocess.Popen) and process.wait(timeout=60) == 7


def test_a_fork_has_the_file_for_errors_that_it_is_given(
    head: tuple[subprocess.Popen[str], str], tmp_path: Path
) -> None:
    """As nbval gives one, which asks for kernels at an address of its own."""
    with (tmp_path / "errors").open("w") as errors:
        words = [sys.executable, "-m", LAUNCHER, "--log-level=wrong"]
        kernel = launch(words, address=head[1], env=dict(os.environ), stderr=errors)
        assert isinstance(kernel, warm.Kernel) and kernel.wait(timeout=60) == 0
    assert "wrong" in (tmp_path / "errors").read_text()


def test_another_kernel_is_started_as_ever(
    head: tuple[subprocess.Popen[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(WARM, head[1])
    process = launch([sys.executable, "-c", "raise SystemExit(7)"], env=dict(os.environ))
    assert isinstance(process, subprocess.Popen) and process.wait(timeout=60) == 7


@pytest.mark.slow
def test_a_warm_process_that_still_imports_ends_with_the_head() -> None:
    """One that is ready does too: of that `head` makes sure at its end."""
    process = subprocess.Popen(
        [sys.executable, "-c", HEAD], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    next_line(process)
    ends_with_its_warm_process(process)
