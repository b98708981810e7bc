"""The last steps of a run: measuring one arm, and gathering all arms into tables, figures and the report."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from rwkvgate.evaluation.claims import Evidence, Records, ledger, ledger_table
from rwkvgate.evaluation.comparison import ablations, comparisons, summary
from rwkvgate.evaluation.figures import figure2, figure3, save_figure
from rwkvgate.evaluation.generation import continue_prompts
from rwkvgate.evaluation.latency import device_name, forward_time, generation_time
from rwkvgate.evaluation.likelihood import score_texts
from rwkvgate.evaluation.measures import tidy
from rwkvgate.evaluation.overlap import bleu_signature, document_overlap, rouge_flags
from rwkvgate.evaluation.report import Sample, write_report
from rwkvgate.evaluation.rules import VERSION
from rwkvgate.evaluation.tables import comparison_table, table1, table2
from rwkvgate.files import write_file, write_json
from rwkvgate.inputs import arms_and_seeds, evaluation_inputs
from rwkvgate.pipeline import Texts, best_device, ensure_arm, ensure_base, ensure_texts
from rwkvgate.progress import Progress
from rwkvgate.runs import Run, is_finished, read_json, step, write_manifest
from rwkvgate.rwkv6.modeling import Rwkv6ForCausalLM
from rwkvgate.settings import SettingsError

DOCUMENTS, LATENCY, SAMPLES = "documents.parquet", "latency.parquet", "samples.json"
SAMPLE_COUNT = 6
HEADLINES = ("perplexity", "bits_per_byte", "bleu", "rouge1", "rougeL")


@dataclass(frozen=True)
class Evaluation:
    """What was measured on one arm and seed.

    `documents` is long (arm, seed, document, metric, value), `latency` has the columns of
    `rwkvgate.evaluation.latency`, `samples` holds `prompt`, `reference` and `continuation`.
    """

    documents: pd.DataFrame
    latency: pd.DataFrame
    samples: list[dict[str, str]]


def ensure_evaluation(run: Run, arm: str, seed: int) -> Evaluation:
    """The scores of an arm and seed on the test documents, measured where that is not done yet."""
    folder, inputs = run.evaluation(arm, seed), evaluation_inputs(run.settings, arm, seed)
    if not is_finished(folder, inputs):
        model = ensure_arm(run, arm, seed)
        texts = ensure_texts(run)
        started = time.monotonic()
        documents, samples = _score(run, texts, model, arm, seed)
        latency = _time(run, texts, model, arm, seed)
        with step(folder, "evaluation", inputs, started) as fresh:
            documents.to_parquet(fresh / DOCUMENTS, index=False)
            latency.to_parquet(fresh / LATENCY, index=False)
            write_json(fresh / SAMPLES, samples)
        write_json(run.arm(arm, seed) / "metrics.json", headline(documents))
    return load_evaluation(run, arm, seed)


def load_evaluation(run: Run, arm: str, seed: int) -> Evaluation:
    """The finished evaluation of an arm and seed.

    Raises:
        SettingsError: its files are missing or damaged.
    """
    folder = run.evaluation(arm, seed)
    samples = read_json(folder / SAMPLES)
    try:
        documents, latency = pd.read_parquet(folder / DOCUMENTS), pd.read_parquet(folder / LATENCY)
    except (OSError, ValueError) as error:
        raise SettingsError(f"{folder} cannot be read ({error}). Remove it and run {run.command()}") from None
    return Evaluation(documents, latency, samples or [])


def headline(documents: pd.DataFrame) -> dict[str, float]:
    """The corpus measures of one arm and seed, by name."""
    arm = str(documents["arm"].iloc[0])
    values = summary(documents, arms=[arm], metrics=HEADLINES, resamples=100)
    return {str(row["metric"]): float(row["value"]) for row in values.to_dict("records")}


def _score(
    run: Run, texts: Texts, model: Rwkv6ForCausalLM, arm: str, seed: int
) -> tuple[pd.DataFrame, list[dict[str, str]]]:
    settings = run.settings.evaluation
    documents = texts.corpus.test[: settings.documents]
    separator = texts.tokenizer.bos_token_id
    batch = settings.batch_size
    progress = Progress(f"scoring {arm}, seed {seed}")
    likelihood = score_texts(
        model,
        texts.tokenizer,
        [d.text for d in documents],
        batch_size=batch,
        prefix_id=separator,
        progress=progress,
    )
    pairs = [texts.prompt(document, run.settings) for document in documents]
    prompts, references = [p for p, _ in pairs], [r for _, r in pairs]
    print(f"generating for {len(prompts)} prompts, {arm}, seed {seed}", flush=True)
    written = continue_prompts(model, texts.tokenizer, prompts, new_tokens=settings.new_tokens, batch_size=batch)
    overlap = document_overlap(written, references)
    long = pd.concat([tidy(likelihood, arm=arm, seed=seed), tidy(overlap, arm=arm, seed=seed)])
    samples = [
        {"prompt": p, "reference": r, "continuation": w} for p, r, w in zip(prompts, references, written, strict=True)
    ]
    return long.reset_index(drop=True), samples[:SAMPLE_COUNT]


def _time(run: Run, texts: Texts, model: Rwkv6ForCausalLM, arm: str, seed: int) -> pd.DataFrame:
    settings = run.settings.evaluation
    models = {arm: model} if arm == "base" else {"base": ensure_base(run), arm: model}
    ids = _test_ids(texts, settings.latency_tokens)
    print(f"timing {arm} beside the base", flush=True)
    forward = forward_time(models, ids, repeats=settings.latency_repeats, seed=seed)
    repeats = max(3, settings.latency_repeats // 3)
    generation = generation_time(models, ids, tokens=settings.timed_tokens, repeats=repeats, seed=seed)
    both = pd.concat([forward, generation])
    return both[both["arm"] == arm].reset_index(drop=True)


def _test_ids(texts: Texts, tokens: int) -> torch.Tensor:
    """The first tokens of the test documents run together, (1, tokens), repeated where they are too few."""
    stream: list[int] = []
    for document in texts.corpus.test:
        stream += texts.encode_text(document.text)
        if len(stream) >= tokens:
            break
    repeated = stream * (tokens // max(len(stream), 1) + 1)
    return torch.tensor([repeated[:tokens]])


@dataclass(frozen=True)
class Results:
    """All arms and seeds of a run in tidy tables, and the paper's tables made of them."""

    documents: pd.DataFrame
    latency: pd.DataFrame
    table1: pd.DataFrame
    table2: pd.DataFrame
    ablations: pd.DataFrame
    comparisons: pd.DataFrame
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
    tested = ensure_texts(run).corpus.test[: run.settings.evaluation.documents]
    evidence = Evidence(
        documents,
        latency,
        domains={number: document.domain for number, document in enumerate(tested)},
        device=device_name(best_device()),
        resamples=resamples,
    )
    return Results(
        documents=documents,
        latency=latency,
        table1=table1(latency, arms=arms),
        table2=table2(documents, arms=arms, resamples=resamples),
        ablations=comparison_table(ablated),
        comparisons=comparison_table(compared),
        claims=ledger(evidence),
        samples=samples,
    )


def publish(run: Run, results: Results) -> dict[str, Path]:
    """Write results, figures, manifest and report; the files by name."""
    frames = {"documents": results.documents, "latency": results.latency}
    texts = {
        "table1": results.table1,
        "table2": results.table2,
        "ablations": results.ablations,
        "comparisons": results.comparisons,
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
    figures = (
        (
            "Figure 2. Forward time",
            "Median and quartiles of one forward pass, base and arm timed in turn.",
            "figure2",
        ),
        ("Figure 3. BLEU and ROUGE", "Mean over seeds, interval over documents, one dot a seed.", "figure3"),
    )
    steps = manifest["steps"]
    write_report(
        run.report,
        title="Gated shift for RWKV-6: what arXiv 2502.15485 reports, measured",
        intro=f"Profile {settings.profile}. {protocol}",
        tables=[
            (
                "The ledger",
                f"Every claim of the paper, decided by rules written down beforehand (version {VERSION} of "
                "rwkvgate/evaluation/rules.py). A difference is shown where it stands against chance in the "
                "documents and in the training seeds, at 5 % after Holm's correction over the ledger.",
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
        ],
        figures=[(title, caption, written[name].read_text(encoding="utf-8")) for title, caption, name in figures],
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
