"""What the study decides of the paper's claims, in one table: `outputs/study/claims.json`.

A verdict rests on finished stages alone. While a stage has trials to come, its claims are undecided, without a number,
and the reason counts the trials. Corrections are over the arms of a stage; those of the discussion's claims over the
tests of finished stages, so that a stage that finishes later can weaken a verdict of theirs and never strengthen it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from rwkvgate.experiment.analysis.tables import signed_interval
from rwkvgate.experiment.claims import plain
from rwkvgate.experiment.judgements import Records, decided
from rwkvgate.experiment.records import write_sealed
from rwkvgate.experiment.rules import (
    CONTRADICTED,
    FEWEST,
    NOT_REPRODUCED,
    OWN,
    POWER,
    REPRODUCED,
    RULES,
    UNDECIDED,
    VERSION,
    Rule,
    of_parts,
)
from rwkvgate.experiment.study import inside_rules, long_range
from rwkvgate.experiment.study.analysis import (
    ENHANCED,
    LEVEL,
    Ratios,
    absence,
    compare,
    comparisons,
    decide,
    losses_at,
    of_stage,
    recall_decides_nothing,
)
from rwkvgate.experiment.study.committed import FILE
from rwkvgate.experiment.study.design import BASE, RECURRENT, STAGES, WORTH_KNOWING, Stage
from rwkvgate.experiment.study.outcomes import CLAIMS as TUNED_CLAIMS
from rwkvgate.experiment.study.outcomes import study_claims
from rwkvgate.experiment.study.trials import Trial
from rwkvgate.metrics.retrained import Difference
from rwkvgate.metrics.statistics import holm

Found = Mapping[str, tuple[Sequence[Trial], int]]
"""By stage: the finished trials, and how many there will be; 0 while that is not known."""
WORDS = {
    "better than every control": REPRODUCED,
    "worse than every control": CONTRADICTED,
    "no better": NOT_REPRODUCED,
    "undecided": UNDECIDED,
}
"""The ledger's words for the verdicts of `analysis.decide`."""
COSTS = Rule(
    "worth-its-compute",
    "the gate lowers the loss of a network pretrained from scratch, for what it costs",
    "the study's question",
    OWN,
    "reproduced if the loss is shown lower than that of every control, of equal steps, parameters, FLOPs and seconds; "
    f"contradicted if shown higher; not reproduced if shown less than {WORTH_KNOWING['books']:g} nats per token lower "
    "than some control's; else undecided",
)
RECURS = replace(
    COSTS,
    claim="recurrence-worth-its-compute",
    text="the gate, read as a recurrence over time, lowers the loss for what it costs",
)
RETRIEVAL = Rule(
    "learned-retrieval",
    "the gate acts as a learned retrieval mechanism",
    "v1, section 6",
    "in words",
    "reproduced if more is recalled in the memory tasks than by every control, of equal steps, parameters, FLOPs and "
    f"seconds; contradicted if less; not reproduced if shown less than {WORTH_KNOWING['memory']:g} of recall better "
    "than some control; else undecided, as while neither the base nor the enhanced network recalls half of a task at "
    "the trained length, or the base misses less than twice as much as is worth knowing",
)
COMPONENTS = replace(
    RULES["component-contributions"],
    rule="reproduced if convolution alone and routing alone, pretrained from scratch, are each shown to have a lower "
    "loss than every control, of equal steps, parameters, FLOPs and seconds; contradicted if either is shown higher; "
    f"not reproduced if either is shown less than {WORTH_KNOWING['books']:g} nats per token lower than some control's; "
    "else undecided",
)
OTHERS = ("gru", "rwkv-7")
"""The recurrent models beside RWKV-6; the Transformer is none."""
NEWEST = ("enhanced", "conv-routing")
"""The gates of the paper's two versions."""
STATE_OF_THE_ART = replace(
    RULES["state-of-the-art"],
    rule="against a GRU and RWKV-7 of the base's size, each at its own best rate, after as many steps from scratch: "
    "contradicted if one of them is shown to have a lower loss than the gates of both versions; not reproduced if both "
    f"gates are shown less than {WORTH_KNOWING['books']:g} nats per token better than one of them; else undecided, for "
    "two other models of one size are no state of the art",
    lacks="",
)
COHERENCE = replace(
    RULES["entity-coherence"],
    rule="reproduced if the enhanced network is shown to be right more often than the tuned base in choosing between a "
    "sentence and the same sentence with two people's names exchanged; contradicted if less often; undecided where the "
    f"tuned base is not shown to choose better than by chance; {POWER}",
)
CHOICES_OF_RATES = {
    "": "at the rates chosen by what they forget",
    " freely": "at the rates with the lowest loss on stories",
}
"""By how the setting's name ends; the settings of a genre differ in nothing else, and are decided together."""
TOGETHER = (
    ". Compared at two choices of the learning rates: where one says contradicted and the other not reproduced, it is "
    "not reproduced; where they differ otherwise, undecided"
)
SETTINGS = {
    genre + choice: f"fine-tuned on {texts}, {rates}"
    for genre, texts in (("stories", "generated stories"), ("fiction", "Austen's novels"))
    for choice, rates in CHOICES_OF_RATES.items()
}
"""What fine-tuning is called, by what follows "finetune" in its stage's name."""
AMONG = ("primary 64x4", "others")
"""The stages that hold the gates of both versions."""
KEYS = ("ours", "low", "high", "unit", "controls", "equivalent", "n", "seeds", "p", "verdict", "alone", "reason")


