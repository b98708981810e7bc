"""How the study's page begins: the answer, its limits, and the verdicts of the ledger in tables and in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from rwkvgate.experiment.analysis.tables import NOTHING, markdown, number, signed_interval
from rwkvgate.experiment.claims import BOUNDS
from rwkvgate.experiment.judgements import Records
from rwkvgate.experiment.rules import CONTRADICTED, NOT_REPRODUCED, REPRODUCED, RULES, UNDECIDED, VERDICTS
from rwkvgate.experiment.study.analysis import ENHANCED
from rwkvgate.experiment.study.ledger import CHOICES_OF_RATES, COSTS

LIMITS = """**Limits.** The networks are small: 64x4, with 64 channels and 4 layers, has half a million parameters. From
scratch it reads 2.3 tokens for each in 600 steps, of one corpus of old English prose; tuned, it reads short stories for
400 steps. Seeds are 4 to 10. Seconds are those of one processor with the WKV operator in plain PyTorch. What a gate
does at the end of a long training, or at the paper's 1.6 B parameters, is not measured here."""
ABOUT = """A verdict on the paper's claims, or on the study's own question, rests on finished stages. Differences are
the enhanced network's minus its control's, the hardest one's where several are asked for, with 95 % intervals over
training seeds and test texts together. Verdicts are found by one-sided tests at 5 %, corrected for how many there are:
an interval may exclude 0 where no difference is shown, or hold a difference worth knowing where the verdict excludes
one. Fine-tuning on stories is compared at two choices of the learning rates, and decided where both say the same."""


def head(records: Sequence[Records], tuned: Mapping[str, pd.DataFrame], arms: pd.DataFrame | None = None) -> list[str]:
    """How the page begins: the answer, its limits, and the verdicts, with those apart that are undecided or wait.

    Args:
        records: of `study_ledger`.
        tuned: as it takes them.
        arms: verdicts of `analysis.decide` on every arm that was pretrained; those of finished stages are told.
    """
    measured = [record for record in records if not _waits(record)]
    verdicts = verdict_table([record for record in measured if record["verdict"] != UNDECIDED])
    undecided = verdict_table([record for record in measured if record["verdict"] == UNDECIDED])
    first, *more = answer(records, tuned)
    told = [first, *_variants(records, arms), *more]
    parts = ["## The answer so far", "\n".join(f"- {sentence}" for sentence in told)]
    parts += [LIMITS, "## Verdicts", ABOUT]
    if len(verdicts):
        parts.append(markdown(verdicts.drop(columns="Why undecided")))
    if len(undecided):
        parts += ["Undecided:", markdown(undecided.drop(columns="Verdict"))]
    waiting: dict[str, list[str]] = {}
    for record in filter(_waits, records):
        waiting.setdefault(record["reason"], []).append(record["text"])
    if waiting:
        parts.append("Waiting for trials:")
        parts.append("\n".join(f"- {trials}: {'; '.join(texts)}" for trials, texts in waiting.items()))
    missing = [rule.text for claim, rule in RULES.items() if claim not in {record["claim"] for record in records}]
    parts.append(f"The study says nothing of the other claims, which a run decides: {'; '.join(missing)}.")
    return parts


def answer(records: Sequence[Records], tuned: Mapping[str, pd.DataFrame] | None = None) -> list[str]:
    """What pretraining says, what fine-tuning says, what is said of the other claims, and how much is decided.

    Args:
        records: of `study_ledger`.
        tuned: as it takes them; the paper's own comparison is told where they are given.
    """
    pretrained = [r for r in records if r["claim"] == COSTS.claim]
    told = [_costs(r) for r in pretrained if not _waits(r)]
    first = (
        f"Pretrained from scratch, the paper's gate {'; '.join(told)}."
        if told
        else "Pretrained from scratch, whether the paper's gate pays for itself is not decided yet "
        f"({pretrained[0]['reason']})."
    )
    second = _stories(records) + (_untouched(tuned["stories"]) if tuned and "stories" in tuned else "")
    others = {r["text"]: r["verdict"] for r in records if _is_other(r) and not _waits(r)}
    listed = {verdict: [text for text, said in others.items() if said == verdict] for verdict in VERDICTS}
    third = ". ".join(f"{verdict.capitalize()}: {'; '.join(texts)}" for verdict, texts in listed.items() if texts)
    counts = {verdict: sum(r["verdict"] == verdict for r in records) for verdict in VERDICTS}
    numbers = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    waiting = sum(_waits(r) for r in records)
    last = f"Of {len(records)} verdicts, {numbers}; {waiting} of them wait for trials."
    return [first, second, *([f"The other claims, by verdict. {third}."] if third else []), last]


