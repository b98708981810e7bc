"""The study's verdicts in one table: what is decided, what waits for trials, and how the page and a run show it."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rwkvgate.experiment.claims import answer as run_answer
from rwkvgate.experiment.claims import claims_summary, claims_table, decide_claims
from rwkvgate.experiment.rules import CONTRADICTED, NOT_REPRODUCED, REPRODUCED, RULES, UNDECIDED
from rwkvgate.experiment.study.analysis import comparisons, decide, of_stage
from rwkvgate.experiment.study.committed import beside_study, committed_arms, committed_verdicts
from rwkvgate.experiment.study.design import GENRES, STAGES
from rwkvgate.experiment.study.gap import Fit
from rwkvgate.experiment.study.inside_rules import CLAIMS
from rwkvgate.experiment.study.ledger import COSTS, Found, marked, study_ledger, unfinished, write_ledger
from rwkvgate.experiment.study.outcomes import outcomes
from rwkvgate.experiment.study.verdicts_page import answer, better_variants, head
from tests.experiment.study.planted import breaking, pretrained, stages, tuned_trials
from tests.experiment.test_claims import evidence

SECONDS = {"64x4": dict.fromkeys(("base-wide", "enhanced", "no-layer-norm", "fixed-gate", "conv-no-position"), 1.1)}
SECONDS["64x4"] |= {"base": 1.0, "conv-only": 1.1, "routing-only": 1.1}
TUNED_SECONDS = {"base": 1.0, "enhanced": 1.15, "fixed-gate": 1.05}


def ledger(found: Found, tuned: dict[str, pd.DataFrame] | None = None) -> dict[tuple[str, str], dict[str, Any]]:
    """The records by claim and stage."""
    return {(record["claim"], record["stage"]): record for record in study_ledger(found, tuned or {}, SECONDS)}


@cache
def tuned_outcomes(times: float) -> pd.DataFrame:
    """What fine-tunings say in which the enhanced network's scores are so many times the others'."""
    return outcomes(tuned_trials(times=times), TUNED_SECONDS)


def whole(trials: list[Any]) -> tuple[list[Any], int]:
    return trials, len(trials)


def test_without_trials_everything_waits_and_says_for_how_many() -> None:
    records = ledger({})
    assert {record["verdict"] for record in records.values()} == {UNDECIDED}
    assert records["rouge-l-gain", "finetune stories"]["reason"] == "finetune stories: 0 of 60 trials"
    assert records["layer-norm-stabilises", "breaking"]["reason"] == "breaking: 0 of 108 trials"
    assert {claim for claim, _ in records} >= {*CLAIMS, "long-range", "learned-retrieval", "component-contributions"}
    first, second, last = answer(list(records.values()))
    assert (
        f"not decided yet (primary 64x4: 0 of {STAGES['primary 64x4'].planned} trials)" in first
        and "not decided yet" in second
    )
    count = len(records) - 12  # two choices of the rates have one verdict
    none = "0 reproduced, 0 not reproduced, 0 contradicted, 0 undecided here"
    assert last == f"Of 0 verdicts, 0 of them on the study's own question, {none}; {count} more wait for trials."


@pytest.mark.parametrize(
    ("more", "verdict", "words"),
    [
        (1.4, REPRODUCED, "better than every control"),
        (0.8, CONTRADICTED, "worse than every control"),
        (1.1, NOT_REPRODUCED, "no better"),
    ],
)
def test_pretraining_is_decided_against_every_control(more: float, verdict: str, words: str) -> None:
    found = {"primary 64x4": whole(pretrained("primary 64x4", {"enhanced": more}))}
    record = ledger(found)[COSTS.claim, "primary 64x4"]
    assert record["verdict"] == verdict
    assert (record["size"], record["steps"], record["tokens"], record["seeds"], record["n"]) == (
        "64x4",
        600,
        1.23,
        10,
        40,
    )
    assert record["low"] < record["ours"] < record["high"] and "equal seconds" in record["unit"]
    first = answer(study_ledger(found, {}, SECONDS))[0]
    assert f"\n    - 64x4, 600 steps, 10 seeds: {words}; " in first
    assert record["controls"]["seconds"] == [record["ours"], record["low"], record["high"]]
    assert ledger(found)[COSTS.claim, "longer"]["verdict"] == UNDECIDED
    found["primary 32x4"] = whole(pretrained("primary 32x4", {"enhanced": more}))
    first = answer(study_ledger(found, {}, SECONDS | {"32x4": SECONDS["64x4"]}))[0]
    head, *places = first.split("\n    - ")
    assert ("nowhere shown" in head) == (verdict != REPRODUCED) and len(places) == 2
    assert ("at 64x4, 600 steps and at 32x4, 600 steps" in head) == (verdict == REPRODUCED)
    for place in places:  # the base of equal steps, and the strongest control
        assert f" seeds: {words}; " in place and place.count("] at equal ") == 2


@pytest.mark.parametrize(
    ("times", "verdict"),
    [
        ({"gru": 0.8, "rwkv-7": 1.4}, CONTRADICTED),
        ({"gru": 0.8, "rwkv-7": 1.0}, NOT_REPRODUCED),
        ({"gru": 0.8, "rwkv-7": 0.9}, UNDECIDED),
    ],
)
def test_another_recurrent_model_can_contradict_a_state_of_the_art(times: dict[str, float], verdict: str) -> None:
    """A Transformer that is better says nothing of it, and being better than two models is no state of the art."""
    more = times | {"transformer": 2.0}
    found = {name: whole(pretrained(name, more)) for name in ("primary 64x4", "others", "families")}
    record = ledger(found)["state-of-the-art", "families"]
    assert record["verdict"] == verdict and record["seeds"] == 5 and record["n"] == 40
    if verdict != UNDECIDED:
        assert record["unit"].endswith("minus rwkv-7") and record["p"] < 0.05
    assert record["low"] < record["ours"] < record["high"] and record["reason"].count(" minus ") == 4
    waits = ledger(found | {"others": ([], 30)})["state-of-the-art", "families"]
    assert waits["reason"] == "others: 0 of 30 trials" and not waits["finished"]
    trials = found["families"][0]
    broken = replace(trials[0], test={budget: [float("inf")] * 40 for budget in trials[0].test})
    assert (
        "diverged"
        in ledger(found | {"families": whole([broken, *trials[1:]])})["state-of-the-art", "families"]["reason"]
    )


def test_an_unfinished_stage_decides_nothing() -> None:
    trials = pretrained("primary 64x4", {"enhanced": 1.4})
    planned = STAGES["primary 64x4"].planned
    assert len(trials) == planned
    record = ledger({"primary 64x4": (trials[:-1], planned)})[COSTS.claim, "primary 64x4"]
    assert record["verdict"] == UNDECIDED and record["reason"] == f"primary 64x4: {planned - 1} of {planned} trials"
    assert record["ours"] is record["seeds"] is record["p"] is None


@pytest.mark.parametrize("stage", ["others", "recurrent gate"])
def test_a_stage_without_a_base_of_its_own_waits_for_the_one_that_has_it(stage: str) -> None:
    trials = pretrained("primary 64x4")
    found = {"primary 64x4": (trials[:-1], len(trials)), stage: whole(pretrained(stage))}
    records = [record for record in study_ledger(found, {}, SECONDS) if record["stage"] == stage]
    assert records and all(record["reason"].startswith("primary 64x4: ") for record in records)


def test_networks_of_a_stage_may_have_unequal_seeds() -> None:
    """Pairs are of the seeds that both have, and an arm that got more of them was looked at twice."""
    names = {"enhanced": 10, "conv-no-position": 18, "no-layer-norm": 10}
    trials = pretrained("primary 64x4", {"conv-no-position": 1.1})
    compared = of_stage(comparisons(trials, SECONDS, 0.01), STAGES["primary 64x4"])
    own = compared.groupby("arm")[["seeds", "looks"]].agg(["min", "max"])
    for arm, seeds in names.items():
        assert list(own.loc[arm]) == [seeds, seeds, *[2 if seeds > 10 else 1] * 2]
    once = decide(compared.assign(looks=1)).set_index("arm")["p"]
    twice = decide(compared).set_index("arm")["p"]
    assert twice["conv-no-position"] == pytest.approx(min(1, 2 * once["conv-no-position"]))


def test_without_times_pretraining_is_undecided() -> None:
    found = {"primary 64x4": whole(pretrained("primary 64x4", {"enhanced": 1.4}))}
    records = study_ledger(found, {}, {})
    record = next(r for r in records if r["claim"] == COSTS.claim)
    assert record["verdict"] == UNDECIDED and "not timed" in record["reason"] and record["finished"]
    assert f"undecided; {record['reason']}." in answer(records)[0]


def test_a_diverged_training_leaves_pretraining_undecided_with_the_reason() -> None:
    trials = pretrained("primary 64x4", {"enhanced": 1.4})
    at = next(i for i, one in enumerate(trials) if one.plan.network == "enhanced")
    trials[at] = replace(trials[at], diverged=3, test={b: [float("inf")] * 40 for b in trials[at].test})
    records = study_ledger({"primary 64x4": whole(trials)}, {}, SECONDS)
    first = answer(records)[0]
    assert "64x4, 600 steps: undecided; " in first and "a training diverged" in first and "–" not in first


def test_variants_are_told_of_finished_stages_with_enough_seeds(tmp_path: Path) -> None:
    """The stage of the others has the size and the steps of the paper's arms."""
    found = {"primary 64x4": whole(pretrained("primary 64x4", {"no-layer-norm": 0.8, "conv-only": 1.5}))}
    others = pretrained("others", {"conv-only": 1.5, "routing-only": 0.8})

    def arms_of(found: Found) -> pd.DataFrame:
        trials = [trial for some, _ in found.values() for trial in some]
        compared = comparisons(trials, SECONDS, 0.01)
        return pd.concat([decide(of_stage(compared, STAGES[name])) for name in found])

    def told(found: Found, fewer: int = 0) -> str:
        arms = arms_of(found)
        return "\n".join(head(study_ledger(found, {}, SECONDS), {}, arms.assign(seeds=arms["seeds"] - fewer)))

    assert "worse than every control: *no-layer-norm, fixed-gate*; no better: *conv-no-position*." in told(found)
    assert "conv-only" not in told(found | {"others": (others[:12], 30)}).split("**Limits.**")[0]
    assert "steps (1.23 M tokens): better than every control: *conv-only*; " in told(found | {"others": whole(others)})
    assert "*no-layer-norm" not in told(found, fewer=7)
    both = found | {"others": whole(others)}
    [better] = better_variants(study_ledger(both, {}, SECONDS), arms_of(both))
    assert better.startswith("A variant, *conv-only*, is better than every control at 64x4, 600 steps, 5 seeds: ")
    assert better.endswith("; trained at no other size, nor longer.") and better in told(both)
    assert better_variants(study_ledger(found, {}, SECONDS), arms_of(found)) == []
    write_ledger(tmp_path / "outputs" / "study", [], arms_of(both))
    arms = committed_arms(tmp_path)
    assert arms is not None and better_variants(study_ledger(both, {}, SECONDS), arms) == [better]
    assert committed_arms(tmp_path / "nowhere") is None


