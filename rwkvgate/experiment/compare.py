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
from rwkvgate.experiment.records import intact
from rwkvgate.experiment.run import MANIFEST, check_results, read_environment, read_manifest
from rwkvgate.gate.validation import SettingsError, shown
from rwkvgate.metrics.measures import MEASURES, RESULT_COLUMNS
from rwkvgate.metrics.statistics import RESAMPLES
from rwkvgate.rwkv6.files import read_json

PARTS = ("settings", "commit", "versions", "hardware", "corpus", "checkpoint", "seeds")
"""The compared parts of a manifest; `versions` has every package of environment.txt too."""
ONLY_IN_BOTH = ("corpus.versions.", "settings.training.report_to")
"""Entries that runs of an earlier version do not have, which is no difference in each of them."""
MISSING = "missing"
TABLES = {"documents": RESULT_COLUMNS, "latency": ("arm", "seed", "measure", "ratio", "ratio_low", "ratio_high")}
"""The compared tables, and the columns that are read."""
NUMBERS = ("seed", "value", "ratio", "ratio_low", "ratio_high")
"""Columns of numbers."""
COLUMNS = ["arm", "measure", "A", "B", "moved"]


@dataclass(frozen=True)
class Finished:
    """The results of a finished run: its manifest, tidy scores and times, and the verdict on each claim."""

    manifest: dict[str, Any]
    documents: pd.DataFrame
    latency: pd.DataFrame
    verdicts: dict[str, str]


def read_run(folder: Path) -> Finished:
    """The results of a finished run, verified by their record.

    Raises:
        SettingsError: the folder holds none, or damaged ones.
    """
    try:
        return _read(folder)
    except (OSError, AttributeError, KeyError, TypeError) as error:  # without a record, as in runs of earlier versions
        raise SettingsError(f"{folder} holds no results that can be read ({shown(error)})") from None


def _read(folder: Path) -> Finished:
    manifest = read_manifest(folder)
    if not (folder / MANIFEST).exists():
        raise SettingsError(f"{folder} holds no {MANIFEST}: it is no run folder")
    check_results(folder)
    tables = [intact(folder / "results" / f"{name}.parquet") for name in TABLES]
    try:
        documents, latency = map(pd.read_parquet, tables)
    except (OSError, ValueError) as error:
        raise SettingsError(f"{folder} holds no finished results ({error})") from None
    for path, frame in zip(tables, (documents, latency), strict=True):
        _check_columns(frame, path)
    named = {re.sub(r"[-_.]+", "-", name): version for name, version in manifest.get("versions", {}).items()}
    manifest["versions"] = _packages(folder) | named
    path = intact(folder / "results" / "claims.json")
    claims = read_json(path) if path.exists() else []
    return Finished(manifest, documents, latency, {claim["claim"]: claim["verdict"] for claim in claims})


def _check_columns(frame: pd.DataFrame, path: Path) -> None:
    """Raise a SettingsError where a table, which no record verifies, is not one that a run writes."""
    columns = TABLES[path.stem]
    if missing := [name for name in columns if name not in frame]:
        raise SettingsError(f"{path} lacks {', '.join(missing)}; it must have {', '.join(columns)}")
    if words := [name for name in columns if name in NUMBERS and not pd.api.types.is_numeric_dtype(frame[name])]:
        raise SettingsError(f"{path} holds {words[0]} as {frame[words[0]].dtype}; it must hold numbers")
    if columns == RESULT_COLUMNS and frame.duplicated(list(RESULT_COLUMNS[:-1])).any():
        raise SettingsError(f"{path} holds the same {', '.join(RESULT_COLUMNS[:-1])} more than once")


def _packages(folder: Path) -> dict[str, str]:
    """Names and versions from a run's environment.txt; empty where there is none."""
    return dict(re.findall(r"^(?:# )?([\w.-]+)==(\S+)", read_environment(folder), flags=re.MULTILINE))


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> pd.DataFrame:
    """Entries of two manifests that differ: `entry`, `A`, `B`; None where one has no such entry."""
    left, right = ({k: v for part in PARTS for k, v in _flat(m.get(part), part).items()} for m in (one, other))
    names = [name for name in dict.fromkeys([*left, *right]) if left.get(name) != right.get(name)]
    for prefix in ONLY_IN_BOTH:
        if not all(any(name.startswith(prefix) for name in side) for side in (left, right)):
            names = [name for name in names if not name.startswith(prefix)]
    rows = [(name, left.get(name), right.get(name)) for name in names]
    return pd.DataFrame(rows, columns=["entry", "A", "B"], dtype=object)


def _flat(value: Any, prefix: str) -> dict[str, Any]:
    """A nested mapping as one level, with dotted names."""
    if not isinstance(value, Mapping):
        return {prefix: value}
    return {name: x for key, inner in value.items() for name, x in _flat(inner, f"{prefix}.{key}").items()}


def named_differences(entries: pd.DataFrame) -> str:
    """A line of names each for texts and package versions that differ; "" where all are the same.

    Args:
        entries: as `differences` returns them.
    """
    titles = {
        "Texts that differ": ("corpus.hashes.",),
        "Natural text was read from other versions of": ("corpus.versions.",),
        "Packages in other versions": ("versions.",),
    }
    lines = []
    for title, prefixes in titles.items():
        names = [name.removeprefix(p) for name in entries["entry"] for p in prefixes if name.startswith(p)]
        lines += [f"{title}: {', '.join(names)}\n"] if names else []
    return "".join(lines)


