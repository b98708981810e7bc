"""`make gpu-check` without a GPU: the small sizes run on a CPU, and its record keeps what was done before an error."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "benchmarks" / "gpu_check.py"


@pytest.fixture(scope="module")
def script() -> Any:
    spec = spec_from_file_location("gpu_check", SCRIPT)
    assert spec and spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_check_that_fails_or_cannot_run_leaves_the_others(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def passes(_: Any) -> Any:
        """A | in a cell would end it."""
        return [{"arm": "enhanced", "error": 1e-7}]

    def lacks(_: Any) -> Any:
        """Not here."""
        raise script.Unavailable("it takes two GPUs")

    def fails(_: Any) -> Any:
        """Wrong."""
        raise script.Failed("errs by more than allowed", [{"error": float("nan")}])

    def breaks(_: Any) -> Any:
        """Of a library."""
        raise RuntimeError("CUDA error")

    checks = (breaks, fails, lacks, passes)
    monkeypatch.setattr(script, "CHECKS", {check.__name__: check for check in checks})
    written: list[dict[str, Any]] = []
    machine = script.Machine(torch.device("cpu"), True)
    record = script.run(machine, 8, lambda one: written.append(json.loads(json.dumps(one))))
    states = {name: entry["state"] for name, entry in record["checks"].items()}
    assert states == {"breaks": "failed", "fails": "failed", "lacks": "not run", "passes": "passed"}
    assert [len(one["checks"]) for one in written] == [1, 2, 3, 4]
    page = script.page(record)
    assert "RuntimeError: CUDA error" in page and "| enhanced | 1e-07 |" in page and "| nan |" in page
    late = script.run(machine, 0, lambda _: None)
    assert {entry["state"] for entry in late["checks"].values()} == {"not run"}


def test_an_error_beyond_what_is_allowed_is_found(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    right = script.wkv6_chunked
    machine = script.Machine(torch.device("cpu"), True)
    assert len(script.operator(machine)) == 6
    monkeypatch.setattr(script, "wkv6_chunked", lambda **inputs: tuple(1.001 * x for x in right(**inputs)))
    with pytest.raises(script.Failed, match="3 of 6 err by more than allowed") as failure:
        script.operator(machine)
    assert len(failure.value.rows) == 6


@pytest.mark.slow
def test_all_of_it_runs_at_small_sizes(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--small", f"--folder={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    if not torch.cuda.is_available():
        checks = json.loads((tmp_path / "cpu.json").read_text())["checks"]
        passed = {name for name, entry in checks.items() if entry["state"] == "passed"}
        assert passed == {"operator", "arms", "table1", "several"}
        assert all(entry.get("reason") or entry["rows"] for entry in checks.values())
