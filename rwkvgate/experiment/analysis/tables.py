"""Tables for reading, made from the numeric frames of `comparison`: cells are text, and a missing number says why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from pandas.io.formats.style import Styler

from rwkvgate.experiment.analysis import paper
from rwkvgate.experiment.analysis.comparison import PLACE
from rwkvgate.explore.tokens import visible
from rwkvgate.metrics.latency import TIMES
from rwkvgate.metrics.measures import MEASURES

TABLE2_METRICS = ("perplexity", "bits_per_byte", "bleu", "rouge1", "rouge2", "rougeL", "length_ratio", "distinct2")
NOTHING = "–"
LEVEL = 0.05
"""The level of every test."""
ALONE = ", by documents alone (one seed: no interval)"
ARROWS = {"higher": " ↑", "lower": " ↓"}


def number(value: float, digits: int = 4) -> str:
    """A number with that many significant digits and no exponent in the usual range; a dash for nan.

    Example:
        >>> number(0.0431), number(1234.5), number(float("nan"))
        ('0.04310', '1234', '–')
    """
    if not np.isfinite(value):
        return NOTHING if np.isnan(value) else ("∞" if value > 0 else "−∞")
    if value and not 1e-5 <= abs(value) < 1e6:
        return f"{value:.{digits - 1}e}"
    decimals = digits if not value else max(0, digits - 1 - int(np.floor(np.log10(abs(value)))))
    return f"{value:.{min(decimals, digits + 4)}f}"


def signed(value: float) -> str:
    """A difference with its sign and three significant digits; a dash for nan.

    Example:
        >>> signed(0.5), signed(-0.02)
        ('+0.500', '−0.0200')
    """
    text = number(abs(value), 3)
    return text if np.isnan(value) else ("+" if value >= 0 else "−") + text


def signed_interval(value: float, low: float, high: float) -> str:
    """A difference with its interval in brackets, where there is one."""
    return f"{signed(value)} [{signed(low)}, {signed(high)}]" if np.isfinite(low) else signed(value)


def percent(relative: float) -> str:
    """A relative difference in percent; a dash for nan."""
    return f"{100 * relative:+.1f} %".replace("-", "−") if np.isfinite(relative) else NOTHING


def reading(row: Mapping[Any, Any], better: str) -> str:
    """What a row of `comparison.comparisons` says: better, worse, higher or lower; or, where none is shown, how large
    a difference is left possible and how large a one would have been found.

    With one training seed the documents decide alone, and the reading says so.
    """
    alone = ALONE if np.isnan(row["p"]) else ""
    p = row["p_documents"] if alone else row["p"]
    if np.isnan(p):
        return "no interval"
    if p >= LEVEL and alone:
        return f"no difference shown{alone}"
    if p >= LEVEL:
        bound, smallest = number(row["bound"], 2), number(row["smallest"], 2)
        return f"no difference shown: under {bound} either way (minimum detectable: {smallest})"
    if better == "neither":
        return ("higher" if row["difference"] > 0 else "lower") + alone
    return ("better" if (row["difference"] > 0) == (better == "higher") else "worse") + alone


def time_table(times: pd.DataFrame, measure: str = "forward") -> pd.DataFrame:
    """The paper's Table 1 from `comparison.pooled_times`: one row an arm and place.

    Columns: `Arm`, `Time (s)` (median, quartiles in brackets), `Ratio to base` (95 % interval in brackets),
    `Paper (s)`, `Paper ratio`, and what it was measured on. The paper times generation for its base only.
    """
    rows = []
    for row in times[times["measure"] == measure].to_dict("records"):
        median, low, high, ratio, least, most = (float(row[name]) for name in TIMES)
        seconds = f"{number(median)} [{number(low)}, {number(high)}]" if np.isfinite(median) else ""
        bounds = f" [{least:.3f}, {most:.3f}]" if np.isfinite(least) else ""
        cells = {
            "Arm": row["arm"],
            "Time (s)": "; ".join(filter(None, (seconds, row["status"]))),
            "Ratio to base": f"{ratio:.3f}{bounds}" if np.isfinite(ratio) else NOTHING,
            "Paper (s)": f"{row['paper']:.{paper.SECONDS_DIGITS}f}" if np.isfinite(row["paper"]) else NOTHING,
            "Paper ratio": NOTHING,
        }
        if measure == "forward" and np.isfinite(row["paper"]):
            cells["Paper ratio"] = f"{row['paper'] / paper.FORWARD_SECONDS['base']:.3f}"
        place = {name.capitalize(): row[name] for name in PLACE if name in row}
        rows.append(cells | {name: NOTHING if pd.isna(value) else _whole(value) for name, value in place.items()})
    return pd.DataFrame(rows)


def quality_table(summary: pd.DataFrame, metrics: Sequence[str] = TABLE2_METRICS) -> pd.DataFrame:
    """The paper's Table 2 from `comparison.summary`: one row an arm, one column a metric, then the paper's rows.

    A cell is the mean over seeds, ± the standard deviation over seeds where there are at least two. An arm without
    numbers says why in its first cell. `Seeds` and `Documents` are those of the first metric.
    """
    shown = {name: MEASURES[name].label + ARROWS.get(MEASURES[name].better, "") for name in metrics}
    shown = {name: label for name, label in shown.items() if name in set(summary["metric"])}
    rows, stated = [], []
    for arm, part in summary[summary["metric"].isin(shown)].groupby("arm", sort=False):
        found: dict[Any, Any] = part.set_index("metric").to_dict("index")
        counts = next(iter(found.values()))
        cells = {label: _quality_cell(found[name]) for name, label in shown.items()}
        rows.append({"Arm": arm, **cells, "Seeds": counts["seeds"], "Documents": counts["n"]})
        if part["paper"].notna().any():
            values = {name: found[name]["paper"] for name in shown}
            cells = {shown[name]: _exactly(value, paper.QUALITY_DIGITS) for name, value in values.items()}
            stated.append({"Arm": f"paper: {arm}", **cells, "Seeds": "not given", "Documents": "not given"})
    return pd.DataFrame([*rows, *stated])


def trivial_table(trivial: pd.DataFrame) -> pd.DataFrame:
    """Scores of systems without a model (system, metric, value) for reading: one row a system, one column a metric."""
    names = {name: MEASURES[name].label for name in dict.fromkeys(trivial["metric"])}
    table = trivial.pivot(index="system", columns="metric", values="value")[list(names)]
    return table.map(number).rename(columns=names).rename_axis(index="System", columns=None).reset_index()


def comparison_table(compared: pd.DataFrame) -> pd.DataFrame:
    """`comparison.comparisons` for reading: one row a pair.

    Columns: Metric, Arm, Against, both values, Difference, `95 % interval` (over seeds and documents together),
    Relative, Documents, Seeds, `Over seeds` (standard deviation of the difference), `p` (against both kinds of noise)
    and Reading: what is shown, or the minimum detectable effect, or why there is no number.
    """
    rows = []
    for row in compared.to_dict("records"):
        measure = MEASURES[str(row["metric"])]
        known, spread = np.isfinite(row["low"]), row["seed_deviation"]
        rows.append(
            {
                "Metric": measure.label + (f", {row['domain']}" if row["domain"] else ""),
                "Arm": row["arm"],
                "Against": row["against"],
                "Arm's": number(row["value"]),
                "Other's": number(row["reference"]),
                "Difference": signed(row["difference"]),
                "95 % interval": f"[{signed(row['low'])}, {signed(row['high'])}]" if known else NOTHING,
                "Relative": percent(row["relative"]),
                "Documents": row["n"],
                "Seeds": f"{row['seeds']} / {row['reference_seeds']}",
                "Over seeds": f"± {number(spread, 2)}" if np.isfinite(spread) else NOTHING,
                "p": number(row["p"], 2),
                "Reading": row["status"] or reading(row, measure.better),
            }
        )
    return pd.DataFrame(rows)


def step_table(steps: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """The steps of a run: seconds and hash of the inputs; commit and environment too where those are several.

    Args:
        steps: the steps' records by their folders, as a run's manifest holds them.

    Example:
        >>> record = {"seconds": 1.5, "inputs": "ab", "environment": "e1", "commit": {"id": "c1" * 20, "dirty": False}}
        >>> step_table({"base": record}).columns.tolist()
        ['step', 'seconds', 'inputs']
        >>> other = record | {"commit": {"id": "c1" * 20, "dirty": True}}
        >>> step_table({"base": record, "corpus": other})["commit"].tolist()
        ['c1c1c1c1c1c1', 'c1c1c1c1c1c1, with changes']
    """
    rows = []
    for name, record in steps.items():
        commit = record.get("commit") or {}
        made = str(commit.get("id") or "unknown")[:12] + (", with changes" if commit.get("dirty") else "")
        rows.append((name, record["seconds"], record["inputs"], made, str(record.get("environment", "unknown"))))
    frame = pd.DataFrame(rows, columns=["step", "seconds", "inputs", "commit", "environment"])
    makers = ["commit", "environment"]
    return frame if len(frame[makers].drop_duplicates()) > 1 else frame.drop(columns=makers)


def shown(frame: pd.DataFrame, **formats: str) -> Styler:
    """A table for a notebook: no index, numbers with four significant digits, every row, and text that is never markup
    and has no unseen characters.

    Args:
        formats: column -> its format, such as "{:+.2%}", for single columns.
    """
    text = frame.map(_cell)
    for column, form in formats.items():
        text[column] = [NOTHING if pd.isna(value) else form.format(value) for value in frame[column]]
    return Styler(text, cell_ids=False).hide(axis="index").format(escape="html")


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return number(value)
    return visible(value) if isinstance(value, str) else value


def markdown(frame: pd.DataFrame) -> str:
    """A table in Markdown, cells as text.

    Example:
        >>> print(markdown(pd.DataFrame({"arm": ["base"], "value": ["1"]})))
        | arm | value |
        | --- | --- |
        | base | 1 |
    """
    rows = [list(map(str, frame.columns)), ["---"] * frame.shape[1], *frame.astype(str).to_numpy().tolist()]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


def _quality_cell(row: dict[str, Any]) -> str:
    if np.isnan(row["value"]):
        return str(row["status"]) or NOTHING
    text = number(row["value"])
    text += f" ± {number(row['deviation'], 2)}" if np.isfinite(row["deviation"]) else ""
    return f"{text} ({row['status']})" if row["status"] else text


def _exactly(value: float, digits: int) -> str:
    return NOTHING if np.isnan(value) else f"{value:.{digits}f}"


def _whole(value: object) -> str:
    """A value as text; a whole number that a frame with gaps holds as a float has no decimals."""
    return f"{value:.0f}" if isinstance(value, float) else str(value)
