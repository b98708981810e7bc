"""How the study's page begins: the answer, its limits, and the verdicts of the ledger in tables and in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from rwkvgate.experiment.analysis.tables import NOTHING, markdown, number, signed_interval
from rwkvgate.experiment.claims import BOUNDS
from rwkvgate.experiment.judgements import Records
from rwkvgate.experiment.rules import CONTRADICTED, FEWEST, NOT_REPRODUCED, REPRODUCED, RULES, UNDECIDED, VERDICTS
from rwkvgate.experiment.study.analysis import ENHANCED, LEVEL, of_stage
from rwkvgate.experiment.study.design import STAGES, WORTH_KNOWING
from rwkvgate.experiment.study.gap import Fit
from rwkvgate.experiment.study.ledger import CHOICES_OF_RATES, COMPONENTS, COSTS, RECURS, SETTINGS, WORDS

TOLD = ("rouge-l-gain", "perplexity")
"""The claims whose numbers after fine-tuning on stories the answer gives."""
SAID = {verdict: words for words, verdict in WORDS.items()}
"""The words of `analysis.decide`, of the gate's worth for its cost."""
BETTER = SAID[REPRODUCED]
GAINS = ("rouge-l-gain", "bleu-gain", "rouge-1-gain")
LIMITS = """**Limits.** The networks are small (0.2 M parameters at 32x4, 0.5 M at 64x4, 1.5 M at 128x4), and trained
for minutes: from scratch on 0.2 to 12 tokens a parameter of Shakespeare's plays and the King James Bible (18 for the
base that is fine-tuned), or for 400 steps of fine-tuning. All fine-tuning starts from one base, so its intervals leave
out what another base would change; no arm that begins as the base was tuned; the stories come from a grammar, and
scores are of 60 greedy continuations of 64 tokens. Learning rates were chosen on two seeds: in fine-tuning after 200 of
400 steps, at 64x4 once more when all of its ten seeds had been seen ([change
2](#what-was-changed-and-what-had-been-seen)), and in memory the two differ by more than the best rates do. The longer a
training, the less more compute lowers the base's loss, and the less a gate has to make up for: a row at equal compute
holds for its own number of steps alone. Seconds are those of one processor with the WKV operator in plain PyTorch, and
their ratio is taken as exact: within its own interval a difference at equal seconds moves by some thousandths of a nat
for a gate, and by up to some hundredths for another family. Nothing here is measured at the paper's 1.6 B parameters,
or after a training of the length that is usual there."""
ABOUT = f"""A verdict on the paper's claims, or on the study's own question, rests on finished stages. Differences are
an arm's minus its control's, the strongest one's where several are asked for, with 95 % intervals over training seeds
and test texts together, which are not corrected. *Shown* means that p is below 5 % after Holm's correction, so an
interval may exclude 0 where nothing is shown. The correction is over the arms of a stage, or the claims tested
together, and not over all that this page decides. That a gain is smaller than what is worth knowing is tested on one
side, and corrected too. A claim about fine-tuning has one control and no such correction, so its 95 % interval may
reach beyond that gain.
Fine-tuning is compared at two choices of the learning rates: where they disagree the verdict is *{UNDECIDED}*, or
*{NOT_REPRODUCED}* where one says that and the other *{CONTRADICTED}*. The rules are in
[rules.py](../rwkvgate/experiment/rules.py), the [design](#design) and
[inside_rules.py](../rwkvgate/experiment/study/inside_rules.py)."""


def head(
    records: Sequence[Records],
    tuned: Mapping[str, pd.DataFrame],
    arms: pd.DataFrame | None = None,
    fitted: Sequence[Fit] = (),
) -> list[str]:
    """How the page begins: the answer, its limits, and the verdicts, with those apart that are undecided or wait.

    Args:
        records: of `study_ledger`.
        tuned: as it takes them.
        arms: verdicts of `analysis.decide` on every arm that was pretrained; those of finished stages are told.
        fitted: as `answer` takes them.
    """
    measured = [record for record in records if record["finished"]]
    verdicts = verdict_table([record for record in measured if record["verdict"] != UNDECIDED])
    undecided = verdict_table([record for record in measured if record["verdict"] == UNDECIDED])
    told = answer(records, tuned, arms, fitted)
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


