"""A Slurm of one node on this machine, which can be killed and started again; for tests, run as root.

All of it lives in one folder and listens on the loopback alone: munge, the controller and the node. It has partitions
`cpu` and `gpu` on the same node, the latter's GPU being /dev/null.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "sinfo", "runuser")
NODE_SECONDS = 10
"""Silence after which the controller gives a node up."""

CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
ReturnToService=2
SlurmdTimeout={silence}
MinJobAge=3600
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} RealMemory={memory} Gres=gpu:1 State=UNKNOWN
PartitionName=cpu Nodes={host} Default=YES State=UP
PartitionName=gpu Nodes={host} State=UP
"""


def missing() -> str:
    """Why there can be no Slurm here, in a sentence; "" where there can."""
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if absent:
        return f"Slurm lacks {', '.join(absent)}: `make test-slurm` installs Debian's slurm-wlm and munge where it can"
    return "" if os.geteuid() == 0 else "a Slurm for tests is started by root"


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def until(true: Callable[[], object], what: str, seconds: float = 120.0, pause: float = 0.2) -> None:
    """Wait until something is so.

    Raises:
        TimeoutError: it was not, for so long.
    """
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds:.0f} s for {what}")
        time.sleep(pause)


class Slurm:
    """The daemons of one cluster, in a folder that every user may enter."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.host = folder, socket.gethostname().partition(".")[0]
        for name in ("munge", "state", "spool"):
            (folder / name).mkdir(parents=True)
        cores, memory = os.cpu_count() or 1, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
        filled = CONFIGURATION.format(
            folder=folder,
            host=self.host,
            controller=free_port(),
            node=free_port(),
            silence=NODE_SECONDS,
            cores=cores,
            memory=memory - 512,
        )
        (folder / "slurm.conf").write_text(filled)
        (folder / "gres.conf").write_text(f"NodeName={self.host} Name=gpu File=/dev/null\n")
        (folder / "munge" / "key").write_bytes(os.urandom(64))
        (folder / "munge" / "key").chmod(0o400)
        subprocess.run(["chown", "-R", "munge:munge", str(folder / "munge")], check=True)
        # The executor calls srun inside a job without Slurm's variables, as if the configuration lay where Slurm looks.
        srun = folder / "bin" / "srun"
        srun.parent.mkdir()
        srun.write_text(f'#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {shutil.which("srun")} "$@"\n')
        srun.chmod(0o755)
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": f"{srun.parent}:{os.environ['PATH']}"}

    def start(self) -> None:
        """Start munge, the controller and the node."""
        at = self.folder / "munge"
        files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        options = [word for option, name in files.items() for word in (f"--{option}", str(at / name))]
        self._run("runuser", "-u", "munge", "--", "munged", *options)
        self._run("slurmctld")
        self.start_node()

    def start_node(self) -> None:
        """Start the node and wait until it takes jobs."""
        self._run("slurmd")
        until(lambda: self.node_state() in ("idle", "mixed", "allocated"), "the node to be up")

    def kill_node(self) -> None:
        """End the node's daemon, its jobs and every process of theirs with SIGKILL, as a power cut does."""
        for pid in [self._pid("slurmd"), *self.processes()]:
            _kill(pid, signal.SIGKILL)

    def processes(self, job: str = "") -> list[int]:
        """Processes of a job, or of all: those that carry its id, and the daemons' own that watch over them."""
        conf = f"SLURM_CONF={self.folder / 'slurm.conf'}".encode()
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                variables = (entry / "environ").read_bytes().split(b"\0")
                watcher = (entry / "comm").read_text().startswith("slurmstepd")
            except OSError:
                continue
            ids = {v.partition(b"=")[2].decode() for v in variables if v.startswith(b"SLURM_JOB_ID=")}
            if conf in variables and (job in ids if job else ids or watcher):
                found.append(int(entry.name))
        return found

    def node_state(self) -> str:
        """The node's state as `sinfo` has it: idle, mixed, allocated, down."""
        return self._run("sinfo", "-h", "-N", "-o", "%T", "-p", "cpu").strip().rstrip("*~#")

    def jobs(self, *fields: str) -> list[dict[str, str]]:
        """Every job of this cluster so far, with fields of `scontrol show job`."""
        records = self._run("scontrol", "--oneliner", "show", "job").splitlines()
        split = [dict(word.split("=", 1) for word in line.split() if "=" in word) for line in records]
        return [{field: record.get(field, "") for field in fields or record} for record in split if "JobId" in record]

    def stop(self) -> None:
        """End all that was started."""
        for pid in self.processes():
            _kill(pid, signal.SIGKILL)
        for name in ("slurmd", "slurmctld", "munge/"):
            _kill(self._pid(name), signal.SIGTERM)

    def _pid(self, name: str) -> int:
        path = self.folder / (f"{name}pid" if name.endswith("/") else f"{name}.pid")
        return int(path.read_text()) if path.is_file() and path.read_text().strip() else 0

    def _run(self, *command: str) -> str:
        done = subprocess.run(command, env=os.environ | self.environment, capture_output=True, text=True, timeout=60)
        if done.returncode:
            raise RuntimeError(
                f"{command[0]} ended with {done.returncode}: {done.stderr.strip() or done.stdout.strip()}"
            )
        return done.stdout


def _kill(pid: int, how: signal.Signals) -> None:
    if pid:
        try:
            os.kill(pid, how)
        except ProcessLookupError:
            return
