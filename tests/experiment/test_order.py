"""Which executed notebooks a damaged run folder makes outdated: those of what is damaged, and all after them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from rwkvgate.experiment import order
from rwkvgate.experiment.order import outdated_notebooks
from rwkvgate.experiment.records import keep_record
from rwkvgate.experiment.run import Run
from rwkvgate.experiment.settings import resolve
from rwkvgate.experiment.steps.making import Work
from rwkvgate.gate.validation import SettingsError
from rwkvgate.rwkv6.files import write_json, write_text

PACKAGE = Path(order.__file__).parents[1]
ARMS = ["base", "enhanced-untrained", "enhanced"]
TUNED = {"02_finetune.enhanced.seed0", "03_evaluate.enhanced.seed0", "05_gate_visualization", "04_ablations"}
UNTUNED = {"03_evaluate.base.seed0", "03_evaluate.enhanced-untrained.seed0"}
ALL = {"01_setup", *TUNED, *UNTUNED}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A folder like that of a finished run, with a line of text in each file."""
    run = Run(resolve("smoke", run_dir=str(tmp_path / "run"), evaluation={"arms": ARMS}))
    arms = [order.arm(variant) for variant in run.variants()]
    kinds = (order.evaluation, order.probes, order.times)
    measured = [make(variant) for variant in run.variants() for make in kinds]
    for step in (order.corpus(run), order.base(run), *arms, *measured, order.study(run, "effects", {})):
        Work(step).write(lambda folder: write_text(folder / "made.txt", "as written"))
    gate = run.variant("enhanced").adapter
    for path in (gate / "gate.txt", run.results / "table.txt", run.figures / "figure.txt"):
        write_text(path, "as written")
    keep_record(gate.parent, gate / "gate.txt")
    keep_record(run.results, run.results / "table.txt")
    keep_record(run.figures, run.figures / "figure.txt")
    for name in ALL:
        write_text(run.folder / "notebooks" / f"{name}.ipynb", "{}")
    return run


def test_a_sound_folder_has_none_and_one_of_other_settings_neither(run: Run) -> None:
    assert outdated_notebooks(run) == {}
    settings = {"evaluation": {"arms": [*ARMS, "fixed-gate"]}, "training": {"steps": 5, "warmup_steps": 1}}
    assert outdated_notebooks(Run(resolve("smoke", run_dir=str(run.folder), **settings))) == {}


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("corpus/made.txt", ALL),
        ("base/made.txt", ALL),
        ("arms/enhanced/seed0/made.txt", TUNED),
        ("arms/enhanced/seed0/probes/step.json", {"03_evaluate.enhanced.seed0", "04_ablations"}),
        ("arms/enhanced/seed0/times/made.txt", {"04_ablations"}),
        ("arms/enhanced-untrained/seed0/made.txt", {"03_evaluate.enhanced-untrained.seed0", "04_ablations"}),
        ("arms/enhanced/seed0.gate/gate.txt", {"02_finetune.enhanced.seed0", "04_ablations"}),
        ("effects/step.json", {"04_ablations"}),
        ("results/table.txt", {"04_ablations", "05_gate_visualization"}),
        ("figures/files.json", {"04_ablations", "05_gate_visualization"}),
    ],
)
@pytest.mark.parametrize("gone", [True, False])
def test_damage_is_said_once_and_outdates_what_came_after(run: Run, name: str, wanted: set[str], gone: bool) -> None:
    path = run.folder / name
    if gone and path.name == "made.txt":
        shutil.rmtree(path.parent)
    else:
        path.write_text("something else")
    found = outdated_notebooks(run)
    assert set(found) == wanted
    reasons = {reason for reason in found.values() if reason}
    assert len(reasons) == 1 and str(path.parent if "gate/" not in name else path.parents[1]) in reasons.pop()


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("01_setup", ALL),
        ("02_finetune.enhanced.seed0", TUNED),
        ("05_gate_visualization", {"04_ablations", "05_gate_visualization"}),
    ],
)
def test_a_damaged_notebook_outdates_itself_and_what_came_after(run: Run, name: str, wanted: set[str]) -> None:
    notebooks = run.folder / "notebooks"
    keep_record(notebooks, *notebooks.iterdir())
    write_text(notebooks / f"{name}.ipynb", "[]")
    found = outdated_notebooks(run)
    assert set(found) == wanted
    assert {key: reason for key, reason in found.items() if reason} == {
        name: f"{notebooks}: the content of {name}.ipynb is not what was written"
    }


def test_a_file_of_somebody_else_s_is_refused_before_anything_is_removed(run: Run) -> None:
    write_text(run.base / "notes.txt", "mine")
    with pytest.raises(SettingsError, match=r"base/notes\.txt was not written by base, .* Move it away"):
        outdated_notebooks(run)


def test_a_file_in_place_of_a_step_is_refused_and_kept(run: Run) -> None:
    folder = order.arm(run.variant("enhanced")).folder
    shutil.rmtree(folder)
    folder.write_text("mine")
    with pytest.raises(SettingsError, match=f"{folder} is no folder, and arm of enhanced, seed 0 writes into one"):
        outdated_notebooks(run)
    assert folder.read_text() == "mine"


def test_an_arm_of_another_base_is_outdated(run: Run) -> None:
    Work(order.base(run)).write(lambda folder: write_text(folder / "made.txt", "as another machine rounds"))
    found = outdated_notebooks(run)
    assert set(found) == ALL - {"01_setup"} and "another corpus or base" in found["02_finetune.enhanced.seed0"]


def test_an_arm_that_diverged_is_not_damaged(run: Run) -> None:
    step = order.arm(run.variant("enhanced"))
    shutil.rmtree(step.folder)
    write_json(step.failure, {"inputs": step.trained_on, "error": "the loss is nan"})
    assert outdated_notebooks(run) == {}


def test_an_arm_that_diverged_from_another_base_is_tried_again(run: Run) -> None:
    step = order.arm(run.variant("enhanced"))
    write_json(step.failure, {"inputs": step.trained_on, "error": "the loss is nan"})
    assert step.divergence == "the loss is nan"
    Work(order.base(run)).write(lambda folder: write_text(folder / "made.txt", "as another machine rounds"))
    assert order.arm(run.variant("enhanced")).divergence == ""


def test_the_files_of_a_step_are_read_after_verification_alone() -> None:
    """Readers take a step's folder from `complete` or `verified`; nothing else puts together a path in it."""
    path_in_a_step = re.compile(r"\b(step|variant|order\.\w+\(\w+\))\.folder\s*/|\brun\.(base|corpus)\b")
    found = {
        module.relative_to(PACKAGE).as_posix(): match.group()
        for place in ("experiment", "workflow")
        for module in sorted((PACKAGE / place).rglob("*.py"))
        if (match := path_in_a_step.search(module.read_text()))
    }
    assert set(found) <= {"experiment/order.py", "experiment/run.py"}, found
