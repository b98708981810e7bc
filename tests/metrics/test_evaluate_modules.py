"""The metrics of `evaluate` equal their libraries on the libraries' own published examples, or sums by hand."""

from __future__ import annotations

import math
import pickle

import evaluate
import pytest
import sacrebleu
import torch
from rouge_score import rouge_scorer

from rwkvgate.metrics.evaluate_modules import METRICS, Bleu, Diversity, Perplexity, Rouge, metric
from rwkvgate.metrics.likelihood import perplexity, score_texts

# The example of sacreBLEU's README; its first stream of references is used alone for a single reference.
SYSTEM = ["The dog bit the man.", "It wasn't surprising.", "The man had just bitten him."]
REFERENCES = ["The dog bit the man.", "It was not unexpected.", "The man bit him first."]
SECOND = ["The dog had bit the man.", "No one was surprised.", "The man had bitten the dog."]
KINDS = ("rouge1", "rouge2", "rougeL", "rougeLsum")
TOLERANCE = 1e-5


def test_bleu():
    expected = sacrebleu.corpus_bleu(SYSTEM, [REFERENCES])
    scores = Bleu().compute(predictions=SYSTEM, references=REFERENCES)
    assert scores["bleu"] == pytest.approx(expected.score / 100, abs=1e-12)
    assert scores["precisions"][0] == pytest.approx(expected.precisions[0] / 100)
    assert scores["length_ratio"] == pytest.approx(expected.sys_len / expected.ref_len)
    assert scores["documents"] == 3
    assert scores["signature"] == f"nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:{sacrebleu.__version__}"


@pytest.mark.parametrize(("tokenize", "published"), [("13a", 48.530827), ("none", 49.1919566), ("intl", 43.91623493)])
def test_bleu_as_published_with_two_references(tokenize, published):
    both = [list(pair) for pair in zip(REFERENCES, SECOND, strict=True)]
    scores = Bleu(tokenize=tokenize).compute(predictions=SYSTEM, references=both)
    assert scores["bleu"] * 100 == pytest.approx(published, abs=1e-6)
    assert scores["signature"].startswith(f"nrefs:2|case:mixed|eff:no|tok:{tokenize}|")


@pytest.mark.parametrize(
    ("tokenize", "published"), [("13a", 8.493), ("none", 7.347), ("intl", 8.493), ("char", 40.8759)]
)
def test_bleu_as_published_for_one_sentence(tokenize, published):
    prediction = "Producția de zahăr primă va fi exprimată în ceea ce privește zahărul alb;"
    scores = Bleu().compute(
        predictions=[prediction], references=["producţia de zahăr brut se exprimă în zahăr alb;"], tokenize=tokenize
    )
    assert scores["bleu"] * 100 == pytest.approx(published, abs=1e-3)


@pytest.mark.parametrize(
    ("prediction", "reference", "published"), [("okay thanks", "this is a cat", 0), ("this is a test of it", None, 1)]
)
def test_bleu_at_its_ends(prediction, reference, published):
    scores = Bleu().compute(predictions=[prediction], references=[reference or prediction])
    assert scores["bleu"] == pytest.approx(published)


def test_bleu_with_more_references_for_some():
    ragged = [[REFERENCES[0]], [REFERENCES[1]], [REFERENCES[2], SECOND[2]]]
    expected = sacrebleu.corpus_bleu(SYSTEM, [REFERENCES, [None, None, SECOND[2]]])
    assert expected.score > sacrebleu.corpus_bleu(SYSTEM, [REFERENCES]).score + 1
    assert Bleu().compute(predictions=SYSTEM, references=ragged)["bleu"] == pytest.approx(expected.score / 100)
    # The scorer is shared: the next score must not remember how many references this one had.
    assert Bleu().compute(predictions=SYSTEM, references=REFERENCES)["signature"].startswith("nrefs:1|")


