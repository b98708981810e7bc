"""A local server that speaks the hub's protocol, and processes that use it, for tests of downloads and uploads."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from tests.lines import next_line

CONFIG = {
    "architectures": ["Rwkv6ForCausalLM"],
    "attention_hidden_size": 32,
    "auto_map": {
        "AutoConfig": "configuration_rwkv6.Rwkv6Config",
        "AutoModelForCausalLM": "modeling_rwkv6.Rwkv6ForCausalLM",
    },
    "bos_token_id": 0,
    "eos_token_id": 0,
    "head_size": 8,
    "head_size_divisor": 8,
    "hidden_size": 32,
    "intermediate_size": None,
    "layer_norm_epsilon": 1e-05,
    "model_type": "rwkv6",
    "num_attention_heads": 64,
    "num_hidden_layers": 3,
    "rescale_every": 6,
    "tie_word_embeddings": False,
    "transformers_version": "4.34.0",
    "use_cache": True,
    "vocab_size": 37,
}
"""The keys of the hub's configurations, with the values that they lack or misstate."""
REMOTE_CODE = b"raise SystemExit('remote code was run')\n"
COMMITS = ("1" * 40, "2" * 40)


@dataclass
class Hub:
    """The server's content: the commits of each repository with their files; and the requests so far."""

    address: str = ""
    repositories: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)
    private: set[str] = field(default_factory=set)
    large: dict[str, bytes] = field(default_factory=dict)
    token: str = ""

    def publish(self, name: str, files: dict[str, Any], commit: str = COMMITS[0]) -> str:
        """Put a repository, or a newer commit of it, on the hub; `main` is the commit published last."""
        code = {"modeling_rwkv6.py": REMOTE_CODE, "configuration_rwkv6.py": REMOTE_CODE}
        made = {key: value if isinstance(value, bytes) else json.dumps(value).encode() for key, value in files.items()}
        self.repositories.setdefault(name, {})[commit] = {"config.json": json.dumps(CONFIG).encode()} | code | made
        return name

    def resolve(self, name: str, revision: str, file: str | None) -> tuple[str, str | bytes]:
        """The commit and the file's bytes, or an empty commit and the hub's name of the error."""
        commits = self.repositories.get(name)
        if commits is None:
            return "", "RepoNotFound"
        if name in self.private:
            return "", "GatedRepo"
        commit = list(commits)[-1] if revision == "main" else revision
        if commit not in commits:
            return "", "RevisionNotFound"
        if file is None:
            return commit, b""
        return (commit, commits[commit][file]) if file in commits[commit] else (commit, "EntryNotFound")


def large(path: str) -> bool:
    """Whether the hub stores a file apart from the commit."""
    return path.endswith(".safetensors")


