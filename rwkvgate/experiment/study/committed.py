"""The study's verdicts, as they lie in the checkout, for those who show them beside their own: the ledger of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from rwkvgate.experiment.places import project_root
from rwkvgate.experiment.records import read_sealed

FILE = Path("outputs", "study", "claims.json")


def committed_verdicts(root: Path | None = None) -> list[dict[str, Any]]:
    """The records of `ledger.study_ledger` in a checkout; none where the file is missing or its seal is broken.

    Args:
        root: the checkout; that of `places.project_root` by default.
    """
    record = read_sealed((root or project_root()) / FILE)
    return list(record["claims"]) if record else []


def committed_arms(root: Path | None = None) -> pd.DataFrame | None:
    """The verdicts of `analysis.decide` on every arm that the study pretrained; None where a checkout has none.

    Args:
        root: the checkout; that of `places.project_root` by default.
    """
    record = read_sealed((root or project_root()) / FILE) or {}
    return pd.DataFrame(record["arms"]) if record.get("arms") else None


def beside_study(claims: Sequence[dict[str, Any]], verdicts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A run's claims with `study`: the study's verdicts on each in words, "" where it has none.

    Without any verdict of the study the claims have no `study`, and their tables no column of it.

    Args:
        claims: records of `claims.decide_claims`; what they say is left alone.
        verdicts: of `committed_verdicts`.

    Example:
        >>> found = {"claim": "perplexity", "verdict": "contradicted", "where": "pretrained", "size": "64x4"}
        >>> beside_study([{"claim": "perplexity"}], [found | {"seeds": 10, "reason": ""}])
        [{'claim': 'perplexity', 'study': 'contradicted (pretrained, 10 seeds, 64x4)'}]
    """
    own = [{key: value for key, value in claim.items() if key != "study"} for claim in claims]
    if not verdicts:
        return own
    said: dict[str, dict[str, list[str]]] = {}
    for record in verdicts:
        where = record["where"].partition(", at the rates")[0]  # both choices of the rates have one verdict
        about = f"{where}, {{}} seeds, {record['size']}" if record["seeds"] else record["reason"]
        of_claim = said.setdefault(record["claim"], {})
        of_claim.setdefault(f"{record['verdict']} ({about})", []).append(str(record["seeds"]))
    told = {
        claim: "; ".join(words.format(" and ".join(seeds)) for words, seeds in found.items())
        for claim, found in said.items()
    }
    return [claim | {"study": told.get(claim["claim"], "")} for claim in own]