def answer(
    records: Sequence[Records],
    tuned: Mapping[str, pd.DataFrame] | None = None,
    arms: pd.DataFrame | None = None,
    fitted: Sequence[Fit] = (),
) -> list[str]:
    """What pretraining says, what fine-tuning says, what is said of the other claims, and how much is decided.

    Args:
        records: of `study_ledger`.
        tuned: as it takes them; the paper's own comparison is told where they are given.
        arms: verdicts of `analysis.decide` on every arm that was pretrained; the variants are told where it is given.
        fitted: how the gap at equal compute changes with the tokens is told of these.
    """
    second = _stories(records) + _untouched(tuned or {}) + _above(records)
    # What is compared at two choices of the rates has one verdict.
    counted = [r for r in records if not _setting(r).endswith(list(CHOICES_OF_RATES)[-1])]
    ended = [r for r in counted if r["finished"]]
    numbers = ", ".join(f"{sum(r['verdict'] == verdict for r in ended)} {verdict}" for verdict in VERDICTS)
    waiting = len(counted) - len(ended)
    waits = f"; {waiting} more wait{'s' if waiting == 1 else ''} for trials" if waiting else ""
    own = sum(r["source"] == COSTS.source for r in ended)
    last = f"Of {len(ended)} verdicts, {own} of them on the study's own question, {numbers}{waits}."
    pretrained, places = pretraining(records)
    first = "\n    - ".join([pretrained, *places, *_slopes(fitted)])
    variants = [] if arms is None else _variants(records, arms)
    return [first, *variants, second, *_others(ended), last]


def _slopes(fitted: Sequence[Fit]) -> Iterator[str]:
    """How the gap at equal compute changes with the length of the training, in a sentence; none without a fit."""
    slopes = {fit.of: fit.weighed((0, 1, 0)) for fit in fitted}
    if not slopes:
        return
    listed = " and ".join(f"{signed_interval(*slope)} at equal {of}" for of, slope in slopes.items())
    shown = {1 if low > 0 else -1 if high < 0 else 0 for _, low, high in slopes.values()}
    said = {-1: "longer trainings favour the gate", 1: "longer trainings favour the base"}
    words = said[shown.pop()] if shown in ({-1}, {1}) else "no trend is shown at both"
    yield f"Every doubling of the tokens changes the difference, as fitted over size and time, by {listed}: {words}."


def pretraining(records: Sequence[Records]) -> tuple[str, list[str]]:
    """Whether the gate earns its cost, and of each size and length its difference from the base and from the strongest
    control.

    Args:
        records: of `study_ledger`.
    """
    own = [r for r in records if r["claim"] == COSTS.claim]
    finished = [r for r in own if r["finished"]]
    if not finished:
        waits = f"is not decided yet ({own[0]['reason']})."
        return f"Pretrained from scratch, whether the paper's gate is worth its cost {waits}", []
    worth = [_briefly(record) for record in finished if record["verdict"] == REPRODUCED]
    where = f"shown at {' and at '.join(worth)}" if worth else "nowhere shown"
    said = (
        f"Pretrained from scratch, the paper's gate is {where} to be worth its cost. *Better* is a loss shown lower "
        "than those of bases of equal steps, parameters, FLOPs and seconds; *no better* excludes a gain of "
        f"{WORTH_KNOWING['books']:g} nats per token over one of them. Its loss minus the base's at equal steps, and "
        "minus that of its strongest control:"
    )
    return said, [_costs(record) for record in finished]


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
        for verdict, there in by_verdict.items():
            joined = " and ".join([there[0], *(place.removeprefix("fine-tuned ") for place in there[1:])])
            listed[verdict].append(f"{text} ({joined})")
    told = [f"\n    - {verdict.capitalize()}: {'; '.join(texts)}." for verdict, texts in listed.items() if texts]
    return [f"The other claims, by verdict:{''.join(told)}"] if told else []


def _setting(record: Records) -> str:
    """Of a record of fine-tuning, what follows "finetune" in its stage's name; "" of others."""
    return str(record["stage"]).partition("finetune ")[2]


def _genre(record: Records) -> str:
    """Of a record of fine-tuning, its texts' genre; "" of others."""
    return _setting(record).partition(" ")[0]


def _costs(record: Records) -> str:
    """A size and length, with the gate's difference from the base there, and from the strongest control."""
    by = record["controls"] or {}
    if not by or any(None in numbers for numbers in by.values()):
        return f"{_briefly(record)}: {SAID[record['verdict']]}; {record['reason']}."
    strongest = record["unit"].rpartition("control of equal ")[2]
    beside = "" if strongest == "steps" else f" {_interval(by['steps'])} at equal steps,"
    at = f"{_briefly(record)}, {record['seeds']} seeds: {SAID[record['verdict']]};"
    alike = ""
    if record["verdict"] == UNDECIDED and record["equivalent"]:
        *others, last = record["equivalent"]
        alike = f"; uncorrected, equivalent at equal {' and '.join(filter(None, (', '.join(others), last)))}"
    return f"{at}{beside} {_interval(by[strongest])} at equal {strongest}{alike}."


