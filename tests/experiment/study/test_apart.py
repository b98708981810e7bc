"""The enhanced network along its training and beside other arms, on planted losses."""

from __future__ import annotations

from rwkvgate.experiment.analysis.tables import signed
from rwkvgate.experiment.study.analysis import comparisons
from rwkvgate.experiment.study.apart import apart_table, course_table
from tests.experiment.study.planted import pretrained

NETWORKS = ("base", "base-wide", "enhanced", "no-layer-norm", "fixed-gate", "conv-no-position")


def test_the_course_has_a_row_for_each_size_and_a_column_for_each_budget() -> None:
    trials = [*pretrained("primary 64x4"), *pretrained("primary 32x4")]
    seconds = {size: dict.fromkeys(NETWORKS, 1.0) for size in ("64x4", "32x4")}
    compared = comparisons(trials, seconds, 0.01)
    head, _, *rows = course_table(compared).splitlines()[2:]
    assert head == "| Size | 0.31 M | 0.61 M | 1.2 M |" and [row.split(" | ")[0] for row in rows] == [
        "| 64x4",
        "| 32x4",
    ]
    own = compared[(compared["arm"] == "enhanced") & (compared["control"] == "steps") & (compared["size"] == "64x4")]
    assert all(signed(value) in rows[0] for value in own["estimate"])
    assert course_table(compared[compared["arm"] != "enhanced"]) == ""


def test_arms_are_compared_after_the_most_steps_that_both_have() -> None:
    """The long trainings have no other arms, and longer ones of one size stand in for none."""
    trials = pretrained("primary 64x4", {"enhanced": 1.2}) + pretrained("longer")
    rows = [line.split(" | ") for line in apart_table(trials).splitlines()[4:]]
    assert [row[1] for row in rows] == ["no-layer-norm", "fixed-gate", "conv-no-position"]
    assert {row[2] for row in rows} == {"600"} and {row[3] for row in rows} == {"10"}
    assert all(row[4].startswith("−") for row in rows)  # the enhanced network was planted as the better one
    assert apart_table(trials[:1]) == ""
