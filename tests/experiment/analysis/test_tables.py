"""Tables hold what was measured, beside the paper's numbers, and name what is missing."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from rwkvgate.experiment.analysis.comparison import (
    COMPARISON_COLUMNS,
    SUMMARY_COLUMNS,
    Pair,
    arms_of,
    comparisons,
    pairs_of,
    pooled_times,
    seed_values,
    summary,
)
from rwkvgate.experiment.analysis.tables import comparison_table, number, quality_table, reading, shown, time_table
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


def quality(results, **more):
    """The paper's Table 2 by arm."""
    return quality_table(summary(results, resamples=FEW, **more)).set_index("Arm")


def times(latency, measure="forward", **more):
    """The paper's Table 1 by arm."""
    return time_table(pooled_times(latency, **more), measure).set_index("Arm")


def compared(results, metrics, **more):
    """Every arm against both controls."""
    return comparisons(
        results, pairs_of(arms_of(results, failures=more.get("failures")), metrics), resamples=FEW, **more
    )


def test_missing_and_failed_arms_are_said(results, latency):
    said = "failed: loss was not finite at step 40"
    assert quality(results, failures=FAILED).loc["no-layer-norm", "BLEU ↑"] == said
    assert times(latency, failures=FAILED).loc["no-layer-norm", "Time (s)"] == said
    assert quality(results).loc["no-layer-norm", "BLEU ↑"] == "not run"
    for measure in ("forward", "generation"):
        assert times(latency, measure).loc["no-layer-norm", "Time (s)"] == "not run"
    row = compared(results, ("bleu",), failures=FAILED).set_index("arm").loc["no-layer-norm"].iloc[0]
    assert row["status"].startswith("no-layer-norm failed") and np.isnan(row["difference"])
    assert (quality(results.iloc[:0]).loc[["base", "enhanced"], "Perplexity ↓"] == "not run").all()


def test_a_failed_seed_stands_beside_what_the_others_gave(results, latency):
    failures = {"enhanced": "seed 3: killed"}
    cell = quality(results, failures=failures).loc["enhanced", "Perplexity ↓"]
    assert cell.endswith("(failed: seed 3: killed)") and "±" in cell
    assert times(latency, failures=failures).loc["enhanced", "Time (s)"].endswith("]; failed: seed 3: killed")


def test_a_diverged_arm_is_not_averaged_away(results):
    broken = results.copy()
    hit = (broken["arm"] == "enhanced") & (broken["metric"] == "nll") & (broken["document"] == 3)
    broken.loc[hit, "value"] = np.nan
    row = quality(broken, metrics=("perplexity", "rougeL")).loc["enhanced"]
    assert row["Perplexity ↓"] == "not finite" and row["ROUGE-L ↑"][0] == "0"


def test_table2_has_the_papers_numbers_beside(results):
    frame = quality(results)
    assert frame.loc["paper: enhanced", "ROUGE-L ↑"] == "0.225"
    assert frame.loc["paper: base", "Bits per byte ↓"] == "–"
    assert frame.loc["base", "Seeds"] == 1 and frame.loc["enhanced", "Documents"] == 24
    assert list(frame.index)[:2] == ["base", "base-tuned"]
    numbers = summary(results, metrics=("rougeL",), resamples=FEW).set_index("arm")
    assert numbers.loc["enhanced", "paper"] == 0.225 and np.isnan(numbers.loc["base-tuned", "paper"])


def test_table1_has_time_ratio_and_place(latency):
    row = times(latency).loc["enhanced"]
    assert row["Ratio to base"] == "1.071 [1.061, 1.083]"
    assert row["Paper (s)"] == "0.486664" and row["Paper ratio"] == "1.030"
    assert (row["Device"], row["Threads"], row["Tokens"]) == ("cpu", "2", "128")
    assert times(latency, "generation").loc["base", "Paper (s)"] == "2.292671"
    assert times(latency.iloc[:0])["Time (s)"].tolist() == ["not run"] * 4


