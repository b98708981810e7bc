"""BLEU, ROUGE and perplexity as metrics of the `evaluate` library, defined here so that no network is needed.

`evaluate.load` fetches a script from the hub; a subclass does not. Importing this module imports `evaluate`
and `datasets`, some seconds: code that needs only numbers uses `overlap` and `likelihood`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import datasets
import evaluate
import numpy as np

from rwkvgate.evaluation.inference import PREFIX_ID
from rwkvgate.evaluation.likelihood import bits_per_byte, perplexity, score_texts
from rwkvgate.evaluation.overlap import (
    BLEU_TOKENIZER,
    ROUGE_TYPES,
    bleu_signature,
    corpus_bleu,
    document_overlap,
    rouge_flags,
)

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase


class InMemory(evaluate.Metric):
    """A metric over strings that writes no cache files, so that many may run side by side."""

    about = ""
    inputs: tuple[str, ...] = ("predictions", "references")

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**({"keep_in_memory": True} | kwargs))

    def _info(self) -> evaluate.MetricInfo:
        features = datasets.Features({name: datasets.Value("string") for name in self.inputs})
        return evaluate.MetricInfo(
            description=self.about,
            citation="",
            inputs_description=f"{' and '.join(self.inputs)}: lists of str",
            features=features,
        )


class Bleu(InMemory):
    """sacreBLEU's corpus BLEU of detokenised text, one reference each.

    `compute(predictions=, references=, tokenize="13a")` gives `bleu` (0-1), `precisions` (four, 0-1),
    `length_ratio` (produced over wanted words), `documents` and `signature`. Pairs whose reference has no
    word are left out; `documents` counts the rest. Scripts written without spaces need `tokenize="zh"` or
    `"char"`.
    """

    about = "Corpus-level BLEU on detokenised strings through sacreBLEU, 0-1."

    def _compute(self, predictions: list[str], references: list[str], tokenize: str = BLEU_TOKENIZER) -> dict[str, Any]:
        frame = document_overlap(predictions, references, tokenize=tokenize).dropna()
        sums = frame.sum()
        orders = range(1, 5)
        return {
            "bleu": corpus_bleu(frame),
            "precisions": [_ratio(sums[f"bleu_correct_{n}"], sums[f"bleu_total_{n}"]) for n in orders],
            "length_ratio": _ratio(sums["bleu_sys_len"], sums["bleu_ref_len"]),
            "documents": len(frame),
            "signature": bleu_signature(tokenize),
        }


class Rouge(InMemory):
    """ROUGE-1, ROUGE-2 and ROUGE-L by rouge-score, without stemming.

    `compute(predictions=, references=)` gives `rouge1`, `rouge2` and `rougeL` (mean F1, 0-1), `documents`,
    `flags`, and `per_document`: for each of the three a list, nan where the reference has no word; the means
    are over the others.
    """

    about = "ROUGE-1, ROUGE-2 and ROUGE-L F1 through rouge-score, 0-1."

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, Any]:
        frame = document_overlap(predictions, references)
        defined = frame.dropna()
        means = {kind: float(defined[kind].mean()) if len(defined) else np.nan for kind in ROUGE_TYPES}
        return {
            **means,
            "documents": len(defined),
            "flags": rouge_flags(),
            "per_document": {kind: frame[kind].tolist() for kind in ROUGE_TYPES},
        }


class Perplexity(InMemory):
    """Perplexity of texts under a model that is passed in, with carried state (see `likelihood`).

    `compute(predictions=texts, model=, tokenizer=, batch_size=8, window=1024, prefix_id=0)` gives
    `perplexity`, `bits_per_byte`, `nll` (nats in all), `tokens`, `bytes` and `per_document` (nan where the
    text is empty).
    """

    about = "exp(sum of token NLL / number of tokens), one pass with carried state."
    inputs = ("predictions",)

    def _compute(
        self,
        predictions: list[str],
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        batch_size: int = 8,
        window: int = 1024,
        prefix_id: int = PREFIX_ID,
    ) -> dict[str, Any]:
        frame = score_texts(model, tokenizer, predictions, batch_size=batch_size, window=window, prefix_id=prefix_id)
        return {
            "perplexity": perplexity(frame),
            "bits_per_byte": bits_per_byte(frame),
            "nll": float(frame["nll"].sum()),
            "tokens": int(frame["tokens"].sum()),
            "bytes": int(frame["bytes"].sum()),
            "per_document": [perplexity(frame.iloc[[row]]) for row in range(len(frame))],
        }


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else 0.0
