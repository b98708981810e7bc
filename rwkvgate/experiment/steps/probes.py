"""Probes of one arm and seed beyond its test stories: longer texts, other domains, and things to remember."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rwkvgate.experiment import order
from rwkvgate.experiment.corpora.code import code_documents
from rwkvgate.experiment.corpora.documents import Document
from rwkvgate.experiment.order import Step
from rwkvgate.experiment.run import Run, Variant
from rwkvgate.experiment.steps.arm import ensure_arm
from rwkvgate.experiment.steps.making import Write, makes, read_frame
from rwkvgate.experiment.steps.texts import Texts, ensure_texts
from rwkvgate.metrics.context import distant_context, long_texts, losses_by_position, position_edges
from rwkvgate.metrics.cost import counted_flops
from rwkvgate.metrics.likelihood import score_texts
from rwkvgate.metrics.long_range import SHORTEST, probe_gains, probes
from rwkvgate.metrics.measures import tidy
from rwkvgate.rwkv6.modeling import Rwkv6ForCausalLM

SCORES, POSITIONS, GAINS = "scores.parquet", "positions.parquet", "gains.parquet"
FACTOR = 8
"""Length of the longest texts over that of a training row."""
SHARE = 5
"""Test documents over those that a costly measurement reads."""
CHARACTERS, CODE_CHARACTERS = 2000, 1000
"""Length of a natural text and of a piece of code, at most: one long text would outweigh all others, and code takes
more tokens for each character."""
LONG_TEXTS = {"stories": 28, "natural": 10}
"""Long texts of each kind, at most; the stories' decide a claim."""
COUNTED = 256
"""Tokens over which FLOPs are counted."""
CELLS = 2**24
"""Tokens times vocabulary of one batch: float32 logits of 64 MiB."""


@dataclass(frozen=True)
class Probes:
    """What the probes measured on one arm and seed.

    Attributes:
        scores: tidy (arm, seed, document, metric, value), for the measures `loss_far`, `perplexity_natural`,
            `perplexity_code` and `order_loss`, each with documents of its own; and `counted_flops`, per token.
        positions: the columns of `context.losses_by_position`, `arm`, `seed` and `kind` ("stories", "natural").
        gains: the columns of `long_range.probe_gains`, `arm` and `seed`.
    """

    scores: pd.DataFrame
    positions: pd.DataFrame
    gains: pd.DataFrame


def ensure_probes(variant: Variant) -> Probes:
    """The probes of an arm and seed, made where that is not done yet.

    Raises:
        FloatingPointError: the arm's training diverged.
    """
    step = order.probes(variant)
    return Probes(*(read_frame(step, name) for name in (SCORES, POSITIONS, GAINS)))


def sample_size(run: Run) -> int:
    """Documents that a costly measurement reads: one for every `SHARE` test documents, and at least two."""
    return max(2, run.settings.evaluation.documents // SHARE)


def natural_pieces(documents: list[Document], count: int) -> list[str]:
    """Up to `count` texts of at most `CHARACTERS`: beginnings first, further pieces only where documents are few."""
    texts = [document.text for document in documents]
    longest = max(map(len, texts), default=0)
    pieces = [text[i : i + CHARACTERS] for i in range(0, longest, CHARACTERS) for text in texts if len(text) > i]
    return pieces[:count]


@makes("probes")
def _probe(step: Step) -> Write:
    assert step.variant is not None
    run, variant = step.run, step.variant
    model, texts = ensure_arm(variant), ensure_texts(run)
    owner: dict[str, Any] = {"arm": variant.arm.name, "seed": variant.seed}
    print(f"reading long texts and other domains, {variant}", flush=True)
    positions = _positions(run, texts, model)
    scores = [_far(positions, run.settings.training.length), *_domains(run, texts, model)]
    scores += [_context(run, texts, model), _counted(model)]
    print(f"long-range probes, {variant}", flush=True)
    gains = _gains(run, texts, model)

    def write(folder: Path) -> None:
        pd.concat([tidy(frame, **owner) for frame in scores]).to_parquet(folder / SCORES, index=False)
        positions.assign(**owner).to_parquet(folder / POSITIONS, index=False)
        gains.assign(**owner).to_parquet(folder / GAINS, index=False)

    return write


def _reading(run: Run, texts: Texts, length: int) -> dict[str, Any]:
    """How texts of a length are read: in batches whose logits stay small, after the end-of-text token."""
    fit = max(1, CELLS // (min(length, 1024) * len(texts.tokenizer)))
    return {"batch_size": min(run.settings.evaluation.batch_size, fit), "prefix_id": texts.tokenizer.bos_token_id}


def _positions(run: Run, texts: Texts, model: Rwkv6ForCausalLM) -> pd.DataFrame:
    edges = position_edges(run.settings.training.length, FACTOR)
    sources = {
        "stories": texts.corpus.test[: run.settings.evaluation.documents],
        "natural": texts.corpus.natural_validation,
    }
    frames = []
    for kind, documents in sources.items():
        joined = long_texts(texts.encode(documents), edges[-1], texts.tokenizer.bos_token_id)[: LONG_TEXTS[kind]]
        losses = losses_by_position(model, joined, edges, **_reading(run, texts, edges[-1]))
        frames.append(losses.assign(kind=kind))
    return pd.concat(frames, ignore_index=True)


def _far(positions: pd.DataFrame, trained: int) -> pd.DataFrame:
    """Sums over the test stories' positions beyond the trained length."""
    beyond = positions[(positions["kind"] == "stories") & (positions["start"] >= trained)]
    sums = beyond.groupby("text", as_index=False)[["nll", "tokens"]].sum()
    return sums.rename(columns={"text": "document", "nll": "far_nll", "tokens": "far_tokens"})


def _domains(run: Run, texts: Texts, model: Rwkv6ForCausalLM) -> list[pd.DataFrame]:
    """Summed losses of natural text and of Python code, a frame for each."""
    count = sample_size(run)
    code = code_documents(count, CODE_CHARACTERS, run.settings.corpus.seed)
    domains = {"natural": natural_pieces(texts.corpus.natural_validation, count), "code": [d.text for d in code]}
    frames = []
    for name, pieces in domains.items():
        sums = score_texts(model, texts.tokenizer, pieces, **_reading(run, texts, 1024))
        frames.append(sums.rename(columns={column: f"{name}_{column}" for column in ("nll", "tokens", "bytes")}))
    return frames


def _context(run: Run, texts: Texts, model: Rwkv6ForCausalLM) -> pd.DataFrame:
    documents = texts.corpus.test[: max(2, run.settings.evaluation.documents // 2)]
    return distant_context(model, texts.tokenizer, documents, **_reading(run, texts, 256))


def _counted(model: Rwkv6ForCausalLM) -> pd.DataFrame:
    return pd.DataFrame({"document": [0], "counted_flops": [counted_flops(model, COUNTED) / COUNTED]})


def _gains(run: Run, texts: Texts, model: Rwkv6ForCausalLM) -> pd.DataFrame:
    trained = run.settings.training.length
    lengths = [trained // 4 * 2**i for i in range(2 + int(np.log2(FACTOR)) + 1)]
    stream = [token for document in texts.encode(texts.corpus.natural_validation) for token in document]
    count, seed = run.settings.evaluation.probes, run.settings.corpus.seed
    frames = []
    for length in lengths:
        if length >= SHORTEST:
            asked = list(probes(texts.tokenizer, stream, [length], count, seed))
            frames.append(probe_gains(model, asked, batch_size=_reading(run, texts, length)["batch_size"]))
    return pd.concat(frames, ignore_index=True)
