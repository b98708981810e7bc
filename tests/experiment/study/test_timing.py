"""The table of the seconds of a step: what it lacks is timed, beside the base."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from rwkvgate.experiment.study import timing
from rwkvgate.experiment.study.design import STAGES


def test_what_the_table_lacks_is_timed_beside_the_base(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[list[str]] = []

    def step_times(size: Any, _: Any, networks: Sequence[str]) -> pd.DataFrame:
        asked.append(list(networks))
        seconds = float(len(asked))
        return pd.DataFrame({"size": size.name, "network": networks, "seconds": seconds, "ratio": seconds})

    monkeypatch.setattr(timing, "step_times", step_times)
    path, tasks, stage = tmp_path / "seconds.csv", {"books": None}, STAGES["primary 32x4"]
    first = timing.write_times(path, tasks, [stage])  # type: ignore[arg-type]
    assert asked == [list(stage.networks)] and first["network"].tolist() == list(stage.networks)
    first[~first["network"].isin(["enhanced", "fixed-gate"])].to_csv(path, index=False)
    timing.write_times(path, tasks, [stage])  # type: ignore[arg-type]
    assert asked[1:] == [["base", "enhanced", "fixed-gate"]]
    found = timing.ratios(path)["32x4"]
    assert found == dict.fromkeys(stage.networks, 1.0) | {"enhanced": 2.0, "fixed-gate": 2.0}
    timing.write_times(path, tasks, [stage])  # type: ignore[arg-type]
    assert len(asked) == 2
