"""The verdict on every claim of the paper, by the rules of `rules`, and the answer in three sentences."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from rwkvgate.experiment.analysis import paper
from rwkvgate.experiment.analysis.comparison import BASE, CONTROL, ENHANCED, Pair
from rwkvgate.experiment.analysis.tables import NOTHING, number, percent, signed, signed_interval
from rwkvgate.experiment.judgements import Records, decided, judge, together
from rwkvgate.experiment.rules import (
    AT_THE_SHAPE,
    CONTRADICTED,
    FEWEST,
    GUESSED,
    LINEAR,
    MARGIN,
    NOT_REPRODUCED,
    REPRODUCED,
    RULES,
    UNDECIDED,
    VERDICTS,
    VERSION,
    WORTH,
    Rule,
)
from rwkvgate.experiment.studies.responses import CLAIMS, decide_attention
from rwkvgate.metrics.cost import FITTED_FROM, ONE_PASS, WINDOWS, exponent
from rwkvgate.metrics.measures import MEASURES
from rwkvgate.metrics.statistics import holm

BOUNDS = ("ours", "low", "high")
NO_DIFFERENCES = ("s", "power of the length")
"""Units of numbers that have no sign."""


@dataclass(frozen=True)
class Evidence:
    """What a run has measured, as far as it has.

    Attributes:
        comparisons: `comparison.comparisons` of the pairs that `claim_pairs` names, among others.
        times: `comparison.pooled_times`.
        device: what the run was made on.
        shape: layers and channels of its network.
        scaling: time against length, of `cost.scaling`; None or empty where it was not measured.
        responses: the gate at clause boundaries and mentions, of `studies`; None or empty where it was not measured.
        vocabulary: tokens of the network; 0 where that is not known.
        trivial: scores of systems without a model (system, metric, value); None or empty where there are none.
    """

    comparisons: pd.DataFrame
    times: pd.DataFrame
    device: str = ""
    shape: tuple[int, int] = (0, 0)
    scaling: pd.DataFrame | None = None
    responses: pd.DataFrame | None = None
    vocabulary: int = 0
    trivial: pd.DataFrame | None = None


def claim_pairs(domains: Iterable[str] = ()) -> list[Pair]:
    """The comparisons that the claims rest on, with a perplexity in each domain of the test documents."""
    pairs = [pair for rule in RULES.values() for pair in rule.pairs]
    pairs += [pair._replace(against=BASE) for rule in RULES.values() if rule.times for pair in rule.pairs]
    return pairs + [Pair(ENHANCED, CONTROL, "loss", domain) for domain in sorted(set(domains))]


def decide_claims(evidence: Evidence) -> list[Records]:
    """Every claim in the order of `RULES`: one record each, ready for JSON; numbers that are not known are None.

    Keys: claim, text, source, stated, arithmetic (what the paper's own tables give), ours, low, high, n, seeds,
    against_base and against_control (the two comparisons, where the claim is a gain), without_model (the best score of
    a system that has none, of a gain in overlap), p (after Holm), smallest (the
    minimum detectable effect after the correction), needed (seeds that would find an effect worth knowing, in words,
    where power is missing), unit (of ours), rests_on (the comparisons and figures that hold the numbers), rule, rules
    (their version), verdict, reason.
    """
    tests = {claim: _tests(evidence, rule) for claim, rule in RULES.items()}
    order = [(claim, i) for claim, rows in tests.items() for i, row in enumerate(rows) if not row["problem"]]
    adjusted = defaultdict(lambda: np.nan, zip(order, holm([tests[c][i]["p"] for c, i in order]), strict=True))
    records = []
    for claim, rule in RULES.items():
        change = f"{paper.relative_change(claim):+.2f} % by its tables" if claim in paper.CHANGES else None
        record: Records = {"claim": claim, "text": rule.text, "source": rule.source, "stated": rule.stated}
        record |= {"arithmetic": change}
        judged = [judge(test, adjusted[claim, i], len(order), rule) for i, test in enumerate(tests[claim])]
        record |= _decide(evidence, rule, judged)
        record |= {"rule": rule.rule, "rules": VERSION}
        records.append({key: plain(value) for key, value in record.items()})
    return records


def claims_table(claims: Sequence[Records]) -> pd.DataFrame:
    """The claims for reading: claim, the paper's statement, both comparisons or our number, verdict and reason; and
    the study's verdict, where the claims have one beside them."""
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
            | _studied(row)
            for row in claims
        ]
    )


