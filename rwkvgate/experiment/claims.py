"""The ledger: every claim of the paper with its value, ours, and a verdict by the rule written down in `rules`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from rwkvgate.experiment.analysis import paper
from rwkvgate.experiment.analysis.comparison import compare
from rwkvgate.experiment.analysis.tables import LEVEL, number, pooled_latency, signed
from rwkvgate.experiment.rules import (
    CONTRADICTED,
    MARGIN,
    NOT_REPRODUCED,
    REPRODUCED,
    RULES,
    UNDECIDED,
    VERSION,
)
from rwkvgate.metrics.cost import FITTED_FROM, ONE_PASS, WINDOWS, exponent
from rwkvgate.metrics.measures import MEASURES
from rwkvgate.metrics.statistics import RESAMPLES, holm

CONTROL = "base-tuned"
SMALLEST_EFFECT = 0.2
"""Standard deviations from which on a difference at boundaries counts."""
BOUNDS = ("ours", "low", "high")
LINEAR = 1.1
"""The largest exponent that is called linear."""
KEPT = ("value", "reference", "difference", "low", "high", "p_documents", "p_seeds", "smallest")
Records = dict[str, Any]


@dataclass(frozen=True)
class Evidence:
    """What a run has measured, as far as it has.

    Attributes:
        results: tidy scores (arm, seed, document, metric, value).
        latency: times with `latency.LATENCY_COLUMNS`.
        domains: the domain of each test document, by its number.
        device: what the run was made on.
        scaling: time against length, of `cost.scaling`; None where it was not measured.
        effects: gates at labelled tokens, of `linguistics.group_effects`, with columns `arm` and `seed`.
        failures: arm -> why it has no results.
        resamples: of bootstraps and permutations.
    """

    results: pd.DataFrame
    latency: pd.DataFrame
    domains: Mapping[int, str] = field(default_factory=dict)
    device: str = ""
    scaling: pd.DataFrame | None = None
    effects: pd.DataFrame | None = None
    failures: Mapping[str, str] = field(default_factory=dict)
    resamples: int = RESAMPLES


@dataclass(frozen=True)
class Contrast:
    """One arm against another in one measure: the difference with its interval over documents, and its tests.

    `p_seeds` is nan where the arms do not share two seeds; `problem` says why there is no test.
    """

    arm: str
    against: str
    metric: str
    value: float
    reference: float
    difference: float
    low: float
    high: float
    documents: int
    seeds: int
    p_documents: float
    p_seeds: float
    smallest: float
    problem: str = ""
    domain: str = ""

    @property
    def p(self) -> float:
        """The larger of the two p: a difference has to stand against both kinds of noise."""
        return float(max(self.p_documents, self.p_seeds)) if not self.problem else np.nan

    @property
    def better(self) -> bool:
        """Whether the difference is for the better."""
        return (self.difference > 0) == (MEASURES[self.metric].better == "higher")


def contrast(evidence: Evidence, arm: str, against: str, metric: str, domain: str = "") -> Contrast:
    """An arm against another on the documents (of a domain, where one is named) that every seed of both has.

    See `comparison.compare` for the tests.
    """
    measure, results = MEASURES[metric], evidence.results
    if domain:
        documents = {number for number, name in evidence.domains.items() if name == domain}
        results = results[results["document"].isin(documents)]
    row = compare(results, measure, arm, against, evidence.failures, evidence.resamples)
    problem = str(row["status"])
    if not problem and row["seeds"] < 2:
        problem = f"{arm} has one training seed, and its spread cannot be told"
    if problem == "not finite":
        problem = f"{measure.label} is not a finite number"
    kept = {key: row[key] for key in KEPT}
    counts = {"documents": row["n"], "seeds": row["seeds"]}
    return Contrast(arm, against, metric, **kept, **counts, problem=problem, domain=domain)


def row_key(metric: str, arm: str, against: str) -> str:
    """The name by which a comparison is pointed to."""
    return f"{MEASURES[metric].label}/{arm}/{against}"


GAINS = {"rouge-l-gain": "rougeL", "bleu-gain": "bleu", "rouge-1-gain": "rouge1", "perplexity": "perplexity"}
"""Claims that the enhanced model scores better, and the measure of each."""
FURTHER = {"long-range": "loss_far", "entity-coherence": "entity_consistency"}
"""Claims on the enhanced model that further measures decide."""
ELSEWHERE = ("perplexity_natural", "perplexity_code")
"""Domains beyond those of the test set."""
PAIRS = {
    "layer-norm-stabilises": [("enhanced", "no-layer-norm")],
    "adaptive-beats-fixed": [("enhanced", "fixed-gate")],
    "component-contributions": [("conv-only", CONTROL), ("routing-only", CONTROL)],
}
"""Claims that one arm has lower perplexity than another."""
RATIOS = {
    "forward-latency": "enhanced",
    "latency-no-layer-norm": "no-layer-norm",
    "latency-fixed-gate": "fixed-gate",
}


def ledger(evidence: Evidence) -> list[Records]:
    """Every claim in the order of `RULES`: one record each, ready for JSON; numbers that are not known are None.

    Keys: claim, text, source, stated, arithmetic (what the paper's own tables give), ours, low, high, n, seeds,
    against_base and against_control (the two comparisons, where the claim is a gain), p, smallest, unit (of ours),
    rests_on (the rows and figures that hold the numbers), rule, rules (their version), verdict, reason.
    """
    tests = {claim: _contrasts(evidence, claim) for claim in RULES}
    flat = [(claim, i) for claim, found in tests.items() for i in range(len(found))]
    adjusted = dict(zip(flat, holm([tests[claim][i].p for claim, i in flat]), strict=True))
    arithmetic = {item.claim: item for item in paper.statements()}
    rows = []
    for claim, rule in RULES.items():
        stated = arithmetic.get(claim)
        row: Records = {
            "claim": claim,
            "text": rule.text,
            "source": rule.source,
            "stated": rule.stated,
            "arithmetic": None if stated is None else f"{stated.from_tables:+.2f} % by its tables",
        }
        p = [adjusted[claim, i] for i in range(len(tests[claim]))]
        row |= _decide(evidence, claim, tests[claim], p)
        rows.append({key: _plain(value) for key, value in (row | {"rule": rule.rule, "rules": VERSION}).items()})
    return rows


def _contrasts(evidence: Evidence, claim: str) -> list[Contrast]:
    """The tests that decide a claim."""
    if claim in GAINS:
        return [contrast(evidence, "enhanced", CONTROL, GAINS[claim])]
    if claim in PAIRS:
        return [contrast(evidence, arm, against, "perplexity") for arm, against in PAIRS[claim]]
    if claim in FURTHER and _measured(evidence, FURTHER[claim]):
        return [contrast(evidence, "enhanced", CONTROL, FURTHER[claim])]
    if claim == "domains":
        names = sorted(set(evidence.domains.values()))
        tested = [contrast(evidence, "enhanced", CONTROL, "perplexity", name) for name in names]
        return tested + [
            contrast(evidence, "enhanced", CONTROL, metric) for metric in ELSEWHERE if _measured(evidence, metric)
        ]
    return []


def _measured(evidence: Evidence, metric: str) -> bool:
    return bool(evidence.results["metric"].isin(MEASURES[metric].columns).any())


def _decide(evidence: Evidence, claim: str, tests: Sequence[Contrast], p: Sequence[float]) -> Records:
    if claim in RATIOS:
        return _ratio(evidence, claim, RATIOS[claim])
    if claim == "generation-time":
        return _generation(evidence)
    if claim == "linear-complexity":
        return _linear(evidence)
    if claim == "syntactic-boundaries":
        return _boundaries(evidence)
    if claim == "fits-one-t4":
        verdict = REPRODUCED if "T4" in evidence.device else UNDECIDED
        return _verdict(verdict, f"the run was made on {evidence.device or 'an unknown device'}")
    if claim == "state-of-the-art":
        return _verdict(UNDECIDED, "the paper names no benchmark and compares with no other recurrent model")
    if claim == "domains" and len(tests) < 2:
        return _verdict(UNDECIDED, "one domain was measured, or none")
    if not tests:
        return _verdict(UNDECIDED, "this run does not measure it")
    row = _shown(claim, tests, p)
    if claim in GAINS:
        base = contrast(evidence, "enhanced", "base", GAINS[claim])
        row |= {"against_base": _words(base), "against_control": _words(tests[0])}
    return row


def _shown(claim: str, tests: Sequence[Contrast], p: Sequence[float]) -> Records:
    """The verdict on a claim that every one of these differences is for the better."""
    first = tests[0]
    row: Records = {
        "ours": first.difference,
        "low": first.low,
        "high": first.high,
        "n": first.documents,
        "seeds": first.seeds,
        "p": max(p) if np.isfinite(p).all() else np.nan,
        "rests_on": list(dict.fromkeys(row_key(test.metric, test.arm, test.against) for test in tests)),
        "smallest": first.smallest,
        "unit": f"{MEASURES[first.metric].label} over {first.against}'s",
    }
    problems = [test.problem for test in tests if test.problem]
    if problems:
        return row | _verdict(UNDECIDED, "; ".join(dict.fromkeys(problems)))
    shown = [value < LEVEL for value in p]
    said = "; ".join(_sentence(test, value) for test, value in zip(tests, p, strict=True))
    if any(found and not test.better for found, test in zip(shown, tests, strict=True)):
        return row | _verdict(CONTRADICTED, said)
    return row | _verdict(REPRODUCED if all(shown) else NOT_REPRODUCED, said)


def _sentence(test: Contrast, p: float) -> str:
    label = MEASURES[test.metric].label
    interval = f"{signed(test.difference)} [{signed(test.low)}, {signed(test.high)}]"
    where = f"{test.domain}: " if test.domain else ""
    head = f"{where}{test.arm} against {test.against}: {label} {interval}"
    tail = f"p {number(p, 2)} after Holm, {test.documents} documents, {test.seeds} seeds"
    if p < LEVEL:
        return f"{head}, {'better' if test.better else 'worse'}, {tail}"
    return f"{head}, no difference shown, {tail}; the smallest that would have been: {number(test.smallest, 2)}"


def _words(test: Contrast) -> str:
    if not np.isfinite(test.difference):
        return test.problem or "not a finite number"
    relative = test.difference / test.reference if test.reference else np.nan
    said = f"{number(test.reference)} to {number(test.value)}"
    return said + (f" ({100 * relative:+.1f} %)" if np.isfinite(relative) else "")


def _ratio(evidence: Evidence, claim: str, arm: str) -> Records:
    stated = paper.FORWARD_SECONDS[arm] / paper.FORWARD_SECONDS["base"]
    rows = evidence.latency[(evidence.latency["measure"] == "forward") & (evidence.latency["arm"] == arm)]
    pooled = pooled_latency(rows) if len(rows) else rows
    if not len(pooled) or not np.isfinite(pooled[["ratio", "ratio_low", "ratio_high"]].to_numpy(dtype=float)).all():
        return _verdict(UNDECIDED, f"{arm} was not timed beside the base")
    found = pooled.iloc[0]
    where = f"{found['tokens']} tokens, batch {found['batch']}, {found['dtype']}, {found['device']}"
    reason = (
        f"ratio {found['ratio']:.3f} [{found['ratio_low']:.3f}, {found['ratio_high']:.3f}] against {stated:.4f} by the "
        f"paper's table; {where}. A gate's share of the work depends on the shape, and this is not the paper's"
    )
    above = found["ratio_low"] > stated
    verdict = CONTRADICTED if above else REPRODUCED if found["ratio_high"] <= stated + MARGIN else UNDECIDED
    return {
        "ours": 100 * (found["ratio"] - 1),
        "low": 100 * (found["ratio_low"] - 1),
        "high": 100 * (found["ratio_high"] - 1),
        "n": int(rows["repeats"].sum()) if "repeats" in rows else None,
        "seeds": int(found["runs"]),
        "unit": "% over the base",
        "rests_on": ["figure2"],
    } | _verdict(verdict, reason)


def _generation(evidence: Evidence) -> Records:
    rows = evidence.latency[(evidence.latency["measure"] == "generation") & (evidence.latency["arm"] == "base")]
    if not len(rows):
        return _verdict(UNDECIDED, "generation was not timed")
    found = rows.iloc[0]
    reason = f"{found['tokens']} tokens by our base, on another machine; the paper times no other model"
    seconds = (float(found[name]) for name in ("seconds_median", "seconds_low", "seconds_high"))
    return dict(zip(BOUNDS, seconds, strict=True)) | {"unit": "s"} | _verdict(UNDECIDED, reason)


def _linear(evidence: Evidence) -> Records:
    rows = evidence.scaling
    rows = None if rows is None else rows[rows["arm"] == "enhanced"]
    whole = None if rows is None else rows[rows["mode"] == ONE_PASS]
    rows = None if rows is None else rows[rows["mode"] == WINDOWS]
    if rows is None or whole is None or not rows["tokens"].max() >= 4 * FITTED_FROM:
        return _verdict(UNDECIDED, f"no text of {4 * FITTED_FROM:,} tokens or more was timed")
    fit = exponent(rows["tokens"], rows["seconds"])
    reason = (
        f"time goes with tokens^{fit.estimate:.3f} [{fit.low:.3f}, {fit.high:.3f}] from {FITTED_FROM:,} to "
        f"{rows['tokens'].max():,} tokens, {fit.points} readings, {rows['device'].iloc[0]}; in one pass, where memory "
        f"grows too, with tokens^{exponent(whole['tokens'], whole['seconds']).estimate:.3f} up to "
        f"{whole['tokens'].max():,}"
    )
    verdict = REPRODUCED if fit.high <= LINEAR else CONTRADICTED if fit.low > LINEAR else NOT_REPRODUCED
    numbers = {"ours": fit.estimate, "low": fit.low, "high": fit.high, "n": fit.points, "rests_on": ["length"]}
    numbers |= {"unit": "power of the length"}
    return numbers | _verdict(verdict, reason)


def _boundaries(evidence: Evidence) -> Records:
    rows = evidence.effects
    if rows is None or not len(rows):
        return _verdict(UNDECIDED, "the tuned gate was not read at clause boundaries")
    rows = rows[rows["group"] == "boundary"]
    if "text" in rows:  # in natural text punctuation is only a weak label
        rows = rows[rows["text"] == "stories"]
    before, rows = (rows[rows["arm"] == arm] for arm in ("enhanced-untrained", "enhanced"))
    if rows["effect"].isna().any() or rows.empty:
        return _verdict(UNDECIDED, "no clause boundary has a control of the same token at a like position")
    if before.empty:
        return _verdict(
            UNDECIDED, "the gate before training was not read, and any function of the state tells tokens apart"
        )
    found = []
    for layer, part in rows.groupby("layer"):
        effects, untrained = part["effect"].to_numpy(dtype=float), before[before["layer"] == layer]
        agreed = bool((effects > 0).all() or (effects < 0).all())
        nearest = np.abs(part[["low", "high"]].to_numpy(dtype=float)).min()
        beyond = bool(nearest > np.abs(untrained[["low", "high"]].to_numpy(dtype=float)).max())
        size, p = float(np.abs(effects).min()) if agreed else 0.0, float(part["p_holm"].max())
        found.append((size >= SMALLEST_EFFECT and p < LEVEL and beyond, size, p, int(str(layer))))
    shown, _, p, layer = max(found)
    chosen, untrained = rows[rows["layer"] == layer], before[before["layer"] == layer]
    means = (float(chosen[column].mean()) for column in ("effect", "low", "high"))
    numbers = dict(zip(BOUNDS, means, strict=True))
    tokens, controls, seeds = int(chosen["tokens"].min()), int(chosen["controls"].min()), int(rows["seed"].nunique())
    reason = (
        f"layer {layer} differs by {signed(numbers['ours'])} sd at clause boundaries from controls of the same token, "
        f"mean of {seeds} seeds (p {number(p, 2)} after Holm, of the seed where it is largest); before training by "
        f"{signed(float(untrained['effect'].iloc[0]))}; {sum(one[0] for one in found)} of {len(found)} layers by the "
        f"rule; {tokens} boundaries, {controls} controls"
    )
    extra: Records = {"n": tokens, "seeds": seeds, "p": p, "unit": "sd of the gate", "rests_on": ["boundaries"]}
    return numbers | extra | _verdict(REPRODUCED if shown else NOT_REPRODUCED, reason)


def _verdict(verdict: str, reason: str) -> Records:
    return {"verdict": verdict, "reason": reason}


def _plain(value: Any) -> Any:
    """A value that JSON has: numbers that are not finite are None."""
    if isinstance(value, (float, np.floating)):
        return float(value) if np.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value


def ledger_table(rows: Sequence[Records]) -> pd.DataFrame:
    """The ledger for reading: claim, what is stated, what its tables give, ours, verdict and reason."""
    return pd.DataFrame(
        [
            {
                "Claim": f"{row['text']} ({row['claim']})",
                "Paper": "; ".join(filter(None, (row["stated"], row["arithmetic"], row["source"]))),
                "Against the untouched base": row.get("against_base") or "–",
                "Against the tuned base": row.get("against_control") or "–",
                "Verdict": row["verdict"],
                "Reason": row["reason"],
            }
            for row in rows
        ]
    )
