"""All arms and seeds of a run gathered into tidy tables, each number computed once, and their files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from rwkvgate.experiment import order
from rwkvgate.experiment.analysis.comparison import (
    comparisons,
    is_measured,
    pairs_of,
    pooled_times,
    seed_values,
    summary,
)
from rwkvgate.experiment.analysis.figures import SAVED, save_figure
from rwkvgate.experiment.analysis.tables import TABLE2_METRICS
from rwkvgate.experiment.claims import Evidence, Records, claim_pairs, decide_claims
from rwkvgate.experiment.records import keep_marks, marks
from rwkvgate.experiment.run import SETTINGS, Run, Variant, trained_with, write_manifest
from rwkvgate.experiment.steps import ensure_base, ensure_evaluation, ensure_probes, ensure_texts, ensure_times
from rwkvgate.experiment.steps.base import best_device, read_log
from rwkvgate.experiment.steps.evaluation import HEADLINES, Evaluation
from rwkvgate.experiment.studies import Studies, ensure_studies, no_studies
from rwkvgate.experiment.studies.clamps import gate_claims
from rwkvgate.experiment.study.committed import beside_study, committed_verdicts
from rwkvgate.metrics.context import POSITION_COLUMNS
from rwkvgate.metrics.cost import cost_table
from rwkvgate.metrics.latency import device_name
from rwkvgate.metrics.long_range import PROBE_COLUMNS
from rwkvgate.metrics.overlap import corpus_bleu
from rwkvgate.metrics.trivial import SYSTEMS, trivial_overlap
from rwkvgate.rwkv6.files import write_file, write_json

FURTHER_METRICS = ("entity_consistency", "loss_far", "perplexity_natural", "perplexity_code", "order_loss")
"""Measures beyond the paper's: whether entities stay who they are, longer texts, other domains, distant context."""
SAMPLES = 6
"""Prompts whose continuations by every arm are shown."""

Measured = list[tuple[Variant, Evaluation]]


@dataclass(frozen=True)
class Results:
    """A run in tidy tables, one row a number and what it belongs to.

    Attributes:
        arms: the arms of the run, in the order of tables and figures.
        failures: arm -> why it has no results.
        documents: scores of each document (arm, seed, document, metric, value), of arms that did not fail.
        latency: times of each arm and seed, with `latency.LATENCY_COLUMNS`.
        curves: losses while training (arm, seed, step, text, loss), in nats per token.
        seeds: corpus measures of each seed (arm, seed, metric, value).
        summary: corpus measures of each arm, `comparison.summary`: the paper's Table 2, and further measures.
        comparisons: pairs of arms, `comparison.comparisons`; the claims read them too.
        times: times of each arm, `comparison.pooled_times`: the paper's Table 1.
        cost: of each trained gate beside the base, `cost.cost_table`.
        trivial: scores of systems without a model (system, metric, value).
        positions: losses by position in long texts, of `steps.probes`.
        gains: what memory is worth, of `steps.probes`.
        samples: prompts with each arm's continuation (prompt, reference, arm, continuation).
        studies: the studies' tables.
        claims: the verdict on each claim, `claims.decide_claims`, and on our own, `clamps.gate_claims`, each with the
            study's beside it, where the checkout has one.
    """

    arms: list[str]
    failures: dict[str, str]
    documents: pd.DataFrame
    latency: pd.DataFrame
    curves: pd.DataFrame
    seeds: pd.DataFrame
    summary: pd.DataFrame
    comparisons: pd.DataFrame
    times: pd.DataFrame
    cost: pd.DataFrame
    trivial: pd.DataFrame
    positions: pd.DataFrame
    gains: pd.DataFrame
    samples: pd.DataFrame
    studies: Studies
    claims: list[Records]

    def frames(self) -> dict[str, pd.DataFrame]:
        """All tables by name, those of the studies included."""
        own = {item.name: getattr(self, item.name) for item in fields(self)}
        return {name: frame for name, frame in own.items() if isinstance(frame, pd.DataFrame)} | self.studies.frames()


def gather(run: Run) -> Results:
    """Tables over every arm and seed of the whole run; what is not measured yet is measured first."""
    settings = run.settings.evaluation
    arms = list(dict.fromkeys(variant.arm.name for variant in run.variants()))
    measured, failures = _evaluations(run)
    probed = [ensure_probes(variant) for variant, _ in measured] if settings.studies else []
    scores = [*(one.documents for _, one in measured), *(one.scores for one in probed)]
    documents = pd.concat(scores, ignore_index=True)
    documents = documents[~documents["arm"].isin(failures)]
    latency = pd.concat([ensure_times(variant) for variant, _ in measured], ignore_index=True)
    domains = {i: document.domain for i, document in enumerate(ensure_texts(run).corpus.test[: settings.documents])}
    further = [metric for metric in FURTHER_METRICS if is_measured(documents, metric)]
    metrics = [*TABLE2_METRICS, *further]
    pairs = pairs_of(arms, [*HEADLINES, *further], ablation_metrics=HEADLINES)
    pairs += [pair for pair in claim_pairs(domains.values()) if is_measured(documents, pair.metric)]
    compared = comparisons(documents, pairs, domains=domains, failures=failures, resamples=settings.resamples)
    times = pooled_times(latency, arms=arms, failures=failures)
    studies = ensure_studies(run) if settings.studies else no_studies()
    base = ensure_base(run).config
    shape = (base.num_hidden_layers, base.hidden_size)
    trivial = _trivial(run)
    evidence = Evidence(
        compared,
        times,
        device=device_name(best_device()),
        shape=shape,
        scaling=studies.scaling,
        responses=studies.responses,
        vocabulary=base.vocab_size,
        trivial=trivial,
    )
    return Results(
        arms=arms,
        failures=failures,
        documents=documents,
        latency=latency,
        curves=_curves(run, failures),
        seeds=seed_values(documents, arms, metrics),
        summary=summary(documents, arms=arms, metrics=metrics, failures=failures, resamples=settings.resamples),
        comparisons=compared,
        times=times,
        cost=_cost(run, documents, arms),
        trivial=trivial,
        positions=_together([one.positions for one in probed], ("arm", "seed", "kind", *POSITION_COLUMNS)),
        gains=_together([one.gains for one in probed], ("arm", "seed", *PROBE_COLUMNS)),
        samples=_samples(measured),
        studies=studies,
        claims=beside_study([*decide_claims(evidence), *gate_claims(studies.clamps)], committed_verdicts()),
    )


