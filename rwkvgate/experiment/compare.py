"""What differs between two runs, and which numbers moved beyond their intervals: `make compare A=... B=...`."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from rwkvgate.experiment.analysis.comparison import arms_of, summary
from rwkvgate.experiment.analysis.tables import number
from rwkvgate.experiment.run import ENVIRONMENT, MANIFEST
from rwkvgate.gate.validation import SettingsError
from rwkvgate.metrics.measures import MEASURES
from rwkvgate.metrics.statistics import RESAMPLES
from rwkvgate.rwkv6.files import read_json

COMPARED = ("settings", "commit", "versions", "packages", "hardware", "corpus", "checkpoint", "seeds")
"""Parts of the manifests; the packages are those of the environment that it does not name itself."""
MISSING = "missing"
TABLES = ("documents", "latency")


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """A nested mapping as one level, with dotted names."""
    if not isinstance(value, Mapping):
        return {prefix: value}
    found: dict[str, Any] = {}
    for key, inner in value.items():
        found |= flat(inner, f"{prefix}.{key}" if prefix else str(key))
    return found


@dataclass(frozen=True)
class Finished:
    """What a finished run left: its manifest, tidy scores and times, and the verdict on each claim."""

    manifest: dict[str, Any]
    documents: pd.DataFrame
    latency: pd.DataFrame
    verdicts: dict[str, str]


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> pd.DataFrame:
    """Entries of two manifests that differ: `entry`, `A`, `B`; None where one has no such entry."""
    # A run of an earlier version has no packages, which is no difference in each of them.
    parts = [part for part in COMPARED if part != "packages" or ("packages" in one and "packages" in other)]
    left, right = ({k: v for part in parts for k, v in flat(m.get(part), part).items()} for m in (one, other))
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
        return MISSING if not row["n"] else str(row["status"])
    return number(value) if pd.isna(low) else f"{number(value)} [{number(low)}, {number(high)}]"


def times(one: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """Every arm's times over the base's in two runs; columns as of `moved`, with 95 % intervals over repeats.

    Ratios, which machines share more of than seconds.
    """
    rows = []
    sides = [
        {(str(r["arm"]), f"{r['measure']} over the base's, seed {r['seed']}"): r for r in frame.to_dict("records")}
        for frame in (one, other)
    ]
    for key in dict.fromkeys(key for side in sides for key in side if key[0] != "base"):
        a, b = (side.get(key) for side in sides)
        apart = bool(a and b and (a["ratio_low"] > b["ratio_high"] or b["ratio_low"] > a["ratio_high"]))
        rows.append((*key, _ratio(a), _ratio(b), apart))
    return pd.DataFrame(rows, columns=["arm", "measure", "A", "B", "moved"])


def _ratio(row: Mapping[Any, Any] | None) -> str:
    if row is None:
        return MISSING
    value, low, high = (number(float(row[name])) for name in ("ratio", "ratio_low", "ratio_high"))
    return f"{value} [{low}, {high}]"


def read_run(folder: Path) -> Finished:
    """What a finished run left.

    Raises:
        SettingsError: the folder holds none.
    """
    manifest = read_json(folder / MANIFEST)
    if not isinstance(manifest, dict):
        raise SettingsError(f"{folder} holds no {MANIFEST}: it is no run folder")
    try:
        documents, latency = (pd.read_parquet(folder / "results" / f"{name}.parquet") for name in TABLES)
    except (OSError, ValueError) as error:
        raise SettingsError(f"{folder} holds no finished results ({error})") from None
    if packages := _packages(folder):
        named = {re.sub(r"[-_.]+", "-", name) for name in manifest.get("versions", {})}
        manifest["packages"] = {name: version for name, version in packages.items() if name not in named}
    claims = read_json(folder / "results" / "claims.json") or []
    return Finished(manifest, documents, latency, {claim["claim"]: claim["verdict"] for claim in claims})


def _packages(folder: Path) -> dict[str, str]:
    """Names and versions from a run's record of its environment; none where it has no such record."""
    try:
        text = (folder / ENVIRONMENT).read_text(encoding="utf-8")
    except OSError:
        return {}
    return dict(re.findall(r"^(?:# )?([\w.-]+)==(\S+)", text, flags=re.MULTILINE))


def main() -> None:
    """Print the differences."""
    parser = argparse.ArgumentParser(prog="python -m rwkvgate.experiment.compare", description=__doc__)
    parser.add_argument("a", type=Path)
    parser.add_argument("b", type=Path)
    given = parser.parse_args()
    try:
        one, other = (read_run(folder) for folder in (given.a, given.b))
    except SettingsError as error:
        sys.exit(str(error))
    print(f"A: {given.a}\nB: {given.b}\n")
    told = differences(one.manifest, other.manifest)
    print("The same settings, versions, hardware and texts." if told.empty else told.to_string(index=False))
    for name, run in (("A", one), ("B", other)):
        if (run.manifest.get("commit") or {}).get("dirty"):
            print(f"{name} was made from changed files: its commit does not say all.")
    for kind, frame in (
        ("numbers moved beyond their intervals over documents", moved(one.documents, other.documents)),
        ("times moved beyond their intervals over repeats", times(one.latency, other.latency)),
    ):
        _tell(kind, frame)
    claims = dict.fromkeys([*one.verdicts, *other.verdicts])
    verdicts = [
        f"{claim}: {one.verdicts.get(claim, MISSING)} in A, {other.verdicts.get(claim, MISSING)} in B"
        for claim in claims
        if one.verdicts.get(claim) != other.verdicts.get(claim)
    ]
    print(f"\n{len(verdicts)} of {len(claims)} verdicts differ:")
    print("\n".join(verdicts) or "none")


def _tell(kind: str, frame: pd.DataFrame) -> None:
    """Print what moved, and what one run lacks."""
    lacking = frame[(frame["A"] == MISSING) != (frame["B"] == MISSING)]
    both = frame[(frame["A"] != MISSING) & (frame["B"] != MISSING)]
    beyond = both[both["moved"]]
    print(f"\n{len(beyond)} of {len(both)} {kind}:")
    print("none" if beyond.empty else beyond.drop(columns="moved").to_string(index=False))
    for side in ("A", "B"):
        gone = lacking[lacking[side] == MISSING]
        whole = {arm for arm in gone["arm"] if arm not in set(both["arm"])}
        names = [
            row["arm"] if row["arm"] in whole else f"{row['arm']}: {row['measure']}" for row in gone.to_dict("records")
        ]
        if names:
            print(f"missing in {side}: {', '.join(dict.fromkeys(names))}")


if __name__ == "__main__":
    main()