def _waits(record: Records) -> bool:
    """Whether a claim's stage is not finished."""
    return record["seeds"] is None and record["verdict"] == UNDECIDED


def _is_other(record: Records) -> bool:
    """Whether neither of the first two sentences of the answer is about a claim."""
    return record["claim"] != COSTS.claim and not _setting(record)


def _setting(record: Records) -> str:
    """Of a record of fine-tuning, what follows "finetune" in its stage's name; "" of others."""
    return str(record["stage"]).partition("finetune ")[2]


def _costs(record: Records) -> str:
    """What one size and length says of the gate's worth, with its differences from all controls."""
    said = {
        REPRODUCED: "pays for itself",
        CONTRADICTED: "is worse than its controls",
        NOT_REPRODUCED: "is no better than a control of as much compute",
        UNDECIDED: "is shown neither to pay for itself nor not to",
    }
    by = record["controls"] or {}
    listed = ", ".join(f"{_interval(numbers)} at equal {control}" for control, numbers in by.items())
    differs = f": its loss minus the base's is {listed}, in nats per token" if listed else ""
    return f"{said[record['verdict']]} at {_at(record)}, {record['seeds']} seeds{differs}"


def _variants(records: Sequence[Records], arms: pd.DataFrame | None) -> list[str]:
    """What is said of the gate's variants, pretrained from scratch at the sizes and lengths that are finished."""
    told = []
    for record in records:
        if arms is None or record["claim"] != COSTS.claim or _waits(record):
            continue
        at = (arms["size"] == record["size"]) & (arms["budget"] == record["steps"]) & (arms["arm"] != ENHANCED)
        said = "; ".join(
            f"{row['arm']} {row['verdict']} ({signed_interval(row['estimate'], row['low'], row['high'])}, equal "
            f"{row['control']})"
            for row in arms[at].to_dict("records")
        )
        told += [f"at {_at(record)}: {said}"] if said else []
    return [f"Its variants, each against its hardest control, {'. '.join(told)}."] if told else []


def _stories(records: Sequence[Records]) -> str:
    """What is decided of fine-tuning on stories, with the differences at both choices of the rates."""
    by_claim: dict[str, list[Records]] = {"rouge-l-gain": [], "perplexity": []}
    for record in records:
        if _setting(record) in CHOICES_OF_RATES and record["claim"] in by_claim:
            by_claim[record["claim"]].append(record)
    if _waits(by_claim["rouge-l-gain"][0]):
        waits = by_claim["rouge-l-gain"][0]["reason"]
        return f"Fine-tuned, whether it writes better than a base tuned alike is not decided yet ({waits})."
    told = []
    for own in by_claim.values():
        known = [record for record in own if not _waits(record)]
        listed = " and ".join(f"{_interval(_bounds(r))} {CHOICES_OF_RATES[_setting(r)]}" for r in known)
        told.append(f"*{known[0]['text']}* is {known[0]['verdict']} ({known[0]['unit']}: {listed})")
    return f"Fine-tuned on stories beside a base that was tuned alike, {'; '.join(told)}."


def _untouched(tuned: pd.DataFrame) -> str:
    """What the paper's own comparison, with the untouched base, gives, and what it leaves out."""
    own = tuned[(tuned["arm"] == ENHANCED) & (tuned["metric"] == "rougeL")]
    by = {str(row["control"]): (float(row["reference"]), float(row["value"])) for row in own.to_dict("records")}
    if "nothing" not in by or not np.isfinite(by["nothing"]).all():
        return ""
    before, after = (number(score) for score in by["nothing"])
    return (
        f" From the untouched base, with which the paper compares, ROUGE-L rises from {before} to {after}; the tuned "
        f"base's is {number(by['steps'][0])}."
    )


def verdict_table(records: Sequence[Records]) -> pd.DataFrame:
    """The records for reading: claim, setting, size and length, value with its interval, test texts, seeds, verdict,
    and why a verdict is undecided."""
    rows = [
        {
            "Claim": record["text"],
            "Where": record["where"],
            "At": _at(record),
            "Value": _value(record),
            "Texts": record["n"] if (record["n"] or 1) > 1 else NOTHING,
            "Seeds": record["seeds"] or NOTHING,
            "Verdict": record["verdict"],
            "Why undecided": record["reason"] if record["verdict"] == UNDECIDED else NOTHING,
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
