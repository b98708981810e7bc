"""How the study's page begins: the answer, its limits, and the verdicts of the ledger in tables and in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from rwkvgate.experiment.analysis.tables import NOTHING, markdown, number, signed_interval
from rwkvgate.experiment.claims import BOUNDS
from rwkvgate.experiment.judgements import Records
from rwkvgate.experiment.rules import CONTRADICTED, FEWEST, NOT_REPRODUCED, REPRODUCED, RULES, UNDECIDED, VERDICTS
from rwkvgate.experiment.study.analysis import ENHANCED, of_stage
from rwkvgate.experiment.study.design import STAGES, WORTH_KNOWING
from rwkvgate.experiment.study.ledger import CHOICES_OF_RATES, COMPONENTS, COSTS, RECURS, SETTINGS, WORDS

TOLD = ("rouge-l-gain", "perplexity")
"""The claims whose numbers after fine-tuning on stories the answer gives."""
SAID = {
    REPRODUCED: "pays for itself",
    CONTRADICTED: "is worse than its controls",
    NOT_REPRODUCED: "does not pay for itself",
    UNDECIDED: "is in doubt",
}
"""Of the gate's worth for its cost."""
LIMITS = """**Limits.** The networks are small (0.2 M parameters at 32x4, 0.5 M at 64x4, 1.5 M at 128x4), and trained
for minutes: from scratch on 0.4 to 12 tokens a parameter of Shakespeare's plays and the King James Bible, or for 400
steps of fine-tuning. All fine-tuning starts from one base; its stories come from a grammar, its rates were chosen on
two seeds after 200 steps, and its scores are of 60 greedy continuations of 64 tokens. Each row below names its steps
and its seeds. Seconds are those of one processor with the WKV operator in plain PyTorch, and their ratio
is taken as exact: within its own interval a difference at equal seconds moves by some thousandths of a nat. Nothing
here is measured at the paper's 1.6 B parameters, or after a training of the length that is usual there."""
ABOUT = f"""A verdict on the paper's claims, or on the study's own question, rests on finished stages. Differences are
an arm's minus its control's, the strongest one's where several are asked for, with 95 % intervals over training seeds
and test texts together. A difference is shown if it stands after Holm's correction, so an interval may exclude 0 where
none is shown; that a gain is smaller than what is worth knowing is shown by one side of a 90 % interval, corrected only
where every control is asked: so the 95 % interval may reach beyond it. Fine-tuning is compared at two choices of the
learning rates: where they disagree the verdict is *{UNDECIDED}*, or *{NOT_REPRODUCED}* where one says that and the
other *{CONTRADICTED}*. The rules are in [rules.py](../rwkvgate/experiment/rules.py), the [design](#design)
and [inside_rules.py](../rwkvgate/experiment/study/inside_rules.py)."""


def head(records: Sequence[Records], tuned: Mapping[str, pd.DataFrame], arms: pd.DataFrame | None = None) -> list[str]:
    """How the page begins: the answer, its limits, and the verdicts, with those apart that are undecided or wait.

    Args:
        records: of `study_ledger`.
        tuned: as it takes them.
        arms: verdicts of `analysis.decide` on every arm that was pretrained; those of finished stages are told.
    """
    measured = [record for record in records if record["finished"]]
    verdicts = verdict_table([record for record in measured if record["verdict"] != UNDECIDED])
    undecided = verdict_table([record for record in measured if record["verdict"] == UNDECIDED])
    first, *more = answer(records, tuned)
    told = [first, *_variants(records, arms), *more]
    so_far = "" if len(measured) == len(records) else " so far"
    parts = [f"## The answer{so_far}", "\n".join(f"- {sentence}" for sentence in told)]
    parts += [LIMITS, "## Verdicts", ABOUT]
    if len(verdicts):
        parts.append(markdown(verdicts))
    if len(undecided):
        parts += ["Undecided:", markdown(undecided.drop(columns="Verdict"))]
    waiting: dict[str, list[str]] = {}
    for record in records:
        if not record["finished"]:
            waiting.setdefault(record["reason"], []).append(record["text"])
    if waiting:
        parts.append("Waiting for trials:")
        parts.append("\n".join(f"- {trials}: {'; '.join(texts)}" for trials, texts in waiting.items()))
    missing = [rule.text for claim, rule in RULES.items() if claim not in {record["claim"] for record in records}]
    parts.append(f"On these claims the [committed run](results.md) alone has a verdict: {'; '.join(missing)}.")
    return parts


