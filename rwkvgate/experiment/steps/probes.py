"""Reading one arm of a run beyond its test stories: longer texts, other domains, things to remember."""

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
from rwkvgate.experiment.steps.making import Write, complete, makes
from rwkvgate.experiment.steps.texts import Texts, ensure_texts
from rwkvgate.gate.validation import SettingsError
from rwkvgate.metrics.context import distant_context, long_texts, losses_by_position, position_edges
from rwkvgate.metrics.cost import counted_flops
from rwkvgate.metrics.likelihood import score_texts
from rwkvgate.metrics.long_range import SHORTEST, probe_gains, probes
from rwkvgate.metrics.measures import tidy
from rwkvgate.rwkv6.modeling import Rwkv6ForCausalLM

SCORES, POSITIONS, GAINS = "scores.parquet", "positions.parquet", "gains.parquet"
FACTOR = 8
"""The longest texts are so many times as long as a training row."""
SHARE = 5
"""One text of another domain for so many test documents."""
CHARACTERS = 2000
"""Of a text of another domain, at most: one long text would outweigh all others."""
TEXTS = {"stories": 28, "natural": 10}
"""Long texts of each kind, at most; the stories' decide a claim."""
CODE_CHARACTERS = 1000
"""Of a module, which takes more tokens a character."""
COUNTED = 256
"""Tokens over which FLOPs are counted."""
CELLS = 2**24
"""Tokens times vocabulary of one batch: float32 logits of 64 MiB."""


@dataclass(frozen=True)
class Probes:
    """What one arm and seed did there.

    Attributes:
        scores: tidy (arm, seed, document, metric, value), of the measures `loss_far`, `perplexity_natural`,
            `perplexity_code` and `order_loss`, whose documents count within each; and `counted_flops`, a token.
        positions: of `context.losses_by_position`, with columns `arm`, `seed` and `kind` ('stories', 'natural').
        gains: of `long_range.probe_gains`, with `arm` and `seed`.
    """

    scores: pd.DataFrame
    positions: pd.DataFrame
    gains: pd.DataFrame


def ensure_probes(variant: Variant) -> Probes:
    """The probes of an arm and seed, made where that is not done yet.

    Raises:
        SettingsError: their files are missing or damaged.
        FloatingPointError: the arm's training diverged.
    """
    step = order.probes(variant)
    complete(step)
    try:
        return Probes(*(pd.read_parquet(step.folder / name) for name in (SCORES, POSITIONS, GAINS)))
    except (OSError, ValueError) as error:
        raise SettingsError(f"{step.folder} cannot be read ({error}). Remove it and run {step.run.command()}") from None


@makes("probes")
def _probe(step: Step) -> Write:
    assert step.variant is not None
    run, variant = step.run, step.variant
    model, texts = ensure_arm(variant), ensure_texts(run)
    who: dict[str, Any] = {"arm": variant.arm.name, "seed": variant.seed}
    print(f"reading long texts and other domains, {variant}", flush=True)
    positions = _positions(run, texts, model)
    scores = [_far(positions, run.settings.training.length), *_domains(run, texts, model)]
    scores += [_context(run, texts, model), _counted(model)]
    print(f"long-range probes, {variant}", flush=True)
    gains = _gains(run, texts, model)

    def write(folder: Path) -> None:
        pd.concat([tidy(frame, **who) for frame in scores]).to_parquet(folder / SCORES, index=False)
        positions.assign(**who).to_parquet(folder / POSITIONS, index=False)
        gains.assign(**who).to_parquet(folder / GAINS, index=False)

    return write


def natural_pieces(documents: list[Document], count: int) -> list[str]:
    """Up to `count` texts of at most `CHARACTERS`: beginnings first, further pieces only where documents are few."""
    whole = [document.text for document in documents]
    longest = max(map(len, whole), default=0)
    pieces = [text[i : i + CHARACTERS] for i in range(0, longest, CHARACTERS) for text in whole if len(text) > i]
    return pieces[:count]


def _batch(run: Run, texts: Texts, length: int) -> int:
    """Texts in a batch, so that logits stay small whatever the vocabulary."""
    fit = CELLS // (min(length, 1024) * len(texts.tokenizer))
    return max(1, min(run.settings.evaluation.batch_size, fit))


def _positions(run: Run, texts: Texts, model: Rwkv6ForCausalLM) -> pd.DataFrame:
    trained, separator = run.settings.training.length, texts.tokenizer.bos_token_id
    edges, frames = position_edges(trained, FACTOR), []
    sources = {
        "stories": texts.corpus.test[: run.settings.evaluation.documents],
        "natural": texts.corpus.natural_validation,
    }
    for kind, documents in sources.items():
        long = long_texts(texts.encode(documents), edges[-1], separator)[: TEXTS[kind]]
        batch = _batch(run, texts, edges[-1])
        found = losses_by_position(model, long, edges, batch_size=batch, prefix_id=separator)
        frames.append(found.assign(kind=kind))
    return pd.concat(frames, ignore_index=True)


def _far(positions: pd.DataFrame, trained: int) -> pd.DataFrame:
    """Sums over the test stories' positions that no training row has."""
    beyond = positions[(positions["kind"] == "stories") & (positions["start"] >= trained)]
    sums = beyond.groupby("text", as_index=False)[["nll", "tokens"]].sum()
    return sums.rename(columns={"text": "document", "nll": "far_nll", "tokens": "far_tokens"})


def _domains(run: Run, texts: Texts, model: Rwkv6ForCausalLM) -> list[pd.DataFrame]:
    count = max(2, run.settings.evaluation.documents // SHARE)
    code = code_documents(count, CODE_CHARACTERS, run.settings.corpus.seed)
    written = {"natural": natural_pieces(texts.corpus.natural_validation, count), "code": [d.text for d in code]}
    frames = []
    for name, domain in written.items():
        found = score_texts(
            model,
            texts.tokenizer,
            domain,
            batch_size=_batch(run, texts, 1024),
            prefix_id=texts.tokenizer.bos_token_id,
        )
        frames.append(found.rename(columns={column: f"{name}_{column}" for column in ("nll", "tokens", "bytes")}))
    return frames


def _context(run: Run, texts: Texts, model: Rwkv6ForCausalLM) -> pd.DataFrame:
    return distant_context(
        model,
        texts.tokenizer,
        texts.corpus.test[: max(2, run.settings.evaluation.documents // 2)],
        batch_size=_batch(run, texts, 256),
        prefix_id=texts.tokenizer.bos_token_id,
    )


def _counted(model: Rwkv6ForCausalLM) -> pd.DataFrame:
    return pd.DataFrame({"document": [0], "counted_flops": [counted_flops(model, COUNTED) / COUNTED]})


def _gains(run: Run, texts: Texts, model: Rwkv6ForCausalLM) -> pd.DataFrame:
    trained = run.settings.training.length
    lengths = [trained // 4 * 2**i for i in range(2 + int(np.log2(FACTOR)) + 1)]
    lengths = [length for length in lengths if length >= SHORTEST]
    stream = [token for document in texts.encode(texts.corpus.natural_validation) for token in document]
    count, seed = run.settings.evaluation.probes, run.settings.corpus.seed
    frames = []
    for length in lengths:
        asked = list(probes(texts.tokenizer, stream, [length], count, seed))
        frames.append(probe_gains(model, asked, batch_size=_batch(run, texts, length)))
    return pd.concat(frames, ignore_index=True)
