"""Overlap of continuations with references: BLEU by sacreBLEU, ROUGE by rouge-score, length and repetition.

Scores are per document, BLEU as the counts it is computed from, so that corpus scores can be resampled. All are 0-1
except the length ratio. The same metrics as modules of the `evaluate` library are in `evaluate_modules`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from rwkvgate.metrics.inference import refuse_one_string
from rwkvgate.metrics.measures import BLEU_COLUMNS, bleu_of_sums
from rwkvgate.rwkv6.extras import extra

if TYPE_CHECKING:
    from sacrebleu.metrics import BLEU

ROUGE_TYPES = ("rouge1", "rouge2", "rougeL", "rougeLsum")
ROUGE_COLUMNS = tuple(column for rouge in ROUGE_TYPES for column in (f"{rouge}_precision", f"{rouge}_recall", rouge))
BLEU_TOKENIZER = "13a"

# In scripts written without spaces each character is a word, or a whole sentence would be one.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
_ASCII_WORD = re.compile("[a-z0-9]+")


class UnicodeWords:
    """rouge-score's word tokenizer, widened from a-z and 0-9 to the letters and digits of every script.

    On ASCII text it equals the default without stemming. The default drops every other character, so that two
    identical Chinese texts score 0; here combining marks stay with their letters, and a character of a script
    written without spaces, a mark among them, is a word of its own. Text is not normalised: a letter and its mark in
    one character are another word than in two.

    Example:
        >>> UnicodeWords().tokenize("Café, 狐狸!")
        ['café', '狐', '狸']
    """

    name = "unicode-words"

    def tokenize(self, text: str) -> list[str]:
        """Lower-case words of a text, in order."""
        text = text.lower()
        if text.isascii():
            return _ASCII_WORD.findall(text)
        letters = "".join(char if unicodedata.category(char)[0] in "LNM" else " " for char in text)
        return _UNSPACED.sub(r" \g<0> ", letters).split()


WORDS = UnicodeWords()


@cache
def rouge_scorer() -> Any:
    """The `rouge_score.rouge_scorer.RougeScorer` used throughout: ROUGE-1, -2, -L and -Lsum, no stemming.

    For ROUGE-Lsum a sentence is a line, as in that package with `split_summaries` off.
    """
    with extra("metrics"):
        from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(list(ROUGE_TYPES), use_stemmer=False, split_summaries=False, tokenizer=WORDS)


def rouge_flags() -> str:
    """The settings and version that a ROUGE score depends on, written like a sacreBLEU signature.

    Example:
        >>> rouge_flags().rpartition("|")[0]
        'stemmer:no|tokenizer:unicode-words|score:f1|split:no'
    """
    return f"stemmer:no|tokenizer:{WORDS.name}|score:f1|split:no|version:{version('rouge-score')}"


@cache
def bleu_scorer(tokenize: str = BLEU_TOKENIZER) -> BLEU:
    """sacreBLEU's scorer with its defaults: case-sensitive, exponential smoothing, n-grams of up to four words.

    `force` only silences its warning about text that looks tokenised: models do end texts in " .".
    """
    with extra("metrics"):
        from sacrebleu.metrics import BLEU

    if tokenize not in BLEU.TOKENIZERS:
        raise ValueError(f"tokenize is {tokenize!r}; it must be one of {', '.join(BLEU.TOKENIZERS)}")
    return BLEU(tokenize=tokenize, force=True)


@cache
def bleu_signature(tokenize: str = BLEU_TOKENIZER) -> str:
    """sacreBLEU's signature for one reference per document.

    Example:
        >>> bleu_signature().rpartition("|")[0]
        'nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp'
    """
    scorer = bleu_scorer(tokenize)
    scorer.corpus_score(["a"], [["a"]])  # the signature is known only once references have been counted
    return str(scorer.get_signature())


def document_overlap(predictions: Sequence[str], references: Sequence[str]) -> pd.DataFrame:
    """The overlap of each prediction with its reference; both are detokenised text.

    Returns:
        One row per pair, in order: `document`; `bleu_correct_1..4`, `bleu_total_1..4`, `bleu_sys_len` and
        `bleu_ref_len` (n-gram and word counts under sacreBLEU's tokenizer); `rouge1`, `rouge2`, `rougeL` and
        `rougeLsum` (F1) with `_precision` and `_recall`; `length_ratio` (words of the prediction over words of the
        reference); `distinct1` and `distinct2` (distinct over all words, and word pairs, of the prediction, 0 where it
        has none: low means repetition); `repetition4` (share of its runs of four words that occurred before, 0 where
        it has none). An empty prediction scores 0 everywhere. Where the reference has no word every column is nan: no
        prediction could score.

    Raises:
        ValueError: the two lists differ in length, or one is a string.

    Example:
        >>> frame = document_overlap(["a fox ran", "a dog"], ["a fox slept", "a dog"])
        >>> frame["rouge1"].round(3).tolist(), frame["bleu_correct_1"].tolist()
        ([0.667, 1.0], [2.0, 2.0])
    """
    refuse_one_string(predictions=predictions, references=references)
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions for {len(references)} references; the counts must be equal")
    columns = [*BLEU_COLUMNS, *ROUGE_COLUMNS, "length_ratio", "distinct1", "distinct2", "repetition4"]
    rows = list(map(_overlap, predictions, references))
    frame = pd.DataFrame(rows, columns=columns, dtype="float64")
    frame.insert(0, "document", np.arange(len(rows), dtype=np.int64))
    return frame


def corpus_bleu(frame: pd.DataFrame) -> float:
    """Corpus BLEU, 0-1, of a frame from `document_overlap`; nan where no reference has a word.

    Example:
        >>> round(corpus_bleu(document_overlap(["a fox ran home"], ["a fox ran home"])), 6)
        1.0
    """
    counts = frame[list(BLEU_COLUMNS)].dropna().to_numpy(dtype=np.float64)
    return float(bleu_of_sums(counts.sum(axis=0))) if len(counts) else float("nan")


def distinct(words: Sequence[str], n: int) -> float:
    """Distinct over all n-grams of the words, in (0, 1]; 0 where there is none.

    Example:
        >>> distinct("a b a b a".split(), 2)
        0.5
    """
    ngrams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return len(set(ngrams)) / len(ngrams) if ngrams else 0.0


def repetition(words: Sequence[str], n: int = 4) -> float:
    """Share of n-grams that occurred before (seq-rep-n, arXiv 1908.04319); 0 where there is none.

    Example:
        >>> repetition("a b a b a".split(), 2)
        0.5
    """
    return 1 - distinct(words, n) if len(words) >= n else 0.0


def _overlap(prediction: str, reference: str) -> dict[str, float]:
    expected = WORDS.tokenize(reference)
    if not expected:
        return {}
    produced = WORDS.tokenize(prediction)
    bleu: Any = bleu_scorer().corpus_score([prediction], [[reference]])
    row = dict(zip(BLEU_COLUMNS, [*bleu.counts, *bleu.totals, bleu.sys_len, bleu.ref_len], strict=True))
    for rouge, score in rouge_scorer().score(reference, prediction).items():
        row |= {f"{rouge}_precision": score.precision, f"{rouge}_recall": score.recall, rouge: score.fmeasure}
    return row | {
        "length_ratio": len(produced) / len(expected),
        "distinct1": distinct(produced, 1),
        "distinct2": distinct(produced, 2),
        "repetition4": repetition(produced),
    }