def claims_summary(claims: Sequence[Records]) -> pd.DataFrame:
    """The claims in short: each with the paper's number, ours with its interval, and the verdict; and the study's
    verdict, where the claims have one beside them."""
    rows = []
    for claim in claims:
        ours, low, high = (np.nan if claim.get(name) is None else claim[name] for name in BOUNDS)
        cell = signed_interval(ours, low, high) + (f" {claim['unit']}" if np.isfinite(low) else "")
        if claim.get("unit") in NO_DIFFERENCES:
            cell = cell.replace("+", "")
        row = {"Claim": claim["text"], "Paper": claim["stated"], "Ours": cell, "Verdict": claim["verdict"]}
        rows.append(row | _studied(claim))
    return pd.DataFrame(rows)


def answer(claims: Sequence[Records]) -> list[str]:
    """What a run says of the paper: the fair comparison, the paper's own, all verdicts with the time, and, after a run
    with too few seeds to decide, how many would.

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
    if rouge.get("without_model"):
        first += f" A system without a model has {rouge['without_model']}."
    second = "Against a base tuned on the same data for the same steps, the gate " + _gains(by_name)
    papers = [row for row in claims if is_papers(row)]
    third = f"Of the paper's {len(papers)} claims, {_counted(papers)}"
    if more := [row for row in claims if not is_papers(row)]:
        third += f"; of {len(more)} that it does not make, {_counted(more)}"
    if time.get("ours") is None:
        return [second, first, f"{third}; the time of a forward pass was not measured.", *_few(by_name)]
    interval = f"{signed(time['ours'])} % [{signed(time['low'])}, {signed(time['high'])}]"
    return [
        second,
        first,
        f"{third}; a forward pass differs from the base's by {interval} here, {time['stated']} stated.",
        *_few(by_name),
    ]


def _studied(claim: Records) -> dict[str, str]:
    """The cell of the study's verdict, of claims that `study.committed.beside_study` gave one."""
    return {"The study": claim["study"] or NOTHING} if "study" in claim else {}


def _gains(claims: dict[str, Records]) -> str:
    """What the four claimed gains say of the gate beside the matched control, with the interval in ROUGE-L."""
    words = {
        REPRODUCED: "is better as claimed in {}",
        CONTRADICTED: "is worse in {}",
        NOT_REPRODUCED: "is not better as claimed in {}",
        UNDECIDED: "cannot be judged in {}",
    }
    gains = {claim: _label(rule.pairs[0].metric) for claim, rule in RULES.items() if rule.times}
    by_verdict = {v: [label for claim, label in gains.items() if claims[claim]["verdict"] == v] for v in words}
    said = _listed([words[v].format(_listed(labels)) for v, labels in by_verdict.items() if labels])
    rouge = claims["rouge-l-gain"]
    if rouge.get("low") is None:
        return f"{said}: {rouge['reason']}."
    interval = signed_interval(*(rouge[name] for name in BOUNDS))
    return f"{said}: ROUGE-L differs by {interval}, with a minimum detectable effect of {number(rouge['smallest'], 2)}."


def _few(claims: dict[str, Records]) -> list[str]:
    """How many seeds would decide, after a run that has too few."""
    named = {name: claims[name] for name in ("rouge-l-gain", "perplexity")}
    seeds = [row["seeds"] for row in named.values() if row.get("seeds")]
    if not seeds or min(seeds) >= FEWEST:
        return []
    if max(seeds) == 1:
        return [f"One seed decides nothing, and shows no spread to tell how many would; it takes at least {FEWEST}."]
    parts = [
        f"{number(WORTH[rule.pairs[0].metric], 1)} in {_label(rule.pairs[0].metric)} takes {named[name]['needed']}"
        for name, rule in RULES.items()
        if "needed" in named.get(name, {})
    ]
    return [f"Fewer than {FEWEST} seeds decide nothing; by the spread seen, to find {'; '.join(parts)}."]


def is_papers(claim: Records) -> bool:
    """Whether a claim is in the paper, and neither a reviewer's question nor this project's."""
    return claim["source"].startswith(("v1", "v2"))