@pytest.mark.parametrize(("routing", "verdict"), [(1.5, REPRODUCED), (0.8, CONTRADICTED)])
def test_each_part_of_version_2_must_help(routing: float, verdict: str) -> None:
    more = {"conv-only": 1.5, "routing-only": routing}
    found = {name: whole(pretrained(name, more)) for name in ("primary 64x4", "others")}
    record = ledger(found)["component-contributions", "others"]
    assert record["verdict"] == verdict
    hardest = record["unit"].rpartition(" ")[2]
    assert record["controls"][hardest] == [record["ours"], record["low"], record["high"]]


@pytest.mark.parametrize(("times", "verdict"), [(2.0, REPRODUCED), (0.7, CONTRADICTED)])
def test_fine_tuning_is_decided_by_the_rules_of_the_ledger(times: float, verdict: str) -> None:
    trials = tuned_trials(times=times)
    tuned = {"stories": tuned_outcomes(times)}
    records = ledger({"finetune stories": whole(trials)}, tuned)
    assert records["rouge-l-gain", "finetune stories"]["verdict"] == verdict
    assert records["rouge-l-gain", "finetune fiction"]["reason"] == "finetune fiction: 0 of 30 trials"
    second = answer(list(records.values()), tuned)[1]
    assert second.startswith("Fine-tuned on stories") and f"*ROUGE-L nearly doubles* is {verdict}" in second
    waits = ledger({"finetune stories": (trials, 60)}, tuned)["rouge-l-gain", "finetune stories"]
    assert waits["verdict"] == UNDECIDED and waits["reason"] == "finetune stories: 30 of 60 trials"


