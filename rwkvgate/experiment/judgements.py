"""What one comparison, and several together, say of a claim that a network is better, by the rules of `rules`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rwkvgate.experiment.analysis.tables import LEVEL, number, percent, signed_interval
from rwkvgate.experiment.rules import (
    CONTRADICTED,
    FEWEST,
    LEAST_RATIO,
    NOT_REPRODUCED,
    REPRODUCED,
    UNDECIDED,
    WORTH,
    Rule,
    of_parts,
)
from rwkvgate.metrics.measures import MEASURES
from rwkvgate.metrics.retrained import Difference, seeds_needed

Records = dict[str, Any]


def decided(verdict: str, reason: str) -> Records:
    """A verdict as a claim's record has it."""
    return {"verdict": verdict, "reason": reason}


def judge(test: Records, p: float, tests: int, rule: Rule) -> Records:
    """A comparison with `adjusted` (p after Holm), `detectable` (after the correction), `paired` (seeds), and what it
    says of the claim that it is for the better: `verdict`, `sentence`, and `needed` where power is missing."""
    row = test | {"adjusted": p, "paired": min(test["seeds"], test["reference_seeds"])}
    if test["problem"]:
        return row | {"detectable": np.nan, "verdict": UNDECIDED, "sentence": test["problem"]}
    numbers = ("difference", "seed_deviation", "shared_error", "document_error")
    seeds = max(test["seeds"], test["reference_seeds"])
    found = Difference._make([*(test[name] for name in numbers), seeds, test["n"]])
    worth, row["detectable"] = WORTH[test["metric"]], found.detectable(tests)
    verdict, words = _weighed(row, found, worth, rule.times)
    if verdict == UNDECIDED and (row["paired"] < FEWEST or not p < LEVEL):
        row["needed"] = _needed(found, worth, tests)
        words += f"; {number(worth, 1)} takes {row['needed']}"
    interval = signed_interval(*(test[name] for name in ("difference", "low", "high")))
    where = f"{test['domain']}: " if test["domain"] else ""
    sentence = f"{where}{test['arm']} against {test['against']}: {MEASURES[test['metric']].label} {interval}, {words}"
    paired = f"{row['paired']} seed{'' if row['paired'] == 1 else 's'}"
    sentence += f" ({paired}, {test['n']} documents, p {number(p, 2)} after Holm)"
    return row | {"verdict": verdict, "sentence": sentence}


def _weighed(row: Records, found: Difference, worth: float, times: float) -> tuple[str, str]:
    """The verdict on one difference, and why."""
    if row["paired"] < FEWEST:
        alone = "without an interval over seeds, " if row["paired"] < 2 else ""
        return UNDECIDED, f"{alone}which fewer than {FEWEST} paired seeds cannot decide"
    if row["adjusted"] < LEVEL:
        if not _better(row):
            return CONTRADICTED, "worse"
        return _sized(row, times) if times > 1 else (REPRODUCED, "better")
    low, high = found.bounds
    best, size = high if MEASURES[row["metric"]].better == "higher" else -low, number(worth, 1)
    detectable = f"no difference shown, with a minimum detectable effect of {number(row['detectable'], 2)}"
    small = f"no more than {size} better{' or worse' if found.equivalent(worth) else ''}"
    if times > 1:  # of a score that is itself about as small as what is worth knowing, that alone says nothing
        ratio = 1 + row["relative_high"]
        said = small if best < worth else detectable
        if ratio < times:
            return NOT_REPRODUCED, f"{said}, and at most a ratio of {ratio:.2f}, not nearly double"
        return UNDECIDED, f"{said}, and a ratio of {ratio:.2f} not excluded"
    if best < worth:
        return NOT_REPRODUCED, small
    verdict = NOT_REPRODUCED if row["detectable"] <= worth else UNDECIDED
    return verdict, detectable


def _sized(row: Records, times: float) -> tuple[str, str]:
    """The verdict on a gain that was shown, where `times` the control's value is claimed."""
    ratio, low, high = (1 + row[name] for name in ("relative", "relative_low", "relative_high"))
    words = f"better, by {percent(row['relative'])} (ratio {ratio:.2f} [{low:.2f}, {high:.2f}])"
    if ratio >= times and low > LEAST_RATIO:
        return REPRODUCED, words
    if high < times:
        return NOT_REPRODUCED, f"{words}, not nearly double"
    return UNDECIDED, f"{words}, too wide to tell whether nearly double"


def _needed(found: Difference, worth: float, tests: int) -> str:
    """The seeds that would find an effect worth knowing, by the spread seen, in words."""
    if not found.deviation > 0:
        return f"at least {FEWEST} seeds"
    seeds = seeds_needed(found.deviation, worth, tests, found.shared_error, found.n)
    if np.isinf(seeds):
        return f"more than {found.n} documents, for no number of seeds finds it in these"
    return f"{max(FEWEST, int(seeds)):,} seeds"


def together(judged: Sequence[Records]) -> Records:
    """The verdict on a claim that every one of these differences is for the better."""
    verdict = of_parts({test["verdict"] for test in judged})
    deciding = [test for test in judged if test["verdict"] == verdict]
    # What all must show rests on the weakest of them; what one shows, on the first that does.
    first = max(deciding, key=lambda test: test["adjusted"]) if verdict == REPRODUCED else deciding[0]
    record: Records = {
        "ours": first["difference"],
        "low": first["low"],
        "high": first["high"],
        "n": first["n"],
        "seeds": first["paired"],
        "p": first["adjusted"],
        "rests_on": list(dict.fromkeys(f"{MEASURES[t['metric']].label}/{t['arm']}/{t['against']}" for t in judged)),
        "smallest": first["detectable"],
        "unit": f"{MEASURES[first['metric']].label}{_of(first['domain'])} minus {first['against']}'s",
    }
    record |= {"needed": first["needed"]} if "needed" in first else {}
    return record | decided(verdict, "; ".join(dict.fromkeys(test["sentence"] for test in judged)))


def _of(domain: str) -> str:
    return f" of {domain}" if domain else ""


def _better(test: Records) -> bool:
    return bool((test["difference"] > 0) == (MEASURES[test["metric"]].better == "higher"))
