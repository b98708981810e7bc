"""What a finished run leaves to be read: result files, figures, the manifest and the report."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from rwkvgate.experiment import order
from rwkvgate.experiment.analysis.architecture import architecture
from rwkvgate.experiment.analysis.curves import spread_curves
from rwkvgate.experiment.analysis.figures import figure2, figure3, save_figure
from rwkvgate.experiment.analysis.report import Picture, Table, write_report
from rwkvgate.experiment.arms import find_arm
from rwkvgate.experiment.claims import Records, ledger_table
from rwkvgate.experiment.results import Results, arms_of_run
from rwkvgate.experiment.rules import VERSION
from rwkvgate.experiment.run import Run, write_manifest
from rwkvgate.experiment.settings import TrainingSettings
from rwkvgate.experiment.steps import ensure_base
from rwkvgate.experiment.steps.base import read_log
from rwkvgate.experiment.training import TrainingLog
from rwkvgate.metrics.overlap import bleu_signature, rouge_flags
from rwkvgate.rwkv6.files import write_file, write_json

NOTEBOOK = "notebooks/04_ablations.ipynb"
FIGURES = (
    (
        "figure1",
        "Figure 1. The gate",
        "A layer and its gate, drawn from the configuration that was trained.",
        "section Figure 1",
    ),
    (
        "figure2",
        "Figure 2. Forward time",
        "Median and quartiles of one forward pass, base and arm timed in turn.",
        "section Figure 2",
    ),
    (
        "figure3",
        "Figure 3. BLEU and ROUGE",
        "Mean over seeds, interval over documents, one dot a seed.",
        "section Figure 3",
    ),
    (
        "curves",
        "Learning curves",
        "Validation loss over steps, mean over seeds and from the lowest to the highest seed.",
        "section Learning curves",
    ),
)
"""Name, title, caption and place in the notebook of each figure."""


def draw(run: Run, results: Results) -> dict[str, Figure]:
    """The figures of a run by name, as far as there is something to draw."""
    arms, resamples = arms_of_run(run), run.settings.evaluation.resamples
    measured, failures = [arm for arm in arms if arm not in results.failures], results.failures
    drawn = {
        "figure1": figure1(run),
        "figure2": figure2(results.latency, arms=arms, failures=failures),
        "figure3": figure3(results.documents, arms=arms, failures=failures, resamples=resamples),
        "curves": spread_curves(training_logs(run, measured), "Validation loss"),
    }
    return drawn


def figure1(run: Run) -> Figure:
    """The paper's Figure 1 from this run's configuration of its gate."""
    gate, base = run.variant("enhanced").gate, ensure_base(run).config
    assert gate is not None, "the paper's arm has a gate"
    return architecture(gate, base.num_hidden_layers, base.hidden_size, title="enhanced")


def training_logs(run: Run, arms: list[str]) -> dict[str, list[TrainingLog]]:
    """The logs of every seed of the arms that are trained."""
    return {
        arm: [read_log(order.arm(variant)) for variant in run.variants() if variant.arm.name == arm]
        for arm in arms
        if find_arm(arm).trained
    }


def publish(run: Run, results: Results, figures: dict[str, Figure] | None = None) -> dict[str, Path]:
    """Write results, figures (by default those of `draw`), manifest and report; the files by name."""
    frames = {item.name: getattr(results, item.name) for item in fields(results)}
    frames = {name: frame for name, frame in frames.items() if isinstance(frame, pd.DataFrame)}
    written: dict[str, Path] = {}
    for name, frame in (frames | results.studies.frames()).items():
        if frame.empty:  # a run without studies
            continue
        written[name] = run.results / f"{name}.parquet"
        with write_file(written[name]) as fresh:
            frame.to_parquet(fresh, index=False)
    written["claims"] = run.results / "claims.json"
    write_json(written["claims"], results.claims)
    drawn = figures or draw(run, results)
    pictures = {name: save_figure(figure, run.figures, name)[0] for name, figure in drawn.items()}
    _write_report(run, results, pictures, write_manifest(run))
    return written | pictures | {"report": run.report}


def _write_report(run: Run, results: Results, pictures: dict[str, Path], manifest: dict[str, Any]) -> None:
    settings = run.settings
    protocol = (
        f"Every tuned arm: {_rates(settings.training)}, {settings.training.steps} steps on the same rows in the same "
        "order. "
        f"{settings.evaluation.documents} test documents; perplexity over every token of a document, one pass with "
        f"carried state, after the end-of-text token as prefix, {settings.model.vocabulary}; "
        f"greedy continuations of at most {settings.evaluation.new_tokens} tokens; BLEU {bleu_signature()}; "
        f"ROUGE {rouge_flags()}; 95 % intervals from {settings.evaluation.resamples} bootstrap resamples of documents."
    )
    steps = manifest["steps"]
    write_report(
        run.report,
        title="Gated shift for RWKV-6: what arXiv 2502.15485 reports, measured",
        intro=f"Profile {settings.profile}. {protocol}",
        tables=report_tables(results),
        figures=[
            Picture(title, caption, pictures[name].read_text(encoding="utf-8"), name, f"{NOTEBOOK}, {cell}")
            for name, title, caption, cell in FIGURES
            if name in pictures
        ],
        provenance={
            "Commit": f"{manifest['commit']['id']}, changed files: {manifest['commit']['dirty']}",
            "Versions": ", ".join(f"{name} {version}" for name, version in manifest["versions"].items()),
            "Hardware": ", ".join(f"{key} {value}" for key, value in manifest["hardware"].items()),
            "Corpus": manifest["corpus"],
            "Seconds of each step": {name: record["seconds"] for name, record in steps.items()},
            "Settings": manifest["settings"],
        },
        samples=results.samples,
    )


def report_tables(results: Results) -> list[Table]:
    """The tables of the report, ledger first, each with the file its numbers are in; empty ones are left out."""
    compared = _keys(results.comparisons)
    ablated = [key if key not in compared else f"ablation: {key}" for key in _keys(results.ablations)]
    known = {*compared, *ablated, *(name for name, *_ in FIGURES)}
    tables = [
        Table(
            "The ledger",
            f"Every claim of the paper, decided by rules in one file (version {VERSION} of "
            "rwkvgate/experiment/rules.py), which says which were changed after a first look. A difference is shown "
            "where it stands against chance in the documents and in the training seeds, at 5 % after Holm's "
            "correction over the ledger. Numbers lead to the rows and figures that they rest on.",
            ledger_table(results.claims),
            keys=[f"claim: {row['claim']}" for row in results.claims],
            links=_ledger_links(results.claims, known),
            source="results/claims.json",
        ),
        _table("Table 1. Time", "Forward pass and generation of each arm, beside the paper's.", "table1", results),
        _table("Table 2. Quality", "Mean over seeds ± their standard deviation.", "table2", results),
        _table(
            "Beyond the paper's measures",
            "Shares of claims about who holds what that are right; the loss of joined test stories beyond the trained "
            "length; perplexity elsewhere; and what shuffling the sentences far back costs, in nats a token.",
            "further",
            results,
        ),
        Table(
            "Ablations",
            "The paper's two ablations against the enhanced arm, paired by document.",
            results.ablations,
            keys=ablated,
            source="results/ablations.parquet, from results/documents.parquet",
        ),
        Table(
            "Comparisons",
            "Each arm against the untouched base, as the paper compares, and against the base tuned on the same "
            "data for the same steps.",
            results.comparisons,
            keys=compared,
            source="results/comparisons.parquet, from results/documents.parquet",
        ),
        _table(
            "What a score is worth", "Systems that write without a model, scored like the arms.", "trivial", results
        ),
        _table(
            "Cost",
            "Parameters, matrix products and state of each arm's gates beside the base's, in closed form, and "
            "what torch's counter counts, which sees those parts alone of the base's WKV that are matrix products "
            "here.",
            "cost",
            results,
        ),
    ]
    return [table for table in tables if len(table.frame)]


def _rates(training: TrainingSettings) -> str:
    if not training.learning_rates:
        return f"learning rate {training.learning_rate:g}"
    return f"the best on validation of the learning rates {', '.join(f'{rate:g}' for rate in training.learning_rates)}"


def _table(heading: str, caption: str, name: str, results: Results) -> Table:
    return Table(heading, caption, getattr(results, name), source=f"results/{name}.parquet")


def _keys(compared: pd.DataFrame) -> list[str]:
    rows = compared.to_dict("records")
    return [f"{row['Metric']}/{row['Arm']}/{row['Against']}" for row in rows]


def _ledger_links(claims: list[Records], known: set[str]) -> dict[str, list[str]]:
    """Where each claim's numbers lead, as far as the page has it."""

    def first(keys: list[str]) -> str:
        for key in keys:
            measure, *arms = key.split("/")
            turned = "/".join((measure, *reversed(arms)))
            for name in (key, turned, f"ablation: {turned}"):
                if name in known:
                    return name
        return ""

    def against(claim: Records, other: str) -> str:
        keys = [key for key in claim.get("rests_on") or [] if "/" in key and claim.get("against_base")]
        return first([f"{key.rsplit('/', 1)[0]}/{other}" for key in keys])

    return {
        "Against the untouched base": [against(claim, "base") for claim in claims],
        "Against the tuned base": [against(claim, "base-tuned") for claim in claims],
        "Verdict": [first(claim.get("rests_on") or []) for claim in claims],
    }