def test_pairs_without_a_word_in_the_reference_are_left_out():
    scores = Bleu().compute(predictions=[*SYSTEM, "x", "y"], references=[*REFERENCES, "", "..."])
    assert (scores["documents"], scores["empty_references"]) == (3, 2)
    assert scores["bleu"] == Bleu().compute(predictions=SYSTEM, references=REFERENCES)["bleu"]


@pytest.mark.parametrize("name", ["bleu", "rouge", "diversity"])
def test_added_piece_by_piece(name):
    pieces = pickle.loads(pickle.dumps(metric(name)))
    for prediction, reference in zip(SYSTEM, REFERENCES, strict=True):
        pieces.add(prediction=prediction, reference=reference)
    assert pieces.compute() == metric(name).compute(predictions=SYSTEM, references=REFERENCES)


def test_rouge():
    scores = Rouge().compute(predictions=[*SYSTEM, "x"], references=[*REFERENCES, ""])
    assert scores["per_document"]["rouge1"][0] == 1
    assert math.isnan(scores["per_document"]["rouge1"][3])
    assert (scores["documents"], scores["empty_references"]) == (3, 1)
    assert scores["rouge1"] == pytest.approx(sum(scores["per_document"]["rouge1"][:3]) / 3)
    assert scores["flags"].startswith("stemmer:no|tokenizer:unicode-words|score:f1|split:no|version:")


LINES = "The dog bit the man.\nIt was not unexpected.\nThe man bit him first."
TURNED = "It wasn't surprising.\n\nThe man had just bitten him.\nThe dog bit the man."
PAIRS = [
    # prediction, reference: of rouge-score's own tests, its README, and texts of several lines
    ("testing", "testing one two"),
    ("testing one", "testing one two"),
    ("testing two", "testing one two"),
    ("w1 w2 w6 w7 w8\nw1 w3 w8 w9 w5", "w1 w2 w3 w4 w5"),
    ("The quick brown dog jumps on the log.", "The quick brown fox jumps over the lazy dog"),
    ("/", "w1 w2 w3 w4 w5"),
    (TURNED, LINES),
    (LINES.replace("\n", " "), LINES),
    ("\n\n" + LINES + "\r\n", TURNED),
]


@pytest.mark.parametrize(("prediction", "reference"), PAIRS)
def test_rouge_is_rouge_scores(prediction, reference):
    scores = Rouge().compute(predictions=[prediction], references=[reference])
    scorer = rouge_scorer.RougeScorer(list(KINDS), use_stemmer=False, split_summaries=False)
    for rouge, score in scorer.score(reference, prediction).items():
        assert scores[rouge] == pytest.approx(score.fmeasure, abs=1e-12)
        assert scores[f"{rouge}_precision"] == pytest.approx(score.precision, abs=1e-12)
        assert scores[f"{rouge}_recall"] == pytest.approx(score.recall, abs=1e-12)


def test_rouge_as_published():
    predictions, references = zip(*PAIRS[:4], strict=True)
    scores = Rouge().compute(predictions=list(predictions), references=list(references))
    per_document = scores["per_document"]
    assert per_document["rouge1"][:2] == pytest.approx([1 / 2, 4 / 5])
    assert per_document["rouge2"][1] == pytest.approx(2 / 3)
    assert per_document["rougeL"][1:3] == pytest.approx([4 / 5, 4 / 5])
    assert per_document["rougeLsum"][3] == pytest.approx(0.5333, abs=1e-4)


def test_lines_matter_to_rouge_lsum_alone():
    turned = Rouge().compute(predictions=["b b\na a"], references=["a a\nb b"])
    assert turned["rougeLsum"] == 1 and turned["rougeL"] == 0.5
    flat = Rouge().compute(predictions=["b b a a"], references=["a a b b"])
    assert flat["rougeLsum"] == flat["rougeL"] == 0.5


