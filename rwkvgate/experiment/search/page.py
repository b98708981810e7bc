"""The page of the search in Markdown, made from its two tables: the protocol, the verdicts, everything tried."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from rwkvgate.experiment.analysis.tables import markdown, number, signed
from rwkvgate.experiment.search.candidates import MATCHED_CONTROLS

HEAD = """# A gate worth having?

`make search` trains and tests every trained arm, and some combinations of their parts, by one protocol. Steps, data,
order of data and grid of learning rates are the same for all, and the rate is chosen on validation data. The arm
`enhanced-recurrent` came later, and is not in the tables below. One seed screens; then the two controls, the paper's
gate and the three best of the others are confirmed on five fresh seeds. These finalists are also tried at a rate above
the grid, and at one below it where the lowest of the grid is their best.
The command writes this page from `outputs/search/trials.csv` (everything tried, losers included) and
`outputs/search/verdicts.csv`.

Losses are in nats per token of held-out text; lower is better. A difference has Student's 95 % interval over seeds, and
p after Holm's correction over the candidates of a task and control. *Detectable* is the minimum detectable effect: the
difference that as many seeds, as noisy as these, show with 80 % power at that correction's first step.

[gates.md](gates.md) has the arms. Eight more candidates combine their parts, by the same equations: `identity-` ones
have no LayerNorm and are scaled by a number per channel that starts at 0, with low-rank gating, routing, or attention
over the last four states; `convolution-` ones, without LayerNorm too, add four states with weights that start at 0, and
end in `-output` (no gate), `-gated`, `-low-rank`, `-position` (low-rank, and with a learned position), or
`-mixers-gated` (low-rank, before both mixers).

**What this page cannot show.** It is a screening. Its first edition read a gain at equal steps as a gain for the same
cost, and left that correction out.

- Its controls have as many *steps*. A gate adds parameters and takes longer for a step, so "better" in pretraining
  means better for the same steps, not for the same time or FLOPs. [The study](study.md) holds `conv-no-position`, the
  best of them, and the paper's gate to bases of equal steps, parameters, FLOPs and seconds, and has their verdicts.
- `lora-tuned`, one of the two controls, trains its adapters and the weights that they are added to. It therefore adds
  no capacity, and is no control of size; the study widens the channel mixing instead.
- The screening has one seed. The best of two dozen candidates on one seed is within what rounding alone changes, so the
  order of "everything tried" means little.
- The fine-tuning rates are above the pretraining's peak, and some best rates lie at the edge of the grid. Fine-tuning
  here overwrites what the base knew, and says little about gates added to a good base. The people of its test stories
  have other names than those of training: by validation stories `enhanced` is worse by 0.010, not by 0.044.
- Associative recall is learned abruptly, or not yet: five seeds at one rate, stopped after 400 steps, say little of
  it. The study [trains ten or twenty](study.md#memory) at each network's own rate, four times as long."""


def page(trials: pd.DataFrame, verdicts: pd.DataFrame, steps: Mapping[str, int]) -> str:
    """The page; tasks are in the order of the trials, each with the steps of its trainings."""
    parts = [HEAD]
    for task in dict.fromkeys(trials["task"]):
        confirmed = verdicts[verdicts["task"] == task] if len(verdicts) else verdicts
        parts += [f"## {str(task).capitalize()}", f"Trainings of {steps[str(task)]} steps. {outcome(confirmed)}"]
        if len(confirmed):
            parts.append(markdown(verdict_table(confirmed)))
        parts += ["Everything tried, at its best rate of the screening:", markdown(trial_table(trials, str(task)))]
    return "\n\n".join(parts) + "\n"


def outcome(verdicts: pd.DataFrame) -> str:
    """One paragraph: which candidates beat both controls, or that none does and what was detectable."""
    if verdicts.empty:
        return "Not confirmed yet: the screening alone decides nothing."
    readings = verdicts.pivot(index="candidate", columns="control", values="reading")
    better = [str(name) for name in readings.index[(readings == "better").all(axis=1)]]
    some = [str(name) for name in readings.index[(readings == "better").any(axis=1)] if name not in better]
    worst = [str(name) for name in readings.index[(readings == "worse").all(axis=1)]]
    worse = [str(name) for name in readings.index[(readings == "worse").any(axis=1)] if name not in worst]
    seeds = int(verdicts["seeds"].max())
    sentences = [
        f"Better than both controls of equal steps, on {seeds} fresh seeds: {', '.join(better)}."
        if better
        else f"No candidate is shown better than both controls on {seeds} fresh seeds. The minimum detectable effect "
        f"was {number(float(verdicts['smallest'].min()), 2)} to {number(float(verdicts['smallest'].max()), 2)} nats "
        "per token, by candidate."
    ]
    if some:
        sentences.append(f"Better than one of them: {', '.join(some)}.")
    if worst:
        sentences.append(f"Worse than both: {', '.join(worst)}.")
    if worse:
        sentences.append(f"Worse than one of them: {', '.join(worse)}.")
    return " ".join(sentences)


def verdict_table(verdicts: pd.DataFrame) -> pd.DataFrame:
    """The confirmed differences as text."""
    rows = []
    for row in verdicts.to_dict("records"):
        interval = f"[{signed(row['low'])}, {signed(row['high'])}]" if np.isfinite(row.get("low", np.nan)) else "–"
        cells = {
            "Candidate": row["candidate"],
            "Control": row["control"],
            "Difference": signed(row.get("difference", np.nan)),
            "95 % over seeds": interval,
            "p (Holm)": number(row.get("p (Holm)", np.nan), 2),
            "Detectable": number(row.get("smallest", np.nan), 2),
            "Reading": row["reading"],
        }
        if np.isfinite(row.get("accuracy", np.nan)):
            cells["Recalled"] = f"{100 * row['accuracy']:.1f} % against {100 * row['control accuracy']:.1f} %"
        rows.append(cells)
    return pd.DataFrame(rows)


def trial_table(trials: pd.DataFrame, task: str) -> pd.DataFrame:
    """Every candidate's best rate in the screening, the lowest validation loss first."""
    own = trials[(trials["task"] == task) & trials["stage"].str.startswith("screening")]
    best = own.loc[own.groupby("candidate")["validation_loss"].idxmin()].sort_values("validation_loss", kind="stable")
    rows = [
        {
            "Candidate": row["candidate"] + (" (control)" if row["candidate"] in MATCHED_CONTROLS else ""),
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
