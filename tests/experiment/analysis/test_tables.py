"""Tables hold what was measured, beside the paper's numbers, and name what is missing."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from rwkvgate.experiment.analysis import paper
from rwkvgate.experiment.analysis.comparison import (
    COMPARISON_COLUMNS,
    SUMMARY_COLUMNS,
    ablations,
    arms_of,
    comparisons,
    summary,
)
from rwkvgate.experiment.analysis.tables import comparison_table, number, reading, table1, table2
from rwkvgate.metrics.measures import MEASURES, documents_of, tidy

FEW = 300
FAILED = {"no-layer-norm": "loss was not finite at step 40"}


def test_summary_is_the_mean_over_seeds_of_corpus_measures(results):
    frame = summary(results, metrics=("perplexity", "rougeL"), resamples=FEW)
    assert list(frame.columns) == list(SUMMARY_COLUMNS)
    rows = results[results["arm"] == "enhanced"]
    by_seed = rows.pivot_table(index="seed", columns="metric", values="value", aggfunc="sum")
    expected = np.exp(by_seed["nll"] / by_seed["tokens"])
    row = frame[(frame["arm"] == "enhanced") & (frame["metric"] == "perplexity")].iloc[0]
    assert row["value"] == pytest.approx(expected.mean())
    assert row["deviation"] == pytest.approx(expected.std())
    assert row["low"] < row["value"] < row["high"]
    assert (row["seeds"], row["n"], row["status"]) == (3, 24, "")


def test_missing_and_failed_arms_are_said(results, latency):
    quality = table2(results, failures=FAILED, resamples=FEW).set_index("Metric")
    times = table1(latency, failures=FAILED).set_index(["Measure", "Arm"])
    assert (quality.loc["BLEU ↑", "no-layer-norm"]) == "failed: loss was not finite at step 40"
    assert times.loc[("forward", "no-layer-norm"), "Time (s)"] == "failed: loss was not finite at step 40"
    assert table2(results, resamples=FEW).set_index("Metric").loc["BLEU ↑", "no-layer-norm"] == "not run"
    assert table1(latency).set_index("Arm").loc["no-layer-norm", "Time (s)"].tolist() == [
        "not run",
        "not run",
    ]
    against = comparisons(results, failures=FAILED, metrics=("bleu",), resamples=FEW)
    row = against[against["arm"] == "no-layer-norm"].iloc[0]
    assert row["status"].startswith("no-layer-norm failed") and np.isnan(row["difference"])
    nothing = table2(results.iloc[:0], resamples=FEW)
    assert (nothing.loc[0, ["base", "enhanced"]] == "not run").all()


def test_a_failed_seed_stands_beside_what_the_others_gave(results):
    cell = table2(results, failures={"enhanced": "seed 3: killed"}, resamples=FEW).loc[0, "enhanced"]
    assert cell.endswith("(failed: seed 3: killed)") and "±" in cell


def test_a_diverged_arm_is_not_averaged_away(results):
    broken = results.copy()
    hit = (broken["arm"] == "enhanced") & (broken["metric"] == "nll") & (broken["document"] == 3)
    broken.loc[hit, "value"] = np.nan
    row = table2(broken, metrics=("perplexity", "rougeL"), resamples=FEW).set_index("Metric")["enhanced"]
    assert row["Perplexity ↓"] == "not finite" and row["ROUGE-L ↑"][0] == "0"


def test_table2_has_the_papers_numbers_beside(results):
    frame = table2(results, resamples=FEW).set_index("Metric")
    assert frame.loc["ROUGE-L ↑", "paper: enhanced"] == "0.225"
    assert frame.loc["Bits per byte ↓", "paper: base"] == "–"
    assert frame.loc["Seeds", "base"] == "1" and frame.loc["Documents", "enhanced"] == "24"
    assert list(frame.columns)[:2] == ["base", "base-tuned"]


def test_table1_has_time_ratio_and_place(latency):
    frame = table1(latency).set_index(["Measure", "Arm"])
    row = frame.loc[("forward", "enhanced")]
    assert row["Ratio to base"] == "1.071 [1.061, 1.083]"
    assert row["Paper (s)"] == "0.486664" and row["Paper ratio"] == "1.030"
    assert (row["Device"], row["Threads"], row["Tokens"]) == ("cpu", "2", "128")
    assert frame.loc[("generation", "base"), "Paper (s)"] == "2.292671"
    assert table1(latency.iloc[:0])["Time (s)"].tolist() == ["not run"] * 4


def test_comparisons_are_paired_and_against_both_controls(results):
    frame = comparisons(results, metrics=("perplexity", "rougeL"), resamples=FEW)
    assert list(frame.columns) == list(COMPARISON_COLUMNS)
    assert set(frame["against"]) == {"base", "base-tuned"}
    row = frame.set_index(["arm", "against", "metric"]).loc[("enhanced", "base", "rougeL")]
    assert row["difference"] == pytest.approx(row["value"] - row["reference"])
    assert row["separates"] and row["low"] > 0 and (row["n"], row["seeds"], row["reference_seeds"]) == (24, 3, 1)
    text = comparison_table(frame).set_index(["Arm", "Against", "Metric"])
    assert text.loc[("enhanced", "base", "ROUGE-L"), "Reading"] == "better"
    assert text.loc[("enhanced", "base", "Perplexity"), "Reading"] == "better"


def test_only_documents_that_both_have_are_compared(results):
    partial = results[(results["arm"] != "enhanced") | (results["document"] < 10)]
    frame = comparisons(partial, metrics=("rougeL",), arms=("enhanced",), resamples=FEW)
    assert frame["n"].tolist() == [10, 10]


def test_ablations_are_against_enhanced(results):
    frame = ablations(results, metrics=("rougeL",), resamples=FEW)
    assert frame[["arm", "against"]].to_numpy().tolist() == [
        ["no-layer-norm", "enhanced"],
        ["fixed-gate", "enhanced"],
    ]
    assert frame["status"].tolist() == ["no-layer-norm not run", ""]


def test_results_are_checked(results):
    with pytest.raises(ValueError, match="more than once"):
        documents_of(pd.concat([results, results]), MEASURES["rougeL"], "base")
    with pytest.raises(ValueError, match="results lack value"):
        documents_of(results.drop(columns="value"), MEASURES["rougeL"], "base")
    long = tidy(pd.DataFrame({"document": [0], "rougeL": [0.5]}), arm="base", seed=2)
    assert long.to_dict("records") == [{"arm": "base", "seed": 2, "document": 0, "metric": "rougeL", "value": 0.5}]


def test_reading_and_numbers():
    assert reading(0.1, 0.3, 0.28, -0.1, 0.3, "higher") == "no difference shown (smallest: 0.28)"
    assert reading(0.2, 0.01, 0.1, 0.1, 0.3, "lower") == "worse"
    assert reading(-0.2, 0.04, 0.1, -0.3, -0.1, "neither") == "lower"
    assert reading(0.2, 0.2, 0.1, 0.1, 0.3, "lower") == "no difference shown (smallest: 0.10)"
    assert reading(0.2, np.nan, 0.1, 0.1, 0.3, "lower") == "worse, by documents alone"
    assert reading(0.2, np.nan, 0.1, np.nan, np.nan, "lower") == "no interval"
    assert [number(x) for x in (0.0, 0.0431, 3.353, 1234.5, np.nan, 1e-9)] == [
        "0.0000",
        "0.04310",
        "3.353",
        "1234",
        "–",
        "1.000e-09",
    ]


def test_arms_are_listed_in_reading_order(results):
    assert arms_of(results, failures={"low-rank": "x"}) == [
        "base",
        "base-tuned",
        "enhanced",
        "no-layer-norm",
        "fixed-gate",
        "low-rank",
    ]


def test_the_papers_arithmetic():
    frame = paper.arithmetic().set_index("claim")
    assert frame.loc["rouge-l-gain", "from tables %"] == pytest.approx(95.65, abs=0.01)
    assert frame.loc["bleu-gain", "from tables %"] == pytest.approx(96.47, abs=0.01)
    assert frame.loc["perplexity", "from tables %"] == 0
    assert frame.loc["forward-latency", "from tables %"] == pytest.approx(2.979, abs=0.001)
    # The tables print three digits of ROUGE-L and six of seconds: rounding can hide the first gap only.
    assert frame.loc["rouge-l-gain", "compatible"] == "yes"
    assert frame.loc["forward-latency", "compatible"] == "no"
