"""The page's part on what was read inside, from planted trials."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from rwkvgate.experiment.study.inside import OCTAVES
from rwkvgate.experiment.study.inside_page import (
    DRIFT,
    JACOBIAN,
    _gap_figure,
    by_data,
    by_layer,
    by_length,
    inside_parts,
)
from tests.experiment.study.planted import NETWORKS, planted, stages


def test_without_trials_there_is_no_part(tmp_path: Path) -> None:
    assert inside_parts(tmp_path, {"inside": []}) == ([], {})


def test_tables_hold_the_planted_readings() -> None:
    trials = [planted(name, seed, jitter=0.0) for name in NETWORKS for seed in range(2)]
    layers = by_layer(trials)
    assert layers[layers["measure"] == JACOBIAN]["value"].tolist() == pytest.approx([0.5] * 128)
    assert sorted(set(layers[layers["measure"] == DRIFT]["steps"])) == [75, 150, 300]
    lengths = by_length(trials)
    ends = lengths[(lengths["tokens"] == OCTAVES[-1]) & (lengths["of"] == "state")]
    assert ends["times"].tolist() == pytest.approx([2.718281828] * 32)
    gaps = by_data({"data 1/16": trials})
    assert gaps["gap"].tolist() == pytest.approx([0.4] * 8) and set(gaps["share"]) == {1 / 16}


def test_the_part_has_rules_tests_and_a_figure_for_each(tmp_path: Path) -> None:
    found = stages(5, enhanced={"noise": 0.2, "distractor": 0.2}) | {"data 1/16": stages(2)["inside"]}
    found["inside"][0] = replace(found["inside"][0], diverged=3, measures={})
    parts, tables = inside_parts(tmp_path, found)
    page = "\n\n".join(parts)
    assert "| the gate filters noisy or irrelevant past |" in page and "| diverged |" in page
    for name in ("drift", "gradients", "jacobian", "growth", "disturbed", "gap"):
        assert (tmp_path / f"inside-{name}.svg").exists() and f"outputs/study/inside-{name}.svg" in page
    assert len(tables["inside-tests"]) == 13 and all(len(table) for table in tables.values())
    assert "guard: not less" in page and "| more |" in page
    assert all(
        f"| {words} |" in page for words in ("Extra loss after a distractor", "Worth of the context behind noise")
    )
    # The growth has ticks at lengths that were read, and its file is small.
    drawn = (tmp_path / "inside-growth.svg").read_text(encoding="utf-8")
    assert all(f"<!-- {words} -->" in drawn for words in ("128", "2,048", "65,536", "WKV state", "layer 4"))
    assert len(drawn) < 250_000


def test_gaps_are_drawn_on_a_logarithmic_axis(tmp_path: Path) -> None:
    found = {name: [planted(one, 0, gap=gap) for one in NETWORKS] for name, gap in (("inside", 0.1), ("data 1/64", 6))}
    _gap_figure(tmp_path, by_data(found))
    drawn = (tmp_path / "inside-gap.svg").read_text(encoding="utf-8")
    assert all(f"<!-- {tick} -->" in drawn for tick in ("0.2", "0.5", "1", "2", "5", "1/64", "all"))