def answer(records: Sequence[Records], tuned: Mapping[str, pd.DataFrame] | None = None) -> list[str]:
    """What pretraining says, what fine-tuning says, what is said of the other claims, and how much is decided.

    Args:
        records: of `study_ledger`.
        tuned: as it takes them; the paper's own comparison is told where they are given.
    """
    pretrained = [r for r in records if r["claim"] == COSTS.claim]
    finished = [r for r in pretrained if r["finished"]]
    places: dict[str, list[str]] = {}
    for record in finished:
        places.setdefault(SAID[record["verdict"]], []).append(_costs(record, alone=len(finished) == 1))
    told = [f"{said} {' and '.join(there)}" for said, there in places.items()]
    brackets = ""
    if len(finished) > 1:
        brackets = " In brackets: its loss less that at equal steps, and less the strongest control's, nats per token."
    first = (
        f"Pretrained from scratch, the paper's gate {'; '.join(told)}.{brackets} It pays for itself where its loss is "
        "shown lower than at equal steps, parameters, FLOPs and seconds, and does not where a gain of "
        f"{WORTH_KNOWING['books']:g} over one of them is excluded."
        if told
        else "Pretrained from scratch, whether the paper's gate pays for itself is not decided yet "
        f"({pretrained[0]['reason']})."
    )
    second = _stories(records) + _untouched(tuned or {})
    # What is compared at two choices of the rates has one verdict.
    counted = [r for r in records if not _setting(r).endswith(list(CHOICES_OF_RATES)[-1])]
    counts = {verdict: sum(r["verdict"] == verdict for r in counted) for verdict in VERDICTS}
    numbers = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    waiting = sum(not r["finished"] for r in counted)
    waits = f"; {waiting} wait{'s' if waiting == 1 else ''} for trials" if waiting else ""
    last = f"Of {len(counted)} verdicts, {numbers}{waits}."
    return [first, second, *_others([r for r in counted if r["finished"]]), last]


def _others(records: Sequence[Records]) -> list[str]:
    """The claims that the first two sentences of the answer are not about, by verdict."""
    others = [r for r in records if r["claim"] != COSTS.claim]
    others = [r for r in others if not (_genre(r) == "stories" and r["claim"] in TOLD)]
    places: dict[str, dict[str, list[str]]] = {}
    for record in others:
        place = record["where"].partition(", at the rates")[0]
        places.setdefault(record["text"], {}).setdefault(record["verdict"], []).append(place)
    listed: dict[str, list[str]] = {verdict: [] for verdict in VERDICTS}
    for text, by_verdict in places.items():
        alone = sum(map(len, by_verdict.values())) == 1 and text not in {RULES[claim].text for claim in TOLD}
        for verdict, there in by_verdict.items():
            joined = " and ".join([there[0], *(place.removeprefix("fine-tuned ") for place in there[1:])])
            listed[verdict].append(text if alone else f"{text} ({joined})")
    told = [f"\n    - {verdict.capitalize()}: {'; '.join(texts)}." for verdict, texts in listed.items() if texts]
    return [f"The other claims, by verdict:{''.join(told)}"] if told else []


def _setting(record: Records) -> str:
    """Of a record of fine-tuning, what follows "finetune" in its stage's name; "" of others."""
    return str(record["stage"]).partition("finetune ")[2]


def _genre(record: Records) -> str:
    """Of a record of fine-tuning, its texts' genre; "" of others."""
    return _setting(record).partition(" ")[0]


def _costs(record: Records, alone: bool) -> str:
    """A size and length, with the gate's difference from the strongest control there, or from all."""
    by = record["controls"] or {}
    if not by or any(None in numbers for numbers in by.values()):
        return f"at {_at(record)} ({record['reason']})"
    if not alone:
        strongest = record["unit"].rpartition("control of equal ")[2]
        beside = "" if strongest == "steps" else f"; {_interval(by[strongest])} at equal {strongest}"
        differs = f"{_interval(by['steps'])}{beside}"
        at = f"{record['size']}, {record['steps']:,} steps"
        return f"at {at} ({differs}; {record['seeds']} seeds)"
    listed = ", ".join(f"{_interval(numbers)} at equal {control}" for control, numbers in by.items())
    differs = f"its loss minus the control's is {listed}, in nats per token"
    if record["equivalent"]:
        margin = f"{WORTH_KNOWING['books']:g} either way at equal {' and '.join(record['equivalent'])}"
        differs = f"{differs}; its 90 % interval lies within {margin}"
    return f"at {_at(record)}, {record['seeds']} seeds: {differs}"


