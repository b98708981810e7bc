"""A whole run gathered and written in one process: with studies and without, with an arm that diverges."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from matplotlib.figure import Figure
from pandas.api.types import is_numeric_dtype

from rwkvgate.experiment import order
from rwkvgate.experiment.analysis.figures import save_figure
from rwkvgate.experiment.analysis.tables import comparison_table, quality_table, time_table
from rwkvgate.experiment.open_run import open_run
from rwkvgate.experiment.records import keep_record, kept_difference
from rwkvgate.experiment.results import Results, gather, write_results
from rwkvgate.experiment.rules import RULES
from rwkvgate.experiment.run import Run, check_results
from rwkvgate.experiment.steps import arm as arm_step
from rwkvgate.experiment.steps import ensure_arm
from rwkvgate.experiment.studies.responses import BEYOND, GATE, RANDOM, THERE

EVALUATION = {"arms": ["base", "base-tuned", "enhanced", "fixed-gate"], "documents": 6, "probes": 1, "longest": 1024}
TEXT = {"arm", "metric", "against", "domain", "measure", "status", "dtype", "device", "system", "text", "kind", "probe"}
"""Columns of text in the tables that hold numbers."""


def smoke(folder: Path, **evaluation: Any) -> Run:
    """A small run at profile smoke."""
    return open_run(profile="smoke", run_dir=str(folder), evaluation=EVALUATION | evaluation)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("results") / "run"


@pytest.fixture(scope="module")
def diverged(folder: Path) -> Results:
    """A run in which the fixed gate's training diverges."""
    plain = arm_step.train

    def train(*arguments: Any, **named: Any) -> Any:
        if "fixed-gate" in named["label"]:
            raise FloatingPointError("the loss is nan at step 3; lower the learning rate")
        return plain(*arguments, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arm_step, "train", train)
        return gather(smoke(folder, studies=False))


def test_an_arm_that_diverged_is_said_in_every_table_and_averaged_into_none(diverged: Results) -> None:
    assert "fixed-gate" not in set(diverged.documents["arm"]) and "nan at step 3" in diverged.failures["fixed-gate"]
    tables = (
        time_table(diverged.times),
        quality_table(diverged.summary),
        comparison_table(diverged.comparisons[diverged.comparisons["arm"] == "fixed-gate"]),
        comparison_table(diverged.comparisons[diverged.comparisons["against"] == "fixed-gate"]),
    )
    for table in tables:
        assert "failed: fixed-gate, seed 0: the loss is nan at step 3" in table.to_string()
    rows = {row["claim"]: row for row in diverged.claims}
    assert rows["adaptive-beats-fixed"]["verdict"] == "undecided here"
    assert "failed" in rows["adaptive-beats-fixed"]["reason"]


def test_what_diverged_is_not_tried_again_with_the_same_settings(diverged: Results, folder: Path) -> None:
    variant = smoke(folder).variant("fixed-gate")
    with pytest.raises(FloatingPointError, match=r"nan at step 3.*remove it to try again"):
        ensure_arm(variant)
    record = json.loads(order.arm(variant).failure.read_text())
    assert record["error"].startswith("fixed-gate, seed 0") and not variant.folder.exists()


def test_without_studies_their_tables_are_left_out(diverged: Results, folder: Path) -> None:
    assert diverged.gains.empty and all(frame.empty for frame in diverged.studies.frames().values())
    run = smoke(folder, studies=False)
    earlier = [run.results / "clamps.parquet", run.figures / "clamps.svg", run.figures / "gates.svg"]
    for path in earlier:
        path.parent.mkdir(exist_ok=True)
        path.write_text("of an earlier run")
        keep_record(path.parent, path)
    (run.figures / "mine.txt").write_text("mine")
    drawn = save_figure(Figure(), run.figures, "length")
    written = write_results(run, diverged, {})
    assert [path.exists() for path in earlier] == [False, False, True] and (run.figures / "mine.txt").exists()
    assert all(path.exists() for path in drawn)  # in an earlier cell
    assert not kept_difference(run.results) and not kept_difference(run.figures)
    check_results(run.folder)
    assert {"documents", "latency", "summary", "comparisons", "times", "cost", "claims"} <= set(written)
    assert not {"gains", "scaling"} & set(written)


def test_result_files_hold_numbers(diverged: Results, folder: Path) -> None:
    written = write_results(smoke(folder, studies=False), diverged, {})
    for name in ("documents", "latency", "curves", "seeds", "summary", "comparisons", "times", "cost", "trivial"):
        frame = pd.read_parquet(written[name])
        assert len(frame) and all(is_numeric_dtype(frame[column]) for column in set(frame) - TEXT - {"peak_of"}), name
    assert json.loads(written["claims"].read_text()) == diverged.claims
    once = ["arm", "against", "metric", "domain"]
    assert not diverged.comparisons.duplicated(once).any()


def test_with_studies_everything_is_measured(diverged: Results, folder: Path, tmp_path: Path) -> None:
    run = smoke(shutil.copytree(folder, tmp_path / "run"))  # the other tests find the arm that diverged
    order.arm(run.variant("fixed-gate")).failure.unlink(missing_ok=True)  # remove it to try again
    results = gather(run)
    assert not results.failures and set(results.documents["arm"]) == set(EVALUATION["arms"])  # type: ignore[arg-type]
    assert all(len(frame) for frame in results.studies.frames().values())
    assert set(results.gains["probe"]) == {"copying", "forgetting", "recall", "passkey"}
    assert results.gains["length"].max() == 8 * run.settings.training.length
    assert {"stories", "natural"} == set(results.positions["kind"]) == set(results.studies.effects["text"])
    assert set(results.studies.rewritten["edit"]) == {"unedited", "edited", "neutral"}
    assert [row["claim"] for row in results.claims] == [*RULES, "gate-matters", "gate-content"]
    assert set(results.studies.clamps["layer"]) == {0, 1, 2} and (results.studies.let_in["share"] > 0).all()
    assert set(results.studies.responses["measure"]) == {GATE, RANDOM, THERE, BEYOND}
    assert set(results.curves["text"]) == {"training", "validation"}
    written = write_results(run, results, {})
    for name in ("gains", "positions", "changes", "rewritten", "saturation", "grid", "clamps", "let_in", "responses"):
        assert len(pd.read_parquet(written[name]))
