"""The reference run is copied from sound results alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from rwkvgate.experiment.records import KEPT, intact, keep_record
from rwkvgate.gate.validation import SettingsError
from rwkvgate.rwkv6.files import write_json, write_text
from rwkvgate.workflow.release import reference, results_in_markdown

ROOT = Path(__file__).resolve().parents[2]


def test_damaged_results_are_not_committed(tmp_path: Path) -> None:
    run = tmp_path / "outputs" / "cpu"
    write_text(run / "report.html", "")
    write_json(run / "results" / "claims.json", [])
    write_text(run / "figures" / "figure3.svg", "<svg/>")
    keep_record(run / "results", run / "results" / "claims.json")
    keep_record(run / "figures", run / "figures" / "figure3.svg")
    write_text(run / "figures" / "figure3.svg", "<svg></svg>")
    with pytest.raises(SettingsError, match=r"figures is damaged: figure3\.svg has 11 bytes and not the 6"):
        reference(tmp_path)
    assert not (tmp_path / "outputs" / "reference").exists()


def test_the_committed_reference_is_as_its_records_say() -> None:
    folder = ROOT / "outputs" / "reference"
    committed = [path for part in ("results", "figures") for path in (folder / part).iterdir() if path.name != KEPT]
    assert len(committed) > 15 and all(intact(path) for path in committed)
    assert all((folder / part / KEPT).is_file() for part in ("results", "figures"))


def test_the_studys_verdicts_stand_in_a_column_of_their_own() -> None:
    record = {"claim": "perplexity", "verdict": "contradicted", "where": "pretrained", "size": "64x4", "seeds": 10}
    run = ROOT / "outputs" / "reference"
    with_study, without = results_in_markdown(run, [record]), results_in_markdown(run)
    assert "| contradicted (pretrained, 10 seeds, 64x4) |" in with_study[2] and "docs/study.md" in with_study[1]
    assert "The study" not in without[2] and with_study[3:] == without[3:]
