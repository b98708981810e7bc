"""The page of the search: what was tried, how, and what came of it, in Markdown from the two tables."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from rwkvgate.experiment.analysis.tables import markdown, number, signed
from rwkvgate.experiment.search.candidates import CONTROLS

HEAD = """# A gate worth having?

`make search` puts every trained arm and some combinations of their parts through one protocol: the same steps, data,
order of data and grid of learning rates for each; the rate chosen on validation data; screened with one seed; the two
controls, the paper's gate and the three best of the others then confirmed on five seeds that the screening has not
seen. Those that are confirmed are also tried at a rate above the grid, and at one below it where the grid's lowest is
their best. This page is written by that command from `outputs/search/trials.csv` (everything tried, losers included)
and `outputs/search/verdicts.csv`.

Losses are in nats a token of held-out text, lower is better. A difference has Student's 95 % interval over seeds, and p
after Holm's correction over the candidates of a task; *smallest* is the difference that as many seeds, as noisy as
these, show with 80 % power."""


def page(trials: pd.DataFrame, verdicts: pd.DataFrame, steps: Mapping[str, int]) -> str:
    """The whole page; tasks in the order of the trials, each with the steps of its trainings."""
    parts = [HEAD]
    for task in dict.fromkeys(trials["task"]):
        confirmed = verdicts[verdicts["task"] == task] if len(verdicts) else verdicts
        parts += [f"## {str(task).capitalize()}", f"Trainings of {steps[str(task)]} steps. {outcome(confirmed)}"]
        if len(confirmed):
            parts.append(markdown(verdict_table(confirmed)))
        parts += ["Everything tried, at its best rate of the screening:", markdown(trial_table(trials, str(task)))]
    return "\n\n".join(parts) + "\n"


def outcome(verdicts: pd.DataFrame) -> str:
    """One paragraph: which candidates beat both controls, or that none does and what could have been seen."""
    if verdicts.empty:
        return "Not confirmed yet: the screening alone decides nothing."
    readings = verdicts.pivot(index="candidate", columns="control", values="reading")
    better = [str(name) for name in readings.index[(readings == "better").all(axis=1)]]
    some = [str(name) for name in readings.index[(readings == "better").any(axis=1)] if name not in better]
    worse = [str(name) for name in readings.index[(readings == "worse").any(axis=1)]]
    seeds = int(verdicts["seeds"].max())
    said = [
        f"Better than both controls, on {seeds} fresh seeds: {', '.join(better)}."
        if better
        else f"No candidate is shown better than both controls on {seeds} fresh seeds. The smallest difference that "
        f"could have been shown was {number(float(verdicts['smallest'].min()), 2)} to "
        f"{number(float(verdicts['smallest'].max()), 2)} nats a token, by candidate."
    ]
    if some:
        said.append(f"Better than one of them: {', '.join(some)}.")
    if worse:
        said.append(f"Shown worse than one at least: {', '.join(worse)}.")
    return " ".join(said)


def verdict_table(verdicts: pd.DataFrame) -> pd.DataFrame:
    """The confirmed differences as text."""
    rows = []
    for row in verdicts.to_dict("records"):
        interval = f"[{signed(row['low'])}, {signed(row['high'])}]" if np.isfinite(row.get("low", np.nan)) else "–"
        told = {
            "Candidate": row["candidate"],
            "Control": row["control"],
            "Difference": signed(row.get("difference", np.nan)),
            "95 % over seeds": interval,
            "p (Holm)": number(row.get("p (Holm)", np.nan), 2),
            "Smallest": number(row.get("smallest", np.nan), 2),
            "Reading": row["reading"],
        }
        if np.isfinite(row.get("accuracy", np.nan)):
            told["Recalled"] = f"{100 * row['accuracy']:.1f} % against {100 * row['control accuracy']:.1f} %"
        rows.append(told)
    return pd.DataFrame(rows)


def trial_table(trials: pd.DataFrame, task: str) -> pd.DataFrame:
    """Every candidate's best rate in the screening, the lowest validation loss first."""
    own = trials[(trials["task"] == task) & trials["stage"].str.startswith("screening")]
    best = own.loc[own.groupby("candidate")["validation_loss"].idxmin()].sort_values("validation_loss", kind="stable")
    rows = [
        {
            "Candidate": row["candidate"] + (" (control)" if row["candidate"] in CONTROLS else ""),
            "Rate": f"{row['rate']:g}",
            "Validation": number(row["validation_loss"]),
            "Test": number(row["test_loss"]),
            "Recalled": "–" if not np.isfinite(row["accuracy"]) else f"{100 * row['accuracy']:.1f} %",
            "Parameters": f"{row['parameters']:,}",
        }
        for row in best.assign(accuracy=pd.to_numeric(best["accuracy"])).to_dict("records")
    ]
    frame = pd.DataFrame(rows)
    return frame if own["accuracy"].notna().any() else frame.drop(columns="Recalled")