class Handler(BaseHTTPRequestHandler):
    """The hub's addresses: a repository's files, properties, history and uploads."""

    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_GET(self) -> None:
        path = unquote(self.path.partition("?")[0])
        self.hub.asked.append(path)
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/(.+)", path):
            commit, problem = self.hub.resolve(found[1], found[2], None)
            files = self.hub.repositories[found[1]][commit] if commit else {}
            tree = [
                {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for name, content in files.items()
            ]
            self._send(commit, json.dumps(tree).encode() if commit else problem)
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|commits)/(.+))?", path):
            commit, problem = self.hub.resolve(found[1], found[3] or "main", None)
            history = [
                {"id": one, "authors": [], "date": "2024-05-01T00:00:00.000Z", "title": "", "message": ""}
                for one in self.hub.repositories.get(found[1], {})
            ]
            whole = {"id": found[1], "modelId": found[1], "sha": commit, "siblings": [], "tags": [], "private": False}
            self._send(commit, json.dumps(history if found[2] == "commits" else whole).encode() if commit else problem)
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._send(*self.hub.resolve(*found.groups()), broken=path in self.hub.broken)
        else:
            self._send("", "EntryNotFound")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        """Create a repository, choose how each file is uploaded, accept large ones, and commit."""
        path, body = self.path.partition("?")[0], self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.hub.asked.append(path)
        if self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            return self._answer(401, {"error": "Invalid credentials"})
        if path == "/api/validate-yaml":
            return self._answer(200, {"errors": [], "warnings": []})
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            known = name in self.hub.repositories
            self.hub.repositories.setdefault(name, {})
            url = f"{self.hub.address}/{name}"
            return self._answer(409 if known else 200, {"url": url, "name": name, "error": "exists"})
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/main", path):
            files = [
                {"path": one["path"], "uploadMode": "lfs" if large(one["path"]) else "regular", "shouldIgnore": False}
                for one in json.loads(body)["files"]
            ]
            return self._answer(200, {"files": files})
        if path.endswith(".git/info/lfs/objects/batch"):
            objects = [
                one | {"actions": {"upload": {"href": f"{self.hub.address}/large/{one['oid']}"}}}
                for one in json.loads(body)["objects"]
            ]
            return self._answer(200, {"objects": objects, "transfer": "basic"})
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", path):
            return self._commit(found[1], [json.loads(line) for line in body.splitlines()])
        return self._answer(404, {"error": "not here"})

    def do_PUT(self) -> None:
        """Accept a large file."""
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.hub.large[hashlib.sha256(content).hexdigest()] = content
        self._answer(200, {})

    def _commit(self, name: str, lines: list[dict[str, Any]]) -> None:
        if name in self.hub.broken:
            return self._answer(507, {"error": "no space left"})
        commits = self.hub.repositories[name]
        files = dict(commits[list(commits)[-1]]) if commits else {}
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
        commit = hashlib.sha1(b"".join(files.values())).hexdigest()
        commits[commit] = files
        return self._answer(200, {"commitUrl": f"{self.hub.address}/{name}/commit/{commit}", "commitOid": commit})

    def _answer(self, status: int, value: dict[str, Any]) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _send(self, commit: str, body: str | bytes, broken: bool = False) -> None:
        content = b"" if isinstance(body, str) else body
        start = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        first = int(start[1]) if start else 0
        self.send_response({"GatedRepo": 403}.get(body, 404) if isinstance(body, str) else 206 if start else 200)
        if isinstance(body, str):
            self.send_header("X-Error-Code", body)
        else:
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        if start:
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        if commit:
            self.send_header("X-Repo-Commit", commit)
        self.send_header("Content-Length", str(len(content) - first))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content[first : len(content) // 2] if broken else content[first:])
        self.close_connection = broken

    def log_message(self, *args: Any) -> None:
        """Print nothing."""


@contextmanager
def serve_hub() -> Iterator[Hub]:
    """The server, on a free port."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("OneHub", (Handler,), {"hub": hub}))
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class Client:
    """A process that loads by name; see hub_client.py."""

    def __init__(self, address: str, home: Path, **environment: str) -> None:
        kept = {key: value for key, value in os.environ.items() if not re.match("HF_|.*_proxy$", key, re.IGNORECASE)}
        own = {
            "HF_ENDPOINT": address,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_XET": "1",
            "OMP_NUM_THREADS": "1",
        }
        self.home = home
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - `close` closes it
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("hub_client.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env=kept | own | environment,
            cwd=Path(__file__).parents[1],
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        """One request and its answer."""
        assert self.process.stdin is not None
        print(json.dumps(request), file=self.process.stdin, flush=True)
        return dict(json.loads(next_line(self.process, self.errors)))

    def load(self, name: str, kind: str = "Rwkv6ForCausalLM", **options: Any) -> dict[str, Any]:
        """Load by name; the answer of the process, and the weights."""
        from safetensors.torch import load_file  # here, for it imports torch, which most tests do without

        save = self.home / "loaded.safetensors"
        answer = self.ask(do="load", name=name, kind=kind, options=options, save=str(save))
        return answer | ({} if "error" in answer else {"weights": load_file(save)})

    def refusal(self, name: str, **options: Any) -> str:
        """The message of the error in which a load ends, which must be a `CheckpointError`."""
        answer = self.load(name, **options)
        assert answer.get("error") in ("CheckpointError", "HubUnreachableError") and answer["os_error"], answer
        assert "Traceback" not in answer["message"] and len(answer["message"]) < 900
        return str(answer["message"])

    def close(self) -> None:
        """End the process."""
        self.process.communicate()
        self.errors.close()
