"""A whole run gathered and published in one process: with studies and without, with an arm that diverges."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rwkvgate.experiment.pipeline import ensure_arm, open_run
from rwkvgate.experiment.reporting import FIGURES, publish

from rwkvgate.experiment import pipeline
from rwkvgate.experiment.results import Results, gather
from rwkvgate.experiment.rules import RULES
from rwkvgate.experiment.run import Run

EVALUATION = {"arms": ["base", "base-tuned", "enhanced", "fixed-gate"], "documents": 6, "probes": 1, "longest": 1024}


def smoke(folder: Path, **evaluation: Any) -> Run:
    """A small run at profile smoke."""
    return open_run(profile="smoke", run_dir=str(folder), evaluation=EVALUATION | evaluation)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("results") / "run"


@pytest.fixture(scope="module")
def diverged(folder: Path) -> Results:
    """A run in which the fixed gate's training diverges."""
    plain = pipeline._tune

    def tune(run: Run, model: Any, texts: Any, arm: str, seed: int) -> Any:
        if arm == "fixed-gate":
            raise FloatingPointError("the loss is nan at step 3; lower the learning rate")
        return plain(run, model, texts, arm, seed)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "_tune", tune)
        return gather(smoke(folder, studies=False))


def test_an_arm_that_diverged_is_said_in_every_table_and_averaged_into_none(diverged: Results, folder: Path) -> None:
    assert "fixed-gate" not in set(diverged.documents["arm"]) and "nan at step 3" in diverged.failures["fixed-gate"]
    for table in (diverged.table1, diverged.table2, diverged.comparisons, diverged.ablations):
        assert "failed: fixed-gate, seed 0: the loss is nan at step 3" in table.to_string()
    rows = {row["claim"]: row for row in diverged.claims}
    assert rows["adaptive-beats-fixed"]["verdict"] == "undecided here"
    assert "failed" in rows["adaptive-beats-fixed"]["reason"]
    written = publish(smoke(folder, studies=False), diverged)
    page = written["report"].read_text(encoding="utf-8")
    assert "failed: fixed-gate" in page


def test_what_diverged_is_not_tried_again_with_the_same_settings(diverged: Results, folder: Path) -> None:
    run = smoke(folder)
    with pytest.raises(FloatingPointError, match=r"nan at step 3.*remove it to try again"):
        ensure_arm(run, "fixed-gate", 0)
    record = json.loads(run.failure("fixed-gate", 0).read_text())
    assert record["error"].startswith("fixed-gate, seed 0") and not run.arm("fixed-gate", 0).exists()


def test_without_studies_their_tables_and_figures_are_left_out(diverged: Results, folder: Path) -> None:
    assert diverged.gains.empty and all(frame.empty for frame in diverged.studies.frames().values())
    written = publish(smoke(folder, studies=False), diverged)
    assert {"documents", "claims", "figure1", "figure3", "curves", "cost", "quality-cost"} <= set(written)
    assert not {"gains", "scaling", "length", "memory"} & set(written)


def test_with_studies_everything_is_measured_drawn_and_linked(diverged: Results, folder: Path) -> None:
    run = smoke(folder)
    run.failure("fixed-gate", 0).unlink(missing_ok=True)  # remove it to try again
    results = gather(run)
    assert not results.failures and set(results.documents["arm"]) == set(EVALUATION["arms"])  # type: ignore[arg-type]
    assert all(len(frame) for frame in results.studies.frames().values())
    assert set(results.gains["probe"]) == {"copying", "forgetting", "recall", "passkey"}
    assert results.gains["length"].max() == 8 * run.settings.training.length
    assert {"stories", "natural"} == set(results.positions["kind"]) == set(results.studies.effects["text"])
    assert set(results.studies.rewritten["edit"]) == {"unedited", "edited", "neutral"}
    assert [row["claim"] for row in results.claims] == list(RULES)
    written = publish(run, results)
    assert {name for name, *_ in FIGURES} <= {name for name, path in written.items() if path.suffix == ".svg"}
    page = written["report"].read_text(encoding="utf-8")
    assert page.count("<figure id=") == len(FIGURES) and "results/gains.parquet" in page
    for name in ("gains", "positions", "changes", "rewritten", "saturation", "grid"):
        assert len(pd.read_parquet(written[name]))
