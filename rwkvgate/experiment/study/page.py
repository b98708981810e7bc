"""The page of the study, docs/study.md, its tables and its figures, made from the finished trials."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rwkvgate.experiment.analysis.tables import NOTHING, markdown, number, signed_interval
from rwkvgate.experiment.rules import FEWEST
from rwkvgate.experiment.study import long_range, stories
from rwkvgate.experiment.study.analysis import (
    ENHANCED,
    Ratios,
    after_training,
    comparisons,
    control_cells,
    decide,
    frame,
    multipliers,
    of_stage,
    recall_decides_nothing,
    recalled_shares,
)
from rwkvgate.experiment.study.apart import apart_table, course_table
from rwkvgate.experiment.study.design import (
    BASE,
    DATA,
    STAGES,
    STEP_TOKENS,
    WORTH_KNOWING,
    Stage,
    rates_chosen_at,
)
from rwkvgate.experiment.study.figures import controls_figure, embedded, gap_figure, losses_figure, recall_figure
from rwkvgate.experiment.study.gap import early_and_late, fit_table, fits, places_table, seed_gaps
from rwkvgate.experiment.study.inside_page import breaking_parts, inside_parts
from rwkvgate.experiment.study.ledger import SETTINGS, Found, marked, study_ledger, write_ledger
from rwkvgate.experiment.study.memory_page import shares_parts
from rwkvgate.experiment.study.prose import CHANGES, DESIGN, HEAD, NAMES
from rwkvgate.experiment.study.trials import Trial
from rwkvgate.experiment.study.tuned_page import tuned_parts, tuned_rates
from rwkvgate.experiment.study.verdicts_page import head
from rwkvgate.metrics.retrained import seeds_needed
from rwkvgate.rwkv6.files import write_files, write_text

TITLES = {"books": "Language", "memory": "Memory"}
UNITS = {"books": "nats per token", "memory": "share of labelled tokens not recalled"}
Section = tuple[list[str], dict[str, pd.DataFrame]]
"""Paragraphs of the page, and the tables that they are made from by name."""

MEASURED = ("seconds", "coverage")
"""Tables in the folder that are made by commands of their own."""


def write_page(path: Path, folder: Path, found: Found, seconds: Mapping[str, Ratios]) -> None:
    """Write the page to `path`, and its tables and figures into `folder`, in place of those of an earlier page."""
    with write_files(folder) as fresh:
        text = _page(fresh, found, seconds)
        made = {one.name for one in fresh.iterdir()}
    earlier = [one for kind in ("svg", "png", "csv") for one in folder.glob(f"[!.]*.{kind}")]
    for one in earlier:
        if one.name not in made and one.stem not in MEASURED:
            one.unlink()
    write_text(path, text)


def _page(folder: Path, found: Found, seconds: Mapping[str, Ratios]) -> str:
    """The page's text; its tables and figures are written into `folder`, which is empty."""
    tables = {"trials": pd.concat([frame(trials).assign(stage=name) for name, (trials, _) in found.items()])}
    parts: list[str] = []
    sections = [
        _compared_sections(folder, found, seconds),
        _section("long", found, lambda trials: long_range.section(folder, trials, seconds)),
        _section("stories", found, lambda trials: stories.section(trials, seconds)),
        _breaking_section(found),
        _tuned_section(folder, found, seconds.get("64x4 tuned", {})),
        _inside_section(folder, found),
    ]
    for written, more in sections:
        parts, tables = parts + written, tables | more
    names = {setting: f"finetune-{setting.replace(' ', '-')}" for setting in SETTINGS}
    tuned = {setting: tables[name] for setting, name in names.items() if name in tables}
    records = study_ledger(found, tuned, seconds)
    fitted = fits(tables["gaps"]) if "gaps" in tables else []
    write_ledger(folder, records, tables.get("books-verdicts"))
    rates = list(_rates(found))
    ended = [*(["## Learning rates", *rates] if rates else []), "## How much is finished", _progress(found), CHANGES]
    parts = [HEAD, NAMES, *head(records, tuned, tables.get("books-verdicts"), fitted), DESIGN, *parts, *ended]
    for name, table in tables.items():
        table.to_csv(folder / f"{name}.csv", index=False, float_format="%.6g")
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def _compared_sections(folder: Path, found: Found, seconds: Mapping[str, Ratios]) -> Section:
    """Pretraining on the books, and the memory tasks."""
    parts: list[str] = []
    tables: dict[str, pd.DataFrame] = {}
    for task, title in TITLES.items():
        own = {n: some for n, some in found.items() if STAGES[n].task == task and not STAGES[n].sweep}
        deciding = {name: some for name, some in own.items() if not STAGES[name].rates}
        trials = [trial for some, _ in deciding.values() for trial in some]
        if not trials:
            continue
        compared = comparisons(trials, seconds, WORTH_KNOWING[task])
        parts.append(f"## {title}")
        told: list[str] = []
        if task == "memory":
            shares = tables["memory-shares"] = recalled_shares(trials)
            told += [*shares_parts(trials, shares, seconds), *embedded(recall_figure(folder, after_training(shares)))]
        if len(compared):
            verdicts = _decided(compared, [STAGES[name] for name in deciding])
            if task == "memory" and recall_decides_nothing(trials, WORTH_KNOWING[task]):
                verdicts = verdicts.assign(verdict="undecided", p=np.nan, equivalent="")
            tables |= {f"{task}-comparisons": compared, f"{task}-verdicts": verdicts}
            told += [_verdicts(verdicts, task)] if len(verdicts) else []
            parameters = {(t.plan.size.name, t.plan.network): t.parameters for t in trials}
            told.append(_comparisons(_at_rates(compared, deciding), task, parameters))
            if task == "books":
                tables["multipliers"] = multipliers(trials, compared)
                told.append(_multipliers(_at_rates(tables["multipliers"], deciding)))
                told += [course_table(compared), apart_table(trials)]
            told.append(_power(compared, [STAGES[name] for name in deciding], task, len(trials[0].weights)))
            told.append("In the figures, points before the step at which rates were chosen may want another rate.")
            told += _figures(folder, trials, compared, task, seconds)
        if task == "books":
            fitted, more = _gap(folder, trials, seconds)
            told, tables = told + fitted, tables | more
        parts += marked(told, deciding)
    return parts, tables


