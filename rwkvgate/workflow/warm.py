"""Kernels that start at once: forks of one process that has imported what the notebooks need.

Importing torch, transformers and the drawing libraries takes every notebook longer than most of its cells. The run
graph's head therefore starts one process that imports them, with `start_warm`, and `rwkvgate.workflow.execute` asks it
for kernels, with `launch`. A fork ends with the papermill that asked for it, and the warm process with the head.

Where it does not answer, the kernel is started as ever: outside the run graph and outside Linux, on another node of a
cluster, where a GPU is seen (CUDA does not survive a fork), and for a kernel that is not Python's of this environment.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import json
import os
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import uuid
from pathlib import Path
from typing import Any

WARM = "RWKVGATE_WARM"
"""The environment variable with the address of the run graph's warm process on this machine."""
LAUNCHER = "ipykernel_launcher"
IMPORTED = (
    "ipykernel.kernelapp",
    "rwkvgate.workflow.opening",
    "rwkvgate.experiment.results",
    "rwkvgate.experiment.steps",
    "rwkvgate.experiment.analysis.figures",
    "rwkvgate.explore",
    "rwkvgate.metrics.evaluate_modules",
)
CREDENTIALS = struct.Struct("iII")
"""Process, user and group of the other side of a connection, as Linux tells them."""
PATIENCE = 120.0
"""Seconds that papermill waits for a kernel before it starts one itself: the warm process may have been stopped."""


def start_warm() -> str:
    """Start the warm process, which ends with this one; returns its address, or "" on a system without it."""
    if sys.platform != "linux":
        return ""
    address = f"rwkvgate-{uuid.uuid4()}"
    with socket.socket(socket.AF_UNIX) as server:
        # A name that is no file: nothing to remove, and no limit on the length of a temporary folder's path.
        server.bind(f"\0{address}")
        server.listen(64)
        words = [sys.executable, "-m", __name__, str(server.fileno()), str(os.getpid())]
        # OpenBLAS's threads would be there when it forks; no kernel of the graph has them. ipykernel, which reads its
        # variable when it is imported, need not look whether its parent is alive.
        environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "JPY_PARENT_PID": "1"}
        subprocess.Popen(
            words,
            pass_fds=[server.fileno()],
            env=environment,
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    return address


class Kernel:
    """What jupyter_client uses of `subprocess.Popen`, for a kernel that is a child of the warm process."""

    def __init__(self, connection: socket.socket, pid: int) -> None:
        self.connection, self.pid = connection, pid
        self.returncode: int | None = None
        self.stdin, self.stdout, self.stderr = io.BytesIO(), None, None

    def poll(self) -> int | None:
        """0 once the process has ended, however it did; None before."""
        if self.returncode is None and select.select([self.connection], [], [], 0)[0]:
            self.connection.close()  # it says nothing, so its end has come
            self.returncode = 0
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the process to end; 0.

        Raises:
            subprocess.TimeoutExpired: it has not, in that many seconds.
        """
        if self.returncode is None and not select.select([self.connection], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired(LAUNCHER, timeout or 0)
        return self.poll() or 0

    def send_signal(self, number: int) -> None:
        """Send a signal to the process, if it has not ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask the process to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End the process."""
        self.send_signal(signal.SIGKILL)


def launch(command: list[str], *, address: str = "", **options: Any) -> subprocess.Popen[bytes] | Kernel:
    """A kernel from the warm process, or where that is not possible by `subprocess.Popen`, whose arguments it takes.

    Args:
        address: that of the warm process, where it is not the run graph's.
    """
    errors = options.get("stderr", 2)
    errors = errors.fileno() if hasattr(errors, "fileno") else 2 if errors is None else errors
    files = not options.get("stdout") and errors >= 0  # not those that Popen would have to make
    ours = command[0] == sys.executable and LAUNCHER in command and files
    address = address or os.environ.get(WARM, "")
    if ours and address:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(PATIENCE)
        try:
            connection.connect(f"\0{address}")
            if _user(connection) != os.getuid():  # the environment may hold secrets, and the name is free for all
                raise PermissionError
            folder = options.get("cwd") or str(Path.cwd())
            asked = {"argv": command[command.index(LAUNCHER) :], "env": options["env"], "cwd": folder}
            socket.send_fds(connection, [b" "], [1, errors])
            connection.sendall(json.dumps(asked).encode() + b"\n")
            if pid := connection.recv(64):
                connection.settimeout(None)
                return Kernel(connection, int(pid))
        except OSError:
            pass  # it has ended, is on another machine, or does not answer
        connection.close()
    return subprocess.Popen(command, **options)


def _user(connection: socket.socket) -> int:
    """The user at the other side of a connection; of a server, who opened it."""
    size = CREDENTIALS.size
    return int(CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))[1])


def main() -> None:
    """Import, then fork a kernel for everyone of this user who connects, until the head ends."""
    server, head = socket.socket(fileno=int(sys.argv[1])), os.pidfd_open(int(sys.argv[2]))
    import torch

    if torch.cuda.device_count():
        server.close()
        return
    for name in IMPORTED:
        importlib.import_module(name)
    from rwkvgate.experiment.environment import commit

    commit()  # that of the code which the forks have, whatever is checked out later
    gc.collect()
    gc.freeze()  # what all forks share is not looked through in each of them
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system forgets kernels that have ended by itself
    while True:
        ready, _, _ = select.select([server.fileno(), head], [], [])
        if head in ready:
            os._exit(0)  # Python would first take down all that is imported, for a second or two
        connection, _ = server.accept()
        if os.fork() == 0:
            server.close()
            os.close(head)
            become_kernel(connection)
        connection.close()


def become_kernel(connection: socket.socket) -> None:
    """Turn this process into the kernel that is asked for on a connection; does not return."""
    if _user(connection) != os.getuid():
        os._exit(1)
    import torch

    _, streams, _, _ = socket.recv_fds(connection, 1, 2)
    with connection.makefile("rb") as words:
        asked = json.loads(words.readline())
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    for stream, place in zip(streams, (1, 2), strict=True):
        os.dup2(stream, place)
        os.close(stream)
    os.environ.clear()
    os.environ.update(asked["env"])
    os.chdir(asked["cwd"])
    if (threads := os.environ.get("OMP_NUM_THREADS", "")).isdecimal():  # which torch has read already
        torch.set_num_threads(int(threads))

    def end() -> None:
        with contextlib.suppress(OSError):
            connection.recv(1)  # nothing is ever said: papermill has ended
        os.kill(os.getpid(), signal.SIGKILL)

    os.register_at_fork(after_in_child=connection.close)  # it tells papermill of this process's end, not of a child's
    connection.sendall(str(os.getpid()).encode())
    threading.Thread(target=end, daemon=True).start()
    sys.argv = asked["argv"]
    runpy.run_module(LAUNCHER, run_name="__main__", alter_sys=True)
    sys.exit()


if __name__ == "__main__":
    main()
