"""A notebook opens its run: parameters checked, figures in the page, the copy in Drive kept up to date."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest

from rwkvgate.experiment.records import keep_record
from rwkvgate.experiment.run import MODELS, Run, write_manifest
from rwkvgate.experiment.settings import PROFILE_VARIABLE, SECTIONS, resolve
from rwkvgate.gate.validation import SettingsError
from rwkvgate.workflow import opening
from rwkvgate.workflow.drive import DRIVE_VARIABLE, LISTING
from rwkvgate.workflow.opening import open_notebook

ROOT = Path(__file__).resolve().parents[2]
OPEN = """
from rwkvgate.workflow.opening import open_notebook

run = open_notebook(profile, run_dir, arm, seed, model, corpus, gate, training, evaluation)
"""
WRITE = "run.results.mkdir()\n(run.results / 'table.txt').write_text('1')"
DRAW = "from matplotlib.figure import Figure\nfigure = Figure()\nfigure.subplots()\nfigure"


def launched(folder: Path, module: str, *cells: str, **parameters: Any) -> str:
    """The error output of cells behind the notebooks' own parameters cell."""
    committed = json.loads((ROOT / "notebooks" / "01_setup.ipynb").read_text(encoding="utf-8"))
    notebook = nbformat.from_dict(committed)
    notebook.cells = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    notebook.cells += [nbformat.v4.new_code_cell(source) for source in cells]
    nbformat.write(notebook, folder / "in.ipynb")
    words = [word for name, value in parameters.items() for word in ("-p", name, str(value))]
    command = [sys.executable, "-m", module, "in.ipynb", "out.ipynb", "-k", "python3", *words]
    environment = os.environ | {"PYTHONPATH": str(ROOT), DRIVE_VARIABLE: str(folder / "MyDrive")}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120).stderr


def executed(folder: Path, *cells: str, **parameters: Any) -> tuple[str, nbformat.NotebookNode]:
    """The error output and the executed notebook of `launched`."""
    error = launched(folder, "rwkvgate.workflow.execute", *cells, **parameters)
    return error, nbformat.read(folder / "out.ipynb", as_version=4)


def test_what_a_cell_writes_is_copied_when_the_cell_ends(tmp_path: Path) -> None:
    """What the next session restores from that copy is tested in test_drive.py, without a kernel."""
    (tmp_path / "MyDrive").mkdir()
    run_dir = tmp_path / "disk" / "first"
    error, notebook = executed(tmp_path, OPEN, WRITE, DRAW, profile="smoke", run_dir=run_dir)
    copy = tmp_path / "MyDrive" / "smoke" / "first"
    assert (copy / "results" / "table.txt").read_text() == "1", error
    assert set(json.loads((copy / LISTING).read_text())) >= {"manifest.json", "results/table.txt"}
    assert "image/png" in notebook.cells[-1].outputs[0].data


def test_a_misspelt_parameter_is_refused_before_the_notebook_runs_and_inside_it(tmp_path: Path) -> None:
    error = launched(tmp_path, "rwkvgate.workflow.execute", OPEN, profile="smoke", sed=1)
    assert error.strip() == "unknown parameter 'sed'; did you mean 'seed'?"
    assert not (tmp_path / "out.ipynb").exists()
    error = launched(tmp_path, "papermill", OPEN, profile="smoke", sed=1)
    assert "SettingsError: unknown parameter 'sed'; did you mean 'seed'?" in error and "open_run.py" not in error


def test_without_a_notebook_it_opens_a_run(tmp_path: Path) -> None:
    nothing: dict[str, Any] = {}
    run = open_notebook("smoke", str(tmp_path / "run"), "base", 1, nothing, nothing, nothing, nothing, nothing)
    assert run.folder == tmp_path / "run" and run.settings.profile == "smoke"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"profile": "smokey"}, "unknown profile 'smokey'"),
        ({"arm": "enhancd"}, "did you mean 'enhanced'"),
        ({"training": {"stps": 3}}, "did you mean 'training.steps'"),
        ({"corpus": {"source": "missing.txt"}}, "missing.txt"),
    ],
)
def test_bad_parameters_end_in_one_clear_error_and_make_nothing(
    changed: dict[str, Any], message: str, tmp_path: Path
) -> None:
    sound: dict[str, Any] = {"profile": "smoke", "run_dir": str(tmp_path / "run"), "arm": "enhanced", "seed": 0}
    with pytest.raises(SettingsError, match=message):
        open_notebook(**(sound | {key: {} for key in SECTIONS} | changed))
    assert not (tmp_path / "run").exists()


