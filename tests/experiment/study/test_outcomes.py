"""What fine-tunings say, on planted scores: verdicts, the claims' evidence and the page."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rwkvgate.experiment.study.design import LORA
from rwkvgate.experiment.study.figures import tuned_figure
from rwkvgate.experiment.study.outcomes import (
    ABLATED,
    CLAIMS,
    ENTITIES,
    decisions,
    evidence,
    outcomes,
    results,
    study_claims,
)
from rwkvgate.experiment.study.tuned_page import _below_margin, _forgotten, _not_quality, tuned_parts
from tests.experiment.study.planted import DOCUMENTS, tuned, tuned_trials

SECONDS = {"base": 1.0, "enhanced": 1.15, "fixed-gate": 1.05}


@cache
def found_of(gain: float = 0.0, times: float = 1.0) -> pd.DataFrame:
    """The outcomes of planted trials."""
    return outcomes(tuned_trials(gain, times), SECONDS, UNTOUCHED)


UNTOUCHED = tuned(LORA, 99, gain=-1.0)  # one seed, one budget, worse


@pytest.mark.parametrize(
    ("gain", "verdict"), [(0.1, "better than every control"), (-0.1, "worse than every control"), (0.005, "no better")]
)
def test_a_gain_stands_against_every_control(gain: float, verdict: str) -> None:
    found = found_of(gain)
    decided = decisions(found).set_index(["metric", "arm"])
    assert decided.loc[("loss", "enhanced"), "verdict"] == verdict
    loss = found[(found["metric"] == "loss") & (found["arm"] == "enhanced")].set_index("control")
    assert set(loss.index) == {"steps", "parameters", "FLOPs", "seconds", "new parameters", "nothing", ABLATED}
    assert loss.loc["steps", "difference"] == pytest.approx(-gain, abs=0.005)
    assert loss.loc["seconds", "difference"] == pytest.approx(0.1 * np.log(1.15) - gain, abs=0.005)
    assert loss.loc["nothing", "difference"] == pytest.approx(-1 - gain, abs=0.01)
    assert ("steps" in decided.loc[("loss", "enhanced"), "equivalent"].split(", ")) == (abs(gain) < 0.01)
    guessed = decided.loc[(ENTITIES, "enhanced")]
    assert guessed["equivalent"] is None and np.isnan(guessed["needed"])


def test_without_times_nothing_is_better_than_every_control() -> None:
    assert set(decisions(outcomes(tuned_trials(0.1, seeds=3), {}))["verdict"]) <= {"undecided", "no better"}


def test_a_higher_score_is_better() -> None:
    decided = decisions(found_of(times=2.0)).set_index(["metric", "arm"])
    assert decided.loc[("rougeL", "enhanced"), "verdict"] == "better than every control"
    assert decided.loc[("rougeL", "enhanced"), "estimate"] < -0.1


@pytest.mark.parametrize(("times", "verdict"), [(2.0, "reproduced"), (1.2, "not reproduced"), (0.7, "contradicted")])
def test_the_claims_take_it_as_evidence(times: float, verdict: str) -> None:
    found = found_of(times=times)
    claims = {record["claim"]: record for record in study_claims(found)}
    assert set(claims) == set(CLAIMS)
    assert claims["rouge-l-gain"]["verdict"] == claims["rouge-1-gain"]["verdict"] == verdict
    assert claims["rouge-l-gain"]["against_base"] and claims["rouge-l-gain"]["seeds"] == 6
    assert claims["perplexity"]["verdict"] == "not reproduced"
    assert claims["entity-coherence"]["verdict"] == "undecided here"


@pytest.mark.parametrize("skilled", [False, True])
def test_choices_decide_only_where_the_base_is_better_than_chance(skilled: bool) -> None:
    trials = tuned_trials(seeds=5)
    if skilled:
        always = [[1.0]] * 30 + [[0.0]] * 10
        for one in trials:
            one.measures.update({b: m | {"choice": always} for b, m in one.measures.items()})
    found = outcomes(trials, SECONDS)
    verdict = decisions(found).set_index(["metric", "arm"]).loc[("entity_consistency", "enhanced"), "verdict"]
    claim = next(record for record in study_claims(found) if record["claim"] == "entity-coherence")
    assert verdict == ("no better" if skilled else "undecided")
    assert ("not shown to choose better than by chance" in claim["reason"]) == (not skilled)


def test_evidence_is_the_same_from_its_file(tmp_path: Any) -> None:
    found = found_of(times=1.2)
    found.to_csv(tmp_path / "found.csv", index=False)
    pd.testing.assert_frame_equal(evidence(pd.read_csv(tmp_path / "found.csv")), evidence(found), check_dtype=False)


def test_a_diverged_training_has_no_scores_and_decides_nothing() -> None:
    trials = tuned_trials(0.1, seeds=3)
    at = next(i for i, one in enumerate(trials) if one.plan.network == "enhanced")
    trials[at] = replace(trials[at], test={400: [float("inf")] * DOCUMENTS}, measures={})
    assert not results([trials[at]])["metric"].eq("rougeL").any()
    decided = decisions(outcomes(trials, SECONDS)).set_index(["metric", "arm"])
    assert decided.loc[("loss", "enhanced"), "verdict"] == "undecided"


def test_the_page_has_scores_differences_and_verdicts(tmp_path: Path) -> None:
    stages = {
        f"{name} {setting}": ([], 0)
        for name in ("finetune", "untouched")
        for setting in ("stories", "stories freely", "fiction", "fiction freely")
    }
    found: Any = (
        stages
        | {"rates finetune stories": ([], 0)}
        | {"finetune stories": (tuned_trials(), 36), "untouched stories": ([UNTOUCHED], 1)}
    )
    parts, tables = tuned_parts(tmp_path, found, SECONDS)
    told = "\n".join(parts)
    assert list(tables) == ["finetune-stories", "finetune-stories-verdicts"]
    for words in (
        "| enhanced |",
        "x 1.20",
        "Right choices",
        "Against lora",
        "Against the untouched base",
        "not shown",
        "30 of 36",
        "more than 2 times the base's for none of them",
    ):
        assert words in told
    assert "Entity consistency" not in told and "Austen's novels, after" not in told
    assert all((tmp_path / f"{name}-stories.svg").exists() for name in ("finetune", "forgetting"))


@pytest.mark.parametrize(("forgets", "said"), [({"enhanced": 2.5}, "enhanced (2.50) alone"), ({}, "none of them")])
def test_who_forgets_more_than_is_wanted_is_named(forgets: dict[str, float], said: str) -> None:
    trials = [
        replace(trial, forgotten=dict.fromkeys(trial.test, forgets.get(trial.plan.network, 1.2)))
        for trial in tuned_trials(seeds=2)
    ]
    assert (
        _forgotten(trials, 400) == f"After 400 steps the books' perplexity is more than 2 times the base's for {said}."
    )


def test_scores_that_say_nothing_are_said_to() -> None:
    rows = [("base-tuned", "loss", 3.6), ("base-tuned", "rougeL", 0.09), ("fixed-gate", "loss", 4.8)]
    means = pd.DataFrame([*rows, ("fixed-gate", "rougeL", 0.12)], columns=["arm", "metric", "value"]).assign(seeds=5)
    assert "fixed-gate has the highest ROUGE-L, and the highest loss" in _not_quality(means)
    assert not _not_quality(means.replace(0.12, 0.08)) and not _not_quality(means.assign(seeds=1))
    low = pd.DataFrame({"control": "steps", "metric": ["bleu", "rougeL"], "reference": [0.006, 0.09]})
    assert _below_margin(low).startswith("The tuned base's BLEU is smaller than its margin")
    assert not _below_margin(low[low["metric"] == "rougeL"])


@pytest.mark.parametrize(("far", "bent"), [(0.2, False), (1.1, True)])
def test_the_axis_of_losses_is_bent_where_a_large_difference_would_hide_the_others(
    far: float, bent: bool, tmp_path: Path
) -> None:
    rows = [("enhanced", "steps", 0.05), ("fixed-gate", "steps", far)]
    found = pd.DataFrame(rows, columns=["arm", "control", "difference"])
    found = found.assign(metric="loss", low=found["difference"] - 0.01, high=found["difference"] + 0.01)
    tuned_figure(tmp_path, found, "planted", "Planted", {})
    drawn = " ".join((tmp_path / "finetune-planted.svg").read_text(encoding="utf-8").split())
    assert ("logarithmic beyond" in drawn) == bent == ("<!-- −0.05 -->" in drawn) and "equal steps" in drawn
