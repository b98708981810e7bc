"""The whole chain at profile smoke by snakemake and papermill, and what it leaves."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from rwkvgate.experiment import order
from rwkvgate.experiment.arms import ARMS
from rwkvgate.experiment.run import Run
from rwkvgate.experiment.settings import resolve
from rwkvgate.experiment.steps import ensure_arm
from rwkvgate.experiment.steps.arm import WEIGHTS
from rwkvgate.rwkv6.files import write_json

ARMS_OF_RUN = ["base", "base-tuned", "enhanced-untrained", "enhanced"]
"""No other arm of the profile has a rule or a notebook of its own; nbval's notebook 04 gathers all of them."""
CONFIG = ["--config", "profile=smoke", f"arms={','.join(ARMS_OF_RUN)}"]
ROOT = Path(__file__).resolve().parents[2]


def launched(*command: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """A command of this environment, with its output as text."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=900
    )


def snakemake(folder: Path, *more: str) -> str:
    """The run graph on a folder; its terminal output."""
    done = launched("snakemake", "--cores", "2", "--nolock", *more, *CONFIG, f"run_dir={folder}")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A finished smoke run, in a folder whose name has a space, and what it printed."""
    folder = tmp_path_factory.mktemp("smoke") / "a run"
    return folder, snakemake(folder)


def test_every_result_is_there(chain: tuple[Path, str]) -> None:
    folder, printed = chain
    documents = pd.read_parquet(folder / "results" / "documents.parquet")
    assert set(documents["arm"]) == set(ARMS_OF_RUN)
    assert list(documents.columns) == ["arm", "seed", "document", "metric", "value"]
    assert not documents.duplicated(["arm", "seed", "document", "metric"]).any()
    for name in ("latency", "times", "summary", "comparisons", "cost", "gates"):
        assert len(pd.read_parquet(folder / "results" / f"{name}.parquet"))
    for name in ("figure2", "figure3", "gates"):
        assert (folder / "figures" / f"{name}.svg").stat().st_size > 1000
    for arm in ARMS_OF_RUN:
        metrics = json.loads((folder / "arms" / arm / "seed0" / "evaluation" / "metrics.json").read_text())
        assert metrics["perplexity"] > 1 and 0 <= metrics["rougeL"] <= 1
    assert re.search(r"fine-tuning enhanced, seed 0: \d+ of 12", printed)
    assert "steps (100%) done" in printed


def test_notebook_02_trains_what_the_other_notebooks_would(chain: tuple[Path, str], tmp_path: Path) -> None:
    """The cells of notebook 02 and the step that is made where it was not run give the same weights, bit for bit."""
    made = Run(resolve("smoke", run_dir=str(chain[0]))).variant("enhanced")
    folder = tmp_path / "run"
    shutil.copytree(chain[0], folder, ignore=shutil.ignore_patterns("arms"))
    again = Run(resolve("smoke", run_dir=str(folder))).variant("enhanced")
    ensure_arm(again)
    one, other = (load_file(str(variant.folder / WEIGHTS)) for variant in (made, again))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert made.adapter.is_dir() and not again.adapter.exists()


def test_the_report_stands_alone(chain: tuple[Path, str]) -> None:
    page = (chain[0] / "report.html").read_text(encoding="utf-8")
    for heading in ("Table 1", "Table 2", "Figure 2", "Figure 3", "Ablations"):
        assert heading in page
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", page) and "<script" not in page


def test_an_executed_notebook_shows_its_pictures_where_it_is_not_trusted(chain: tuple[Path, str]) -> None:
    """Where outputs are sanitised, tables and PNG are left: no view may be markup that lives by its style."""
    cells = json.loads((chain[0] / "notebooks" / "05_gate_visualization.ipynb").read_text(encoding="utf-8"))["cells"]
    shown = {cell["id"]: [out["data"] for out in cell.get("outputs", []) if "data" in out] for cell in cells}
    assert {kind for datas in shown.values() for data in datas for kind in data} == {
        "text/plain",
        "text/html",
        "image/png",
    }
    markup = [(name, data["text/html"]) for name, datas in shown.items() for data in datas if "text/html" in data]
    assert not [(name, html) for name, html in markup if "dataframe" not in "".join(html)]
    pictured = {name for name, datas in shown.items() if any("image/png" in data for data in datas)}
    sources = {cell["id"]: "".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"}
    views = ("subplots(", "relplot(", "text_view(", "compare_view(", "clamp_view(", "GateExplorer(")
    assert pictured == {name for name, source in sources.items() if any(view in source for view in views)}
    assert len(pictured) == 9


def test_the_manifest_says_where_numbers_come_from(chain: tuple[Path, str]) -> None:
    manifest = json.loads((chain[0] / "manifest.json").read_text())
    assert manifest["settings"]["profile"] == "smoke" and manifest["seeds"] == [0]
    assert {"python", "torch", "transformers"} <= set(manifest["versions"])
    assert set(manifest["corpus"]["hashes"]) >= {"train", "test", "natural_train"}
    parts = ("", "/evaluation", "/probes", "/times")
    made = {"corpus", "base"} | {f"arms/{arm}/seed0{part}" for arm in ARMS_OF_RUN for part in parts}
    assert made <= manifest["steps"].keys()


def test_a_second_run_redoes_nothing(chain: tuple[Path, str]) -> None:
    folder, _ = chain
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    assert "Nothing to be done" in snakemake(folder, "--set-threads", "setup=1")  # cores are no input
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} == before


def test_a_changed_parameter_redoes_what_depends_on_it(chain: tuple[Path, str]) -> None:
    done = launched("snakemake", "--cores", "1", "--nolock", "--dry-run", *CONFIG, f"run_dir={chain[0]}", "seeds=2")
    counts = dict(re.findall(r"^(\w+)\s+(\d+)$", done.stdout, flags=re.M))
    trained = sum(ARMS[arm].trained for arm in ARMS_OF_RUN)
    assert counts["finetune"] == str(trained) and counts["evaluate"] == str(trained) and counts["ablations"] == "1"
    assert "setup" not in counts


def test_another_study_redoes_what_shows_its_verdicts(chain: tuple[Path, str], tmp_path: Path) -> None:
    for name in ("Snakefile", "notebooks", "params", ".snakemake"):
        (tmp_path / name).symlink_to(ROOT / name)  # the same checkout, without a committed study
    done = launched("snakemake", "--cores", "1", "--nolock", "--dry-run", *CONFIG, f"run_dir={chain[0]}", cwd=tmp_path)
    counts = dict(re.findall(r"^(\w+)\s+(\d+)$", done.stdout, flags=re.M))
    assert counts == {"all": "1", "ablations": "1", "report": "1", "total": "3"}, done.stdout + done.stderr


@pytest.mark.slow
def test_an_arm_that_diverged_is_a_result_and_not_a_failure(chain: tuple[Path, str], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(chain[0], folder)
    run = Run(resolve("smoke", run_dir=str(folder)))
    step = order.arm(run.variant("enhanced"))
    shutil.rmtree(step.folder)
    write_json(step.failure, {"inputs": step.trained_on, "error": "enhanced, seed 0: the loss is nan at step 3"})
    again = ("02_finetune.enhanced.seed0", "03_evaluate.enhanced.seed0", "04_ablations", "05_gate_visualization")
    for name in again:
        (folder / "notebooks" / f"{name}.ipynb").unlink()
    snakemake(folder)
    assert all((folder / "notebooks" / f"{name}.ipynb").is_file() for name in again)
    assert "enhanced" not in set(pd.read_parquet(folder / "results" / "documents.parquet")["arm"])
    assert "failed: enhanced, seed 0: the loss is nan at step 3" in run.report.read_text(encoding="utf-8")
    assert not list((folder / "notebooks").glob("*.failed.ipynb"))


@pytest.fixture
def damaged(chain: tuple[Path, str], tmp_path: Path) -> Path:
    """A copy of the run, in which a table of one study is cut off."""
    folder = Path(shutil.copytree(chain[0], tmp_path / "run"))
    path = folder / "effects" / "effects.parquet"
    path.write_bytes(path.read_bytes()[:-1])
    return folder


def test_what_was_damaged_is_to_run_again_and_nothing_else(damaged: Path) -> None:
    """That it runs again the next test sees; that damaged steps are made again, without the graph, test_damage.py."""
    outdated = {damaged / "notebooks" / "04_ablations.ipynb", damaged / "report.html"}
    sound = {p: p.stat().st_mtime_ns for p in damaged.rglob("*") if p.is_file() and p not in outdated}
    assert "04_ablations runs again: " in snakemake(damaged, "--dry-run") and all(p.is_file() for p in outdated)
    assert "Nothing to be done" in snakemake(damaged, str(damaged / "notebooks" / "05_gate_visualization.ipynb"))
    assert not any(path.exists() for path in outdated)
    counts = dict(re.findall(r"^(\w+)\s+(\d+)$", snakemake(damaged, "--dry-run"), flags=re.M))
    assert counts == {"all": "1", "ablations": "1", "report": "1", "total": "3"}
    assert {p: p.stat().st_mtime_ns for p in damaged.rglob("*") if p.is_file()} == sound


@pytest.mark.slow
def test_what_was_damaged_runs_again_and_nothing_else(chain: tuple[Path, str], damaged: Path) -> None:
    path, again = damaged / "effects" / "effects.parquet", damaged / "notebooks" / "04_ablations.ipynb"
    before, sound = {p: p.stat().st_mtime_ns for p in again.parent.glob("*.ipynb")}, chain[0] / "effects" / path.name
    printed = snakemake(damaged)
    assert "effects.parquet has" in printed and f"effects in {path.parent} is made again" in printed
    assert {p for p in again.parent.glob("*.ipynb") if p.stat().st_mtime_ns != before.get(p)} == {again}
    assert pd.read_parquet(path).equals(pd.read_parquet(sound)) and (damaged / "report.html").is_file()
    assert "Nothing to be done" in snakemake(damaged)


@pytest.mark.slow
def test_a_damaged_notebook_runs_again_and_the_ablations_after_it(chain: tuple[Path, str], tmp_path: Path) -> None:
    """In `make test` test_order.py sees which notebooks those are, and the first such test sees the graph follow."""
    folder = tmp_path / "run"
    shutil.copytree(chain[0], folder)
    drawn, after = (folder / "notebooks" / f"{name}.ipynb" for name in ("05_gate_visualization", "04_ablations"))
    before = {p: p.stat().st_mtime_ns for p in drawn.parent.glob("*.ipynb")}
    drawn.write_text(drawn.read_text().replace("0", "1", 1))
    printed = snakemake(folder)
    assert "05_gate_visualization runs again: " in printed and "content of 05_gate_visualization.ipynb" in printed
    assert {p for p in drawn.parent.glob("*.ipynb") if p.stat().st_mtime_ns != before.get(p)} == {drawn, after}
    assert (folder / "report.html").is_file() and "Nothing to be done" in snakemake(folder)


def test_a_notebook_that_was_removed_is_missed(chain: tuple[Path, str], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(chain[0], folder)
    for name in ("04_ablations", "03_evaluate.enhanced.seed0", "01_setup"):
        (folder / "notebooks" / f"{name}.ipynb").unlink()
        assert f"output: {folder}/notebooks/{name}.ipynb" in snakemake(folder, "--dry-run")


def test_arms_without_the_papers_own_need_not_train_it(tmp_path: Path) -> None:
    words = ["--cores", "1", "--dry-run", "--config", "profile=smoke", f"run_dir={tmp_path / 'run'}", "arms=base-tuned"]
    planned = launched("snakemake", *words).stdout
    assert "base-tuned" in planned and "02_finetune.enhanced" not in planned and "gate_visualization" not in planned


def test_a_folder_that_is_no_run_ends_in_one_clear_error(tmp_path: Path) -> None:
    """As every other bad parameter does, for which test_opening.py and test_open_run.py start no kernel."""
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("mine")
    words = ["-k", "python3", "-p", "profile", "smoke", "-p", "run_dir", str(foreign)]
    done = launched("papermill", str(ROOT / "notebooks/01_setup.ipynb"), str(tmp_path / "out.ipynb"), *words)
    assert done.returncode != 0 and "it is no run folder" in done.stderr
    assert sorted(path.name for path in foreign.iterdir()) == ["thesis.txt"]


def test_one_notebook_by_hand_from_anywhere(chain: tuple[Path, str], tmp_path: Path) -> None:
    notebook, params = ROOT / "notebooks/05_gate_visualization.ipynb", ROOT / "params/smoke.yaml"
    words = ["-k", "python3", "-f", str(params), "-p", "run_dir", str(chain[0]), "-p", "arm", "no-layer-norm"]
    done = launched("papermill", str(notebook), "out.ipynb", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
