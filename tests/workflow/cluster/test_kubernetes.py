"""Jobs by the profile for Kubernetes, against an imitation of its API: what they ask for, and that they run."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.workflow.cluster.kubernetes_api import Kubernetes

ROOT = Path(__file__).resolve().parents[3]
LACKING = [
    name
    for name in ("snakemake_executor_plugin_kubernetes", "snakemake_storage_plugin_fs")
    if importlib.util.find_spec(name) is None
] + [name for name in ("rsync",) if shutil.which(name) is None]
pytestmark = [
    pytest.mark.skipif(os.environ.get("RWKVGATE_SLURM") != "1", reason="`make test-slurm` asks for it"),
    pytest.mark.skipif(bool(LACKING), reason=f"{', '.join(LACKING)} missing: `make test-slurm` installs them"),
]


@pytest.fixture
def kubernetes(tmp_path: Path) -> Iterator[Kubernetes]:
    """An imitation whose pods have this environment's Python, as the image would."""
    variables = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    (tmp_path / "pods").mkdir()
    cluster = Kubernetes(tmp_path / "pods", variables)
    yield cluster
    cluster.stop()


def image_root(tmp_path: Path) -> Path:
    """A folder that looks like the image's root: the notebooks, and everything of this machine under its own path."""
    root = tmp_path / "root"
    root.mkdir()
    (root / "notebooks").symlink_to(ROOT / "notebooks")
    (root / tmp_path.parts[1]).symlink_to(f"/{tmp_path.parts[1]}")
    return root


def run(kubernetes: Kubernetes, tmp_path: Path, profile: str, *targets: str) -> tuple[int, str]:
    """A head with the profile; how it ended and what was printed."""
    command = [sys.executable, "-m", "snakemake", *targets, "--profile", "profiles/kubernetes", "--retries", "0"]
    command += ["--default-storage-prefix", str(image_root(tmp_path)), "--seconds-between-status-checks", "1"]
    environment = os.environ | kubernetes.variables | {"KUBECONFIG": str(kubernetes.folder / "kubeconfig")}
    config = ["--config", f"profile={profile}", f"run_dir={tmp_path / 'run'}", "arms=enhanced", "seeds=1"]
    done = subprocess.run([*command, *config], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    return done.returncode, done.stdout[-4000:] + done.stderr[-4000:] + kubernetes.logs()[-4000:]


def pod(job: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A job's pod and its one container."""
    spec = job["spec"]["template"]["spec"]
    return spec, spec["containers"][0]


def test_a_step_runs_in_a_pod_and_lands_in_the_run_folder(kubernetes: Kubernetes, tmp_path: Path) -> None:
    code, said = run(kubernetes, tmp_path, "smoke", "setup")
    assert code == 0, said
    assert (tmp_path / "run" / "notebooks" / "01_setup.ipynb").is_file() and (tmp_path / "run" / "base").is_dir()
    (job,) = kubernetes.asked
    spec, container = pod(job)
    assert container["image"].endswith("rwkvgate:0.1.0") and not spec.get("tolerations")
    assert container["resources"]["requests"]["memory"] == container["resources"]["limits"]["memory"] == "2048M"
    assert "nvidia.com/gpu" not in container["resources"]["limits"]
    assert {"name": "rwkvgate", "mountPath": "/shared"} in container["volumeMounts"]
    assert any(v.get("persistentVolumeClaim", {}).get("claimName") == "rwkvgate" for v in spec["volumes"])


def test_a_gpu_is_asked_for_as_kubernetes_wants_it(kubernetes: Kubernetes, tmp_path: Path) -> None:
    code, said = run(kubernetes, tmp_path, "t4", "setup")
    spec, container = pod(kubernetes.asked[0])
    assert code and "profile 't4' needs a GPU" in said
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert container["resources"]["requests"]["nvidia.com/gpu"] == "1"
    assert container["resources"]["limits"]["memory"] == "14336M" and spec["tolerations"][0]["key"] == "nvidia.com/gpu"