def _at_rates(table: pd.DataFrame, names: Iterable[str]) -> pd.DataFrame:
    """The rows after as many steps as rates were chosen at, and more: before, an arm may want another rate."""
    least: dict[str, int] = {}
    for stage in (STAGES[name] for name in names if STAGES[name].rated):
        chosen = max(STAGES[stage.rated].budgets)
        least[stage.size.name] = min(chosen, least.get(stage.size.name, chosen))
    return table[table["budget"] >= table["size"].map(least).fillna(0)]


def _decided(compared: pd.DataFrame, stages: Sequence[Stage]) -> pd.DataFrame:
    """The verdicts of each stage by itself, after its most steps."""
    parts = [of_stage(compared, stage) for stage in stages]
    return pd.concat([decide(part) for part in parts if len(part)], ignore_index=True)


def _section(task: str, found: Found, write: Callable[[Sequence[Trial]], Section]) -> Section:
    """A section on the trials of one task, with its tables marked where a stage is not finished."""
    own = {name: some for name, some in found.items() if STAGES[name].task == task}
    parts, tables = write([trial for trials, _ in own.values() for trial in trials])
    return marked(parts, own), tables


def _breaking_section(found: Found) -> Section:
    own = {n: some for n, some in found.items() if STAGES[n].sweep and STAGES[n].task == "books" and some[0]}
    if not own:
        return [], {}
    trials = [trial for some, _ in own.values() for trial in some]
    parts, tables = breaking_parts(trials)
    return ["## Where training breaks", *marked(parts, own)], tables


def _tuned_section(folder: Path, found: Found, seconds: Ratios) -> Section:
    return tuned_parts(folder, found, seconds) if any(STAGES[name].after for name in found) else ([], {})


def _inside_section(folder: Path, found: Found) -> Section:
    parts, tables = inside_parts(folder, {name: trials for name, (trials, _) in found.items()})
    return marked(parts, {name: found[name] for name in (*DATA, "breaking") if name in found}), tables


def _progress(found: Found) -> str:
    rows, total = [], 0.0
    for name, (trials, planned) in found.items():
        hours = sum(trial.seconds for trial in trials) / 3600
        total += hours
        stage = STAGES[name]
        state = "finished" if len(trials) == planned else "**not finished**"
        rows.append(
            {
                "Stage": name,
                "State": state if planned else f"**waits for {stage.rated or stage.after}**",
                "Trials": f"{len(trials)} of {planned or stage.planned}",
                "Million tokens": ", ".join(f"{stage.tokens * b / 1e6:.2g}" for b in stage.budgets),
                "Core hours": f"{hours:.1f}",
            }
        )
    said = (
        "*Rates* are choices of learning rates, *primary* stages have the paper's arms, *better base* is the network "
        "that is fine-tuned, *fiction* is Austen's novels, *freely* at the rates with the lowest loss on stories. "
        f"{total:.1f} core hours, often two trainings beside each other."
    )
    return f"{markdown(pd.DataFrame(rows))}\n\n{said} {_versions(found)} {_processors(found)}".strip()