def _counted(claims: Sequence[Records]) -> str:
    """How many claims have each verdict."""
    counts = {verdict: sum(row["verdict"] == verdict for row in claims) for verdict in VERDICTS}
    return _listed([f"{count} {'is' if count == 1 else 'are'} {verdict}" for verdict, count in counts.items() if count])


def _label(metric: str) -> str:
    return MEASURES[metric].label.replace("Log perplexity", "log perplexity")


def _listed(parts: Sequence[str]) -> str:
    return ", ".join(parts[:-1]) + " and " + parts[-1] if len(parts) > 1 else "".join(parts)


def _tests(evidence: Evidence, rule: Rule) -> list[Records]:
    """The comparisons that decide a claim; measures that were not taken have none, arms that were not run have one."""
    frame = evidence.comparisons
    pairs = [pair for pair in rule.pairs if (frame["metric"] == pair.metric).any()]
    if rule.claim == "domains":
        names = sorted(name for name in set(frame["domain"]) if name)
        pairs = [Pair(ENHANCED, CONTROL, "loss", name) for name in names] + pairs
    return [_row(evidence, pair) for pair in pairs]


def _row(evidence: Evidence, pair: Pair) -> Records:
    """The comparison of a pair, with `problem`: why there is no number."""
    frame = evidence.comparisons
    here = (frame[list(Pair._fields)] == list(pair)).all(axis=1)
    row: Records = {str(key): value for key, value in frame[here].iloc[0].items()}
    row["problem"] = row["status"]
    if row["status"] == "not finite":
        row["problem"] = f"{MEASURES[pair.metric].label} is not a finite number"
    return row


def _decide(evidence: Evidence, rule: Rule, judged: Sequence[Records]) -> Records:
    if rule.lacks:
        return decided(UNDECIDED, rule.lacks)
    if rule.timed:
        return _ratio(evidence, rule.timed)
    match rule.claim:
        case "generation-time":
            return _generation(evidence)
        case "linear-complexity":
            return _linear(evidence)
        case claim if claim in CLAIMS:
            return decide_attention(evidence.responses, claim)
        case "fits-one-t4":
            verdict = REPRODUCED if _is_the_papers(evidence, evidence.device) else UNDECIDED
            return decided(
                verdict, f"the run was made with {_shape(evidence)} on {evidence.device or 'no known device'}"
            )
        case "domains" if len(judged) < 2:
            return decided(UNDECIDED, "one domain was measured, or none")
    if not judged:
        return decided(UNDECIDED, "this run does not measure it")
    record = together(judged)
    if guess := _guess(evidence, rule, judged):
        record |= decided(UNDECIDED, guess)
        record.pop("needed", None)
    if rule.times:
        base = _row(evidence, rule.pairs[0]._replace(against=BASE))
        record |= {"against_base": _change(base), "against_control": _change(judged[0])}
        record |= _without_model(evidence, rule.pairs[0].metric)
    return record


def _guess(evidence: Evidence, rule: Rule, judged: Sequence[Records]) -> str:
    """Why a comparison says nothing, where the tuned base does no better than a guess; empty where it does."""
    for test in (test for test in judged if not test["problem"]):
        label, value = MEASURES[test["metric"]].label, test["reference"]
        if rule.claim == "entity-coherence" and value <= GUESSED:
            return (
                f"the tuned base is right in {value:.1%} of what it says of who holds what, no more than the half that "
                "naming one of two people would be; two networks that have not learned it cannot be told apart by it"
            )
        if rule.claim == "domains" and evidence.vocabulary and value > np.log(evidence.vocabulary):
            return (
                f"{label} of the tuned base is {number(value)}, above the {number(np.log(evidence.vocabulary))} of "
                f"guessing among {evidence.vocabulary:,} tokens: tuning has destroyed what could be compared, and a "
                "difference is one of forgetting"
            )
    return ""


def _without_model(evidence: Evidence, metric: str) -> Records:
    """The best score in a metric of a system without a model, in words; empty where none was scored."""
    rows = evidence.trivial
    rows = rows[rows["metric"] == metric] if rows is not None and len(rows) else None
    if rows is None or not len(rows):
        return {}
    best, system = max(zip(rows["value"], rows["system"], strict=True))
    return {"without_model": f"{number(best)} ({system})"}


def _change(test: Records) -> str:
    if not np.isfinite(test["difference"]):
        return test["problem"] or "not a finite number"
    change = f"{number(test['reference'])} to {number(test['value'])}"
    return change + (f" ({percent(test['relative'])})" if np.isfinite(test["relative"]) else "")


