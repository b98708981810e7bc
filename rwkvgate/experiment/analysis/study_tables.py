"""Tables for reading of what is measured beyond the paper's tables: probes, edits, batches, saturation."""

from __future__ import annotations

import numpy as np
import pandas as pd

from rwkvgate.experiment.analysis.tables import NOTHING, number, signed
from rwkvgate.metrics.measures import MEASURES
from rwkvgate.metrics.statistics import RESAMPLES, Interval, interval


def gains_table(gains: pd.DataFrame) -> pd.DataFrame:
    """`long_range.probe_gains` of several arms and seeds: one row a probe and length, one column an arm.

    A cell is the mean gain in nats a token over seeds, items and depths, with its 95 % interval over items.
    """
    rows = []
    arms = list(dict.fromkeys(gains["arm"]))
    for (probe, length), part in gains.groupby(["probe", "length"], sort=True):
        row: dict[str, object] = {"Probe": probe, "Tokens": int(str(length))}
        for arm in arms:
            row[arm] = _cell(_over(part[part["arm"] == arm], ["depth", "item"], "gain"))
        rows.append(row)
    return pd.DataFrame(rows, columns=["Probe", "Tokens", *arms])


def changes_table(changes: pd.DataFrame) -> pd.DataFrame:
    """`perturbation.gate_changes` of several arms and seeds: one row a kind, arm and reach."""
    rows = []
    for (kind, arm, reach), part in changes.groupby(["kind", "arm", "reach"], sort=False):
        paired = part.assign(difference=part["edited"] - part["neutral"])
        rows.append(
            {
                "Edit": kind,
                "Arm": arm,
                "Tokens": reach,
                "Edited": number(float(part["edited"].mean()), 3),
                "Neutral": number(float(part["neutral"].mean()), 3),
                "Difference": _cell(_over(paired, ["document"], "difference")),
                "Documents": int(part["document"].nunique()),
            }
        )
    return pd.DataFrame(rows)


def rewritten_table(rewritten: pd.DataFrame) -> pd.DataFrame:
    """Entity consistency of continuations of edited prompts: one row an arm and kind, edited beside neutral.

    Claims are pooled over documents. `Unedited` is of the same documents as they were.
    """
    measure, rows = MEASURES["entity_consistency"], []

    def share(part: pd.DataFrame) -> str:
        sums = part[list(measure.columns)].to_numpy(dtype=float)
        found = (
            interval(sums, measure.reduce, resamples=RESAMPLES) if len(part) else Interval(np.nan, np.nan, np.nan, 0)
        )
        return _interval(found)

    for arm, own in rewritten.groupby("arm", sort=False):
        plain = own[own["edit"] == "unedited"]
        for kind, part in own[own["edit"] != "unedited"].groupby("kind", sort=False):
            documents = set(part["document"])
            row = {"Arm": arm, "Edit": kind, "Unedited": share(plain[plain["document"].isin(documents)])}
            row |= {name.capitalize(): share(part[part["edit"] == name]) for name in ("edited", "neutral")}
            rows.append(row | {"Documents": len(documents)})
    return pd.DataFrame(rows)


def grid_table(grid: pd.DataFrame) -> pd.DataFrame:
    """`cost.latency_grid` as text: one row a measure, batch, length and model."""
    return pd.DataFrame(
        [
            {
                "Measure": row["measure"],
                "Arm": row["arm"],
                "Batch": row["batch"],
                "Tokens": row["tokens"],
                "Time (ms)": f"{number(1e3 * row['seconds_median'], 3)} "
                f"[{number(1e3 * row['seconds_low'], 3)}, {number(1e3 * row['seconds_high'], 3)}]",
                "Ratio to base": f"{row['ratio']:.3f} [{row['ratio_low']:.3f}, {row['ratio_high']:.3f}]",
                "Memory (MiB)": number(row["peak_mib"], 3),
                "Device": f"{row['device']}, {row['threads']} threads, {row['dtype']}",
            }
            for row in grid.to_dict("records")
        ]
    )


def saturation_table(saturation: pd.DataFrame) -> pd.DataFrame:
    """One row an arm and layer: means over seeds of the saturated share, the gate's mean and its spread."""
    means = saturation.groupby(["arm", "layer"], sort=False)[["saturated", "mean", "deviation"]].mean().reset_index()
    return pd.DataFrame(
        [
            {
                "Arm": row["arm"],
                "Layer": row["layer"],
                "Saturated": number(row["saturated"], 3),
                "Mean": number(row["mean"], 3),
                "Deviation over tokens": number(row["deviation"], 3),
            }
            for row in means.to_dict("records")
        ]
    )


def _over(part: pd.DataFrame, units: list[str], column: str) -> Interval:
    """The mean of a column with its interval over units; everything else (seeds, layers) is averaged first."""
    found = part.groupby(units, dropna=False)[column].mean().to_numpy(dtype=float)
    if not len(found) or not np.isfinite(found).all():
        return Interval(float(np.mean(found)) if len(found) else np.nan, np.nan, np.nan, len(found))
    return interval(found, resamples=RESAMPLES)


def _interval(found: Interval) -> str:
    bounds = f" [{number(found.low, 3)}, {number(found.high, 3)}]" if np.isfinite(found.low) else ""
    return number(found.estimate, 3) + bounds


def _cell(found: Interval) -> str:
    bounds = f" [{signed(found.low)}, {signed(found.high)}]" if np.isfinite(found.low) else ""
    return signed(found.estimate) + bounds if np.isfinite(found.estimate) else NOTHING
