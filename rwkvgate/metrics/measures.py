"""Corpus measures: the per-document columns each is computed from, and how their sums become the measure.

Results are one long table per document (arm, seed, document, metric, value); what is reported is a function of sums
over documents. BLEU and perplexity are ratios of such sums, not means of documents' scores, so their columns are
sufficient statistics and a resample of documents is scored exactly. `loss` is the logarithm of perplexity, in nats per
token: differences of perplexity follow the seeds whose perplexity is high, those of its logarithm weigh seeds alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from rwkvgate.metrics.statistics import Floats, Reduce, mean

ORDERS = 4
BLEU_COLUMNS = (
    *(f"bleu_correct_{order}" for order in range(1, ORDERS + 1)),
    *(f"bleu_total_{order}" for order in range(1, ORDERS + 1)),
    "bleu_sys_len",
    "bleu_ref_len",
)
RESULT_COLUMNS = ("arm", "seed", "document", "metric", "value")


def perplexity_of_sums(sums: Floats, n: int) -> Floats:
    """exp(nll / tokens) from sums (..., (nll, tokens)); nan without tokens, inf beyond a float64."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return np.exp(sums[..., 0] / sums[..., 1])


def bits_per_byte_of_sums(sums: Floats, n: int) -> Floats:
    """nll / (ln 2 x bytes) from sums (..., (nll, bytes)); nan without bytes."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return sums[..., 0] / (np.log(2) * sums[..., 1])


def ratio_of_sums(sums: Floats, n: int) -> Floats:
    """The first sum over the second, (..., 2); nan where the second is zero."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return sums[..., 0] / sums[..., 1]