def _versions(found: Found) -> str:
    """How many trials are from before packages were recorded; empty where there is none."""
    trials = [trial for some, _ in found.values() for trial in some]
    early = sum(not trial.made for trial in trials)
    if not early:
        return ""
    return (
        f"{early} of {len(trials):,} trials are of 2026-11-28 and 29, before a trial recorded the versions of its "
        "packages, but for torch, and the form of its WKV operator; a pair may have two forms, which round differently."
    )


def _processors(found: Found) -> str:
    """Which stages have trials of several processors; empty where there are none."""
    counts = {name: Counter(trial.processor for trial in trials) for name, (trials, _) in found.items()}
    mixed = [f"{name} ({', '.join(f'{n} on {p}' for p, n in c.items())})" for name, c in counts.items() if len(c) > 1]
    if not mixed:
        return ""
    return (
        "Several processors took part, which round differently, as two seeds do; where a pair of one seed has two, its "
        f"difference has that noise too. Stages with several: {'; '.join(mixed)}."
    )


def _rates(found: Found) -> Iterator[str]:
    """What each finished stage that chooses rates found: validation losses by network and rate."""
    for name, (some, planned) in found.items():
        if not STAGES[name].rates or STAGES[name].sweep or not some or len(some) < planned:
            continue
        if STAGES[name].after:
            yield tuned_rates(some)
            continue
        own = frame(some)
        own = own[own["budget"] == own["budget"].max()]
        table = own.pivot_table(index="network", columns="rate", values="validation", aggfunc="mean", sort=False)
        table = table.sort_index(axis=1)
        cells = table.map(lambda x: number(x) if np.isfinite(x) else "–")
        cells = cells.mask(table.eq(table.min(axis=1), axis=0), "**" + cells + "**")
        cells.columns = pd.Index([f"{rate:g}" for rate in cells.columns])
        yield (
            f"{name}: validation loss after {own['budget'].max()} steps by learning rate, nats per token, mean of the "
            "seeds; in bold the rate that is compared."
        )
        yield markdown(cells.reset_index())


def _verdicts(verdicts: pd.DataFrame, task: str) -> str:
    head = (
        "The verdict on each arm; p is that of the verdict, one-sided, of *better* where it is undecided, and doubled "
        "for an arm that was undecided with fewer seeds and got more; "
        f"equivalent: the 90 % interval lies within {WORTH_KNOWING[task]:g} either way, without a correction:"
    )
    rows = [
        {
            "Size": row["size"],
            "Arm": row["arm"],
            "Steps": row["budget"],
            "Strongest control": f"equal {row['control']}",
            "Difference": signed_interval(row["estimate"], row["low"], row["high"]),
            "Seeds": row["seeds"],
            "p (Holm)": number(row["p"], 2),
            "Verdict": row["verdict"],
            "Equivalent to equal": row["equivalent"] or NOTHING,
        }
        for row in verdicts[verdicts["seeds"] >= FEWEST].to_dict("records")
    ]
    return f"{head}\n\n{markdown(pd.DataFrame(rows))}" if rows else ""


def _comparisons(compared: pd.DataFrame, task: str, parameters: Mapping[tuple[str, str], int]) -> str:
    """The differences from all controls, with the parameters by size and network: those of equal size are nearly so."""
    sizes = dict.fromkeys(compared["size"])
    bases = ", ".join(f"{parameters[size, BASE]:,} at {size}" for size in sizes)
    head = (
        f"The arm minus its control, {UNITS[task]}, negative where the arm is better. The control of equal "
        "parameters is the base or a wide base, whichever number is nearest; of the paper's arms and conv-no-position, "
        f"the base or base-wide. The base has {bases}:"
    )
    rows = []
    for (size, arm, budget), part in compared.groupby(["size", "arm", "budget"], sort=False):
        tokens = f"{STEP_TOKENS * int(str(budget)) / 1e6:.2g}"
        row = {"Size": size, "Arm": arm, "Parameters": f"{parameters[str(size), str(arm)]:,}", "Million tokens": tokens}
        rows.append(row | {"Seeds": int(part["seeds"].max())} | control_cells(part))
    return f"{head}\n\n{markdown(pd.DataFrame(rows).fillna('–'))}"


