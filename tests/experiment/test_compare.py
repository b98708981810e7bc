"""Two runs compared: what differs in how they were made, and which numbers moved."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rwkvgate.experiment.compare import differences, moved, named_differences, read_run, times
from rwkvgate.gate.validation import SettingsError


def scores(shift: float = 0.0, seed: int = 0) -> pd.DataFrame:
    """Perplexities of two arms, the second moved."""
    rng = np.random.default_rng(seed)
    rows = [
        {"arm": arm, "seed": 0, "document": d, "metric": metric, "value": value}
        for arm, by in (("base", 0.0), ("enhanced", shift))
        for d in range(50)
        for metric, value in (("nll", 100 * (1 + by) + rng.normal()), ("tokens", 100.0))
    ]
    return pd.DataFrame(rows)


def latency(ratio: float) -> pd.DataFrame:
    """The times of two arms, the base's and one over it."""
    rows = [("base", 1.0, 1.0, 1.0), ("enhanced", ratio, ratio - 0.02, ratio + 0.02)]
    frame = pd.DataFrame(rows, columns=["arm", "ratio", "ratio_low", "ratio_high"])
    return frame.assign(seed=0, measure="forward")


def test_times_are_compared_as_ratios_to_the_base() -> None:
    found = times(latency(1.03), latency(1.05))
    assert len(found) == 1 and not found.loc[0, "moved"]
    assert found.loc[0, "measure"] == "forward over the base's, seed 0" and found.loc[0, "A"] == "1.030 [1.010, 1.050]"
    assert times(latency(1.03), latency(1.08)).loc[0, "moved"]
    lacking = times(latency(1.03), latency(1.03).query("arm == 'base'"))
    assert lacking.loc[0, "B"] == "missing" and not lacking.loc[0, "moved"]


def test_packages_that_the_manifests_do_not_name_are_compared(tmp_path: Path) -> None:
    for name, lines in (
        ("a", "torch==2.13.0\nidna==3.1\n"),
        ("b", "torch==2.13.0  # build cpu\n# idna==3.2  # a folder\n"),
    ):
        (tmp_path / name / "results").mkdir(parents=True)
        (tmp_path / name / "manifest.json").write_text(json.dumps({"versions": {"torch": "2.13.0"}}))
        (tmp_path / name / "environment.txt").write_text(f"# Python 3.12\n{lines}")
        scores().to_parquet(tmp_path / name / "results" / "documents.parquet")
        latency(1.0).to_parquet(tmp_path / name / "results" / "latency.parquet")
    one, other = (read_run(tmp_path / name) for name in "ab")
    entries = differences(one.manifest, other.manifest)
    assert named_differences(entries) == "Packages in other versions: idna\n"
    found = entries.set_index("entry")
    assert list(found.index) == ["versions.idna"] and found.loc["versions.idna"].tolist() == ["3.1", "3.2"]


def test_results_of_earlier_settings_are_refused(tmp_path: Path) -> None:
    """A run that was killed after its settings had been changed has new models and old tables."""
    (tmp_path / "results").mkdir()
    settings = {"training": {"steps": 440}, "evaluation": {"documents": 3}}
    (tmp_path / "manifest.json").write_text(json.dumps({"settings": settings, "versions": {}}))
    (tmp_path / "results" / "settings.json").write_text(json.dumps({"training": {"steps": 440}}))
    scores().to_parquet(tmp_path / "results" / "documents.parquet")
    latency(1.0).to_parquet(tmp_path / "results" / "latency.parquet")
    assert len(read_run(tmp_path).documents)
    (tmp_path / "results" / "settings.json").write_text(json.dumps({"training": {"steps": 30}}))
    with pytest.raises(SettingsError, match="holds results of other settings of training than its manifest"):
        read_run(tmp_path)


def test_texts_that_differ_are_named_with_the_packages_they_were_read_from() -> None:
    one = {"corpus": {"hashes": {"train": "a", "natural_train": "b"}, "versions": {"numpy": "2.4", "scipy": "1.17"}}}
    other = {"corpus": {"hashes": {"train": "a", "natural_train": "c"}, "versions": {"numpy": "2.5", "scipy": "1.17"}}}
    found = differences(one, other)
    assert found.to_numpy().tolist() == [
        ["corpus.hashes.natural_train", "b", "c"],
        ["corpus.versions.numpy", "2.4", "2.5"],
    ]
    assert named_differences(found) == (
        "Texts that differ: natural_train\nNatural text was read from other versions of: numpy\n"
    )
    del other["corpus"]["versions"]  # a run of an earlier version
    assert named_differences(differences(one, other)) == "Texts that differ: natural_train\n"
    assert named_differences(differences(one, one)) == ""