class _Entry(NamedTuple):
    """A claim in one setting: its rule, the stage that it rests on, the setting in words, what decides it, and the
    stages that it rests on beside its own."""

    rule: Rule
    stage: str
    where: str
    verdict: Callable[[], Records]
    beside: tuple[str, ...] = ()


def unfinished(found: Found, stages: Sequence[str]) -> str:
    """Which of these stages have trials to come, with how many they have of how many; "" where all are finished."""
    counts = {name: found.get(name, ((), 0)) for name in stages}
    return "; ".join(
        f"{name}: {len(trials)} of {planned or STAGES[name].planned} trials"
        for name, (trials, planned) in counts.items()
        if not planned or len(trials) < planned
    )


def marked(parts: Sequence[str], found: Found) -> list[str]:
    """Paragraphs of the page, with a mark above the first table while stages that they rest on have trials to come.

    Args:
        found: of the stages that the tables rest on; those that have no trial yet are in no table.
    """
    lacking = unfinished(found, [name for name, (trials, _) in found.items() if trials])
    first = next((i for i, part in enumerate(parts) if "| --- |" in part), None)
    note = f"**Not finished** ({lacking}): what rests on that, here and below, decides nothing yet.\n\n"
    return [note + part if lacking and i == first else part for i, part in enumerate(parts)]


def study_ledger(found: Found, tuned: Mapping[str, pd.DataFrame], seconds: Mapping[str, Ratios]) -> list[Records]:
    """Every claim in every setting that the study can decide it in, in the order of the ledger: one record each.

    Keys: claim, text, source, stated, where (the setting in words), size, steps, tokens (millions), stage, finished
    (whether the stage is), ours, low, high, unit, controls (where all four decide: estimate, low and high by what the
    control has as much of), equivalent (those of them that it is equivalent to), n, seeds, p, verdict, alone (that by
    one of two choices of the rates, where the other says something else), reason, rule and rules (their version). A
    claim whose stage is not finished is undecided, and its numbers are None.

    Args:
        tuned: `outcomes.outcomes` by setting of fine-tuning, of those that have trials.
        seconds: of a training step over the base's, by size.
    """
    done = {name: trials for name, (trials, _) in found.items() if name in STAGES and not unfinished(found, [name])}
    entries = [*_tuned(tuned, done), *_pretrained(done, seconds), *_inside(done), *_read(done, seconds)]
    order = [*RULES, *(entry.rule.claim for entry in entries)]
    records = []
    for entry in sorted(entries, key=lambda entry: order.index(entry.rule.claim)):
        rule, stage = entry.rule, STAGES[entry.stage]
        record: Records = {"claim": rule.claim, "text": rule.text, "source": rule.source, "stated": rule.stated}
        record |= {"where": entry.where, "size": stage.size.name, "steps": max(stage.budgets)}
        record |= {"tokens": round(stage.tokens * max(stage.budgets) / 1e6, 2), "stage": stage.name}
        lacking = unfinished(found, [stage.name, *entry.beside])
        record["finished"] = not lacking
        own = decided(UNDECIDED, lacking) if lacking else entry.verdict()
        record |= {key: plain(own.get(key)) for key in KEYS}
        records.append(record | {"rule": rule.rule, "rules": VERSION})
    return records


def write_ledger(folder: Path, records: Sequence[Records], arms: pd.DataFrame | None = None) -> None:
    """Write the records into the study's folder, under a seal, and the verdicts on every arm that was pretrained."""
    rows = [] if arms is None else arms.astype(object).where(arms.notna(), None).to_dict("records")
    write_sealed(folder / FILE.name, {"rules": VERSION, "claims": list(records), "arms": rows})


