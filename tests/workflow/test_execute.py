"""papermill's command line as the run graph calls it: the same notebooks and the same status, and no kernel left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest

from rwkvgate.workflow.execute import VIEW, keep_pictures, refuse_repeated

ROOT = Path(__file__).resolve().parents[2]

LOADED = """
import sys
from rwkvgate.workflow.execute import main
sys.argv = ["papermill", "--version"]
try:
    main()
except SystemExit:
    print([name for name in ("lark", "pyarrow.lib", "torch") if name in sys.modules])
"""

DEAF = """
import os, pathlib, time
pathlib.Path("kernel.tmp").write_text(str(os.getpid()))
os.replace("kernel.tmp", "kernel")
time.sleep(60)
"""
"""A kernel that is starting for a minute, and looks meanwhile neither for messages nor for its parent."""


def test_a_picture_outlives_its_widget(tmp_path: Path) -> None:
    view, png = {VIEW: {"model_id": "x"}}, {"image/png": "aGk=", "text/plain": "é"}
    outputs = [nbformat.v4.new_output("display_data", data=data) for data in (view | png, png, view)]
    cell = nbformat.v4.new_code_cell("1", outputs=outputs)
    notebook = nbformat.v4.new_notebook(cells=[cell], metadata={"widgets": {"state": {}}})
    path = tmp_path / "executed.ipynb"
    nbformat.write(notebook, path)
    keep_pictures(path)
    left = nbformat.read(path, as_version=4)
    assert [out.data for out in left.cells[0].outputs] == [png, png, view] and "widgets" in left.metadata
    cell.outputs = outputs[:2]
    nbformat.write(notebook, path)
    keep_pictures(path)
    assert "widgets" not in nbformat.read(path, as_version=4).metadata
    (tmp_path / "damaged.ipynb").write_text("{")
    keep_pictures(tmp_path / "damaged.ipynb")


def executed(module: str, folder: Path, source: str) -> tuple[int, str, nbformat.NotebookNode]:
    """Status, error output and executed notebook of a cell that follows a parameter."""
    parameters = nbformat.v4.new_code_cell("seed = 1", id="one", metadata={"tags": ["parameters"]})
    cells = [parameters, nbformat.v4.new_code_cell(source, id="two")]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata=kernel)
    nbformat.write(notebook, folder / "in.ipynb")
    words = ["in.ipynb", f"{module}.ipynb", "-k", "python3", "-p", "seed", "3", "--no-progress-bar"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", module, *words]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stderr, nbformat.read(folder / f"{module}.ipynb", as_version=4)


@pytest.mark.parametrize("source", ["import os\nprint(seed, os.getpid())", "print(seed)\nraise ValueError('no')"])
def test_it_does_what_papermill_does(source: str, tmp_path: Path) -> None:
    plain, fast = (executed(module, tmp_path, source) for module in ("papermill", "rwkvgate.workflow.execute"))
    assert plain[0] == fast[0] == (1 if "raise" in source else 0)
    one, other = (
        [(cell.source, [output.output_type for output in cell.get("outputs", [])]) for cell in notebook.cells]
        for _, _, notebook in (plain, fast)
    )
    assert one == other
    if "raise" in source:
        assert "ValueError: no" in fast[1]
        return
    said, kernel = fast[2].cells[-1].outputs[0].text.split()
    assert said == "3"
    with pytest.raises(ProcessLookupError):
        os.kill(int(kernel), 0)


HOSTILE = [
    (["-f", "key.yaml"], 'unknown parameter "x = 1'),
    (["-f", "twice.yaml"], "key 'seed' stands twice"),
    (["-f", "none.yaml"], "No such file or directory: 'none.yaml'"),
    (["-y", "model: {checkpoint: !!binary 'IiticmVhaygpKyI='}"], "(bytes); allowed are strings"),
    (["-y", "seed: ["], "parameters are not valid YAML"),
    (["-y", "{seed: 1, seed: 2}"], "key 'seed' stands twice"),
    (["-y", "training: {steps: 5}", "-y", "training: {warmup_steps: 1}"], "'training' is given twice"),
    (["-f", "mine.yaml", "-y", "training: {steps: 5}"], "'training' is given twice"),
    (["-f", "mine.yaml", "-f", "mine.yaml"], "'arm' is given twice"),
    (["-p", "seed", "1", "-r", "seed", "2"], "'seed' is given twice"),
]
EACH = """
import json, os, sys
from rwkvgate.workflow.execute import main
sys.modules["rfc3987_syntax"] = sys.modules["pyarrow"] = None
from papermill import cli
for number, words in enumerate(json.loads(sys.argv[1])):
    if not os.fork():
        os.dup2(os.open(f"{number}.txt", os.O_CREAT | os.O_WRONLY), 2)
        sys.argv = ["papermill", "in.ipynb", "out.ipynb", "-k", "python3", *words]
        sys.exit(main())
    print(os.waitstatus_to_exitcode(os.wait()[1]))