def test_diversity_by_hand():
    # a b a b a b: pairs ab ba ab ba ab; fours abab baba abab. The second has six words, all different.
    scores = Diversity().compute(
        predictions=["a b a b a b", "c d e f g h", "a"], references=["a b c", "c d e f", "a b c d"]
    )
    per_document = scores["per_document"]
    assert per_document["distinct1"] == pytest.approx([2 / 6, 1, 1])
    assert per_document["distinct2"] == pytest.approx([2 / 5, 1, 0])
    assert per_document["repetition4"] == pytest.approx([1 / 3, 0, 0])
    assert per_document["length_ratio"] == pytest.approx([2, 1.5, 0.25])
    for name in ("distinct1", "distinct2", "repetition4", "length_ratio"):
        assert scores[name] == pytest.approx(sum(per_document[name]) / 3)
    assert scores["corpus_distinct1"] == pytest.approx(8 / 13)  # a-h among 13 words: the third's `a` is not new
    assert scores["corpus_distinct2"] == pytest.approx(7 / 10)
    nothing = Diversity().compute(predictions=[], references=[])
    assert all(
        math.isnan(nothing[name]) for name in ("distinct1", "repetition4", "corpus_distinct1", "corpus_distinct2")
    )
    assert scores["too_short"] == {1: 0, 2: 1, 4: 1}
    assert (scores["documents"], scores["empty_references"]) == (3, 0)
    assert scores["flags"] == "unit:unicode-words"


def test_diversity_of_other_orders_and_tokens(tokenizer):
    given = {"predictions": ["abab"], "references": ["ab"]}
    scores = Diversity(distinct_orders=[3], repetition_orders=[2]).compute(tokenizer=tokenizer, **given)
    assert scores["per_document"] == {"distinct3": [1], "repetition2": [pytest.approx(1 / 3)], "length_ratio": [2]}
    assert scores["flags"] == f"unit:token|tokenizer:{type(tokenizer).__name__}|vocabulary:257"
    with pytest.raises(ValueError, match="order 0 is 0; it must be at least 1"):
        Diversity(distinct_orders=[0]).compute(**given)


def test_perplexity(model, tokenizer):
    scores = Perplexity().compute(predictions=[*SYSTEM, ""], model=model, tokenizer=tokenizer)
    frame = score_texts(model, tokenizer, SYSTEM, batch_size=3)
    assert scores["perplexity"] == pytest.approx(perplexity(frame), rel=TOLERANCE)
    assert scores["tokens"] == int(frame["tokens"].sum()) and math.isnan(scores["per_document"][3])
    assert scores["bits_per_byte"] == pytest.approx(scores["nll"] / math.log(2) / scores["bytes"])
    settings = {name: scores[name] for name in ("window", "prefix_id", "carried", "tokenizer", "buckets")}
    name = f"{type(tokenizer).__name__}|vocabulary:257"
    assert settings == {"window": 1024, "prefix_id": 0, "carried": True, "tokenizer": name, "buckets": []}


def test_perplexity_is_the_models_own_loss(tiny_model):
    from rwkvgate import Rwkv6Tokenizer

    tokenizer = Rwkv6Tokenizer()
    model = tiny_model("enhanced", dtype=torch.float32, vocab_size=len(tokenizer))
    text = "Once upon a time, in a distant land, 狐狸 met a dog. " * 3
    ids = torch.tensor([[7, *tokenizer(text, add_special_tokens=False)["input_ids"]]])
    with torch.no_grad():
        expected = float(model(ids, labels=ids).loss)
    scores = Perplexity(model=model, tokenizer=tokenizer, prefix_id=7).compute(predictions=[text])
    assert math.log(scores["perplexity"]) == pytest.approx(expected, rel=TOLERANCE)
    assert scores["bits_per_byte"] == pytest.approx(expected * scores["tokens"] / math.log(2) / len(text.encode()))
    assert scores["prefix_id"] == 7 and scores["tokenizer"] == f"Rwkv6Tokenizer|vocabulary:{len(tokenizer)}"