def _tuned(tuned: Mapping[str, pd.DataFrame], done: Mapping[str, Sequence[Trial]]) -> Iterator[_Entry]:
    claims: dict[str, dict[str, Records]] = {}

    def alone(setting: str, claim: str) -> Records:
        if setting not in claims:
            claims[setting] = {record["claim"]: record for record in study_claims(tuned[setting])}
        return claims[setting][claim]

    def of(setting: str, claim: str) -> Records:
        """A record, with the verdict of both choices of the rates where both are finished."""
        own = alone(setting, claim)
        for choice, rates in CHOICES_OF_RATES.items():
            other = setting.partition(" ")[0] + choice
            said = alone(other, claim)["verdict"] if f"finetune {other}" in done else own["verdict"]
            if said != own["verdict"]:
                both = {said, own["verdict"]} == {CONTRADICTED, NOT_REPRODUCED}
                why = f"by itself {own['verdict']}, {rates} {said}; {own['reason']}"
                joint = NOT_REPRODUCED if both else UNDECIDED
                return own | {"alone": None if own["verdict"] == joint else own["verdict"]} | decided(joint, why)
        return own

    for setting, where in SETTINGS.items():
        for claim in TUNED_CLAIMS:
            rule = COHERENCE if claim == COHERENCE.claim else RULES[claim]
            rule = replace(rule, rule=rule.rule + TOGETHER)
            yield _Entry(rule, f"finetune {setting}", where, partial(of, setting, claim))


def _pretrained(done: Mapping[str, Sequence[Trial]], seconds: Mapping[str, Ratios]) -> Iterator[_Entry]:
    """The gate for its compute at each size and length, and version 2's parts."""
    stages = [stage for stage in STAGES.values() if stage.task == "books" and not (stage.rates or stage.sweep)]
    trials = [trial for stage in stages for trial in done.get(stage.name, ())]
    compared = comparisons(trials, seconds, WORTH_KNOWING["books"])

    def of(stage: Stage, *arms: str) -> Records:
        n = next(len(trial.weights) for trial in trials)
        return _all(of_stage(compared, stage), arms, "nats per token", n)

    for stage in stages:
        where = "pretrained from scratch"
        beside = () if BASE in stage.networks else (f"primary {stage.size.name}",)  # which has the base
        if ENHANCED in stage.networks:
            yield _Entry(COSTS, stage.name, where, partial(of, stage, ENHANCED))
        elif "conv-only" in stage.networks:
            arms = [pair.arm for pair in RULES["component-contributions"].pairs]
            yield _Entry(COMPONENTS, stage.name, f"{where}, as we read its parts", partial(of, stage, *arms), beside)
        elif stage.networks == RECURRENT:
            yield _Entry(RECURS, stage.name, where, partial(of, stage, *RECURRENT), beside)
    yield _Entry(
        STATE_OF_THE_ART,
        "families",
        where,
        lambda: _among_recurrent([trial for name in ("families", *AMONG) for trial in done[name]]),
        AMONG,
    )


def _among_recurrent(trials: Sequence[Trial]) -> Records:
    """Both gates against the other recurrent models after as many steps; the numbers are of the pair that decides."""
    largest = max(STAGES["families"].budgets)
    own = {name: {t.plan.seed: t for t in trials if t.plan.network == name} for name in (*NEWEST, *OTHERS)}
    seeds = sorted(set.intersection(*(set(by_seed) for by_seed in own.values())))
    n = len(next(iter(own[ENHANCED].values())).weights)
    pairs: dict[tuple[str, str], Difference] = {}
    for other, arm in product(OTHERS, NEWEST):
        losses = [(losses_at(own[arm][s], largest), losses_at(own[other][s], largest)) for s in seeds]
        pairs[other, arm] = compare(losses, own[arm][seeds[0]].weights)
    p = {
        CONTRADICTED: [max(absence(pairs[other, arm], 0.0) for arm in NEWEST) for other in OTHERS],
        NOT_REPRODUCED: [max(absence(pairs[other, arm], WORTH_KNOWING["books"]) for arm in NEWEST) for other in OTHERS],
    }
    if not np.isfinite([*p[CONTRADICTED], *p[NOT_REPRODUCED]]).all():
        return decided(UNDECIDED, "a training diverged")
    adjusted = {verdict: holm(values) for verdict, values in p.items()}
    shown = (verdict for verdict, values in adjusted.items() if len(seeds) >= FEWEST and min(values) < LEVEL)
    verdict = next(shown, UNDECIDED)
    other = OTHERS[int(np.argmin(p[NOT_REPRODUCED if verdict == UNDECIDED else verdict]))]
    arm = min(NEWEST, key=lambda name: pairs[other, name].estimate)
    low, high = pairs[other, arm].interval()
    listed = (f"{a} minus {o}: {signed_interval(d.estimate, *d.interval())}" for (o, a), d in pairs.items())
    found: Records = {"ours": pairs[other, arm].estimate, "low": low, "high": high, "n": n, "seeds": len(seeds)}
    found |= {"unit": f"nats per token, {arm} minus {other}", "p": min(adjusted.get(verdict, [np.nan]))}
    end = ("two other models of one size are no state of the art",) if verdict == UNDECIDED else ()
    return found | decided(verdict, "; ".join((*listed, *end)))