def write_results(run: Run, results: Results, figures: Mapping[str, Figure]) -> dict[str, Path]:
    """Write tables, claims, figures and the manifest into the run folder, with their hashes; the files by name.

    Tables without a row, of a run without studies, are left out. Those of an earlier run are removed, as are figures
    that this process has not drawn.
    """
    written = {name: run.results / f"{name}.parquet" for name, frame in results.frames().items() if len(frame)}
    for name, path in written.items():
        with write_file(path) as fresh:
            results.frames()[name].to_parquet(fresh, index=False)
    written["claims"], settings = run.results / "claims.json", run.results / SETTINGS
    write_json(written["claims"], results.claims)
    write_json(settings, trained_with(run.settings))
    names = [path.name for path in (*written.values(), settings)]
    keep_marks(run.results, marks(run.results, names), drop=_is_of_this_notebook)
    written |= {name: save_figure(figure, run.figures, name)[0] for name, figure in figures.items()}
    keep_marks(run.figures, {}, drop=lambda name: _is_of_this_notebook(name) and run.figures / name not in SAVED)
    write_manifest(run)
    return written


def _is_of_this_notebook(name: str) -> bool:
    """Whether a table or figure is notebook 04's, and none of 05's."""
    return not name.startswith("gate")


def _evaluations(run: Run) -> tuple[Measured, dict[str, str]]:
    """What was measured on each arm and seed, and why arms failed: one diverged seed is the arm's failure."""
    measured, failures = [], {}
    for variant in run.variants():
        try:
            measured.append((variant, ensure_evaluation(variant)))
        except FloatingPointError as error:
            failures[variant.arm.name] = str(error)
    return measured, failures


def _curves(run: Run, failures: Mapping[str, str]) -> pd.DataFrame:
    trained = [variant for variant in run.variants() if variant.arm.trained and variant.arm.name not in failures]
    frames = [read_log(order.arm(v)).frame().assign(arm=v.arm.name, seed=v.seed) for v in trained]
    return _together(frames, ("arm", "seed", "step", "text", "loss"))


def _samples(measured: Measured) -> pd.DataFrame:
    """The same prompts continued by every arm, its first seed."""
    rows = [
        (number, sample["prompt"], sample["reference"], variant.arm.name, sample["continuation"])
        for variant, one in measured
        for number, sample in enumerate(one.samples[:SAMPLES])
        if variant.seed == 0
    ]
    frame = pd.DataFrame(rows, columns=["number", "prompt", "reference", "arm", "continuation"])
    return frame.sort_values("number", kind="stable", ignore_index=True)


def _trivial(run: Run) -> pd.DataFrame:
    texts = ensure_texts(run)
    pairs = [
        texts.prompt(document, run.settings) for document in texts.corpus.test[: run.settings.evaluation.documents]
    ]
    prompts, references = [prompt for prompt, _ in pairs], [reference for _, reference in pairs]
    overlap = trivial_overlap(prompts, references, [document.text for document in texts.corpus.train])
    rows = []
    for name, description in SYSTEMS.items():
        part = overlap[overlap["system"] == name]
        scores = {"bleu": corpus_bleu(part), "rouge1": part["rouge1"].mean(), "rougeL": part["rougeL"].mean()}
        rows += [(description, metric, float(value)) for metric, value in scores.items()]
    return pd.DataFrame(rows, columns=["system", "metric", "value"])


def _cost(run: Run, documents: pd.DataFrame, arms: list[str]) -> pd.DataFrame:
    counts = documents[documents["metric"] == "counted_flops"].groupby("arm")["value"].mean()
    counted = {str(arm): float(value) for arm, value in counts.items()}
    variants = [run.variant(arm) for arm in arms]
    gates = {variant.arm.name: gate for variant in variants if variant.arm.trained and (gate := variant.gate)}
    return cost_table(ensure_base(run).config, gates, run.settings.evaluation.longest, counted)


def _together(frames: list[pd.DataFrame], columns: tuple[str, ...]) -> pd.DataFrame:
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=list(columns))
