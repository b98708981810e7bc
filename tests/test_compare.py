"""Two runs compared: what differs in how they were made, and which numbers moved."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rwkvgate.compare import differences, moved, read_run
from rwkvgate.settings import SettingsError


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
        (tmp_path / name / "manifest.json").write_text(json.dumps({"settings": {"shift": shift}}))
        scores(shift).to_parquet(tmp_path / name / "results" / "documents.parquet")
    command = [sys.executable, "-m", "rwkvgate.compare", str(tmp_path / "a"), str(tmp_path / "b")]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "settings.shift" in told and "1 of 2 numbers moved" in told and "enhanced" in told
    with pytest.raises(SettingsError, match="no run folder"):
        read_run(tmp_path)
    (tmp_path / "a" / "results" / "documents.parquet").write_bytes(b"x")
    with pytest.raises(SettingsError, match="no finished results"):
        read_run(tmp_path / "a")
