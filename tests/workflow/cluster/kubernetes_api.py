"""The few answers of a Kubernetes API that snakemake's executor asks for; its pods are processes on this machine.

Nothing of Kubernetes is in it: no scheduler, images, volumes or limits. A pod's command runs in an empty folder of its
own, and what was asked for it is written down.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml


class Kubernetes:
    """The API on a port of the loopback; `asked` has the body of each job."""

    def __init__(self, folder: Path, variables: dict[str, str]) -> None:
        self.folder, self.variables = folder, variables
        self.asked: list[dict[str, Any]] = []
        self.pods: dict[str, subprocess.Popen[bytes]] = {}
        cluster = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args: Any) -> None:
                """Says nothing."""

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if self.path.partition("?")[0].endswith("/jobs"):
                    cluster.begin(body)
                self.answer(201, body)

            def do_GET(self) -> None:
                name = self.path.removesuffix("/status").rpartition("/")[2]
                found = cluster.status(name)
                self.answer(200, {"items": []} if found is None else {"metadata": {"name": name}, "status": found})

            def do_DELETE(self) -> None:
                self.answer(200, {"status": "Success"})

            def answer(self, code: int, body: Any) -> None:
                data = json.dumps(body).encode()
                self.send_response(code)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{self.server.server_port}"
        context = {"name": "test", "context": {"cluster": "test", "user": "test"}}
        settings = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "contexts": [context],
            "clusters": [{"name": "test", "cluster": {"server": address}}],
            "users": [{"name": "test", "user": {}}],
        }
        (folder / "kubeconfig").write_text(yaml.safe_dump(settings))

    def begin(self, job: dict[str, Any]) -> None:
        """Start a job's pod."""
        self.asked.append(job)
        name = job["metadata"]["name"]
        (container,) = job["spec"]["template"]["spec"]["containers"]
        place = self.folder / name
        place.mkdir()
        with (self.folder / f"{name}.log").open("wb") as log:
            self.pods[name] = subprocess.Popen(
                [*container["command"], *container["args"]],
                cwd=place,
                env=os.environ | self.variables,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def status(self, name: str) -> dict[str, int] | None:
        """A job's status; None of what is no job."""
        if name not in self.pods:
            return None
        code = self.pods[name].poll()
        return {"active": 1} if code is None else {"failed": 1} if code else {"succeeded": 1}

    def logs(self) -> str:
        """What the pods printed."""
        return "\n".join(path.read_text(errors="replace") for path in sorted(self.folder.glob("*.log")))

    def stop(self) -> None:
        """End the API and its pods."""
        for pod in self.pods.values():
            pod.kill()
            pod.wait()
        self.server.shutdown()
