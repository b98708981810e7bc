"""Measuring one arm of a run: its scores on the test documents, its times, its samples."""

from __future__ import annotations

import time
from dataclasses import dataclass

import pandas as pd
import torch

from rwkvgate.experiment.analysis.coherence import entity_scores
from rwkvgate.experiment.analysis.comparison import summary
from rwkvgate.experiment.inputs import evaluation_inputs
from rwkvgate.experiment.pipeline import Texts, ensure_arm, ensure_base, ensure_texts
from rwkvgate.experiment.progress import Progress
from rwkvgate.experiment.run import Run, make_once, step, write_manifest
from rwkvgate.gate.validation import SettingsError
from rwkvgate.metrics.generation import continue_prompts
from rwkvgate.metrics.latency import forward_time, generation_time
from rwkvgate.metrics.likelihood import score_texts
from rwkvgate.metrics.measures import tidy
from rwkvgate.metrics.overlap import document_overlap
from rwkvgate.rwkv6.files import read_json, write_json
from rwkvgate.rwkv6.modeling import Rwkv6ForCausalLM

DOCUMENTS, LATENCY, SAMPLES = "documents.parquet", "latency.parquet", "samples.json"
METRICS = "metrics.json"
"""Of the arm and seed, beside its weights."""
SAMPLE_COUNT = 6
HEADLINES = ("perplexity", "bits_per_byte", "bleu", "rouge1", "rougeL")


@dataclass(frozen=True)
class Evaluation:
    """What was measured on one arm and seed.

    `documents` is long (arm, seed, document, metric, value), `latency` has the columns of
    `rwkvgate.metrics.latency`, `samples` holds `prompt`, `reference` and `continuation`.
    """

    documents: pd.DataFrame
    latency: pd.DataFrame
    samples: list[dict[str, str]]


def ensure_evaluation(run: Run, arm: str, seed: int) -> Evaluation:
    """The scores of an arm and seed on the test documents, measured where that is not done yet."""
    folder, inputs = run.evaluation(arm, seed), evaluation_inputs(run.settings, arm, seed)

    def make() -> None:
        model = ensure_arm(run, arm, seed)
        texts = ensure_texts(run)
        started = time.monotonic()
        documents, samples = _score(run, texts, model, arm, seed)
        latency = _time(run, texts, model, arm, seed)
        with step(folder, "evaluation", inputs, started) as fresh:
            documents.to_parquet(fresh / DOCUMENTS, index=False)
            latency.to_parquet(fresh / LATENCY, index=False)
            write_json(fresh / SAMPLES, samples)
            # Before the step is finished: killed in between, a later run would not make it.
            write_json(run.arm(arm, seed) / METRICS, headline(documents))

        write_manifest(run)

    make_once(run, folder, inputs, make)
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
    entities = entity_scores([d.domain for d in documents], prompts, written)
    long = pd.concat([tidy(frame, arm=arm, seed=seed) for frame in (likelihood, overlap, entities)])
    samples = [
        {"prompt": p, "reference": r, "continuation": w} for p, r, w in zip(prompts, references, written, strict=True)
    ]
    return long.reset_index(drop=True), samples[:SAMPLE_COUNT]


def _time(run: Run, texts: Texts, model: Rwkv6ForCausalLM, arm: str, seed: int) -> pd.DataFrame:
    settings = run.settings.evaluation
    models = {arm: model} if arm == "base" else {"base": ensure_base(run), arm: model}
    ids = _test_ids(texts, settings.latency_tokens)
    print(f"timing {arm} beside the base", flush=True)
    forward = forward_time(models, ids, repeats=settings.forward_repeats, seed=seed)
    repeats = settings.generation_repeats
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