@pytest.mark.parametrize("genre", GENRES)
@pytest.mark.parametrize(
    ("freely", "verdict"), [(2.0, REPRODUCED), (0.7, UNDECIDED), (1.0, UNDECIDED)], ids=["agree", "worse", "no gain"]
)
def test_fine_tuning_is_decided_as_far_as_both_choices_of_rates_agree(freely: float, verdict: str, genre: str) -> None:
    times = {genre: 2.0, f"{genre} freely": freely}
    tuned = {setting: tuned_outcomes(own) for setting, own in times.items()}
    found = {f"finetune {setting}": whole(tuned_trials(times=own)) for setting, own in times.items()}
    records = ledger(found, tuned)
    own = [records["rouge-l-gain", stage] for stage in found]
    assert {record["verdict"] for record in own} == {verdict}
    assert own[0]["ours"] > 0 and ("by itself reproduced" in own[0]["reason"]) == (verdict != REPRODUCED)
    waits = ledger(found | {f"finetune {genre} freely": (tuned_trials(times=freely), 60)}, tuned)
    assert waits["rouge-l-gain", f"finetune {genre}"]["verdict"] == REPRODUCED


def test_worse_by_one_choice_of_rates_and_no_better_by_the_other_is_not_reproduced() -> None:
    settings = {"stories": 0.7, "stories freely": 1.0}
    tuned = {setting: tuned_outcomes(times) for setting, times in settings.items()}
    records = ledger(
        {f"finetune {setting}": whole(tuned_trials(times=times)) for setting, times in settings.items()}, tuned
    )
    own = [records["rouge-l-gain", f"finetune {setting}"] for setting in settings]
    assert [record["verdict"] for record in own] == [NOT_REPRODUCED, NOT_REPRODUCED]
    assert own[0]["reason"].startswith(
        "by itself contradicted, at the rates with the lowest loss on stories not reproduced"
    )
    assert [record["alone"] for record in own] == [CONTRADICTED, None] and "where they differ" in own[0]["rule"]
    told = "\n".join(head(list(records.values()), tuned))
    assert "| not reproduced (by itself contradicted) |" in told
    last, others = (answer(list(records.values()), tuned)[i] for i in (-1, 2))
    ended = sum(record["finished"] for record in records.values()) // 2
    assert last.startswith(f"Of {ended} verdicts, ") and f"; {len(records) - 12 - ended} more wait for trials" in last
    assert "ROUGE-1 nearly doubles" in others


