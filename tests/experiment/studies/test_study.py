"""Studies are declared alike: columns, claims, which arms they read; and intervals over documents hide no gap."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rwkvgate.experiment import order
from rwkvgate.experiment.rules import RULES
from rwkvgate.experiment.run import Run
from rwkvgate.experiment.settings import resolve
from rwkvgate.experiment.steps.making import MAKERS, Work
from rwkvgate.experiment.studies import STUDIES, Studies, no_studies
from rwkvgate.experiment.studies.study import Study, intervals, variants_of
from rwkvgate.metrics.measures import ratio_of_sums
from rwkvgate.metrics.statistics import interval
from rwkvgate.rwkv6.files import write_json


def smoke(folder: Path, **evaluation: Any) -> Run:
    return Run(resolve(profile="smoke", run_dir=str(folder), evaluation=evaluation))


def test_every_study_is_a_field_of_the_tables_and_names_a_claim_that_exists() -> None:
    assert [study.name for study in STUDIES] == list(Studies.__dataclass_fields__)
    assert {study.claim for study in STUDIES if study.claim} == {"linear-complexity", "syntactic-boundaries"}
    assert {study.claim for study in STUDIES if study.claim} <= set(RULES)


def test_without_studies_the_tables_are_empty_and_have_their_columns() -> None:
    frames = no_studies().frames()
    assert {name: tuple(frame.columns) for name, frame in frames.items()} == {s.name: s.columns for s in STUDIES}
    assert all(frame.empty for frame in frames.values())


def test_a_study_reads_the_arms_of_the_run_whose_training_did_not_diverge(tmp_path: Path) -> None:
    run = smoke(tmp_path / "run", arms=["base", "base-tuned", "enhanced", "fixed-gate"], seeds=2)
    read = {study.name: [str(variant) for variant in study.variants(run)] for study in STUDIES}
    assert read["scaling"] == read["grid"] == []
    assert read["effects"] == read["changes"] == read["saturation"] == ["enhanced, seed 0", "enhanced, seed 1"]
    assert read["clamps"] == read["let_in"] == read["responses"] == read["saturation"]
    assert read["rewritten"] == ["base-tuned, seed 0", "enhanced, seed 0"]
    step = order.arm(run.variant("enhanced", 1))
    write_json(step.failure, {"inputs": step.trained_on, "error": "the loss is nan"})
    assert [variant.seed for variant in variants_of(run, ["enhanced"])] == [0]


@pytest.fixture
def counted(tmp_path: Path) -> tuple[Run, Study, list[str]]:
    """A study of a run whose base is finished already, and the calls of its measurement."""
    run, calls = smoke(tmp_path / "run"), []

    def measure(run: Run, variants: Any) -> list[pd.DataFrame]:
        calls.append("measured")
        return [pd.DataFrame({"value": [1.5], "arm": ["base"]}), pd.DataFrame(columns=["arm", "value"])]

    base = order.base(run)
    for step in (*base.requires, base):
        Work(step).write(lambda folder: None)
    return run, Study("counted", ("arm", "value"), measure, lambda run: {"version": 1}), calls


def test_a_study_is_measured_once_and_its_columns_are_in_order(
    counted: tuple[Run, Study, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, study, calls = counted
    monkeypatch.setitem(MAKERS, "counted", study.make)
    for _ in range(2):
        pd.testing.assert_frame_equal(study.ensure(run), pd.DataFrame({"arm": ["base"], "value": [1.5]}))
    assert calls == ["measured"]


def test_intervals_average_within_a_unit_and_resample_units() -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame([(seed, d, rng.random()) for seed in range(2) for d in range(9)], columns=["seed", "d", "x"])
    found = intervals(frame.assign(arm="enhanced", kind="a"), ("arm", "kind"), ("d",), ("x",))
    means = frame.groupby("d")["x"].mean().to_numpy()
    assert found.to_dict("records") == [{"arm": "enhanced", "kind": "a"} | interval(means)._asdict()]
    assert found.loc[0, "n"] == 9 and found.loc[0, "low"] < means.mean() < found.loc[0, "high"]


def test_intervals_of_ratios_pool_their_units() -> None:
    frame = pd.DataFrame({"arm": "base", "kind": "a", "d": [0, 1], "right": [1.0, 0.0], "claims": [1.0, 3.0]})
    found = intervals(frame, ("arm", "kind"), ("d",), ("right", "claims"), ratio_of_sums)
    assert found.loc[0, "estimate"] == 0.25


def test_a_value_that_is_not_a_number_is_not_passed_over() -> None:
    frame = pd.DataFrame(
        {"arm": ["a"] * 4 + ["b"] * 2, "k": 0, "d": [0, 0, 1, 1, 0, 1], "x": [1, np.nan, 2, 3, 4, 5.0]}
    )
    found = intervals(frame, ("arm", "k"), ("d",), ("x",)).set_index("arm")
    assert found.loc["a", ["estimate", "low", "high"]].isna().all() and found.loc["a", "n"] == 2
    assert found.loc["b", "estimate"] == 4.5
    single = intervals(frame.iloc[4:5], ("arm", "k"), ("d",), ("x",))
    assert single.loc[0, "estimate"] == 4 and np.isnan(single.loc[0, "low"]) and single.loc[0, "n"] == 1
    assert intervals(frame.iloc[:0], ("arm", "k"), ("d",), ("x",)).empty
