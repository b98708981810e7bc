"""papermill's command line as the run graph calls it: the same notebooks and the same status, and no kernel left."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]

LOADED = """
import sys
from rwkvgate.execute import main
sys.argv = ["papermill", "--version"]
try:
    main()
except SystemExit:
    print([name for name in ("lark", "pyarrow.lib", "torch") if name in sys.modules])
"""


def executed(module: str, folder: Path, source: str) -> tuple[int, str, nbformat.NotebookNode]:
    """Status, error output and executed notebook of a cell that follows a parameter."""
    parameters = nbformat.v4.new_code_cell("number = 1", id="one", metadata={"tags": ["parameters"]})
    cells = [parameters, nbformat.v4.new_code_cell(source, id="two")]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata=kernel)
    nbformat.write(notebook, folder / "in.ipynb")
    words = ["in.ipynb", f"{module}.ipynb", "-k", "python3", "-p", "number", "3", "--no-progress-bar"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", module, *words]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stderr, nbformat.read(folder / f"{module}.ipynb", as_version=4)


@pytest.mark.parametrize("source", ["import os\nprint(number, os.getpid())", "print(number)\nraise ValueError('no')"])
def test_it_does_what_papermill_does(source: str, tmp_path: Path) -> None:
    plain, fast = (executed(module, tmp_path, source) for module in ("papermill", "rwkvgate.execute"))
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


def test_nothing_slow_is_imported() -> None:
    done = subprocess.run([sys.executable, "-c", LOADED], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
