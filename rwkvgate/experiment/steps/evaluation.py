"""What is measured on one arm and seed: its scores on the test documents, and what it writes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from rwkvgate.experiment import order
from rwkvgate.experiment.analysis.coherence import entity_scores
from rwkvgate.experiment.analysis.comparison import seed_values
from rwkvgate.experiment.order import Step
from rwkvgate.experiment.progress import Progress
from rwkvgate.experiment.run import Variant
from rwkvgate.experiment.steps.arm import ensure_arm
from rwkvgate.experiment.steps.making import Write, makes, read_frame, read_value
from rwkvgate.experiment.steps.texts import Texts, ensure_texts
from rwkvgate.metrics.generation import continue_prompts
from rwkvgate.metrics.likelihood import score_texts
from rwkvgate.metrics.measures import tidy
from rwkvgate.metrics.overlap import document_overlap
from rwkvgate.rwkv6.files import write_json
from rwkvgate.rwkv6.modeling import Rwkv6ForCausalLM

DOCUMENTS, SAMPLES, METRICS = "documents.parquet", "samples.json", "metrics.json"
HEADLINES = ("perplexity", "bits_per_byte", "bleu", "rouge1", "rougeL")


@dataclass(frozen=True)
class Evaluation:
    """What was measured on one arm and seed.

    `documents` is long (arm, seed, document, metric, value), `samples` holds `prompt`, `reference` and `continuation`
    of each document.
    """

    documents: pd.DataFrame
    samples: list[dict[str, str]]


def ensure_evaluation(variant: Variant) -> Evaluation:
    """The scores of an arm and seed on the test documents, measured where that is not done yet.

    Raises:
        FloatingPointError: the arm's training diverged.
    """
    step = order.evaluation(variant)
    return Evaluation(read_frame(step, DOCUMENTS), read_value(step, SAMPLES))


def headline(documents: pd.DataFrame) -> dict[str, float]:
    """The corpus measures of one arm and seed, by name."""
    values = seed_values(documents, [str(documents["arm"].iloc[0])], HEADLINES)
    return {str(row["metric"]): float(row["value"]) for row in values.to_dict("records")}


@makes("evaluation")
def _evaluate(step: Step) -> Write:
    assert step.variant is not None
    model, texts = ensure_arm(step.variant), ensure_texts(step.run)
    documents, samples = _score(step.variant, texts, model)

    def write(folder: Path) -> None:
        documents.to_parquet(folder / DOCUMENTS, index=False)
        write_json(folder / SAMPLES, samples)
        write_json(folder / METRICS, headline(documents))

    return write


def _score(variant: Variant, texts: Texts, model: Rwkv6ForCausalLM) -> tuple[pd.DataFrame, list[dict[str, str]]]:
    settings = variant.run.settings.evaluation
    documents = texts.corpus.test[: settings.documents]
    separator = texts.tokenizer.bos_token_id
    batch = settings.batch_size
    progress = Progress(f"scoring {variant}")
    likelihood = score_texts(
        model,
        texts.tokenizer,
        [d.text for d in documents],
        batch_size=batch,
        prefix_id=separator,
        progress=progress,
    )
    pairs = [texts.prompt(document, variant.run.settings) for document in documents]
    prompts, references = [p for p, _ in pairs], [r for _, r in pairs]
    print(f"generating for {len(prompts)} prompts, {variant}", flush=True)
    written = continue_prompts(model, texts.tokenizer, prompts, new_tokens=settings.new_tokens, batch_size=batch)
    overlap = document_overlap(written, references)
    entities = entity_scores([d.domain for d in documents], prompts, written)
    long = pd.concat(
        [tidy(frame, arm=variant.arm.name, seed=variant.seed) for frame in (likelihood, overlap, entities)]
    )
    samples = [
        {"prompt": p, "reference": r, "continuation": w} for p, r, w in zip(prompts, references, written, strict=True)
    ]
    return long.reset_index(drop=True), samples
