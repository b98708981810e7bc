"""Tables for reading: the paper's Tables 1 and 2 and the comparisons, with the paper's numbers beside ours.

They hold text. The numbers come from `latency` (`latency.LATENCY_COLUMNS`) and, for quality, from
`comparison`. An expected arm without rows is named with its reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from rwkvgate.experiment.analysis import paper
from rwkvgate.experiment.analysis.comparison import NOT_RUN, Failures, arms_of, summary
from rwkvgate.metrics.latency import TIMES
from rwkvgate.metrics.measures import MEASURES
from rwkvgate.metrics.overlap import corpus_bleu
from rwkvgate.metrics.statistics import RESAMPLES
from rwkvgate.metrics.trivial import SYSTEMS

TABLE2_METRICS = (
    "perplexity",
    "bits_per_byte",
    "bleu",
    "rouge1",
    "rouge2",
    "rougeL",
    "length_ratio",
    "distinct2",
)
WHERE = ("batch", "tokens", "dtype", "threads", "device")
"""What a time was measured on; columns that `latency` lacks are left out."""

NOTHING = "–"
LEVEL = 0.05
"""Of every test."""


def number(value: float, digits: int = 4) -> str:
    """A number with that many significant digits and no exponent in the usual range; a dash for nan."""
    if not np.isfinite(value):
        return NOTHING if np.isnan(value) else ("∞" if value > 0 else "−∞")
    if value and not 1e-5 <= abs(value) < 1e6:
        return f"{value:.{digits - 1}e}"
    decimals = digits if not value else max(0, digits - 1 - int(np.floor(np.log10(abs(value)))))
    return f"{value:.{min(decimals, digits + 4)}f}"


def pooled_latency(latency: pd.DataFrame) -> pd.DataFrame:
    """One row for each arm, measure and place: the median over seeds, with the widest bounds of any seed.

    Seeds differ in weights, not in work, so their spread is noise of the measurement. `runs` counts them.
    """
    keys = ["arm", "measure", *(column for column in WHERE if column in latency)]
    lowest, highest = ("seconds_low", "ratio_low"), ("seconds_high", "ratio_high")
    rules = {name: "min" if name in lowest else "max" if name in highest else "median" for name in TIMES}
    pooled = latency.groupby(keys, sort=False, dropna=False)[list(TIMES)].agg(rules)
    return pooled.assign(runs=latency.groupby(keys, sort=False, dropna=False).size()).reset_index()


def table1(
    latency: pd.DataFrame, *, arms: Sequence[str] | None = None, failures: Failures | None = None
) -> pd.DataFrame:
    """The paper's Table 1: time of a forward pass, and of generation, for each arm.

    Columns Measure, Arm, `Time (s)` (median, quartiles in brackets), `Ratio to base` (95 % interval in
    brackets), `Paper (s)`, `Paper ratio`, and what it was measured on. The paper times generation for its
    base only. Default arms are the paper's four and whatever `latency` holds.
    """
    pooled = pooled_latency(latency)
    listed = arms_of(latency, failures=failures) if arms is None else list(arms)
    rows = []
    for measure, seconds in (("forward", paper.FORWARD_SECONDS), ("generation", paper.GENERATION_SECONDS)):
        part = pooled[pooled["measure"] == measure]
        if part.empty and measure == "generation":
            continue
        for arm in listed:
            found = part[part["arm"] == arm].to_dict("records") or [{}]
            rows += [
                _latency_row(measure, arm, {str(key): value for key, value in row.items()}, seconds, failures)
                for row in found
            ]
    return pd.DataFrame(rows).fillna(NOTHING) if rows else pd.DataFrame(columns=["Measure", "Arm"])


def table2(
    results: pd.DataFrame,
    *,
    arms: Sequence[str] | None = None,
    metrics: Iterable[str] = TABLE2_METRICS,
    failures: Failures | None = None,
    resamples: int = RESAMPLES,
) -> pd.DataFrame:
    """The paper's Table 2: one row a metric, one column an arm, then the paper's base and enhanced.

    A cell is the mean over seeds, ± the standard deviation over seeds where there are at least two; the row
    "Seeds" counts them and "Documents" counts the test documents. An arm without numbers says why in each
    cell. Default arms are base, its control, the paper's others, and whatever `results` holds.
    """
    names = tuple(metrics)
    numbers = summary(results, arms=arms, metrics=names, failures=failures, resamples=resamples)
    columns = list(dict.fromkeys(numbers["arm"]))
    cells = {(row.arm, row.metric): row for row in numbers.itertuples()}
    rows = []
    for name in names:
        row = {"Metric": MEASURES[name].label + {"higher": " ↑", "lower": " ↓"}.get(MEASURES[name].better, "")}
        row |= {arm: _quality_cell(cells[arm, name]) for arm in columns}
        stated = paper.QUALITY.get(name, {})
        row |= {
            f"paper: {arm}": f"{stated[arm]:.{paper.QUALITY_DIGITS}f}" if arm in stated else NOTHING
            for arm in ("base", "enhanced")
        }
        rows.append(row)
    for label, column in (("Seeds", "seeds"), ("Documents", "n")):
        row = {"Metric": label, "paper: base": "not given", "paper: enhanced": "not given"}
        for arm in columns:
            row[arm] = str(int(numbers.loc[numbers["arm"] == arm, column].max()))
        rows.append(row)
    return pd.DataFrame(rows)


def comparison_table(compared: pd.DataFrame) -> pd.DataFrame:
    """`comparison.comparisons` as text: one row a pair and metric.

    Columns Metric, Arm, Against, both values, Difference, `95 % interval` (over documents), Relative, Documents,
    Seeds, `Over seeds`, `p` (against both kinds of noise) and Reading: what is shown, or
    the smallest difference that would have been, or why there is no number.
    """
    rows = []
    for row in compared.to_dict("records"):
        measure = MEASURES[str(row["metric"])]
        known = np.isfinite(row["low"])
        rows.append(
            {
                "Metric": measure.label,
                "Arm": row["arm"],
                "Against": row["against"],
                "Arm's": number(row["value"]),
                "Other's": number(row["reference"]),
                "Difference": signed(row["difference"]),
                "95 % interval": f"[{signed(row['low'])}, {signed(row['high'])}]" if known else NOTHING,
                "Relative": f"{100 * row['relative']:+.1f} %".replace("-", "−")
                if np.isfinite(row["relative"])
                else NOTHING,
                "Documents": row["n"],
                "Seeds": f"{row['seeds']} / {row['reference_seeds']}",
                "Over seeds": f"± {number(row['seed_deviation'], 2)}"
                if np.isfinite(row["seed_deviation"])
                else NOTHING,
                "p": number(row["p"], 2),
                "Reading": row["status"]
                or reading(row["difference"], row["p"], row["smallest"], row["low"], row["high"], measure.better),
            }
        )
    return pd.DataFrame(rows)


def trivial_table(overlap: pd.DataFrame) -> pd.DataFrame:
    """`trivial.trivial_overlap` as text: what each system does, and its BLEU, ROUGE-1 and ROUGE-L."""
    rows = []
    for name, what in SYSTEMS.items():
        part = overlap[overlap["system"] == name]
        means = {kind: number(float(part[kind].mean())) for kind in ("rouge1", "rougeL")}
        bleu = number(corpus_bleu(part))
        rows.append({"System": what, "BLEU": bleu, "ROUGE-1": means["rouge1"], "ROUGE-L": means["rougeL"]})
    return pd.DataFrame(rows)


def reading(difference: float, p: float, smallest: float, low: float, high: float, better: str) -> str:
    """What a difference says: better, worse, higher or lower, or no difference shown and what would have been.

    Args:
        p: of the difference against documents and seeds; nan where there is one training seed, and then
            the interval over documents, `low` to `high`, decides, and the reading says so.
        smallest: the difference that would have been shown with 80 % power.
    """
    alone = ", by documents alone" if np.isnan(p) else ""
    if alone and not (np.isfinite(low) and np.isfinite(high)):
        return "no interval"
    if (low <= 0 <= high) if alone else p >= LEVEL:
        return f"no difference shown{alone} (smallest: {number(smallest, 2)})"
    if better == "neither":
        return ("higher" if difference > 0 else "lower") + alone
    return ("better" if (difference > 0) == (better == "higher") else "worse") + alone


def signed(value: float) -> str:
    """A difference with its sign, three significant digits; a dash for nan."""
    text = number(abs(value), 3)
    return text if np.isnan(value) else ("+" if value >= 0 else "−") + text


def markdown(frame: pd.DataFrame) -> str:
    """A table in Markdown, cells as text."""
    rows = [list(map(str, frame.columns)), ["---"] * frame.shape[1], *frame.astype(str).to_numpy().tolist()]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


def _latency_row(
    measure: str, arm: str, row: dict[str, object], seconds: dict[str, float], failures: Failures | None
) -> dict[str, object]:
    time, ratio = NOT_RUN, NOTHING
    if row:
        median, low, high, middle, least, most = (float(str(row[name])) for name in TIMES)
        time = f"{number(median)} [{number(low)}, {number(high)}]"
        if np.isfinite(middle):
            ratio = f"{middle:.3f} [{least:.3f}, {most:.3f}]" if np.isfinite(least) else f"{middle:.3f}"
    if arm in (failures or {}):
        said = f"failed: {(failures or {})[arm]}"
        time = f"{time}; {said}" if row else said
    stated = seconds.get(arm)
    return {
        "Measure": measure,
        "Arm": arm,
        "Time (s)": time,
        "Ratio to base": ratio,
        "Paper (s)": f"{stated:.6f}" if stated else NOTHING,
        "Paper ratio": f"{stated / seconds['base']:.3f}" if stated else NOTHING,
        **{name.capitalize(): str(row.get(name, NOTHING)) for name in WHERE},
    }


def _quality_cell(row: object) -> str:
    value, deviation = (float(getattr(row, name)) for name in ("value", "deviation"))
    status = str(getattr(row, "status"))  # noqa: B009 - the row's type is known only to pandas
    if np.isnan(value):
        return status or NOTHING
    text = number(value) + (f" ± {number(deviation, 2)}" if np.isfinite(deviation) else "")
    return f"{text} ({status})" if status else text