def test_the_answer_names_the_setting_of_a_claim_with_several() -> None:
    settings = {"stories": 2.0, "fiction": 0.7}
    tuned = {setting: tuned_outcomes(times) for setting, times in settings.items()}
    found = {f"finetune {setting}": whole(tuned_trials(times=times)) for setting, times in settings.items()}
    others = answer(study_ledger(found, tuned, SECONDS), tuned)[2]
    assert "ROUGE-L nearly doubles" in others and "ROUGE-1 nearly doubles (fine-tuned on generated stories)" in others
    assert "ROUGE-1 nearly doubles (fine-tuned on Austen's novels)" in others


def test_what_is_read_inside_is_decided_by_its_own_rules() -> None:
    found = stages(5, enhanced={"gradient": 0.1, "jacobian": 0.5})
    found |= {"breaking": breaking(found["inside"], no_layer_norm=1.6e-2)}
    records = ledger({name: whole(trials) for name, trials in found.items()})
    assert records["steady-gradients", "inside"]["verdict"] == REPRODUCED
    stable = records["layer-norm-stabilises", "breaking"]
    assert stable["verdict"] == REPRODUCED and stable["seeds"] == 5 and stable["ours"] > 0
    assert "rate at which training breaks" in stable["unit"]


def test_tables_of_unfinished_stages_are_marked() -> None:
    trials = pretrained("recurrent gate")
    parts = ["words", "head\n\n| a |\n| --- |\n| 1 |"]
    assert marked(parts, {"recurrent gate": whole(trials), "longer": ([], 0)}) == parts
    words, table = marked(parts, {"recurrent gate": (trials, 6)})
    assert words == "words" and table.startswith("**Not finished** (recurrent gate: 5 of 6 trials)")
    assert unfinished({}, ["others"]) == f"others: 0 of {STAGES['others'].planned} trials"


