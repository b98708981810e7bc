"""What the study's fine-tunings say, in the tables that the claims read: every score of every arm and control.

The tuned base, with as many steps, is the claims' control. Beside it stand the base with as many FLOPs and seconds,
read from its own curve, the controls of equal parameters, and the untouched base, which the paper compares with. A
choice between two sentences (`choices`) counts as one claim about an entity, right or wrong: entity consistency is the
share of right choices.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from rwkvgate.experiment.analysis.comparison import BASE as UNTOUCHED
from rwkvgate.experiment.analysis.comparison import COMPARISON_COLUMNS, CONTROL, ENHANCED, Pair
from rwkvgate.experiment.analysis.comparison import comparisons as compared_pairs
from rwkvgate.experiment.claims import Evidence, claim_pairs, decide_claims
from rwkvgate.experiment.rules import WORTH
from rwkvgate.experiment.study.analysis import (
    ADAPTERS,
    Ratios,
    absence,
    after_steps,
    decide,
    equal_parameters,
    losses_at,
    ratio,
)
from rwkvgate.experiment.study.design import BASE, LORA, WIDE
from rwkvgate.experiment.study.trials import Trial
from rwkvgate.metrics.measures import BLEU_COLUMNS, MEASURES, RESULT_COLUMNS
from rwkvgate.metrics.retrained import Difference, seeds_needed

ENTITIES = "entity_consistency"
RIGHT = "Right choices"
"""What `ENTITIES` is called here: it counts choices between sentences, where a run counts what is written."""
METRICS = ("loss", "rougeL", "rouge1", "bleu", ENTITIES)
"""What is compared; distinct-2 is shown."""
NAMES = {BASE: CONTROL, LORA: "lora-tuned"}
"""Arms as the claims call them, where the study calls them otherwise."""
COLUMNS = {"bleu": BLEU_COLUMNS, "choice": ("entity_right",)}
"""The columns of a trial's measures in the tables, where they are not the measure's name alone."""
ABLATED = "its gate fixed"
"""The control that answers another claim: that an adaptive gate is better than a fixed one."""
CHANCE = "chance"
"""Guessing, which the tuned base is compared with: where it is not shown to be better, choices decide nothing."""
CLAIMS = ("rouge-l-gain", "bleu-gain", "rouge-1-gain", "perplexity", "adaptive-beats-fixed", "entity-coherence")
"""The paper's claims that these comparisons can decide."""
RESAMPLES = 2000
By = Mapping[str, Mapping[int, Trial]]


def by_network(trials: Sequence[Trial]) -> dict[str, dict[int, Trial]]:
    """Trials by network and seed."""
    found: dict[str, dict[int, Trial]] = {}
    for trial in trials:
        found.setdefault(trial.plan.network, {})[trial.plan.seed] = trial
    return found


def scores(trial: Trial, arm: str, steps: float) -> pd.DataFrame:
    """A trial's scores after so many steps as long results: arm, seed, document, metric, value.

    Scores that a diverged training lacks are left out; its losses are infinite.
    """
    weights = np.array(trial.weights, dtype=np.float64)
    columns = {"nll": losses_at(trial, steps) * weights, "tokens": weights}
    measured = [set(trial.measures.get(budget, {})) for budget in trial.test]
    for name in sorted(set.intersection(*measured)):
        values = after_steps({budget: found[name] for budget, found in trial.measures.items()}, steps)
        columns |= {column: values[:, i] for i, column in enumerate(COLUMNS.get(name, (name,)))}
    if "entity_right" in columns:
        columns["entity_claims"] = np.ones(len(columns["entity_right"]))
    rows = [(i, name, value) for name, values in columns.items() for i, value in enumerate(values)]
    long = pd.DataFrame(rows, columns=["document", "metric", "value"])
    return long.assign(arm=arm, seed=trial.plan.seed)[list(RESULT_COLUMNS)]


def results(trials: Sequence[Trial], untouched: Trial | None = None) -> pd.DataFrame:
    """All networks' scores at the largest budget that all have, and the untouched base's; as `scores` has them."""
    networks = by_network(trials)
    budget = largest(networks)
    parts = [scores(t, NAMES.get(n, n), budget) for n, own in networks.items() for t in own.values()]
    return pd.concat([*parts, *([scores(untouched, UNTOUCHED, 1)] if untouched else [])], ignore_index=True)


def largest(networks: By) -> int:
    """The largest budget that every network has."""
    return max(set.intersection(*(set(next(iter(own.values())).test) for own in networks.values())))


def outcomes(trials: Sequence[Trial], seconds: Ratios, untouched: Trial | None = None) -> pd.DataFrame:
    """Every gated arm against every control, after the most steps: `comparison.comparisons` with two more columns.

    `control` says what the control has as much of: steps, parameters, FLOPs, seconds, new parameters (LoRA); or
    nothing (the untouched base), or which arm it is (the fixed gate). `ratio` is its steps over the arm's.
    """
    networks, table = by_network(trials), results(trials, untouched)
    rows: list[dict[str, Any]] = []
    more = [table]
    for arm in networks:
        if arm in (BASE, *WIDE, LORA) or BASE not in networks:
            continue
        for control, against, times in _controls(arm, networks, seconds):
            name = NAMES.get(against, against)
            if times != 1.0 and np.isfinite(times):
                name = f"{name}, {arm}'s {control}"
                more += [scores(t, name, times * largest(networks)) for t in networks[against].values()]
            elif not np.isfinite(times):
                name = f"{name}, {arm}'s {control}: not timed"
            rows.append({"arm": arm, "control": control, "against": name, "ratio": times})
        rows.append({"arm": arm, "control": "nothing", "against": UNTOUCHED, "ratio": 0.0})
    if not rows:
        return pd.DataFrame()
    rows.append({"arm": CONTROL, "control": CHANCE, "against": CHANCE, "ratio": np.nan})
    guessed = table[(table["arm"] == CONTROL) & (table["metric"] == "entity_right")]
    claimed = table[(table["arm"] == CONTROL) & (table["metric"] == "entity_claims")]
    more += [guessed.assign(arm=CHANCE, value=0.5), claimed.assign(arm=CHANCE)]
    long, pairs = pd.concat(more, ignore_index=True), {(row["arm"], row["against"]) for row in rows}
    parts = []
    for metric in METRICS:  # each by itself, in a table that is several times shorter
        own = long[long["metric"].isin(MEASURES[metric].columns)]
        parts.append(compared_pairs(own, [Pair(*pair, metric) for pair in sorted(pairs)], resamples=RESAMPLES))
    found = pd.concat(parts, ignore_index=True)
    merged = pd.DataFrame(rows).merge(found, on=["arm", "against"], how="left")
    return merged[(merged["control"] != CHANCE) | (merged["metric"] == ENTITIES)]


