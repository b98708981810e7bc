"""All arms and seeds of a run gathered into tables and the ledger."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from rwkvgate.experiment import order
from rwkvgate.experiment.analysis.comparison import ablations, comparisons
from rwkvgate.experiment.analysis.report import Sample
from rwkvgate.experiment.analysis.tables import comparison_table, table1, table2, trivial_table
from rwkvgate.experiment.arms import ARMS
from rwkvgate.experiment.claims import Evidence, Records, ledger
from rwkvgate.experiment.run import Run, Variant
from rwkvgate.experiment.steps import ensure_base, ensure_evaluation, ensure_probes, ensure_texts
from rwkvgate.experiment.steps.base import best_device
from rwkvgate.experiment.steps.evaluation import HEADLINES, Evaluation
from rwkvgate.experiment.studies import Studies, ensure_studies, no_studies
from rwkvgate.gate.config import GateConfig
from rwkvgate.metrics.context import POSITION_COLUMNS
from rwkvgate.metrics.cost import cost_table, gate_shares
from rwkvgate.metrics.latency import device_name
from rwkvgate.metrics.long_range import PROBE_COLUMNS
from rwkvgate.metrics.trivial import trivial_overlap

FURTHER_METRICS = ("entity_consistency", "loss_far", "perplexity_natural", "perplexity_code", "order_loss")
"""Measures beyond the paper's: whether entities stay who they are, longer texts, other domains, distant context."""


SAMPLES = 6
"""Prompts whose continuations by every arm are shown."""


@dataclass(frozen=True)
class Results:
    """All arms and seeds of a run in tidy tables, and the paper's tables made of them.

    `shares` are the gates' FLOPs over the base's, by arm; `failures` says of an arm why it has no results.
    """

    documents: pd.DataFrame
    latency: pd.DataFrame
    table1: pd.DataFrame
    table2: pd.DataFrame
    ablations: pd.DataFrame
    comparisons: pd.DataFrame
    trivial: pd.DataFrame
    cost: pd.DataFrame
    shares: dict[str, float]
    further: pd.DataFrame
    positions: pd.DataFrame
    gains: pd.DataFrame
    studies: Studies
    claims: list[Records]
    failures: dict[str, str]
    samples: list[Sample]


def missing_evaluations(run: Run) -> list[Variant]:
    """Arms and seeds of the full run that are not measured yet."""
    return [variant for variant in run.variants() if not order.evaluation(variant).is_finished]


def arms_of_run(run: Run) -> list[str]:
    """The arms of the full run, in the order of tables and figures."""
    return list(dict.fromkeys(variant.arm.name for variant in run.variants()))


def gather(run: Run) -> Results:
    """Tables over every arm and seed of the full run; what is not measured yet is measured first."""
    found, failures = _evaluations(run)
    probed = [ensure_probes(run.variant(arm, seed)) for arm, seed in found] if run.settings.evaluation.studies else []
    scores = [*(one.documents for one in found.values()), *(one.scores for one in probed)]
    documents = pd.concat(scores, ignore_index=True)
    documents = documents[~documents["arm"].isin(failures)]
    latency = pd.concat([e.latency for e in found.values()], ignore_index=True)
    resamples, arms = run.settings.evaluation.resamples, arms_of_run(run)
    compared = comparisons(
        documents, arms=arms, failures=failures, metrics=(*HEADLINES, *FURTHER_METRICS), resamples=resamples
    )
    ablated = ablations(documents, failures=failures, metrics=HEADLINES, resamples=resamples)
    studies = ensure_studies(run) if run.settings.evaluation.studies else no_studies()
    tested = ensure_texts(run).corpus.test[: run.settings.evaluation.documents]
    evidence = Evidence(
        documents,
        latency,
        domains={number: document.domain for number, document in enumerate(tested)},
        device=device_name(best_device()),
        scaling=studies.scaling if len(studies.scaling) else None,
        effects=studies.effects if len(studies.effects) else None,
        failures=failures,
        resamples=resamples,
    )
    return Results(
        documents=documents,
        latency=latency,
        table1=table1(latency, arms=arms, failures=failures),
        table2=table2(documents, arms=arms, failures=failures, resamples=resamples),
        ablations=comparison_table(ablated),
        comparisons=comparison_table(compared),
        trivial=_trivial(run),
        cost=_cost(run, documents, arms),
        shares=_shares(run, arms),
        further=_further(documents, arms, failures, resamples),
        positions=_together([p.positions for p in probed], ("arm", "seed", "kind", *POSITION_COLUMNS)),
        gains=_together([p.gains for p in probed], ("arm", "seed", *PROBE_COLUMNS)),
        studies=studies,
        claims=ledger(evidence),
        failures=failures,
        samples=_samples(found, arms),
    )


def _evaluations(run: Run) -> tuple[dict[tuple[str, int], Evaluation], dict[str, str]]:
    """What was measured on each arm and seed, and why arms failed: one diverged seed is the arm's failure."""
    found, failures = {}, {}
    for variant in run.variants():
        try:
            found[variant.arm.name, variant.seed] = ensure_evaluation(variant)
        except FloatingPointError as error:
            failures[variant.arm.name] = str(error)
    return found, failures


def _samples(found: Mapping[tuple[str, int], Evaluation], arms: list[str]) -> list[Sample]:
    """The same prompts continued by every arm, its first seed."""
    written = [arm for arm in arms if (arm, 0) in found]
    return [
        Sample(
            shared[0]["prompt"],
            shared[0]["reference"],
            {arm: one["continuation"] for arm, one in zip(written, shared, strict=True)},
        )
        for shared in zip(*(found[arm, 0].samples[:SAMPLES] for arm in written), strict=False)
    ]


def _trivial(run: Run) -> pd.DataFrame:
    texts = ensure_texts(run)
    tested = texts.corpus.test[: run.settings.evaluation.documents]
    pairs = [texts.prompt(document, run.settings) for document in tested]
    told = [document.text for document in texts.corpus.train]
    return trivial_table(trivial_overlap([p for p, _ in pairs], [r for _, r in pairs], told))


def _gates(run: Run, arms: list[str]) -> dict[str, GateConfig]:
    return {arm: gate for arm in arms if (gate := run.variant(arm).gate)}


def _cost(run: Run, documents: pd.DataFrame, arms: list[str]) -> pd.DataFrame:
    counts = documents[documents["metric"] == "counted_flops"].groupby("arm")["value"].mean()
    counted = {str(arm): float(value) for arm, value in counts.items()}
    gates = {arm: gate for arm, gate in _gates(run, arms).items() if ARMS[arm].trained}
    return cost_table(ensure_base(run).config, gates, run.settings.evaluation.longest, counted)


def _shares(run: Run, arms: list[str]) -> dict[str, float]:
    shares = gate_shares(ensure_base(run).config, _gates(run, arms), run.settings.evaluation.longest)
    return dict.fromkeys(arms, 0.0) | shares


def _further(documents: pd.DataFrame, arms: list[str], failures: dict[str, str], resamples: int) -> pd.DataFrame:
    """The measures that the paper has not; each has documents of its own, which the comparisons count."""
    table = table2(documents, arms=arms, metrics=FURTHER_METRICS, failures=failures, resamples=resamples)
    return table[table["Metric"] != "Documents"].drop(columns=["paper: base", "paper: enhanced"]).reset_index(drop=True)


def _together(frames: list[pd.DataFrame], columns: tuple[str, ...]) -> pd.DataFrame:
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=list(columns))
