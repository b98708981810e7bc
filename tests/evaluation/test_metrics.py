"""The same numbers behind the interface of the `evaluate` library."""

from __future__ import annotations

import math

import pytest
import sacrebleu

from rwkvgate.evaluation.likelihood import perplexity, score_texts
from rwkvgate.evaluation.metrics import Bleu, Perplexity, Rouge

SYSTEM = ["The dog bit the man.", "It wasn't surprising.", "The man had just bitten him."]
REFERENCES = ["The dog bit the man.", "It was not unexpected.", "The man bit him first."]


def test_bleu():
    expected = sacrebleu.corpus_bleu(SYSTEM, [REFERENCES])
    found = Bleu().compute(predictions=SYSTEM, references=REFERENCES)
    assert found["bleu"] == pytest.approx(expected.score / 100)
    assert found["precisions"][0] == pytest.approx(expected.precisions[0] / 100)
    assert found["documents"] == 3 and "tok:13a" in found["signature"]


def test_bleu_added_piece_by_piece():
    metric = Bleu()
    for prediction, reference in zip(SYSTEM, REFERENCES, strict=True):
        metric.add(prediction=prediction, reference=reference)
    whole = Bleu().compute(predictions=SYSTEM, references=REFERENCES)
    assert metric.compute() == whole


def test_rouge():
    found = Rouge().compute(predictions=[*SYSTEM, "x"], references=[*REFERENCES, ""])
    assert found["per_document"]["rouge1"][0] == 1
    assert math.isnan(found["per_document"]["rouge1"][3]) and found["documents"] == 3
    assert found["rouge1"] == pytest.approx(sum(found["per_document"]["rouge1"][:3]) / 3)


def test_perplexity(model, tokenizer):
    found = Perplexity().compute(predictions=[*SYSTEM, ""], model=model, tokenizer=tokenizer)
    frame = score_texts(model, tokenizer, SYSTEM, batch_size=3)
    assert found["perplexity"] == pytest.approx(perplexity(frame), rel=1e-5)
    assert found["tokens"] == int(frame["tokens"].sum()) and math.isnan(found["per_document"][3])