def above_chance(found: pd.DataFrame) -> bool:
    """Whether the tuned base is shown to choose right more often than guessing does, by a table of `outcomes`."""
    return bool((found.loc[found["control"] == CHANCE, "low"] > 0).any())


def decisions(found: pd.DataFrame) -> pd.DataFrame:
    """The verdict on each arm and metric against all controls of equal compute and size, by `analysis.decide`.

    Columns those of `decide`, with the difference signed so that below zero the arm is better, and equivalent where it
    is less than `rules.WORTH` either way; `metric`; and `needed`: the seeds that find so much, beside the tuned base
    with as many steps. Choices decide nothing where the tuned base is not shown to choose better than by chance.
    """
    parts = []
    for name, own in found[~found["control"].isin(("nothing", ABLATED, CHANCE))].groupby("metric", sort=False):
        metric = str(name)
        sign, worth = -1 if MEASURES[metric].better == "higher" else 1, WORTH[metric]
        differences = [_difference(row, sign) for row in own.to_dict("records")]
        bounds = [difference.interval() for difference in differences]
        table = own[["arm", "control", "p", "seeds"]].assign(size="", budget=1)
        table["estimate"] = [difference.estimate for difference in differences]
        table["low"], table["high"] = (list(side) for side in zip(*bounds, strict=True))
        table["absent"] = [absence(difference, worth) for difference in differences]
        table["equivalent"] = [difference.equivalent(worth) for difference in differences]
        verdicts = decide(table)
        beside = {arm: d for arm, c, d in zip(own["arm"], own["control"], differences, strict=True) if c == "steps"}
        verdicts["needed"] = [_needed(beside[arm], worth, len(beside)) for arm in verdicts["arm"]]
        if metric == ENTITIES and not above_chance(found):
            verdicts = verdicts.assign(verdict="undecided", equivalent=None, needed=np.nan, p=np.nan)
        parts.append(verdicts.drop(columns=["size", "budget"]).assign(metric=metric))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def evidence(found: pd.DataFrame) -> pd.DataFrame:
    """The comparisons that the paper's claims rest on, of a table of `outcomes`, ready for `claims.Evidence`.

    Pairs that the study did not train are in it as not run, so their claims stay undecided.
    """
    own = found[found["control"].isin(("steps", "nothing", ABLATED))].fillna({"domain": "", "status": ""})
    own = own[list(COMPARISON_COLUMNS)]
    if not above_chance(found):
        own.loc[own["metric"] == ENTITIES, "status"] = "the tuned base is not shown to choose better than by chance"
    known = {Pair(*key) for key in own[list(Pair._fields)].itertuples(index=False)}
    missing = [pair for pair in dict.fromkeys(claim_pairs()) if pair not in known]
    return pd.concat([own, compared_pairs(pd.DataFrame(columns=list(RESULT_COLUMNS)), missing)], ignore_index=True)


def study_claims(found: pd.DataFrame) -> list[dict[str, Any]]:
    """The records of `claims.decide_claims` for `CLAIMS`, by the ledger's own rules, from a table of `outcomes`."""
    times = pd.DataFrame(columns=["measure", "arm"])
    records = [record for record in decide_claims(Evidence(evidence(found), times)) if record["claim"] in CLAIMS]
    for record in records:
        named = [key for key in ("unit", "reason") if record.get(key)]
        record |= {key: record[key].replace(MEASURES[ENTITIES].label, RIGHT) for key in named}
    return records


def _controls(arm: str, networks: By, seconds: Ratios) -> Iterator[tuple[str, str, float]]:
    """What the control has as much of, the control's network, and its steps over the arm's."""
    first, base = (next(iter(networks[name].values())) for name in (arm, BASE))
    yield "steps", BASE, 1.0
    if (wide := equal_parameters(first, networks)) != BASE:
        yield "parameters", wide, 1.0
    for control in ("FLOPs", "seconds"):
        yield control, BASE, ratio(first, base, control, seconds)
    if LORA in networks:
        yield ADAPTERS, LORA, 1.0
    if arm == ENHANCED and "fixed-gate" in networks:
        yield ABLATED, "fixed-gate", 1.0


def _difference(row: dict[Any, Any], sign: int) -> Difference:
    numbers = (row["seed_deviation"], row["shared_error"], row["document_error"])
    return Difference(sign * row["difference"], *numbers, int(row["seeds"]), int(row["n"]))


def _needed(found: Difference, worth: float, tests: int) -> float:
    if not found.deviation > 0:
        return np.nan
    return seeds_needed(found.deviation, worth, tests, found.shared_error, found.n)