def _multipliers(times: pd.DataFrame) -> str:
    head = (
        "Compute multipliers: how much more the base must spend for the arm's loss; 1 is no gain, below 1 a loss. They "
        "are the differences at equal FLOPs and seconds, read off the base's curve; a loss that the base never had "
        "gives a bound:"
    )
    rows = []
    for (size, arm, budget), part in times.groupby(["size", "arm", "budget"], sort=False):
        by = {row["of"]: row for row in part.to_dict("records")}
        cells = {f"Of {of}": _multiplier(by[of]) for of in ("FLOPs", "seconds")}
        rows.append({"Size": size, "Arm": arm, "Million tokens": f"{STEP_TOKENS * int(str(budget)) / 1e6:.2g}"} | cells)
    return f"{head}\n\n{markdown(pd.DataFrame(rows))}"


def _multiplier(row: dict[Any, Any]) -> str:
    estimate, low, high = (row[name] for name in ("estimate", "low", "high"))
    if row["seeds"] < FEWEST:
        return NOTHING
    return f"{estimate:.3f} [{low:.3f}, {high:.3f}]" if np.isfinite(low) else f"{row['beyond']} {estimate:.3f}".strip()


def _power(compared: pd.DataFrame, stages: Sequence[Stage], task: str, texts: int) -> str:
    """How many seeds would find what is worth knowing, of undecided arms, from the spread of the pairs seen so far."""
    rows = []
    for own in (of_stage(compared, stage) for stage in stages):
        verdicts = decide(own)
        undecided = own["arm"].isin(verdicts.loc[verdicts["verdict"] == "undecided", "arm"])
        spread = own[undecided & (own["control"] == "steps") & own["deviation"].gt(0) & own["seeds"].ge(FEWEST)]
        for row in spread.to_dict("records"):
            needed = seeds_needed(row["deviation"], WORTH_KNOWING[task], len(verdicts), row["shared_error"], texts)
            cells = {"Size": row["size"], "Steps": row["budget"], "Arm": row["arm"], "Seeds so far": row["seeds"]}
            cells |= {"Standard deviation": number(row["deviation"], 2)}
            rows.append(cells | {"Seeds needed": f"{needed:,}" if np.isfinite(needed) else "∞"})
    if not rows:
        return ""
    head = (
        "Of undecided arms, the standard deviation over seeds of the paired differences at equal steps "
        f"({UNITS[task]}), and the seeds that find a difference of {WORTH_KNOWING[task]:g} with 80 % power, two-sided, "
        "with the first step of Holm's correction; *better* asks for four controls at once, and of arms that got more "
        "seeds for half the p, so it may take more; ∞: these texts are too few, whatever the number of seeds:"
    )
    return f"{head}\n\n{markdown(pd.DataFrame(rows))}"


def _figures(
    folder: Path, trials: Sequence[Trial], compared: pd.DataFrame, task: str, seconds: Mapping[str, Ratios]
) -> list[str]:
    """Draw what every size lost for its cost, and its differences from the controls."""
    captions: dict[str, str] = {}
    for size in dict.fromkeys(trial.plan.size.name for trial in trials):
        differences = controls_figure(folder, compared, size, task, UNITS[task])
        more = " The next figure shows the size of the differences." if differences else ""
        captions |= losses_figure(folder, trials, size, seconds.get(size, {}), UNITS[task], more) | differences
    return embedded(captions)


def _gap(folder: Path, trials: Sequence[Trial], seconds: Mapping[str, Ratios]) -> Section:
    """The gap at equal compute, fitted over size and time: after as many steps as rates were chosen at, and more."""

    def tuned(trial: Trial) -> Trial:
        least = rates_chosen_at(trial.plan.size.name, trial.plan.budgets)
        return replace(trial, test={budget: losses for budget, losses in trial.test.items() if budget >= least})

    gaps = seed_gaps([tuned(t) if t.plan.network == ENHANCED else t for t in trials], seconds)
    found = fits(gaps)
    if not found:
        return [], {}
    said = " ".join(early_and_late(fit, gaps[(gaps["of"] == fit.of) & (gaps["octaves"] == 0)]) for fit in found)
    told = [fit_table(found), said, places_table(found, gaps)]
    return [*told, *embedded(gap_figure(folder, gaps, found))], {"gaps": gaps}