"""
"""papermill with each of several command lines, in forks of one process, for its imports take most of the time. Prints
the statuses; the error output of each is in a file of its own."""


def test_hostile_parameters_are_refused_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "key.yaml").write_text("\"x = 1\\nopen('pwned', 'w')\\ny\": 3")
    (tmp_path / "twice.yaml").write_text("seed: 1\nseed: 2\n")
    (tmp_path / "mine.yaml").write_text("arm: base\ntraining: {batch_size: 2}\n")
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1", id="one")]), tmp_path / "in.ipynb")
    command = [sys.executable, "-u", "-c", EACH, json.dumps([words for words, _ in HOSTILE])]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["1"] * len(HOSTILE), done.stderr
    for number, (words, message) in enumerate(HOSTILE):
        said = (tmp_path / f"{number}.txt").read_text()
        assert message in said and "Traceback" not in said, words
    assert not (tmp_path / "pwned").exists() and not (tmp_path / "out.ipynb").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a kernel looks for its parent itself, once it is up")
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_a_kernel_that_is_starting_ends_with_its_papermill(end: signal.Signals, tmp_path: Path) -> None:
    spec = tmp_path / "kernels" / "deaf"
    spec.mkdir(parents=True)
    argv = [sys.executable, "-c", DEAF, "{connection_file}"]
    (spec / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "Deaf", "language": "python"}))
    cell = nbformat.v4.new_code_cell("1", id="one")
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "in.ipynb")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JUPYTER_PATH": str(tmp_path)}
    command = [sys.executable, "-m", "rwkvgate.workflow.execute", "in.ipynb", "out.ipynb", "-k", "deaf"]
    # In a group of its own, all of which is signalled, as a terminal's Ctrl-C does.
    papermill = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL, start_new_session=True
    )
    patience = time.monotonic() + 60
    while not (tmp_path / "kernel").exists():
        assert papermill.poll() is None and time.monotonic() < patience, "the kernel was not started"
        time.sleep(0.02)
    kernel = psutil.Process(int((tmp_path / "kernel").read_text()))
    os.killpg(papermill.pid, end)
    assert papermill.wait(timeout=30) != 0
    assert not psutil.wait_procs([kernel], timeout=10)[1]  # of the minute for which it would sleep


def test_a_child_whose_parent_is_gone_already_ends_at_once() -> None:
    source = "from rwkvgate.experiment.processes import end_with_parent; end_with_parent({}); print('on')"
    here = os.getpid()
    statuses = {
        parent: subprocess.run([sys.executable, "-c", source.format(parent)], cwd=ROOT, capture_output=True).returncode
        for parent in (None, here, 2**22 + 1)  # above every process id of Linux
    }
    ended = -signal.SIGTERM if sys.platform == "linux" else 0
    assert statuses == {None: 0, here: 0, 2**22 + 1: ended}


def test_nothing_slow_is_imported() -> None:
    done = subprocess.run([sys.executable, "-c", LOADED], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_a_plain_value_of_a_file_may_be_given_anew(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("arm: base\nseed: 0\ntraining: {steps: 5}\n")
    given = {"parameters_file": [str(tmp_path / "mine.yaml")], "parameters": [("arm", "enhanced"), ("seed", "1")]}
    refuse_repeated(given | dict.fromkeys(("parameters_raw", "parameters_yaml", "parameters_base64")))
