"""Each notebook alone, as someone opens it from its badge: an empty machine with Colab's versions, profile smoke.

`make test-colab` makes .venv-colab from requirements.txt and runs this from .venv. papermill drives the notebooks
from .venv, since Colab has none; the kernel is .venv-colab's. The first cell runs unchanged but for two things that
are not to be had here: /content is a temporary folder, and `git clone` copies this checkout.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PYTHON = ROOT / ".venv-colab" / "bin" / "python"
LACKING = ("evaluate", "sacrebleu", "rouge-score", "portalocker", "colorama", "pyrwkv-tokenizer")
"""The packages that Colab lacks and the first cell must add."""

CLONED = ("rwkvgate", "params", "notebooks", "pyproject.toml", "constraints.txt")
GIT = """#!/bin/sh
# Stands for git: a clone is a copy of the checkout, and there is no history to ask.
[ "$1" = clone ] || exit 1
for last; do :; done
mkdir "$last" && cd {root} && cp -R {files} "$last"
"""


def pip(*words: str) -> str:
    """pip of Colab's environment."""
    command = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def machine(folder: Path) -> dict[str, str]:
    """A stand-in for git and a kernel of Colab's environment below a folder; the variables that bring them in."""
    git, kernel = folder / "bin" / "git", folder / "kernels" / "colab" / "kernel.json"
    for path in (git, kernel):
        path.parent.mkdir(parents=True)
    git.write_text(GIT.format(root=ROOT, files=" ".join(CLONED)))
    git.chmod(0o755)
    arguments = [str(PYTHON), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    kernel.write_text(json.dumps({"argv": arguments, "display_name": "Colab", "language": "python"}))
    return {
        "PATH": f"{git.parent}{os.pathsep}{os.environ['PATH']}",
        "JUPYTER_PATH": str(folder),
        "COLAB_RELEASE_TAG": "test-colab",
        "RWKVGATE_PROFILE": "smoke",
        "OMP_NUM_THREADS": "1",
    }


def run_alone(notebook: Path, folder: Path, **variables: str) -> Path:
    """Execute one notebook on an empty machine, with more variables in its environment; the executed copy.

    Raises:
        SystemExit: a cell failed; its error is shown.
    """
    content, given, executed = folder / "content", folder / notebook.name, folder / f"executed.{notebook.name}"
    content.mkdir()
    given.write_text(notebook.read_text(encoding="utf-8").replace("/content/", f"{content}/"), encoding="utf-8")
    words = ["-k", "colab", "--cwd", str(content), "--no-progress-bar", "--log-level", "WARNING"]
    done = subprocess.run(
        [sys.executable, "-m", "papermill", str(given), str(executed), *words],
        env=os.environ | machine(folder) | variables,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.exit(f"{notebook.name} failed\n{done.stderr[-6000:]}")
    return executed


def printed_by(executed: Path, cell: str = "") -> str:
    """The output of a cell, or of all cells."""
    cells = json.loads(executed.read_text(encoding="utf-8"))["cells"]
    outputs = [out for found in cells if cell in ("", found["id"]) for out in found.get("outputs", [])]
    return "".join("".join(output.get("text", "")) for output in outputs)


def check_badges() -> None:
    """Run the five, each on an empty machine, and compare what is installed before and after."""
    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
        pip("uninstall", "--quiet", "--yes", *LACKING)
        before, started = set(pip("freeze").splitlines()), time.monotonic()
        with tempfile.TemporaryDirectory(prefix="colab.") as folder:
            executed = run_alone(notebook, Path(folder))
            printed = printed_by(executed, "install")
        after = set(pip("freeze").splitlines())
        added = sorted(line.partition("==")[0].replace("_", "-") for line in after - before)
        if before - after or set(added) != set(LACKING):
            sys.exit(f"{notebook.name}: pip moved {sorted(before - after)} and added {added}, not only {LACKING}")
        if "installing" not in printed or ("No GPU" not in printed and "GPU:" not in printed):
            sys.exit(f"{notebook.name}: the first cell printed {printed!r}")
        print(f"{notebook.stem:24s} alone {time.monotonic() - started:5.0f} s", flush=True)


def check_disconnect() -> None:
    """Run a notebook, lose the machine, and run it on another: the copy of the run spares the work."""
    notebook = ROOT / "notebooks" / "02_finetune.ipynb"
    with tempfile.TemporaryDirectory(prefix="drive.") as place:
        for is_first in (True, False):
            with tempfile.TemporaryDirectory(prefix="colab.") as folder:
                printed = printed_by(run_alone(notebook, Path(folder), RWKVGATE_DRIVE=place))
            if ("fine-tuning enhanced" in printed) != is_first or ("restored from" in printed) == is_first:
                sys.exit(f"with a copy of the run {notebook.name} printed\n{printed}")
    print("after a disconnect       no step is done again")


if __name__ == "__main__":
    check_badges()
    check_disconnect()
