"""The verdict on every claim of the paper, by the rules of `rules`, and the answer in three sentences."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from rwkvgate.experiment.analysis import paper
from rwkvgate.experiment.analysis.comparison import BASE, CONTROL, ENHANCED, Pair
from rwkvgate.experiment.analysis.tables import LEVEL, NOTHING, number, percent, signed, signed_interval
from rwkvgate.experiment.rules import (
    CONTRADICTED,
    GAIN,
    LINEAR,
    MARGIN,
    NOT_REPRODUCED,
    REPRODUCED,
    RULES,
    SMALLEST_EFFECT,
    UNDECIDED,
    VERDICTS,
    VERSION,
    Rule,
)
from rwkvgate.metrics.cost import FITTED_FROM, ONE_PASS, WINDOWS, exponent
from rwkvgate.metrics.measures import MEASURES
from rwkvgate.metrics.statistics import holm

BOUNDS = ("ours", "low", "high")
Records = dict[str, Any]


@dataclass(frozen=True)
class Evidence:
    """What a run has measured, as far as it has.

    Attributes:
        comparisons: `comparison.comparisons` of the pairs that `claim_pairs` names, among others.
        times: `comparison.pooled_times`.
        device: what the run was made on.
        scaling: time against length, of `cost.scaling`; None or empty where it was not measured.
        effects: gates at labelled tokens, of `studies`; None or empty where they were not read.
    """

    comparisons: pd.DataFrame
    times: pd.DataFrame
    device: str = ""
    scaling: pd.DataFrame | None = None
    effects: pd.DataFrame | None = None


def claim_pairs(domains: Iterable[str] = ()) -> list[Pair]:
    """The comparisons that the claims rest on, with a perplexity in each domain of the test documents."""
    pairs = [pair for rule in RULES.values() for pair in rule.pairs]
    pairs += [pair._replace(against=BASE) for rule in RULES.values() if rule.rule == GAIN for pair in rule.pairs]
    return pairs + [Pair(ENHANCED, CONTROL, "perplexity", domain) for domain in sorted(set(domains))]


def decide_claims(evidence: Evidence) -> list[Records]:
    """Every claim in the order of `RULES`: one record each, ready for JSON; numbers that are not known are None.

    Keys: claim, text, source, stated, arithmetic (what the paper's own tables give), ours, low, high, n, seeds,
    against_base and against_control (the two comparisons, where the claim is a gain), p, smallest (the minimum
    detectable effect), unit (of ours), rests_on (the comparisons and figures that hold the numbers), rule, rules
    (their version), verdict, reason.
    """
    tests = {claim: _tests(evidence, rule) for claim, rule in RULES.items()}
    order = [(claim, i) for claim, rows in tests.items() for i in range(len(rows))]
    adjusted = dict(zip(order, holm([_p(tests[claim][i]) for claim, i in order]), strict=True))
    records = []
    for claim, rule in RULES.items():
        change = f"{paper.relative_change(claim):+.2f} % by its tables" if claim in paper.CHANGES else None
        record: Records = {"claim": claim, "text": rule.text, "source": rule.source, "stated": rule.stated}
        record |= {"arithmetic": change}
        record |= _decide(evidence, rule, tests[claim], [adjusted[claim, i] for i in range(len(tests[claim]))])
        record |= {"rule": rule.rule, "rules": VERSION}
        records.append({key: _plain(value) for key, value in record.items()})
    return records


def claims_table(claims: Sequence[Records]) -> pd.DataFrame:
    """The claims for reading: claim, the paper's statement, both comparisons or our number, verdict and reason."""
    return pd.DataFrame(
        [
            {
                "Claim": row["text"],
                "Paper": "; ".join(filter(None, (row["stated"], row["arithmetic"], row["source"]))),
                "Against the untouched base": row.get("against_base") or NOTHING,
                "Against the tuned base": row.get("against_control") or NOTHING,
                "Verdict": row["verdict"],
                "Reason": row["reason"],
            }
            for row in claims
        ]
    )


def claims_summary(claims: Sequence[Records]) -> pd.DataFrame:
    """The claims in short: each with the paper's number, ours with its interval, and the verdict."""
    rows = []
    for claim in claims:
        ours, low, high = (np.nan if claim.get(name) is None else claim[name] for name in BOUNDS)
        cell = signed_interval(ours, low, high) + (f" {claim['unit']}" if np.isfinite(low) else "")
        rows.append({"Claim": claim["text"], "Paper": claim["stated"], "Ours": cell, "Verdict": claim["verdict"]})
    return pd.DataFrame(rows)


def answer(claims: Sequence[Records]) -> list[str]:
    """What a run says of the paper, in three sentences: its comparison, the fair one, and all verdicts with the time.

    Args:
        claims: records of `decide_claims`.
    """
    by_name = {row["claim"]: row for row in claims}
    rouge, time = by_name["rouge-l-gain"], by_name["forward-latency"]
    change, stated = rouge.get("against_base") or "not measured", paper.QUALITY["rougeL"]
    first = (
        "Against the untouched base, as in the paper, the gated and tuned model's ROUGE-L "
        + (f"goes from {change}" if change[0].isdigit() else f"cannot be compared ({change})")
        + f"; the paper reports {stated[BASE]} to {stated[ENHANCED]}."
    )
    second = "Against a base tuned on the same data for the same steps, the gate " + _gains(by_name)
    counts = {verdict: sum(row["verdict"] == verdict for row in claims) for verdict in VERDICTS}
    third = f"Of {len(claims)} claims, " + _listed([f"{count} are {verdict}" for verdict, count in counts.items()])
    if time.get("ours") is None:
        return [first, second, f"{third}; the time of a forward pass was not measured."]
    interval = f"{signed(time['ours'])} % [{signed(time['low'])}, {signed(time['high'])}]"
    return [
        first,
        second,
        f"{third}; a forward pass differs from the base's by {interval}, {time['stated']} stated.",
    ]


def _gains(claims: dict[str, Records]) -> str:
    """What the four claimed gains say of the gate beside the matched control, with the interval in ROUGE-L."""
    words = {
        REPRODUCED: "is better in {}",
        CONTRADICTED: "is worse in {}",
        NOT_REPRODUCED: "is not shown to differ in {}",
        UNDECIDED: "cannot be judged in {}",
    }
    labels = {name: measure.label.replace("Perplexity", "perplexity") for name, measure in MEASURES.items()}
    gains = {claim: labels[rule.pairs[0].metric] for claim, rule in RULES.items() if rule.rule == GAIN}
    by_verdict = {v: [label for claim, label in gains.items() if claims[claim]["verdict"] == v] for v in words}
    said = _listed([words[v].format(_listed(labels)) for v, labels in by_verdict.items() if labels])
    rouge = claims["rouge-l-gain"]
    if rouge.get("low") is None:
        return f"{said}: {rouge['reason']}."
    interval = signed_interval(*(rouge[name] for name in BOUNDS))
    if rouge["verdict"] == UNDECIDED:
        return f"{said}: ROUGE-L differs by {interval} over documents, and {rouge['reason']}."
    return f"{said}: ROUGE-L differs by {interval}, with a minimum detectable effect of {number(rouge['smallest'], 2)}."


def _listed(parts: Sequence[str]) -> str:
    return ", ".join(parts[:-1]) + " and " + parts[-1] if len(parts) > 1 else "".join(parts)


def _tests(evidence: Evidence, rule: Rule) -> list[Records]:
    """The comparisons that decide a claim; measures that were not taken have none, arms that were not run have one."""
    frame = evidence.comparisons
    pairs = [pair for pair in rule.pairs if (frame["metric"] == pair.metric).any()]
    if rule.claim == "domains":
        names = sorted(name for name in set(frame["domain"]) if name)
        pairs = [Pair(ENHANCED, CONTROL, "perplexity", name) for name in names] + pairs
    return [_row(evidence, pair) for pair in pairs]


def _row(evidence: Evidence, pair: Pair) -> Records:
    """The comparison of a pair, with `problem`: why there is no test."""
    frame = evidence.comparisons
    here = (frame[list(Pair._fields)] == list(pair)).all(axis=1)
    row: Records = {str(key): value for key, value in frame[here].iloc[0].items()}
    row["problem"] = row["status"]
    if not row["status"] and row["seeds"] < 2:
        row["problem"] = f"{pair.arm} has one training seed, so its spread over seeds is unknown"
    if row["status"] == "not finite":
        row["problem"] = f"{MEASURES[pair.metric].label} is not a finite number"
    return row


def _p(test: Records) -> float:
    return np.nan if test["problem"] else float(test["p"])


def _better(test: Records) -> bool:
    return bool((test["difference"] > 0) == (MEASURES[test["metric"]].better == "higher"))


def _decide(evidence: Evidence, rule: Rule, tests: Sequence[Records], p: Sequence[float]) -> Records:
    if rule.timed:
        return _ratio(evidence, rule.timed)
    match rule.claim:
        case "generation-time":
            return _generation(evidence)
        case "linear-complexity":
            return _linear(evidence)
        case "syntactic-boundaries":
            return _boundaries(evidence)
        case "fits-one-t4":
            verdict = REPRODUCED if "T4" in evidence.device else UNDECIDED
            return _verdict(verdict, f"the run was made on {evidence.device or 'an unknown device'}")
        case "state-of-the-art":
            return _verdict(UNDECIDED, "the paper names no benchmark and compares with no other recurrent model")
        case "domains" if len(tests) < 2:
            return _verdict(UNDECIDED, "one domain was measured, or none")
    if not tests:
        return _verdict(UNDECIDED, "this run does not measure it")
    record = _shown(tests, p)
    if rule.rule == GAIN:
        base = _row(evidence, rule.pairs[0]._replace(against=BASE))
        record |= {"against_base": _change(base), "against_control": _change(tests[0])}
    return record


def _shown(tests: Sequence[Records], p: Sequence[float]) -> Records:
    """The verdict on a claim that every one of these differences is for the better."""
    first = tests[0]
    record: Records = {
        "ours": first["difference"],
        "low": first["low"],
        "high": first["high"],
        "n": first["n"],
        "seeds": first["seeds"],
        "p": max(p) if np.isfinite(p).all() else np.nan,
        "rests_on": list(dict.fromkeys(f"{MEASURES[t['metric']].label}/{t['arm']}/{t['against']}" for t in tests)),
        "smallest": first["smallest"],
        "unit": f"{MEASURES[first['metric']].label} over {first['against']}'s",
    }
    problems = [test["problem"] for test in tests if test["problem"]]
    if problems:
        return record | _verdict(UNDECIDED, "; ".join(dict.fromkeys(problems)))
    shown = [value < LEVEL for value in p]
    reason = "; ".join(_sentence(test, value) for test, value in zip(tests, p, strict=True))
    if any(significant and not _better(test) for significant, test in zip(shown, tests, strict=True)):
        return record | _verdict(CONTRADICTED, reason)
    return record | _verdict(REPRODUCED if all(shown) else NOT_REPRODUCED, reason)


def _sentence(test: Records, p: float) -> str:
    interval = signed_interval(test["difference"], test["low"], test["high"])
    where = f"{test['domain']}: " if test["domain"] else ""
    head = f"{where}{test['arm']} against {test['against']}: {MEASURES[test['metric']].label} {interval}"
    tail = f"p {number(p, 2)} after Holm, {test['n']} documents, {test['seeds']} seeds"
    if p < LEVEL:
        return f"{head}, {'better' if _better(test) else 'worse'}, {tail}"
    return f"{head}, no difference shown, {tail}; minimum detectable effect {number(test['smallest'], 2)}"


def _change(test: Records) -> str:
    if not np.isfinite(test["difference"]):
        return test["problem"] or "not a finite number"
    change = f"{number(test['reference'])} to {number(test['value'])}"
    return change + (f" ({percent(test['relative'])})" if np.isfinite(test["relative"]) else "")


def _ratio(evidence: Evidence, arm: str) -> Records:
    stated = paper.FORWARD_SECONDS[arm] / paper.FORWARD_SECONDS[BASE]
    rows = evidence.times[(evidence.times["measure"] == "forward") & (evidence.times["arm"] == arm)]
    if not len(rows) or not np.isfinite(rows[["ratio", "ratio_low", "ratio_high"]].to_numpy(dtype=float)).all():
        return _verdict(UNDECIDED, f"{arm} was not timed beside the base")
    found = rows.iloc[0]
    ratio, low, high = (float(found[name]) for name in ("ratio", "ratio_low", "ratio_high"))
    where = f"{found['tokens']:.0f} tokens, batch {found['batch']:.0f}, {found['dtype']}, {found['device']}"
    reason = (
        f"ratio {ratio:.3f} [{low:.3f}, {high:.3f}] against {stated:.4f} by the paper's table; {where}. A gate's share "
        "of the work depends on the shape, and this is not the paper's"
    )
    verdict = CONTRADICTED if low > stated else REPRODUCED if high <= stated + MARGIN else UNDECIDED
    return {
        **dict(zip(BOUNDS, (100 * (value - 1) for value in (ratio, low, high)), strict=True)),
        "n": int(found["repeats"]) if "repeats" in found else None,
        "seeds": int(found["runs"]),
        "unit": "% over the base",
        "rests_on": ["figure2"],
    } | _verdict(verdict, reason)


def _generation(evidence: Evidence) -> Records:
    rows = evidence.times[(evidence.times["measure"] == "generation") & (evidence.times["arm"] == BASE)]
    if not len(rows) or rows["seconds_median"].isna().all():
        return _verdict(UNDECIDED, "generation was not timed")
    found = rows.iloc[0]
    reason = f"{found['tokens']:.0f} tokens by our base, on another machine; the paper times no other model"
    seconds = (float(found[name]) for name in ("seconds_median", "seconds_low", "seconds_high"))
    return dict(zip(BOUNDS, seconds, strict=True)) | {"unit": "s"} | _verdict(UNDECIDED, reason)


def _linear(evidence: Evidence) -> Records:
    rows = evidence.scaling
    rows = None if rows is None else rows[rows["arm"] == ENHANCED]
    at_once = None if rows is None else rows[rows["mode"] == ONE_PASS]
    rows = None if rows is None else rows[rows["mode"] == WINDOWS]
    if rows is None or at_once is None or not rows["tokens"].max() >= 4 * FITTED_FROM:
        return _verdict(UNDECIDED, f"no text of {4 * FITTED_FROM:,} tokens or more was timed")
    fit = exponent(rows["tokens"], rows["seconds"])
    reason = (
        f"time grows as tokens^{fit.estimate:.3f} [{fit.low:.3f}, {fit.high:.3f}] from {FITTED_FROM:,} to "
        f"{rows['tokens'].max():,} tokens, {fit.points} readings, {rows['device'].iloc[0]}; in one pass, where memory "
        f"grows too, as tokens^{exponent(at_once['tokens'], at_once['seconds']).estimate:.3f} up to "
        f"{at_once['tokens'].max():,}"
    )
    verdict = REPRODUCED if fit.high <= LINEAR else CONTRADICTED if fit.low > LINEAR else NOT_REPRODUCED
    numbers = {"ours": fit.estimate, "low": fit.low, "high": fit.high, "n": fit.points, "rests_on": ["length"]}
    return numbers | {"unit": "power of the length"} | _verdict(verdict, reason)


def _boundaries(evidence: Evidence) -> Records:
    rows = evidence.effects
    if rows is None or not len(rows):
        return _verdict(UNDECIDED, "the tuned gate was not read at clause boundaries")
    rows = rows[rows["group"] == "boundary"]
    if "text" in rows:  # in natural text punctuation is only a weak label
        rows = rows[rows["text"] == "stories"]
    before, rows = (rows[rows["arm"] == arm] for arm in ("enhanced-untrained", ENHANCED))
    if rows["effect"].isna().any() or rows.empty:
        return _verdict(UNDECIDED, "no clause boundary has a control of the same token at a like position")
    if before.empty:
        return _verdict(
            UNDECIDED, "the gate before training was not read, and any function of the state tells tokens apart"
        )
    layers = []
    for layer, part in rows.groupby("layer"):
        effects, untrained = part["effect"].to_numpy(dtype=float), before[before["layer"] == layer]
        agreed = bool((effects > 0).all() or (effects < 0).all())
        nearest = np.abs(part[["low", "high"]].to_numpy(dtype=float)).min()
        beyond = bool(nearest > np.abs(untrained[["low", "high"]].to_numpy(dtype=float)).max())
        size, p = float(np.abs(effects).min()) if agreed else 0.0, float(part["p_holm"].max())
        layers.append((size >= SMALLEST_EFFECT and p < LEVEL and beyond, size, p, int(str(layer))))
    shown, _, p, layer = max(layers)
    chosen, untrained = rows[rows["layer"] == layer], before[before["layer"] == layer]
    numbers = dict(zip(BOUNDS, (float(chosen[column].mean()) for column in ("effect", "low", "high")), strict=True))
    tokens, controls, seeds = int(chosen["tokens"].min()), int(chosen["controls"].min()), int(rows["seed"].nunique())
    reason = (
        f"layer {layer} differs by {signed(numbers['ours'])} sd at clause boundaries from controls of the same token, "
        f"mean of {seeds} seeds (p {number(p, 2)} after Holm, of the seed where it is largest); before training by "
        f"{signed(float(untrained['effect'].iloc[0]))}; {sum(one[0] for one in layers)} of {len(layers)} layers by the "
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
