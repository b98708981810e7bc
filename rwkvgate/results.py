"""The last step of a run: all arms gathered into tables, figures, the ledger and the report."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from rwkvgate.evaluation.claims import Evidence, Records, ledger, ledger_table
from rwkvgate.evaluation.comparison import ablations, comparisons
from rwkvgate.evaluation.cost import cost_table, scaling
from rwkvgate.evaluation.figures import figure2, figure3, save_figure, scaling_figure
from rwkvgate.evaluation.latency import device_name
from rwkvgate.evaluation.overlap import bleu_signature, rouge_flags
from rwkvgate.evaluation.report import Sample, write_report
from rwkvgate.evaluation.rules import VERSION
from rwkvgate.evaluation.tables import comparison_table, table1, table2, trivial_table
from rwkvgate.evaluation.trivial import trivial_overlap
from rwkvgate.explore.linguistics import EFFECT_COLUMNS, GROUPS, group_effects, label_tokens
from rwkvgate.explore.plots import effects_by_layer
from rwkvgate.files import write_file, write_json
from rwkvgate.gate.arms import ARMS, find_arm
from rwkvgate.inputs import arm_inputs, arms_and_seeds, evaluation_inputs, gate_of, scaling_inputs
from rwkvgate.pipeline import best_device, ensure_arm, ensure_base, ensure_texts, new_arm
from rwkvgate.runs import Run, is_finished, read_json, step, write_manifest
from rwkvgate.scoring import HEADLINES, ensure_evaluation
from rwkvgate.settings import SettingsError

SCALING, EFFECTS = "scaling.parquet", "effects.parquet"
PERMUTATIONS = 400
FIGURES = (
    (
        "Figure 2. Forward time",
        "Median and quartiles of one forward pass, base and arm timed in turn.",
        "figure2",
    ),
    ("Figure 3. BLEU and ROUGE", "Mean over seeds, interval over documents, one dot a seed.", "figure3"),
    (
        "Time and memory against length",
        "Reading one text with the state carried between windows, and in one pass. The exponent is fitted from "
        "4,096 tokens on.",
        "scaling",
    ),
    (
        "The gate at boundaries and mentions",
        "Difference from matched controls in standard deviations of the layer's gate, one line an arm and seed, "
        "with its interval over documents. The dashed lines are the smallest effect that the ledger counts.",
        "effects",
    ),
)
"""Title, caption and name of the report's figures."""
READ = ("enhanced", "enhanced-untrained")
"""Arms whose gate is read at labelled tokens."""
SHORTEST, FACTOR, SCALING_REPEATS = 256, 4, 3
"""Lengths of the scaling measurement: from the shortest up, each so many times the last."""


@dataclass(frozen=True)
class Results:
    """All arms and seeds of a run in tidy tables, and the paper's tables made of them."""

    documents: pd.DataFrame
    latency: pd.DataFrame
    table1: pd.DataFrame
    table2: pd.DataFrame
    ablations: pd.DataFrame
    comparisons: pd.DataFrame
    trivial: pd.DataFrame
    cost: pd.DataFrame
    scaling: pd.DataFrame
    effects: pd.DataFrame
    claims: list[Records]
    samples: list[Sample]


def missing_evaluations(run: Run) -> list[tuple[str, int]]:
    """Arms and seeds of the full run that are not measured yet."""
    return [
        (arm, seed)
        for arm, seed in arms_and_seeds(run.settings)
        if not is_finished(run.evaluation(arm, seed), evaluation_inputs(run.settings, arm, seed))
    ]


def arms_of_run(run: Run) -> list[str]:
    """The arms of the full run, in the order of tables and figures."""
    return list(dict.fromkeys(arm for arm, _ in arms_and_seeds(run.settings)))