def test_equal_manifests_have_no_difference_and_unequal_ones_are_named() -> None:
    one = {"settings": {"profile": "cpu", "training": {"steps": 3}}, "seeds": [0, 1], "written": "now"}
    other = {"settings": {"profile": "cpu", "training": {"steps": 4}}, "versions": {"torch": "2"}, "seeds": [0, 1]}
    assert differences(one, one | {"written": "later"}).empty
    found = differences(one, other).set_index("entry")
    assert found.loc["settings.training.steps"].tolist() == [3, 4]
    assert found.loc["versions.torch"].tolist() == [None, "2"]


def test_a_number_that_moved_is_told_from_one_that_did_not() -> None:
    found = moved(scores(), scores(0.1, seed=1), resamples=200).set_index(["arm", "measure"])
    assert found.loc[("enhanced", "Perplexity"), "moved"] and not found.loc[("base", "Perplexity"), "moved"]
    assert set(found.index.get_level_values("measure")) == {"Perplexity"}


def test_an_arm_that_one_run_lacks_is_missing_there_and_has_not_moved() -> None:
    found = moved(scores(), scores().query("arm == 'base'"), resamples=200).set_index("arm")
    assert found.loc["enhanced", "B"] == "missing" and not found.loc["enhanced", "moved"]


def test_the_command_says_both_and_refuses_what_is_no_run(tmp_path: Path) -> None:
    for name, shift in (("a", 0.0), ("b", 0.2)):
        (tmp_path / name / "results").mkdir(parents=True)
        (tmp_path / name / "manifest.json").write_text(
            json.dumps({"settings": {"shift": shift}, "commit": {"dirty": not shift}})
        )
        scores(shift).to_parquet(tmp_path / name / "results" / "documents.parquet")
        latency(1 + shift).to_parquet(tmp_path / name / "results" / "latency.parquet")
        verdict = {"claim": "rouge-l-gain", "verdict": "not reproduced" if shift else "reproduced"}
        (tmp_path / name / "results" / "claims.json").write_text(json.dumps([verdict]))
    command = [sys.executable, "-m", "rwkvgate.experiment.compare", str(tmp_path / "a"), str(tmp_path / "b")]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "settings.shift" in told and "1 of 2 numbers moved" in told and "enhanced" in told
    assert "1 of 1 times moved" in told and "rouge-l-gain: reproduced in A, not reproduced in B" in told
    assert "A was made with uncommitted changes" in told and "B was made" not in told and "missing" not in told
    with pytest.raises(SettingsError, match="no run folder"):
        read_run(tmp_path)
    (tmp_path / "a" / "results" / "documents.parquet").write_bytes(b"x")
    with pytest.raises(SettingsError, match="no finished results"):
        read_run(tmp_path / "a")


@pytest.mark.parametrize("claims", ["[1", "[1]", '{"a": 1}', "[{}]"])
@pytest.mark.parametrize("versions", [{}, [1]])
def test_what_no_record_verifies_is_read_or_refused_in_words(tmp_path: Path, claims: str, versions: object) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "manifest.json").write_text(json.dumps({"versions": versions}))
    for name, frame in (("documents", scores()), ("latency", latency(1.0))):
        frame.to_parquet(tmp_path / "results" / f"{name}.parquet")
    (tmp_path / "results" / "claims.json").write_text(claims)
    for folder in (tmp_path, tmp_path / ("x" * 300)):
        with pytest.raises(SettingsError, match="holds no results that can be read"):
            read_run(folder)
    (tmp_path / "manifest.json").write_text("{}")
    (tmp_path / "results" / "claims.json").unlink()
    assert read_run(tmp_path).verdicts == {}


@pytest.mark.parametrize(
    ("documents", "times", "message"),
    [
        ({"value": [1.5]}, None, "documents.parquet lacks arm, seed, document, metric; it must have arm, seed, doc"),
        (None, {"a": [1]}, "latency.parquet lacks arm, seed, measure, ratio, ratio_low, ratio_high; it must have arm"),
        (None, latency(1.0).assign(ratio="x"), "latency.parquet holds ratio as .*; it must hold numbers"),
        (scores().assign(seed="x"), None, "documents.parquet holds seed as .*; it must hold numbers"),
        (scores().assign(arm="x"), None, "documents.parquet holds the same arm, seed, document, metric more than once"),
    ],
)
def test_tables_of_other_columns_are_refused(tmp_path: Path, documents: object, times: object, message: str) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "manifest.json").write_text("{}")
    for name, given, usual in (("documents", documents, scores()), ("latency", times, latency(1.0))):
        frame = usual if given is None else pd.DataFrame(given)
        frame.to_parquet(tmp_path / "results" / f"{name}.parquet")
    with pytest.raises(SettingsError, match=f"{tmp_path}/results/{message}"):
        read_run(tmp_path)