def added_loss_of_sums(sums: Floats, n: int) -> Floats:
    """(first - second) / third from sums (..., (nll, nll, tokens)), in nats per token; nan without tokens."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return (sums[..., 0] - sums[..., 1]) / sums[..., 2]


def bleu_of_sums(sums: Floats, n: int = 0) -> Floats:
    """Corpus BLEU, 0-1, from sums (..., columns in the order of `BLEU_COLUMNS`).

    The same arithmetic as `sacrebleu.BLEU.compute_bleu` with its default exponential smoothing, over many resamples at
    once: the k-th order without a match counts as 1 / 2^k of a match. 0 where no word matches, or where there is no
    n-gram of some order at all.

    Example:
        >>> round(float(bleu_of_sums(np.array([5.0, 4, 3, 2, 5, 4, 3, 2, 5, 5]))), 6)  # every n-gram matches
        1.0
    """
    correct, total = sums[..., :ORDERS], sums[..., ORDERS : 2 * ORDERS]
    produced, expected = sums[..., -2], sums[..., -1]
    smoothing = 0.5 ** np.cumsum(correct == 0, axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        precisions = np.where(correct > 0, correct, smoothing) / total
        brevity = np.exp(np.minimum(0.0, 1 - expected / produced))
        score = brevity * np.exp(np.log(precisions).mean(axis=-1))
    defined = (correct > 0).any(axis=-1) & (total > 0).all(axis=-1)
    return np.where(defined, score, 0.0)


@dataclass(frozen=True)
class Measure:
    """A corpus measure: its name, its label in tables, its columns, and the function of their sums.

    Attributes:
        columns: of `reduce`'s sums, in order.
        reduce: from sums (..., column) and the number of documents to the measure (...).
        better: whether higher or lower values are better.
        skip_undefined: a document that is nan is left out of every arm (a reference without words says nothing about
            the model). Otherwise nan comes from the model and makes the measure nan.
    """

    name: str
    label: str
    columns: tuple[str, ...]
    reduce: Reduce
    better: Literal["higher", "lower", "neither"]
    skip_undefined: bool = True


MEASURES = {
    measure.name: measure
    for measure in (
        Measure("perplexity", "Perplexity", ("nll", "tokens"), perplexity_of_sums, "lower", False),
        Measure("loss", "Log perplexity", ("nll", "tokens"), ratio_of_sums, "lower", False),
        Measure("bits_per_byte", "Bits per byte", ("nll", "bytes"), bits_per_byte_of_sums, "lower", False),
        Measure("bleu", "BLEU", BLEU_COLUMNS, bleu_of_sums, "higher"),
        Measure("rouge1", "ROUGE-1", ("rouge1",), mean, "higher"),
        Measure("rouge2", "ROUGE-2", ("rouge2",), mean, "higher"),
        Measure("rougeL", "ROUGE-L", ("rougeL",), mean, "higher"),
        Measure("rougeLsum", "ROUGE-Lsum", ("rougeLsum",), mean, "higher"),
        Measure("entity_consistency", "Entity consistency", ("entity_right", "entity_claims"), ratio_of_sums, "higher"),
        Measure("loss_far", "Loss beyond the trained length", ("far_nll", "far_tokens"), ratio_of_sums, "lower", False),
        Measure(
            "perplexity_natural",
            "Perplexity of natural text",
            ("natural_nll", "natural_tokens"),
            perplexity_of_sums,
            "lower",
            False,
        ),
        Measure(
            "perplexity_code", "Perplexity of code", ("code_nll", "code_tokens"), perplexity_of_sums, "lower", False
        ),
        Measure(
            "loss_natural",
            "Log perplexity of natural text",
            ("natural_nll", "natural_tokens"),
            ratio_of_sums,
            "lower",
            False,
        ),
        Measure("loss_code", "Log perplexity of code", ("code_nll", "code_tokens"), ratio_of_sums, "lower", False),
        Measure(
            "order_loss",
            "Loss by shuffling distant context",
            ("shuffled_nll", "intact_nll", "tail_tokens"),
            added_loss_of_sums,
            "neither",
            False,
        ),
        Measure("length_ratio", "Length ratio", ("length_ratio",), mean, "neither"),
        Measure("distinct1", "Distinct-1", ("distinct1",), mean, "neither"),
        Measure("distinct2", "Distinct-2", ("distinct2",), mean, "neither"),
        Measure("repetition4", "Repetition-4", ("repetition4",), mean, "neither"),
    )
}


def tidy(frame: pd.DataFrame, *, arm: str, seed: int) -> pd.DataFrame:
    """A frame with one row per document (from `score_texts`, `document_overlap`) as long results.

    Returns:
        Columns arm, seed, document, metric, value: one row per document and other column of the frame.

    Example:
        >>> tidy(pd.DataFrame({"document": [0, 1], "nll": [2.5, 3]}), arm="base", seed=0)
            arm  seed  document metric  value
        0  base     0         0    nll    2.5
        1  base     0         1    nll    3.0
    """
    long = frame.melt(id_vars="document", var_name="metric", value_name="value")
    long = long.assign(arm=arm, seed=seed, value=long["value"].astype("float64"))
    return long.loc[:, list(RESULT_COLUMNS)]


def documents_of(results: pd.DataFrame, measure: Measure, arm: str) -> dict[int, pd.DataFrame]:
    """The measure's columns of one arm per document: seed -> frame indexed by document, columns in the measure's order.

    A document without one of the columns is left out, and so is one with nan where the measure skips those.

    Raises:
        ValueError: results lack a column, or hold a document's metric twice.

    Example:
        >>> scores = pd.DataFrame({"document": [0, 1], "rouge1": [0.5, float("nan")]})
        >>> documents_of(tidy(scores, arm="base", seed=3), MEASURES["rouge1"], "base")[3]["rouge1"].to_dict()
        {0: 0.5}
    """
    missing = [column for column in RESULT_COLUMNS if column not in results]
    if missing:
        raise ValueError(f"results lack {', '.join(missing)}; they must have {', '.join(RESULT_COLUMNS)}")
    rows = results[results["arm"] == arm]
    rows = rows[rows["metric"].isin(measure.columns)]
    place = ["seed", "document"]
    try:
        wide = rows.pivot(index=place, columns="metric", values="value")
    except ValueError:
        raise ValueError(f"results of arm {arm!r} hold the same seed, document and metric more than once") from None
    if not set(measure.columns) <= set(wide.columns):
        return {}
    # A document counts if it has a row for every column, whatever the values.
    complete = rows.groupby(place).size().reindex(wide.index) == len(measure.columns)
    seeds = rows.groupby("seed")["metric"].nunique() == len(measure.columns)
    wide = wide.loc[complete, list(measure.columns)]
    wide = wide.dropna() if measure.skip_undefined else wide
    return {
        int(str(seed)): wide[wide.index.get_level_values("seed") == seed].droplevel("seed")
        for seed in seeds.index[seeds]
    }