def _inside(done: Mapping[str, Sequence[Trial]]) -> Iterator[_Entry]:
    tested = inside_rules.compared(done)
    verdicts = inside_rules.verdicts(tested).set_index("claim")

    def of(claim: str) -> Records:
        own = tested[(tested["claim"] == claim) & (tested["role"] != "guard")]
        verdict, reason = verdicts.loc[claim, ["verdict", "reason"]]
        telling = own[own["says"] == verdict] if (own["says"] == verdict).any() else own
        row: dict[Any, Any] = telling.iloc[0].to_dict()
        record = {"ours": row["estimate"], "low": row["low"], "high": row["high"], "p": row["adjusted"]}
        unit = f"{row['measure']}, {row['arm']} minus {row['against']}"
        return record | {"unit": unit, "n": row["n"], "seeds": row["seeds"]} | decided(str(verdict), str(reason))

    for claim, (rule, tests) in inside_rules.CLAIMS.items():
        stage = inside_rules.READINGS[tests[0].reading].stage
        where = {
            "breaking": "trained to where it breaks",
            "data 1/64": "trained on 1/64 of the documents, which every network overfits",
        }.get(stage, "read inside, pretrained from scratch")
        yield _Entry(rule, stage, where, partial(of, claim))


def _read(done: Mapping[str, Sequence[Trial]], seconds: Mapping[str, Ratios]) -> Iterator[_Entry]:
    """Long range and memory."""

    def long() -> Records:
        trials = done["long texts"]
        found = long_range.verdict(long_range.gains(trials), long_range.differences(trials, seconds))
        return found | {"n": len(trials[0].weights)}

    def memory() -> Records:
        trials = done["memory"]
        compared = of_stage(comparisons(trials, seconds, WORTH_KNOWING["memory"]), STAGES["memory"])
        unit = "share of labelled tokens not recalled"
        found = _all(compared, (ENHANCED,), unit, len(trials[0].weights))
        nothing = recall_decides_nothing(trials, WORTH_KNOWING["memory"])
        return found | decided(UNDECIDED, nothing) if nothing else found

    yield _Entry(RULES["long-range"], "long texts", "pretrained on rows of 512 tokens, read after 1,024", long)
    yield _Entry(RETRIEVAL, "memory", "trained on the memory tasks", memory)


def _all(compared: pd.DataFrame, arms: Sequence[str], unit: str, n: int) -> Records:
    """What the comparisons of a stage say of the claim that each of these arms is better than every control.

    The numbers are those of the arm that decides.
    """
    verdicts = decide(compared)
    rows: list[dict[Any, Any]] = [verdicts[verdicts["arm"] == arm].iloc[0].to_dict() for arm in arms]
    said = [WORDS[row["verdict"]] if row["seeds"] >= FEWEST else UNDECIDED for row in rows]
    verdict = of_parts(said)
    row = rows[said.index(verdict)]
    reason = "; ".join(
        f"{one['arm']}: {one['verdict']}, the strongest control that of equal {one['control']}"
        + (f"; equivalent at equal {' and '.join(one['equivalent'].split(', '))}" if one["equivalent"] else "")
        for one in rows
    )
    if verdict == UNDECIDED and not np.isfinite(row["p"]):
        reason = f"{row['arm']}: a training diverged, or its steps were not timed"
    own = compared[compared["arm"] == row["arm"]].to_dict("records")
    return {
        **{"ours": row["estimate"], "low": row["low"], "high": row["high"], "p": row["p"], "n": n},
        "unit": f"{unit}, {row['arm']} minus the control of equal {row['control']}",
        "controls": {one["control"]: [plain(one[name]) for name in ("estimate", "low", "high")] for one in own},
        "equivalent": [one["control"] for one in own if one["equivalent"]],
        "seeds": int(row["seeds"]),
    } | decided(verdict, reason)