def test_the_page_begins_with_the_answer_and_every_verdict() -> None:
    records = study_ledger({"primary 64x4": whole(pretrained("primary 64x4", {"enhanced": 0.8}))}, {}, SECONDS)
    told = "\n\n".join(head(records, {}))
    assert told.startswith("## The answer so far\n\n- Pretrained from scratch, the paper's gate is nowhere shown")
    assert "| contradicted |" in told and "\n- finetune fiction: 0 of 30 trials: ROUGE-L nearly doubles;" in told
    assert all(record["text"] in told for record in records)
    assert "alone has a verdict: " in told and RULES["generation-time"].text in told


def test_a_run_shows_the_committed_verdicts_beside_its_own(tmp_path: Path) -> None:
    records = study_ledger({"primary 64x4": whole(pretrained("primary 64x4", {"enhanced": 0.8}))}, {}, SECONDS)
    write_ledger(tmp_path / "outputs" / "study", records)
    verdicts = committed_verdicts(tmp_path)
    assert verdicts == records
    own = [{"claim": claim, "text": rule.text, "stated": "", "verdict": UNDECIDED} for claim, rule in RULES.items()]
    claims = beside_study(own, verdicts)
    column = claims_summary(claims).set_index("Claim")["The study"]
    assert column["ROUGE-L nearly doubles"].startswith("undecided here (finetune stories: 0 of 60 trials)")
    assert column["the work fits one T4"] == "–"
    assert [{k: v for k, v in claim.items() if k != "study"} for claim in claims] == own
    assert "The study" not in claims_summary(beside_study(claims, []))
    path = tmp_path / "outputs" / "study" / "claims.json"
    path.write_bytes(path.read_bytes().replace(b"contradicted", b"reproduced"))
    assert committed_verdicts(tmp_path) == [] == committed_verdicts(tmp_path / "nowhere")


def test_a_runs_own_answer_counts_its_own_verdicts_alone() -> None:
    own = decide_claims(evidence())
    claims = beside_study(own, [{"claim": "perplexity", "verdict": REPRODUCED, "where": "x", "size": "y", "seeds": 1}])
    assert run_answer(claims) == run_answer(own) and "The study" in claims_table(claims)


@pytest.mark.parametrize(
    ("slopes", "said"),
    [
        ((-0.01, -0.02), "longer trainings favour the gate"),
        ((0.01, 0.02), "longer trainings favour the base"),
        ((-0.01, 0.0), "no trend is shown at both"),
    ],
)
def test_the_answer_says_how_the_difference_changes_with_the_length(slopes: tuple[float, ...], said: str) -> None:
    jitter = np.array([[0.0, 0.001, 0.0], [0.0, -0.001, 0.0], [0.0, 0.0, 0.0]])
    fitted = [
        Fit(of, found := np.array([0.0, slope, 0.0]), found + jitter, sizes=True, seeds=3, fewest=3)
        for of, slope in zip(("FLOPs", "seconds"), slopes, strict=True)
    ]
    first = answer(list(ledger({}).values()), fitted=fitted)[0]
    assert first.count(" at equal FLOPs and ") == 1 and first.endswith(f" at equal seconds: {said}.")
    assert "Every doubling" not in answer(list(ledger({}).values()))[0]
