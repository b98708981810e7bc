"""What differs between two runs, and which numbers moved beyond their intervals: `make compare A=... B=...`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from rwkvgate.evaluation.comparison import arms_of, summary
from rwkvgate.evaluation.measures import MEASURES
from rwkvgate.evaluation.tables import number
from rwkvgate.files import read_json
from rwkvgate.runs import MANIFEST
from rwkvgate.settings import SettingsError

COMPARED = ("settings", "commit", "versions", "hardware", "corpus", "checkpoint", "seeds")
"""Parts of the manifests."""
RESAMPLES = 2000


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """A nested mapping as one level, with dotted names."""
    if not isinstance(value, Mapping):
        return {prefix: value}
    found: dict[str, Any] = {}
    for key, inner in value.items():
        found |= flat(inner, f"{prefix}.{key}" if prefix else str(key))
    return found


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> pd.DataFrame:
    """Entries of two manifests that differ: `entry`, `A`, `B`; None where one has no such entry."""
    left, right = ({k: v for part in COMPARED for k, v in flat(m.get(part), part).items()} for m in (one, other))
    rows = [
        (name, left.get(name), right.get(name))
        for name in dict.fromkeys([*left, *right])
        if left.get(name) != right.get(name)
    ]
    return pd.DataFrame(rows, columns=["entry", "A", "B"], dtype=object)


def moved(one: pd.DataFrame, other: pd.DataFrame, resamples: int = RESAMPLES) -> pd.DataFrame:
    """Every arm's measures in two runs' tidy scores.

    Returns:
        `arm`, `measure`, `A` and `B` (mean over seeds with its 95 % interval over documents), `moved`: whether the
        intervals are apart. A measure or arm that one run lacks is said to be missing there.
    """
    arms = list(dict.fromkeys([*arms_of(one, first=()), *arms_of(other, first=())]))
    present = [
        name
        for name, measure in MEASURES.items()
        if any(set(measure.columns) <= set(frame["metric"]) for frame in (one, other))
    ]
    sides: list[dict[tuple[str, str], dict[str, Any]]] = []
    for frame in (one, other):
        found = summary(frame, arms=arms, metrics=present, resamples=resamples).to_dict("records")
        sides.append({(str(row["arm"]), str(row["metric"])): {str(k): v for k, v in row.items()} for row in found})
    rows = []
    for arm in arms:
        for name in present:
            a, b = (side[arm, name] for side in sides)
            apart = bool(a["low"] > b["high"] or b["low"] > a["high"])
            rows.append((arm, MEASURES[name].label, _said(a), _said(b), apart))
    return pd.DataFrame(rows, columns=["arm", "measure", "A", "B", "moved"])


def _said(row: Mapping[str, Any]) -> str:
    value, low, high = (float(row[name]) for name in ("value", "low", "high"))
    if pd.isna(value):
        return "missing" if not row["n"] else str(row["status"])
    return number(value) if pd.isna(low) else f"{number(value)} [{number(low)}, {number(high)}]"


def read_run(folder: Path) -> tuple[dict[str, Any], pd.DataFrame]:
    """Manifest and scores of a finished run.

    Raises:
        SettingsError: the folder holds none.
    """
    manifest = read_json(folder / MANIFEST)
    if not isinstance(manifest, dict):
        raise SettingsError(f"{folder} holds no {MANIFEST}: it is no run folder")
    try:
        return manifest, pd.read_parquet(folder / "results" / "documents.parquet")
    except (OSError, ValueError) as error:
        raise SettingsError(f"{folder} holds no finished results ({error})") from None


def main() -> None:
    """Print the differences."""
    parser = argparse.ArgumentParser(prog="python -m rwkvgate.compare", description=__doc__)
    parser.add_argument("a", type=Path)
    parser.add_argument("b", type=Path)
    given = parser.parse_args()
    try:
        (one, scores), (other, others) = (read_run(folder) for folder in (given.a, given.b))
    except SettingsError as error:
        sys.exit(str(error))
    told = differences(one, other)
    print(f"A: {given.a}\nB: {given.b}\n")
    print("The same settings, versions, hardware and texts." if told.empty else told.to_string(index=False))
    numbers = moved(scores, others)
    beyond = numbers[numbers["moved"]]
    print(f"\n{len(beyond)} of {len(numbers)} numbers moved beyond their intervals over documents:")
    print("none" if beyond.empty else beyond.drop(columns="moved").to_string(index=False))


if __name__ == "__main__":
    main()