def better_variants(records: Sequence[Records], arms: pd.DataFrame | None) -> list[str]:
    """Sentences on the gate's variants that are shown better than every control, in finished stages.

    Args:
        records: of `study_ledger`.
        arms: verdicts of `analysis.decide` on every arm that was pretrained; nothing is told without.
    """
    told: list[str] = []
    worth = WORTH_KNOWING["books"]
    if arms is None:
        return told
    for record, row in _pretrained(records, arms):
        if row["verdict"] == BETTER:
            small = f"; below the {worth:g} worth knowing" if row["estimate"] > -worth else ""
            once = "; trained at no other size, nor longer" if sum(arms["arm"] == row["arm"]) == 1 else ""
            told.append(
                f"A variant, *{row['arm']}*, is {BETTER} at {_briefly(record)}, {row['seeds']} seeds: "
                f"{_nearest(row)}, p {number(row['p'], 2)}, corrected for its stage's arms{small}{once}."
            )
    return told


def _variants(records: Sequence[Records], arms: pd.DataFrame) -> list[str]:
    """What is said of the gate's variants that were pretrained from scratch."""
    told: dict[str, dict[str, list[str]]] = {}
    near = [f"\n    - {sentence}" for sentence in better_variants(records, arms)]
    for record, row in _pretrained(records, arms):
        told.setdefault(_at(record), {}).setdefault(row["verdict"], []).append(row["arm"])
        if row["verdict"] == "undecided" and row["high"] < 0:
            near.append(
                f"\n    - Undecided, with an uncorrected interval below 0, is *{row['arm']}* at {_briefly(record)}, "
                f"{row['seeds']} seeds: {_nearest(row)}, corrected p {number(row['p'], 2)}."
            )
    listed = []
    for at, by in told.items():
        verdicts = (f"{verdict}: *{', '.join(by[verdict])}*" for verdict in WORDS if verdict in by)
        listed.append(f"\n    - At {at}: {'; '.join(verdicts)}.")
    none = "" if any(BETTER in by for by in told.values()) else f"; none is {BETTER}"
    said = f"The gate's variants, by verdict{none}:"
    return ["".join([said, *listed, *near])] if told else []


def _pretrained(records: Sequence[Records], arms: pd.DataFrame) -> Iterator[tuple[Records, dict[Any, Any]]]:
    """The verdicts on the gate's variants, of finished stages and enough seeds, each with a record of its stage."""
    for record in records:
        if record["claim"] in (COSTS.claim, COMPONENTS.claim, RECURS.claim) and record["finished"]:
            own = of_stage(arms, STAGES[record["stage"]])
            for row in own[(own["arm"] != ENHANCED) & (own["seeds"] >= FEWEST)].to_dict("records"):
                yield record, row


def _nearest(row: Mapping[Any, Any]) -> str:
    """An arm's difference from its strongest control."""
    return f"{_interval([row[name] for name in ('estimate', 'low', 'high')])} at equal {row['control']}, the strongest"


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


def _above(records: Sequence[Records]) -> str:
    """Scores that are shown to be higher than the tuned base's, by less than the paper claims."""
    listed = [
        f"{record['unit']} {_interval(_bounds(record))} {record['where'].removeprefix('fine-tuned ')}"
        for record in records
        if record["claim"] in GAINS and record["finished"] and record["verdict"] == NOT_REPRODUCED
        if (record["low"] or 0) > 0 and record["p"] < LEVEL
    ]
    return f" Shown higher than the tuned base's, by less than claimed: {'; '.join(listed)}." if listed else ""


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
    return f"{_briefly(record)} ({record['tokens']:g} M tokens)"


def _briefly(record: Records) -> str:
    return f"{record['size']}, {record['steps']:,} steps"


def _value(record: Records) -> str:
    return NOTHING if record["ours"] is None else f"{_interval(_bounds(record))} {record['unit']}"


def _bounds(record: Records) -> list[float | None]:
    return [record[name] for name in BOUNDS]


def _interval(numbers: Sequence[float | None]) -> str:
    """A difference with its bounds, as JSON has them."""
    return signed_interval(*(np.nan if number is None else number for number in numbers))
