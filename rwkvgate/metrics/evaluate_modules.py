"""BLEU, ROUGE, diversity and perplexity as metrics of the `evaluate` library, without network access.

`metric("bleu")` stands where `evaluate.load("bleu")` would, which downloads a script from the hub, and takes one metric
only from a local script. What it returns is an `evaluate.Metric` and goes into `evaluate.combine`. Options are given
to `metric`, to `compute`, or to both, where `compute` wins; `evaluate.combine` passes its options to every metric, so
there they belong in `metric`. Importing this module imports `evaluate` and `datasets`, which takes seconds: code that
needs only numbers uses `overlap` and `likelihood`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from itertools import pairwise, zip_longest
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from rwkvgate.metrics.inference import PREFIX_ID, at_least_one, encode
from rwkvgate.metrics.likelihood import bits_per_byte, perplexity, token_losses
from rwkvgate.metrics.overlap import (
    BLEU_TOKENIZER,
    ROUGE_TYPES,
    WORDS,
    bleu_scorer,
    bleu_signature,
    distinct,
    document_overlap,
    repetition,
    rouge_flags,
)
from rwkvgate.metrics.statistics import Floats
from rwkvgate.rwkv6.extras import extra

with extra("metrics"):
    import datasets
    import evaluate

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase


def metric(name: str, **options: Any) -> InMemory:
    """A metric of the `evaluate` library by its name, with its options.

    Args:
        name: "bleu", "rouge", "diversity" or "perplexity".

    Raises:
        KeyError: an unknown name.
        TypeError: an option that the metric does not have.

    Example:
        >>> scores = metric("bleu").compute(predictions=["a fox ran home"], references=["a fox ran home"])
        >>> round(scores["bleu"], 6)
        1.0
    """
    if name not in METRICS:
        raise KeyError(f"unknown metric {name!r}; choose from {', '.join(METRICS)}")
    return METRICS[name](**options)


class InMemory(evaluate.Metric):
    """A metric over strings that writes no cache files, so that many may run side by side.

    A subclass has `_score`, which takes the inputs and its options; `evaluate`'s own options (`seed`,
    `experiment_id`, ...) go to the constructor as usual.

    Raises:
        TypeError: an option that the metric does not have, or a required one that is missing.
        ValueError: inputs of unequal length, a string in place of a list of strings, or items that are not strings.
    """

    about = ""
    inputs: tuple[str, ...] = ("predictions", "references")

    def __init__(self, **kwargs: Any) -> None:
        own = set(inspect.signature(evaluate.EvaluationModule.__init__).parameters)
        self.settings = {name: value for name, value in kwargs.items() if name not in own}
        self._refuse_unknown(self.settings)
        super().__init__(**({"keep_in_memory": True} | {k: v for k, v in kwargs.items() if k in own}))

    def add_batch(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> None:
        """Add lists of strings, to be scored by the next `compute`."""
        given = {"predictions": predictions, "references": references, **kwargs}
        first = self.inputs[0]
        for name in self.inputs:
            _refuse_unless_texts(name, given.get(name))
            # `evaluate` accepts an empty list beside a filled one, and scores nothing.
            if len(given[name]) != len(given[first]):
                counts = f"{len(given[first])} {first} for {len(given[name])} {name}"
                raise ValueError(f"{counts}; the counts must be equal")
        super().add_batch(predictions=predictions, references=references, **kwargs)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.about,
            citation="",
            inputs_description=f"{' and '.join(self.inputs)}: lists of str",
            features=datasets.Features({name: self._feature(name) for name in self.inputs}),
        )

    def _feature(self, name: str) -> Any:
        """The type of one item of the input `name`."""
        return datasets.Value("string")

    def _compute(self, **given: Any) -> dict[str, Any]:
        self._refuse_unknown({name: value for name, value in given.items() if name not in self.inputs})
        settings = self.settings | given
        parameters = inspect.signature(self._score).parameters
        missing = [name for name, it in parameters.items() if it.default is it.empty and name not in settings]
        if missing:
            raise TypeError(f"{type(self).__name__} needs {' and '.join(missing)}, in its constructor or in compute")
        return self._score(**settings)

    def _score(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        raise NotImplementedError

    def _refuse_unknown(self, settings: dict[str, Any]) -> None:
        known = [name for name in inspect.signature(self._score).parameters if name not in self.inputs]
        for name in settings:
            if name not in known:
                raise TypeError(
                    f"unknown option {name!r} of {type(self).__name__}; it has {', '.join(known) or 'none'}"
                )


class Bleu(InMemory):
    """sacreBLEU's corpus BLEU of detokenised text.

    `compute(predictions=, references=, tokenize="13a")`: a reference is a string, or a list of strings where there are
    several. Returns `bleu` (0-1), `precisions` (four, 0-1, unsmoothed), `length_ratio` (words of the predictions over
    words of the references), `documents`, `empty_references` and sacreBLEU's `signature`. A pair none of whose
    references has a word is left out: `empty_references` counts those, `documents` the others; with no document left
    `bleu` is nan. Scripts written without spaces need `tokenize="zh"` or `"char"`.
    """

    about = "Corpus-level BLEU on detokenised strings through sacreBLEU, 0-1."

    def add_batch(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> None:
        """Add predictions and their references, strings or lists of strings."""
        if references is not None and not isinstance(references, str):
            references = [_listed(reference) for reference in references]
        super().add_batch(predictions=predictions, references=references, **kwargs)

    def add(self, *, prediction: Any = None, reference: Any = None, **kwargs: Any) -> None:
        """Add one prediction and its reference, a string or a list of strings."""
        # `evaluate.combine` names them in the plural.
        given = {"predictions": prediction, "references": reference, **kwargs}
        super().add(**(given | {"references": _listed(given["references"])}))

    def _feature(self, name: str) -> Any:
        value = datasets.Value("string")
        return datasets.List(value) if name == "references" else value

    def _score(
        self, predictions: list[str], references: list[list[str]], tokenize: str = BLEU_TOKENIZER
    ) -> dict[str, Any]:
        rows = [row for row, texts in enumerate(references) if any(map(WORDS.tokenize, texts))]
        counts = {"documents": len(rows), "empty_references": len(references) - len(rows)}
        if not rows:
            undefined = {"bleu": math.nan, "precisions": [math.nan] * 4, "length_ratio": math.nan}
            return undefined | counts | {"signature": bleu_signature(tokenize)}
        # sacreBLEU takes one list per place in the lists of references; None where a pair has fewer.
        streams: Any = list(zip_longest(*(references[row] for row in rows)))
        scorer = bleu_scorer(tokenize)
        scores: Any = scorer.corpus_score([predictions[row] for row in rows], streams)
        return {
            "bleu": scores.score / 100,
            "precisions": [_ratio(part, total) for part, total in zip(scores.counts, scores.totals, strict=True)],
            "length_ratio": _ratio(scores.sys_len, scores.ref_len),
            **counts,
            "signature": str(scorer.get_signature()),
        }


class Rouge(InMemory):
    """ROUGE-1, ROUGE-2, ROUGE-L and ROUGE-Lsum by rouge-score, without stemming.

    `compute(predictions=, references=)` returns the mean F1 (0-1) under `rouge1`, `rouge2`, `rougeL` and `rougeLsum`,
    the other means under `_precision` and `_recall`; `documents` (averaged over), `empty_references`, `flags`, and
    `per_document`: for each of the four a list of F1, nan where the reference has no word. For ROUGE-Lsum a sentence is
    a line, as in rouge-score with `split_summaries` off; ROUGE-L ignores line ends. On ASCII text the words are
    rouge-score's own; elsewhere see `overlap.UnicodeWords`.
    """

    about = "ROUGE-1, ROUGE-2, ROUGE-L and ROUGE-Lsum through rouge-score, 0-1."

    def _score(self, predictions: list[str], references: list[str]) -> dict[str, Any]:
        frame = document_overlap(predictions, references)
        defined = frame.dropna()
        columns = [*ROUGE_TYPES, *(f"{rouge}_{part}" for rouge in ROUGE_TYPES for part in ("precision", "recall"))]
        return {
            **{column: _mean(defined[column].tolist()) for column in columns},
            "documents": len(defined),
            "empty_references": len(frame) - len(defined),
            "flags": rouge_flags(),
            "per_document": {rouge: frame[rouge].tolist() for rouge in ROUGE_TYPES},
        }


class Diversity(InMemory):
    """How varied the predictions are, and how long compared with their references.

    `compute(predictions=, references=, distinct_orders=(1, 2), repetition_orders=(4,), tokenizer=None)` returns, for
    each order n:

    - `distinct<n>`: distinct n-grams over all n-grams of a prediction, mean over predictions;
    - `corpus_distinct<n>`: the same over the n-grams of all predictions together (after Li et al., arXiv 1510.03055,
      who divide by words, not by n-grams: equal for n = 1);
    - `repetition<n>`: seq-rep-n of Welleck et al. (arXiv 1908.04319, section 6.1), one minus the distinct share of a
      prediction's n-grams, mean over predictions.

    And `length_ratio` (words of a prediction over words of its reference, mean where the reference has words),
    `documents`, `empty_references`, `too_short` (by n: predictions of fewer than n words, whose distinct and
    repetition are 0), `flags` and `per_document`. All are 0-1 except the length ratio. Words are
    `overlap.UnicodeWords`'; with a `tokenizer` of transformers its tokens are counted instead, as Welleck et al. do.
    """

    about = "Distinct-n, seq-rep-n and length ratio of generated text."

    def _score(
        self,
        predictions: list[str],
        references: list[str],
        distinct_orders: Sequence[int] = (1, 2),
        repetition_orders: Sequence[int] = (4,),
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> dict[str, Any]:
        orders = sorted({*distinct_orders, *repetition_orders})
        at_least_one(**{f"order {n}": n for n in orders})
        produced, expected = _units(predictions, tokenizer), _units(references, tokenizer)
        columns = {f"distinct{n}": [distinct(words, n) for words in produced] for n in distinct_orders}
        columns |= {f"repetition{n}": [repetition(words, n) for words in produced] for n in repetition_orders}
        columns["length_ratio"] = [
            len(words) / len(reference) if reference else math.nan
            for words, reference in zip(produced, expected, strict=True)
        ]
        return {
            **{name: _mean([value for value in column if not math.isnan(value)]) for name, column in columns.items()},
            **{f"corpus_distinct{n}": _corpus_distinct(produced, n) for n in distinct_orders},
            "documents": len(produced),
            "empty_references": len(expected) - sum(map(bool, expected)),
            "too_short": {n: sum(len(words) < n for words in produced) for n in orders},
            "flags": f"unit:{WORDS.name}" if tokenizer is None else f"unit:token|tokenizer:{tokenizer_name(tokenizer)}",
            "per_document": columns,
        }


class Perplexity(InMemory):
    """Perplexity of texts under a model that is passed in (see `likelihood`).

    `compute(predictions=texts, model=, tokenizer=, batch_size=8, window=1024, prefix_id=0, carried=True, buckets=None)`
    returns `perplexity`, `bits_per_byte`, `nll` (nats, summed), `tokens`, `bytes`, `per_document` (perplexities, nan
    for an empty text), `buckets`, and what the numbers depend on: `window` (tokens), `prefix_id`, `carried`,
    `tokenizer`.

    Args of `compute`:
        carried: True reads each text once with its state carried on, and `window` changes nothing beyond rounding.
            False forgets the state after every `window` tokens, as a model of a fixed context would: a window's first
            token is predicted from the one before it alone.
        buckets: ascending edges in tokens from a text's start. [64, 512] gives three buckets, positions 0-63, 64-511
            and from 512 on: each a dict of `start`, `stop` (None at the end), `tokens`, `nll` and `perplexity` (nan
            where no text is long enough).

    Raises:
        ValueError: `batch_size` or `window` is below 1, or the edges are not ascending from above 0.
    """

    about = "exp(sum of token NLL / number of tokens), with carried state or in windows."
    inputs = ("predictions",)

    def _score(
        self,
        predictions: list[str],
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        batch_size: int = 8,
        window: int = 1024,
        prefix_id: int = PREFIX_ID,
        carried: bool = True,
        buckets: Sequence[int] | None = None,
    ) -> dict[str, Any]:
        edges = _ascending(buckets or ())
        losses = token_losses(
            model,
            encode(tokenizer, predictions),
            batch_size=batch_size,
            window=window,
            prefix_id=prefix_id,
            carried=carried,
        )
        frame = _sums(losses).assign(bytes=[len(text.encode("utf-8", "surrogatepass")) for text in predictions])
        return {
            "perplexity": perplexity(frame),
            "bits_per_byte": bits_per_byte(frame),
            "nll": float(frame["nll"].sum()),
            "tokens": int(frame["tokens"].sum()),
            "bytes": int(frame["bytes"].sum()),
            "per_document": [perplexity(frame.iloc[[row]]) for row in range(len(frame))],
            "buckets": [_bucket(losses, start, stop) for start, stop in pairwise([0, *edges, None])] if edges else [],
            "window": window,
            "prefix_id": prefix_id,
            "carried": carried,
            "tokenizer": tokenizer_name(tokenizer),
        }


METRICS: dict[str, type[InMemory]] = {
    "bleu": Bleu,
    "rouge": Rouge,
    "diversity": Diversity,
    "perplexity": Perplexity,
}


def tokenizer_name(tokenizer: PreTrainedTokenizerBase) -> str:
    """Class, name and vocabulary size of a tokenizer; of a folder only the last part, so no path of a machine.

    Example:
        >>> from rwkvgate import Rwkv6Tokenizer
        >>> tokenizer_name(Rwkv6Tokenizer())
        'Rwkv6Tokenizer|vocabulary:65536'
    """
    name = PurePath(str(getattr(tokenizer, "name_or_path", "") or "")).name
    return f"{type(tokenizer).__name__}{f'({name})' if name else ''}|vocabulary:{len(tokenizer)}"


def _refuse_unless_texts(name: str, column: Any) -> None:
    if column is None or isinstance(column, str):
        raise ValueError(f"{name} is {'missing' if column is None else 'one string'}; it must be a list of strings")
    for place, item in enumerate(column):
        for text in item if isinstance(item, list | tuple) else [item]:
            if not isinstance(text, str):
                raise ValueError(f"{name}[{place}] holds {text!r:.40}; it must be a string")


def _sums(losses: Sequence[Floats]) -> pd.DataFrame:
    """Summed loss (nats) and number of tokens of each text."""
    return pd.DataFrame({"nll": [float(nll.sum()) for nll in losses], "tokens": list(map(len, losses))})


def _bucket(losses: list[Floats], start: int | None, stop: int | None) -> dict[str, Any]:
    frame = _sums([nll[start:stop] for nll in losses])
    tokens, nll = int(frame["tokens"].sum()), float(frame["nll"].sum())
    return {"start": start, "stop": stop, "tokens": tokens, "nll": nll, "perplexity": perplexity(frame)}


def _ascending(edges: Sequence[int]) -> list[int]:
    if any(later <= earlier for earlier, later in pairwise([0, *edges])):
        raise ValueError(f"buckets is {list(edges)}; its edges must ascend, from 1 token at least")
    return list(edges)


def _units(texts: list[str], tokenizer: PreTrainedTokenizerBase | None) -> list[list[str]]:
    if tokenizer is None:
        return [WORDS.tokenize(text) for text in texts]
    return [list(map(str, ids)) for ids in encode(tokenizer, texts)]


def _corpus_distinct(texts: list[list[str]], n: int) -> float:
    ngrams = [tuple(words[i : i + n]) for words in texts for i in range(len(words) - n + 1)]
    return _ratio(len(set(ngrams)), len(ngrams)) if texts else math.nan


def _listed(reference: Any) -> Any:
    return [reference] if isinstance(reference, str) else reference


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else math.nan


def _ratio(part: float, total: float) -> float:
    return float(part / total) if total else 0.0
