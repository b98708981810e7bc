"""BLEU and ROUGE equal their libraries' scores; empty texts and other edge cases have defined scores."""

from __future__ import annotations

import numpy as np
import pytest
import sacrebleu
from rouge_score import rouge_scorer, tokenize

from rwkvgate.metrics.measures import BLEU_COLUMNS, bleu_of_sums
from rwkvgate.metrics.overlap import (
    WORDS,
    bleu_signature,
    corpus_bleu,
    distinct,
    document_overlap,
    rouge_flags,
)

# The example in sacreBLEU's documentation, first reference stream.
SYSTEM = ["The dog bit the man.", "It wasn't surprising.", "The man had just bitten him."]
REFERENCES = ["The dog bit the man.", "It was not unexpected.", "The man bit him first."]


def test_corpus_bleu_is_sacrebleus():
    expected = sacrebleu.corpus_bleu(SYSTEM, [REFERENCES])
    frame = document_overlap(SYSTEM, REFERENCES)
    assert corpus_bleu(frame) == pytest.approx(expected.score / 100, abs=1e-12)
    assert frame[[f"bleu_correct_{n}" for n in range(1, 5)]].sum().tolist() == expected.counts
    assert bleu_signature() == f"nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:{sacrebleu.__version__}"


def test_an_unknown_tokenizer_and_one_string_are_refused():
    with pytest.raises(ValueError, match="tokenize is 'foo'; it must be one of none, zh, 13a"):
        bleu_signature("foo")
    with pytest.raises(ValueError, match="references is one string"):
        document_overlap(["a"], "a")


def test_bleu_of_sums_is_sacrebleus_for_any_counts():
    rng = np.random.default_rng(0)
    total = np.sort(rng.integers(0, 40, (500, 4)), axis=1)[:, ::-1]
    correct = np.sort(rng.binomial(total, rng.random((500, 1)) ** 3), axis=1)[:, ::-1]
    correct = np.minimum(correct, total)
    produced, reference = total[:, :1], rng.integers(1, 60, (500, 1))
    sums = np.hstack([correct, total, produced, reference]).astype(float)
    expected = [
        sacrebleu.BLEU.compute_bleu(
            row[:4].tolist(), row[4:8].tolist(), int(row[8]), int(row[9]), smooth_method="exp"
        ).score
        for row in sums
    ]
    assert bleu_of_sums(sums) * 100 == pytest.approx(expected, abs=1e-9)


def test_rouge_is_rouge_scores_default_on_english():
    scorer = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=False)
    frame = document_overlap(SYSTEM, REFERENCES)
    for row, (prediction, reference) in enumerate(zip(SYSTEM, REFERENCES, strict=True)):
        for rouge, score in scorer.score(reference, prediction).items():
            assert frame.loc[row, rouge] == pytest.approx(score.fmeasure)
            assert frame.loc[row, f"{rouge}_precision"] == pytest.approx(score.precision)
            assert frame.loc[row, f"{rouge}_recall"] == pytest.approx(score.recall)
    assert rouge_flags().startswith("stemmer:no|tokenizer:unicode-words|")


@pytest.mark.parametrize("text", ["The quick_brown fox -- can't  jump 3.14\n times!", "", "...", "A1b2 C"])
def test_words_equal_the_default_tokenizer_on_ascii(text):
    assert WORDS.tokenize(text) == tokenize.tokenize(text, None)


def test_words_of_other_scripts():
    assert WORDS.tokenize("Café, naïve!") == ["café", "naïve"]
    assert WORDS.tokenize("狐狸 runs") == ["狐", "狸", "runs"]
    assert WORDS.tokenize("हिन्दी भाषा") == ["हिन्दी", "भाषा"]
    chinese = "从前有一只狐狸。"
    assert document_overlap([chinese], [chinese]).loc[0, ["rouge1", "rougeL"]].tolist() == [1, 1]


def test_identical_texts_score_one():
    frame = document_overlap(REFERENCES, REFERENCES)
    assert corpus_bleu(frame) == pytest.approx(1)
    assert (frame[["rouge1", "rouge2", "rougeL", "length_ratio"]] == 1).all(axis=None)


def test_empty_predictions_score_nothing_and_empty_references_are_undefined():
    frame = document_overlap(["", "a fox", ""], ["a fox", " ...", ""])
    assert frame.loc[0, ["rouge1", "rougeL", "length_ratio", "distinct2", "bleu_sys_len"]].tolist() == [0] * 5
    assert frame.loc[0, "bleu_ref_len"] == 2
    assert frame.loc[1:].drop(columns="document").isna().all(axis=None)
    assert corpus_bleu(frame) == 0
    assert np.isnan(corpus_bleu(frame.loc[1:]))
    assert len(document_overlap([], [])) == 0 and set(BLEU_COLUMNS) < set(frame.columns)


def test_repetition_and_unequal_lists():
    assert distinct(["a", "b", "a", "b", "a"], 2) == 0.5
    assert distinct(["a"], 2) == 0
    with pytest.raises(ValueError, match="1 predictions for 0 references"):
        document_overlap(["a"], [])