def gather(run: Run) -> Results:
    """Tables over every arm and seed of the full run; what is not measured yet is measured first."""
    wanted = arms_and_seeds(run.settings)
    found = {(arm, seed): ensure_evaluation(run, arm, seed) for arm, seed in wanted}
    documents = pd.concat([e.documents for e in found.values()], ignore_index=True)
    latency = pd.concat([e.latency for e in found.values()], ignore_index=True)
    resamples, arms = run.settings.evaluation.resamples, arms_of_run(run)
    compared = comparisons(documents, arms=arms, metrics=HEADLINES, resamples=resamples)
    ablated = ablations(documents, metrics=HEADLINES, resamples=resamples)
    first = [found[arm, 0].samples for arm in arms]
    samples = [
        Sample(
            shared[0]["prompt"],
            shared[0]["reference"],
            {arm: one["continuation"] for arm, one in zip(arms, shared, strict=True)},
        )
        for shared in zip(*first, strict=False)
    ]
    texts, measured, effects = ensure_texts(run), ensure_scaling(run), ensure_effects(run)
    tested = texts.corpus.test[: run.settings.evaluation.documents]
    pairs = [texts.prompt(document, run.settings) for document in tested]
    overlap = trivial_overlap([p for p, _ in pairs], [r for _, r in pairs], [d.text for d in texts.corpus.train])
    gates = {arm: gate for arm in arms if (gate := gate_of(find_arm(arm), run.settings)) and ARMS[arm].trained}
    evidence = Evidence(
        documents,
        latency,
        domains={number: document.domain for number, document in enumerate(tested)},
        device=device_name(best_device()),
        scaling=measured,
        effects=effects,
        resamples=resamples,
    )
    return Results(
        documents=documents,
        latency=latency,
        table1=table1(latency, arms=arms),
        table2=table2(documents, arms=arms, resamples=resamples),
        ablations=comparison_table(ablated),
        comparisons=comparison_table(compared),
        trivial=trivial_table(overlap),
        cost=cost_table(ensure_base(run).config, gates, run.settings.evaluation.longest),
        scaling=measured,
        effects=effects,
        claims=ledger(evidence),
        samples=samples,
    )


def ensure_scaling(run: Run) -> pd.DataFrame:
    """Time and memory of base and paper's gate against length, measured where that is not done yet.

    The gate is fresh: time does not depend on what it has learned.
    """
    inputs, folder = scaling_inputs(run.settings), run.folder / "scaling"
    if not is_finished(folder, inputs):
        started, lengths = time.monotonic(), [SHORTEST]
        while lengths[-1] * FACTOR <= run.settings.evaluation.longest:
            lengths.append(lengths[-1] * FACTOR)
        print(f"timing texts of {lengths[0]:,} to {lengths[-1]:,} tokens", flush=True)
        models = {"base": ensure_base(run), "enhanced": new_arm(run, "enhanced", 0).eval()}
        frame = scaling(models, lengths, repeats=SCALING_REPEATS)
        with step(folder, "scaling", inputs, started) as fresh:
            frame.to_parquet(fresh / SCALING, index=False)
    try:
        return pd.read_parquet(folder / SCALING)
    except (OSError, ValueError) as error:
        raise SettingsError(f"{folder} cannot be read ({error}). Remove it and run {run.command()}") from None