def test_a_forgotten_state_is_windows_read_alone(model, tokenizer):
    text, window = "the fox saw a dog by the old mill and ran", 8
    scores = Perplexity(model=model, tokenizer=tokenizer, window=window).compute(predictions=[text], carried=False)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    nll = 0.0
    for start in range(0, len(ids), window):
        part = ids[start : start + window]
        inputs = torch.tensor([[ids[start - 1] if start else 0, *part[:-1]]])
        with torch.no_grad():
            logits = model(inputs).logits[0]
        nll -= float(logits.log_softmax(-1)[range(len(part)), part].sum())
    assert scores["nll"] == pytest.approx(nll, rel=TOLERANCE) and scores["carried"] is False
    carried = Perplexity(model=model, tokenizer=tokenizer, window=window).compute(predictions=[text])
    assert carried["nll"] != pytest.approx(nll, rel=1e-3)
    unwindowed = Perplexity(model=model, tokenizer=tokenizer).compute(predictions=[text], carried=False)
    assert unwindowed["nll"] == pytest.approx(carried["nll"], rel=TOLERANCE)


@pytest.mark.parametrize("carried", [True, False])
def test_buckets_of_positions(model, tokenizer, carried):
    texts = ["abcdefghij", "", "klm"]
    scorer = Perplexity(model=model, tokenizer=tokenizer, carried=carried, window=3)
    scores = scorer.compute(predictions=texts, buckets=[2, 6, 20])
    buckets = scores["buckets"]
    assert [(it["start"], it["stop"], it["tokens"]) for it in buckets] == [
        (0, 2, 4),
        (2, 6, 5),
        (6, 20, 4),
        (20, None, 0),
    ]
    assert sum(it["nll"] for it in buckets) == pytest.approx(scores["nll"])
    assert buckets[0]["perplexity"] == pytest.approx(math.exp(buckets[0]["nll"] / 4))
    assert math.isnan(buckets[3]["perplexity"])
    # The first two tokens' losses are those of the texts cut after two.
    cut = scorer.compute(predictions=[text[:2] for text in texts])
    assert buckets[0]["nll"] == pytest.approx(cut["nll"], rel=TOLERANCE)


@pytest.mark.parametrize("edges", [[0, 5], [5, 5], [9, 2], [-1]])
def test_edges_that_do_not_ascend_are_refused(model, tokenizer, edges):
    with pytest.raises(ValueError, match="its edges must ascend"):
        Perplexity(model=model, tokenizer=tokenizer, buckets=edges).compute(predictions=["a"])


def test_combined_by_name(model, tokenizer):
    options = {"perplexity": {"model": model, "tokenizer": tokenizer}}
    together = evaluate.combine([metric(name, **options.get(name, {})) for name in METRICS])
    scores = together.compute(predictions=SYSTEM, references=REFERENCES)
    assert scores["bleu_documents"] == scores["diversity_documents"] == 3
    assert scores["rougeLsum"] == Rouge().compute(predictions=SYSTEM, references=REFERENCES)["rougeLsum"]
    assert scores["perplexity"] > 1 and scores["bleu_length_ratio"] != scores["diversity_length_ratio"]


def test_unknown_names_and_options_and_missing_ones_are_refused():
    with pytest.raises(KeyError, match="unknown metric 'blue'; choose from bleu, rouge, diversity, perplexity"):
        metric("blue")
    with pytest.raises(TypeError, match="unknown option 'tokenise' of Bleu"):
        metric("bleu", tokenise="zh")
    with pytest.raises(TypeError, match="unknown option 'tokenise' of Bleu; it has tokenize"):
        Bleu(tokenise="zh")
    with pytest.raises(TypeError, match="unknown option 'stemmer' of Rouge; it has none"):
        Rouge().compute(predictions=["a"], references=["a"], stemmer=True)
    with pytest.raises(TypeError, match="Perplexity needs model and tokenizer, in its constructor or in compute"):
        Perplexity().compute(predictions=["a"])