def _ratio(evidence: Evidence, arm: str) -> Records:
    stated = paper.FORWARD_SECONDS[arm] / paper.FORWARD_SECONDS[BASE]
    rows = evidence.times[(evidence.times["measure"] == "forward") & (evidence.times["arm"] == arm)]
    if not len(rows) or not np.isfinite(rows[["ratio", "ratio_low", "ratio_high"]].to_numpy(dtype=float)).all():
        return decided(UNDECIDED, f"{arm} was not timed beside the base")
    found = rows.iloc[0]
    ratio, low, high = (float(found[name]) for name in ("ratio", "ratio_low", "ratio_high"))
    where = f"{_shape(evidence)}, {found['tokens']:.0f} tokens, batch {found['batch']:.0f}, {found['dtype']}"
    reason = (
        f"ratio {ratio:.3f} [{low:.3f}, {high:.3f}] at {where} on {found['device']}, against {stated:.4f} by the "
        "paper's table"
    )
    verdict = CONTRADICTED if low > stated else REPRODUCED if high <= stated + MARGIN else UNDECIDED
    if not _is_the_papers(evidence, str(found["device"])):
        verdict = UNDECIDED
        reason += f", which is of {AT_THE_SHAPE}; a gate's share of the time depends on the shape"
    return {
        **dict(zip(BOUNDS, (100 * (value - 1) for value in (ratio, low, high)), strict=True)),
        "n": int(found["repeats"]) if "repeats" in found else None,
        "seeds": int(found["runs"]),
        "unit": "% over the base",
        "rests_on": ["figure2"],
    } | decided(verdict, reason)


def _is_the_papers(evidence: Evidence, device: str) -> bool:
    """Whether network and device are those of the paper's times."""
    return evidence.shape == paper.SHAPE and paper.DEVICE in device


def _shape(evidence: Evidence) -> str:
    layers, channels = evidence.shape
    return f"{layers} layers of {channels:,} channels" if layers else "a network of unknown shape"


def _generation(evidence: Evidence) -> Records:
    rows = evidence.times[(evidence.times["measure"] == "generation") & (evidence.times["arm"] == BASE)]
    if not len(rows) or rows["seconds_median"].isna().all():
        return decided(UNDECIDED, "generation was not timed")
    found = rows.iloc[0]
    reason = f"{found['tokens']:.0f} tokens by our base, on another machine; the paper times no other model"
    seconds = (float(found[name]) for name in ("seconds_median", "seconds_low", "seconds_high"))
    return dict(zip(BOUNDS, seconds, strict=True)) | {"unit": "s"} | decided(UNDECIDED, reason)


def _linear(evidence: Evidence) -> Records:
    rows = evidence.scaling
    rows = None if rows is None else rows[rows["arm"] == ENHANCED]
    at_once = None if rows is None else rows[rows["mode"] == ONE_PASS]
    rows = None if rows is None else rows[rows["mode"] == WINDOWS]
    if rows is None or at_once is None or not rows["tokens"].max() >= 4 * FITTED_FROM:
        return decided(UNDECIDED, f"no text of {4 * FITTED_FROM:,} tokens or more was timed")
    fit = exponent(rows["tokens"], rows["seconds"])
    reason = (
        f"time grows as tokens^{fit.estimate:.3f} [{fit.low:.3f}, {fit.high:.3f}] from {FITTED_FROM:,} to "
        f"{rows['tokens'].max():,} tokens, {fit.points} readings, {_shape(evidence)}, {rows['device'].iloc[0]}; in one "
        f"pass, where memory grows too, as tokens^{exponent(at_once['tokens'], at_once['seconds']).estimate:.3f} up to "
        f"{at_once['tokens'].max():,}"
    )
    verdict = REPRODUCED if fit.high <= LINEAR else CONTRADICTED if fit.low > LINEAR else UNDECIDED
    numbers = {"ours": fit.estimate, "low": fit.low, "high": fit.high, "n": fit.points, "rests_on": ["length"]}
    return numbers | {"unit": "power of the length"} | decided(verdict, reason)


def plain(value: Any) -> Any:
    """A value that JSON has: numbers that are not finite are None."""
    if isinstance(value, (float, np.floating)):
        return float(value) if np.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value