def _variants(records: Sequence[Records], arms: pd.DataFrame | None) -> list[str]:
    """What is said of the gate's variants that were pretrained from scratch, by finished stages of enough seeds."""
    if arms is None:
        return []
    told: dict[str, dict[str, list[str]]] = {}
    for record in records:
        if record["claim"] not in (COSTS.claim, COMPONENTS.claim, RECURS.claim) or not record["finished"]:
            continue
        own = of_stage(arms, STAGES[record["stage"]])
        for row in own[(own["arm"] != ENHANCED) & (own["seeds"] >= FEWEST)].to_dict("records"):
            told.setdefault(_at(record), {}).setdefault(row["verdict"], []).append(row["arm"])
    listed = []
    for at, by in told.items():
        verdicts = (f"{verdict}: *{', '.join(by[verdict])}*" for verdict in WORDS if verdict in by)
        listed.append(f"\n    - At {at}: {'; '.join(verdicts)}.")
    said = "The gate's variants against every control, by verdict; [the differences](#language) stand below:"
    return [f"{said}{''.join(listed)}"] if told else []


def _stories(records: Sequence[Records]) -> str:
    """What is decided of fine-tuning on stories, with the differences at both choices of the rates."""
    by_claim: dict[str, list[Records]] = {claim: [] for claim in TOLD}
    for record in records:
        if _genre(record) == "stories" and record["claim"] in by_claim:
            by_claim[record["claim"]].append(record)
    if not by_claim[TOLD[0]][0]["finished"]:
        waits = by_claim[TOLD[0]][0]["reason"]
        return f"Fine-tuned, whether it writes better than a base tuned alike is not decided yet ({waits})."
    told, rates = [], []
    for own in by_claim.values():
        known = [record for record in own if record["finished"]]
        rates = [record["where"].partition(", ")[2] for record in known]
        listed = " and ".join(_interval(_bounds(record)) for record in known)
        told.append(f"*{known[0]['text']}* is {known[0]['verdict']} ({known[0]['unit']}: {listed})")
    at = f"{rates[0]}, and {rates[1]}, in this order" if len(rates) > 1 else rates[0]
    return f"Fine-tuned on stories beside a base that was tuned alike, {at}: {'; '.join(told)}."


def _untouched(tuned: Mapping[str, pd.DataFrame]) -> str:
    """What the paper's own comparison, with the untouched base, gives, and what it leaves out."""
    told: dict[str, list[tuple[str, str, str]]] = {}
    for setting in SETTINGS:
        own = tuned[setting] if setting in tuned else pd.DataFrame({"arm": [], "metric": []})
        own = own[(own["arm"] == ENHANCED) & (own["metric"] == "rougeL")]
        by = {str(row["control"]): (float(row["reference"]), float(row["value"])) for row in own.to_dict("records")}
        if "nothing" in by and np.isfinite(by["nothing"]).all():
            texts = SETTINGS[setting].removeprefix("fine-tuned ").partition(", ")[0]
            before, after, beside = (number(score) for score in (*by["nothing"], by["steps"][0]))
            told.setdefault(texts, []).append((before, after, beside))
    said = "From the untouched base, with which the paper compares, ROUGE-L goes"
    listed = []
    for texts, several in told.items():
        after, beside = (" and ".join(scores[i] for scores in several) for i in (1, 2))
        listed.append(f"{texts} from {several[0][0]} to {after}, and the tuned base's to {beside}")
    return f" {said} {'; '.join(listed)}." if listed else ""


def verdict_table(records: Sequence[Records]) -> pd.DataFrame:
    """The records for reading: claim, setting, size and length, value with its interval, test texts, seeds, verdict,
    and why."""
    rows = [
        {
            "Claim": record["text"],
            "Where": record["where"],
            "At": _at(record),
            "Value": _value(record),
            "Texts": record["n"] if (record["n"] or 1) > 1 else NOTHING,
            "Seeds": record["seeds"] or NOTHING,
            "Verdict": record["verdict"] + (f" (by itself {record['alone']})" if record["alone"] else ""),
            "Why": record["reason"],
        }
        for record in records
    ]
    return pd.DataFrame(rows)


def _at(record: Records) -> str:
    return f"{record['size']}, {record['steps']:,} steps ({record['tokens']:g} M tokens)"


def _value(record: Records) -> str:
    return NOTHING if record["ours"] is None else f"{_interval(_bounds(record))} {record['unit']}"


def _bounds(record: Records) -> list[float | None]:
    return [record[name] for name in BOUNDS]


def _interval(numbers: Sequence[float | None]) -> str:
    """A difference with its bounds, as JSON has them."""
    return signed_interval(*(np.nan if number is None else number for number in numbers))