def moved(one: pd.DataFrame, other: pd.DataFrame, resamples: int = RESAMPLES) -> pd.DataFrame:
    """Every arm's measures in two runs' tidy scores.

    Returns:
        `arm`, `measure`, `A` and `B` (mean over seeds with its 95 % interval over documents), `moved`: whether the
        two intervals are disjoint. A measure or arm that a run does not have is `MISSING` there.
    """
    arms = list(dict.fromkeys([*arms_of(one, first=()), *arms_of(other, first=())]))
    measured = {
        measure.columns: name  # of two measures of the same columns, perplexity and its logarithm, the first
        for name, measure in reversed(MEASURES.items())
        if any(set(measure.columns) <= set(frame["metric"]) for frame in (one, other))
    }
    present = list(reversed(measured.values()))
    sides: list[dict[tuple[str, str], dict[str, Any]]] = []
    for frame in (one, other):
        rows = summary(frame, arms=arms, metrics=present, resamples=resamples).to_dict("records")
        sides.append({(str(row["arm"]), str(row["metric"])): {str(k): v for k, v in row.items()} for row in rows})
    compared = []
    for arm in arms:
        for name in present:
            a, b = (side[arm, name] for side in sides)
            disjoint = bool(a["low"] > b["high"] or b["low"] > a["high"])
            compared.append((arm, MEASURES[name].label, _formatted(a), _formatted(b), disjoint))
    return pd.DataFrame(compared, columns=COLUMNS)


def _formatted(row: Mapping[str, Any]) -> str:
    value, low, high = (float(row[name]) for name in ("value", "low", "high"))
    if pd.isna(value):
        return MISSING if not row["n"] else str(row["status"])
    return number(value) if pd.isna(low) else f"{number(value)} [{number(low)}, {number(high)}]"


def times(one: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """Every arm's times over the base's in two runs; columns as of `moved`, with 95 % intervals over repeats.

    Ratios are compared, for they depend less on the machine than seconds do.
    """
    rows = []
    sides = [
        {(str(r["arm"]), f"{r['measure']} over the base's, seed {r['seed']}"): r for r in frame.to_dict("records")}
        for frame in (one, other)
    ]
    for key in dict.fromkeys(key for side in sides for key in side if key[0] != "base"):
        a, b = (side.get(key) for side in sides)
        disjoint = bool(a and b and (a["ratio_low"] > b["ratio_high"] or b["ratio_low"] > a["ratio_high"]))
        rows.append((*key, _ratio(a), _ratio(b), disjoint))
    return pd.DataFrame(rows, columns=COLUMNS)


def _ratio(row: Mapping[Any, Any] | None) -> str:
    if row is None:
        return MISSING
    value, low, high = (number(float(row[name])) for name in ("ratio", "ratio_low", "ratio_high"))
    return f"{value} [{low}, {high}]"


def main() -> None:
    """Print the differences."""
    parser = argparse.ArgumentParser(prog="python -m rwkvgate.experiment.compare", description=__doc__)
    parser.add_argument("a", help="a run folder")
    parser.add_argument("b", help="another")
    given = parser.parse_args()
    if not (given.a and given.b):
        sys.exit("it takes two run folders to compare: make compare A=outputs/cpu B=outputs/reference")
    try:
        one, other = (read_run(Path(folder)) for folder in (given.a, given.b))
    except SettingsError as error:
        sys.exit(str(error))
    print(f"A: {given.a}\nB: {given.b}\n")
    entries = differences(one.manifest, other.manifest)
    print("The same settings, versions, hardware and texts." if entries.empty else entries.to_string(index=False))
    print(named_differences(entries), end="")
    for name, run in (("A", one), ("B", other)):
        if (run.manifest.get("commit") or {}).get("dirty"):
            print(f"{name} was made with uncommitted changes: its commit does not determine its code.")
    _print_moved("numbers moved beyond their intervals over documents", moved(one.documents, other.documents))
    _print_moved("times moved beyond their intervals over repeats", times(one.latency, other.latency))
    claims = dict.fromkeys([*one.verdicts, *other.verdicts])
    verdicts = [
        f"{claim}: {one.verdicts.get(claim, MISSING)} in A, {other.verdicts.get(claim, MISSING)} in B"
        for claim in claims
        if one.verdicts.get(claim) != other.verdicts.get(claim)
    ]
    print(f"\n{len(verdicts)} of {len(claims)} verdicts differ:")
    print("\n".join(verdicts) or "none")


def _print_moved(title: str, frame: pd.DataFrame) -> None:
    """Print the rows that moved, and what only one of the runs has."""
    lacking = frame[(frame["A"] == MISSING) != (frame["B"] == MISSING)]
    both = frame[(frame["A"] != MISSING) & (frame["B"] != MISSING)]
    beyond = both[both["moved"]]
    print(f"\n{len(beyond)} of {len(both)} {title}:")
    print("none" if beyond.empty else beyond.drop(columns="moved").to_string(index=False))
    for side in ("A", "B"):
        gone = lacking[lacking[side] == MISSING]
        absent = set(gone["arm"]) - set(both["arm"])
        names = [
            row["arm"] if row["arm"] in absent else f"{row['arm']}: {row['measure']}" for row in gone.to_dict("records")
        ]
        if names:
            print(f"missing in {side}: {', '.join(dict.fromkeys(names))}")


if __name__ == "__main__":
    main()
