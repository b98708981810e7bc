"""The committed notebooks: clean, short cells, one parameters cell. Reads JSON only."""

from __future__ import annotations

import ast
import json
import re
import statistics
from pathlib import Path
from typing import Any

import pytest

from rwkvgate.experiment.arms import ARMS
from rwkvgate.experiment.settings import PROFILES
from rwkvgate.workflow.colab import INSTALL_METADATA, install_cell
from rwkvgate.workflow.release import release, slug

ROOT = Path(__file__).resolve().parents[2]
NAMES = ["01_setup", "02_finetune", "03_evaluate", "04_ablations", "05_gate_visualization"]
LONGEST, MEDIAN, SET_UP = 30, 12, 12


def read(name: str) -> dict[str, Any]:
    """A committed notebook."""
    return json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))


def code(notebook: dict[str, Any]) -> list[str]:
    """The sources of its code cells, without IPython's magics."""
    sources = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return [re.sub(r"^%.*$", "", source, flags=re.M) for source in sources]


def parameters(notebook: dict[str, Any]) -> list[str]:
    """The sources of its cells tagged `parameters`."""
    tagged = [cell for cell in notebook["cells"] if "parameters" in cell["metadata"].get("tags", [])]
    return ["".join(cell["source"]) for cell in tagged]


def test_the_five_notebooks_and_no_other() -> None:
    assert sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_committed_clean(name: str) -> None:
    notebook = read(name)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert not cell["outputs"] and cell["execution_count"] is None
        assert set(cell["metadata"]) <= {"tags"} or cell["id"] == "install"
    assert "widgets" not in notebook["metadata"]
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert not re.search(r"/(home|root|tmp|Users|work)/", json.dumps(notebook))


@pytest.mark.parametrize("name", NAMES)
def test_cells_are_short_and_import_rather_than_define(name: str) -> None:
    lengths = [len(source.splitlines()) for source in code(read(name))]
    assert max(lengths) <= LONGEST and statistics.median(lengths) <= MEDIAN
    for source in code(read(name)):
        assert not any(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in ast.walk(ast.parse(source)))


@pytest.mark.parametrize("name", NAMES)
def test_prose_before_code_and_a_last_word(name: str) -> None:
    cells = read(name)["cells"]
    assert cells[0]["cell_type"] == "markdown"
    assert any("## What you should see" in "".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    prose = sum(cell["cell_type"] == "markdown" for cell in cells)
    assert prose >= 0.4 * len(cells)


def test_the_same_parameters_cell_everywhere() -> None:
    cells = [parameters(read(name)) for name in NAMES]
    assert all(len(found) == 1 for found in cells)
    assert len({found[0] for found in cells}) == 1
    names = [node.targets[0].id for node in ast.parse(cells[0][0]).body]  # type: ignore[attr-defined]
    assert names == ["profile", "run_dir", "arm", "seed", "model", "corpus", "gate", "training", "evaluation"]


@pytest.mark.parametrize("name", NAMES)
def test_badge_and_colab_s_cell_are_as_stamped(name: str) -> None:
    title, colab = read(name)["cells"][:2]
    badge = f"colab.research.google.com/github/{slug(ROOT)}/blob/{release(ROOT)}/notebooks/{name}.ipynb"
    assert badge in "".join(title["source"])
    assert "".join(colab["source"]) == install_cell(slug(ROOT), release(ROOT))
    assert colab["metadata"] == INSTALL_METADATA


def test_colab_s_cell_is_a_collapsed_form_equal_in_all_notebooks() -> None:
    cells = [read(name)["cells"][1] for name in NAMES]
    assert all(cell == cells[0] for cell in cells)
    assert cells[0]["metadata"] == {"cellView": "form", "jupyter": {"source_hidden": True}}
    lines = "".join(cells[0]["source"]).splitlines()
    assert lines[0] == "# @title Start here on Colab: install, GPU, time, Drive (does nothing elsewhere)"
    assert lines[1].startswith("# @markdown ")
    assert 'DRIVE = ""  # @param {type:"string"}' in lines and 'BUDGET_MINUTES = 0  # @param {type:"number"}' in lines


def test_forms_of_the_parameters_are_in_step_with_the_settings() -> None:
    lines = dict(line.split(" = ", 1) for line in parameters(read(NAMES[0]))[0].splitlines())
    forms = {name: line.partition("  # @param ")[2] for name, line in lines.items() if "# @param" in line}
    assert list(forms) == ["profile", "arm", "seed"]
    assert json.loads(forms["profile"]) == ["auto", *PROFILES]
    arms, _, free = forms["arm"].partition("] ")
    assert set(json.loads(arms + "]")) <= set(ARMS) and free == "{allow-input: true}"
    assert forms["seed"] == '{type:"integer"}'
    for line in lines.values():
        ast.literal_eval(line)  # a plain literal, which papermill replaces


@pytest.mark.parametrize("name", NAMES)
def test_set_up_is_short_and_drive_stays_in_colab_s_cell(name: str) -> None:
    _, _, *cells = (cell for cell in read(name)["cells"])
    codes = [cell for cell in cells if cell["cell_type"] == "code"]
    assert "parameters" in codes[0]["metadata"]["tags"] and "open_notebook(" in "".join(codes[1]["source"])
    lines = [line for cell in codes[:2] for line in "".join(cell["source"]).splitlines() if line.strip()]
    assert len(lines) <= SET_UP
    assert not re.search("drive", "".join("".join(cell["source"]) for cell in cells), flags=re.I)


@pytest.mark.parametrize("name", NAMES)
def test_no_cell_moves_what_colab_brings(name: str) -> None:
    sources = ["".join(cell["source"]) for cell in read(name)["cells"] if cell["cell_type"] == "code"]
    for line in "\n".join(sources).splitlines():
        assert not re.search(r"\binstall\b.*\b(torch|numpy|ipywidgets|ipykernel|ipython)\b", line, flags=re.I), line
        assert not re.search(r"--upgrade|--force-reinstall|git\+https|drive\.mount", line), line
        # A shell line in the background works on Colab and kills a run of papermill.
        assert not re.search(r"^\s*[!%].*(&\s*$|\bpip\b)", line), line