def test_comparisons_are_paired_and_against_both_controls(results):
    frame = compared(results, ("perplexity", "rougeL"))
    assert list(frame.columns) == list(COMPARISON_COLUMNS)
    assert set(frame["against"]) == {"base", "base-tuned"}
    row = frame.set_index(["arm", "against", "metric"]).loc[("enhanced", "base", "rougeL")]
    assert row["difference"] == pytest.approx(row["value"] - row["reference"])
    assert row["low"] > 0 and (row["n"], row["seeds"], row["reference_seeds"]) == (24, 3, 1)
    text = comparison_table(frame).set_index(["Arm", "Against", "Metric"])
    assert text.loc[("enhanced", "base", "ROUGE-L"), "Reading"] == "better"
    assert text.loc[("enhanced", "base", "Perplexity"), "Reading"] == "better"


def test_only_documents_that_both_have_are_compared(results):
    partial = results[(results["arm"] != "enhanced") | (results["document"] < 10)]
    frame = compared(partial, ("rougeL",)).set_index("arm")
    assert frame.loc["enhanced", "n"].tolist() == [10, 10]


def test_one_domain_can_be_compared_alone(results):
    domains = {document: "odd" if document % 2 else "even" for document in range(24)}
    pairs = [Pair("enhanced", "base-tuned", "rougeL", name) for name in ("", "odd", "even")]
    assert comparisons(results, pairs, domains=domains, resamples=FEW)["n"].tolist() == [24, 12, 12]


def test_the_papers_gate_is_compared_with_its_ablations(results):
    pairs = pairs_of(["base"], (), ablation_metrics=("rougeL",))
    frame = comparisons(results, pairs, resamples=FEW)
    assert frame[["arm", "against"]].to_numpy().tolist() == [["enhanced", "no-layer-norm"], ["enhanced", "fixed-gate"]]
    assert frame["status"].tolist() == ["no-layer-norm not run", ""]


def test_each_seed_has_its_own_measure(results):
    frame = seed_values(results, ["base", "enhanced"], ["perplexity"])
    rows = results[results["arm"] == "enhanced"]
    sums = rows.pivot_table(index="seed", columns="metric", values="value", aggfunc="sum")
    values = frame[frame["arm"] == "enhanced"].set_index("seed")["value"]
    assert values.to_dict() == pytest.approx(np.exp(sums["nll"] / sums["tokens"]).to_dict())


def test_a_shown_table_is_whole_and_escaped():
    frame = pd.DataFrame({"<b>": ["<script>alert(1)</script>"] * 100, "x": [0.123456, np.nan] * 50})
    html = shown(frame).to_html()
    assert "<script" not in html and html.count("&lt;script") == 100 and "0.1235" in html and "–" in html
    assert "+12.35%" in shown(frame, x="{:+.2%}").to_html()


def test_results_are_checked(results):
    with pytest.raises(ValueError, match="more than once"):
        documents_of(pd.concat([results, results]), MEASURES["rougeL"], "base")
    with pytest.raises(ValueError, match="results lack value"):
        documents_of(results.drop(columns="value"), MEASURES["rougeL"], "base")
    long = tidy(pd.DataFrame({"document": [0], "rougeL": [0.5]}), arm="base", seed=2)
    assert long.to_dict("records") == [{"arm": "base", "seed": 2, "document": 0, "metric": "rougeL", "value": 0.5}]


def test_reading_and_numbers():
    def said(difference, p, better, p_documents=0.01):
        row = {"difference": difference, "p": p, "p_documents": p_documents, "bound": 0.31, "smallest": 0.28}
        return reading(row, better)

    assert said(0.1, 0.3, "higher") == "no difference shown: under 0.31 either way (minimum detectable: 0.28)"
    assert said(0.2, 0.01, "lower") == "worse" and said(-0.2, 0.04, "neither") == "lower"
    assert said(0.2, np.nan, "lower") == "worse, by documents alone (one seed: no interval)"
    assert said(0.2, np.nan, "lower", 0.3) == "no difference shown, by documents alone (one seed: no interval)"
    assert said(0.2, np.nan, "lower", np.nan) == "no interval"
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