def ensure_effects(run: Run) -> pd.DataFrame:
    """The paper's gate at clause boundaries, sentence starts and mentions, tuned and not, where that is not done yet.

    The gate before training is the control: a random function of the hidden state tells tokens apart too.
    """
    read = [(arm, seed) for arm, seed in arms_and_seeds(run.settings) if arm in READ]
    if not read:
        return pd.DataFrame(columns=["arm", "seed", *EFFECT_COLUMNS])
    count, folder = run.settings.evaluation.documents, run.folder / "effects"
    inputs = {"arms": [arm_inputs(run.settings, arm, seed) for arm, seed in read], "documents": count}
    if not is_finished(folder, inputs):
        started, texts, frames = time.monotonic(), ensure_texts(run), []
        for arm, seed in read:
            print(f"reading the gate at clause boundaries and mentions, {arm}, seed {seed}", flush=True)
            labelled = label_tokens(ensure_arm(run, arm, seed), texts.tokenizer, texts.corpus.test[:count])
            found = [
                group_effects(labelled, group, match=match, permutations=PERMUTATIONS)
                for group, match in GROUPS.items()
            ]
            frames.append(pd.concat(found).assign(arm=arm, seed=seed))
        with step(folder, "effects", inputs, started) as fresh:
            pd.concat(frames, ignore_index=True).to_parquet(fresh / EFFECTS, index=False)
    try:
        return pd.read_parquet(folder / EFFECTS)
    except (OSError, ValueError) as error:
        raise SettingsError(f"{folder} cannot be read ({error}). Remove it and run {run.command()}") from None


def publish(run: Run, results: Results) -> dict[str, Path]:
    """Write results, figures, manifest and report; the files by name."""
    frames = {"documents": results.documents, "latency": results.latency}
    texts = {
        "table1": results.table1,
        "table2": results.table2,
        "ablations": results.ablations,
        "comparisons": results.comparisons,
        "trivial": results.trivial,
        "cost": results.cost,
        "scaling": results.scaling,
        "effects": results.effects,
    }
    written: dict[str, Path] = {}
    for name, frame in (frames | texts).items():
        written[name] = run.results / f"{name}.parquet"
        with write_file(written[name]) as fresh:
            frame.to_parquet(fresh, index=False)
    written["claims"] = run.results / "claims.json"
    write_json(written["claims"], results.claims)
    arms, resamples = arms_of_run(run), run.settings.evaluation.resamples
    drawn = {
        "figure2": figure2(results.latency, arms=arms),
        "figure3": figure3(results.documents, arms=arms, resamples=resamples),
        "scaling": scaling_figure(results.scaling),
        "effects": effects_by_layer(results.effects),
    }
    for name, figure in drawn.items():
        written[name] = save_figure(figure, run.figures, name)[0]
    corpus = read_json(run.corpus / "corpus.json") or {}
    seeds = sorted({int(seed) for _, seed in arms_and_seeds(run.settings)})
    manifest = write_manifest(run, {"corpus": corpus, "seeds": seeds})
    _write_report(run, results, written, manifest)
    written["report"] = run.report
    return written


def _write_report(run: Run, results: Results, written: dict[str, Path], manifest: dict[str, Any]) -> None:
    settings = run.settings
    protocol = (
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
        tables=_report_tables(results),
        figures=[(title, caption, written[name].read_text(encoding="utf-8")) for title, caption, name in FIGURES],
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


def _report_tables(results: Results) -> list[tuple[str, str, pd.DataFrame]]:
    return [
        (
            "The ledger",
            f"Every claim of the paper, decided by rules in one file (version {VERSION} of "
            "rwkvgate/evaluation/rules.py), which says which were changed after a first look. A difference is shown "
            "where it stands against chance in the documents and in the training seeds, at 5 % after Holm's "
            "correction over the ledger.",
            ledger_table(results.claims),
        ),
        ("Table 1. Time", "Forward pass and generation of each arm, beside the paper's.", results.table1),
        ("Table 2. Quality", "Mean over seeds ± their standard deviation.", results.table2),
        (
            "Ablations",
            "The paper's two ablations against the enhanced arm, paired by document.",
            results.ablations,
        ),
        (
            "Comparisons",
            "Each arm against the untouched base, as the paper compares, and against the base tuned on the same "
            "data for the same steps.",
            results.comparisons,
        ),
        (
            "What a score is worth",
            "Systems that write without a model, scored like the arms.",
            results.trivial,
        ),
        (
            "Cost",
            "Parameters, matrix products and state of each arm's gates beside the base's, in closed form; tests "
            "hold the closed form to torch's counter.",
            results.cost,
        ),
    ]