AS_THEY_STAND: tuple[Any, ...] = ("auto", "", "enhanced", 0, {}, {}, {}, {}, {})


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: Any) -> Path:
    """A checkout whose committed run holds the weights of `enhanced`, seed 0, in place of this one's."""
    run = Run(resolve("smoke", run_dir=str(tmp_path / "outputs" / "reference")))
    write_manifest(run)
    monkeypatch.setattr(opening, "project_root", lambda: tmp_path)
    monkeypatch.setattr("rwkvgate.workflow.app.finished_arms", lambda run: {"enhanced, seed 0": None})
    monkeypatch.delenv(PROFILE_VARIABLE, raising=False)
    return tmp_path


def test_parameters_as_they_stand_open_the_committed_run_at_once(checkout: Path, capsys: Any) -> None:
    committed = checkout / "outputs" / "reference"
    before = {path: path.read_bytes() for path in committed.rglob("*") if path.is_file()}
    run = open_notebook(*AS_THEY_STAND, committed=True)
    assert run.folder == checkout / "outputs" / "committed" and run.settings.profile == "smoke"
    assert "This is the committed model of profile smoke: enhanced, seed 0.\n" in capsys.readouterr().out
    (run.folder / "drawn.txt").write_text("1")
    assert open_notebook(*AS_THEY_STAND, committed=True).folder == run.folder
    assert (run.folder / "drawn.txt").exists(), "what a notebook wrote stays"
    assert {path: path.read_bytes() for path in committed.rglob("*") if path.is_file()} == before


def test_a_new_committed_run_replaces_the_copy(checkout: Path) -> None:
    copy = open_notebook(*AS_THEY_STAND, committed=True).folder
    (copy / "drawn.txt").write_text("1")
    write_manifest(Run(resolve("smoke", run_dir=str(checkout / "outputs" / "reference"), training={"steps": 9})))
    assert open_notebook(*AS_THEY_STAND, committed=True).settings.training.steps == 9
    assert not (copy / "drawn.txt").exists()


def test_an_arm_without_committed_weights_says_what_it_takes(checkout: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr("rwkvgate.experiment.forecast.forecast", lambda *_: "3 of 3 steps are missing")
    monkeypatch.setattr(opening, "open_run", lambda **_: Run(resolve("smoke", run_dir=str(checkout / "own"))))
    run = open_notebook("auto", "", "fixed-gate", 0, {}, {}, {}, {}, {}, committed=True)
    assert run.folder == checkout / "own"
    assert "no weights of fixed-gate, seed 0. 3 of 3 steps are missing" in capsys.readouterr().out


@pytest.mark.parametrize("switched", [False, True])
def test_parameters_that_name_a_run_open_that(checkout: Path, switched: bool) -> None:
    own = str(checkout / "own")
    assert open_notebook("smoke", own, *AS_THEY_STAND[2:], committed=switched).folder == Path(own)
    assert not (checkout / "outputs" / "committed").exists()


def test_a_damaged_copy_of_the_committed_run_is_copied_again(checkout: Path) -> None:
    models = checkout / "outputs" / "reference" / MODELS
    (models / "texts").mkdir(parents=True)
    (models / "texts" / "test.jsonl").write_text("1234")
    keep_record(models, models / "texts" / "test.jsonl")
    copy = open_notebook(*AS_THEY_STAND, committed=True).folder
    for damage in (lambda path: path.write_text("123"), Path.unlink, lambda path: shutil.rmtree(path.parents[1])):
        damage(copy / MODELS / "texts" / "test.jsonl")
        open_notebook(*AS_THEY_STAND, committed=True)
        assert (copy / MODELS / "texts" / "test.jsonl").read_text() == "1234"
