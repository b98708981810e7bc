"""BERTScore equals the bert-score package: beside it where it is installed, by a table of its numbers everywhere."""

from __future__ import annotations

import json
import math
import pickle
from pathlib import Path

import pytest
import torch
import transformers
from tokenizers import pre_tokenizers
from transformers import RobertaTokenizer, T5Config, T5Model

import rwkvgate
from rwkvgate.metrics.bertscore import SCORES, BertScore
from tests.metrics.encoders import bert, drawn, roberta, wordpieces

TOLERANCE = 1e-5

# The examples of the bert-score package's own tests.
CANDIDATES = [
    "28-year-old chef found dead in San Francisco mall",
    "A 28-year-old chef who recently moved to San Francisco was found dead in the staircase of a local shopping "
    "center.",
    "The victim's brother said he cannot imagine anyone who would want to harm him,\"Finally, it went uphill again at "
    'him."',
]
REFERENCES = [
    "28-Year-Old Chef Found Dead at San Francisco Mall",
    "A 28-year-old chef who had recently moved to San Francisco was found dead in the stairwell of a local mall this "
    "week.",
    "But the victim's brother says he can't think of anyone who would want to hurt him, saying, \"Things were finally "
    'going well for him."',
]
OTHERS = (
    ["从前有一只狐狸。", "كان يا ما كان ثعلب", "🦊 a fox 🦊", "a " * 200, "mall", "word"],
    ["从前有猫", "كان هناك قط", "the 🦊", "aaaa", "the mall of the chef", "dead"],
)
# What bert-score 0.3.13 says of them with the encoder `bert()`, by layer and idf.
PACKAGE = {
    (0, False): {
        "precision": [0.992504, 0.816647, 0.808306],
        "recall": [0.992504, 0.817792, 0.794472],
        "f1": [0.992504, 0.817219, 0.801329],
    },
    (0, True): {
        "precision": [0.967983, 0.766115, 0.785253],
        "recall": [0.967983, 0.811575, 0.780694],
        "f1": [0.967983, 0.78819, 0.782966],
    },
    (2, False): {
        "precision": [0.999077, 0.98515, 0.979418],
        "recall": [0.99919, 0.98227, 0.981517],
        "f1": [0.999134, 0.983708, 0.980466],
    },
    (2, True): {
        "precision": [0.996431, 0.983881, 0.975043],
        "recall": [0.996915, 0.983264, 0.981286],
        "f1": [0.996673, 0.983572, 0.978154],
    },
    (3, False): {
        "precision": [0.999639, 0.991142, 0.986095],
        "recall": [0.999639, 0.990589, 0.987548],
        "f1": [0.999639, 0.990865, 0.986821],
    },
    (3, True): {
        "precision": [0.998877, 0.989964, 0.983211],
        "recall": [0.998877, 0.990267, 0.986516],
        "f1": [0.998877, 0.990116, 0.984861],
    },
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("encoder")
    bert().save_pretrained(path)
    wordpieces().save_pretrained(path)
    return path


def package_scores(folder, predictions, references, layer, idf):
    package = pytest.importorskip("bert_score", reason="bert-score is not installed: its numbers are in PACKAGE")
    scores = package.score(
        predictions,
        references,
        model_type=str(folder),
        num_layers=layer,
        idf=idf,
        nthreads=0,
        device="cpu",
        use_fast_tokenizer=True,
    )
    return dict(zip(SCORES, (column.tolist() for column in scores), strict=True))


def close(found, wanted):
    for name in SCORES:
        assert found["per_document"][name] == pytest.approx(wanted[name], abs=TOLERANCE), name


@pytest.mark.parametrize("idf", [False, True])
@pytest.mark.parametrize("layer", [0, 2, 3])
def test_the_packages_numbers(folder, layer, idf):
    found = BertScore(model=folder, layer=layer, idf=idf).compute(predictions=CANDIDATES, references=REFERENCES)
    close(found, PACKAGE[layer, idf])
    assert found["f1"] == pytest.approx(sum(PACKAGE[layer, idf]["f1"]) / 3, abs=TOLERANCE)
    assert found["documents"] == 3


@pytest.mark.parametrize("idf", [False, True])
@pytest.mark.parametrize("layer", [0, 2, 3])
def test_beside_the_package(folder, layer, idf):
    predictions, references = CANDIDATES + OTHERS[0], REFERENCES + OTHERS[1]
    wanted = package_scores(folder, predictions, references, layer, idf)
    for batch_size in (1, 4, 16):
        metric = BertScore(model=folder, layer=layer, idf=idf, batch_size=batch_size)
        close(metric.compute(predictions=predictions, references=references), wanted)


def byte_level(**options) -> RobertaTokenizer:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *letters, "Ġt", "th", "Ġth"]
    vocabulary = {piece: place for place, piece in enumerate(pieces)}
    merges = [("Ġ", "t"), ("t", "h"), ("Ġt", "h")]
    return RobertaTokenizer(vocab=vocabulary, merges=merges, model_max_length=64, **options)


@pytest.mark.parametrize("idf", [False, True])
def test_roberta_beside_the_package(tmp_path, idf):
    tokenizer = byte_level(add_prefix_space=True)
    tokenizer.save_pretrained(tmp_path)
    roberta(len(tokenizer)).save_pretrained(tmp_path)
    predictions, references = ["the cat sat", "A Füchs 狐", "x" * 100], ["the mat of the", "狐 Fuchs!", "y" * 9]
    wanted = package_scores(tmp_path, predictions, references, 2, idf)
    close(BertScore().compute(predictions=predictions, references=references, model=tmp_path, layer=2, idf=idf), wanted)


def test_a_first_word_is_read_as_any_other_by_byte_level_tokenizers():
    model = roberta(len(byte_level()))
    given = {"predictions": ["the cat"], "references": ["at the mill"], "layer": 2}
    spaced, plain = ((model, byte_level(add_prefix_space=added)) for added in (True, False))
    assert BertScore().compute(model=plain, **given)["f1"] == BertScore().compute(model=spaced, **given)["f1"]


def by_hand(model, tokenizer, prediction, reference, layer, weights=None):
    """The equations of the paper, token by token in float64."""
    sides = []
    for text in (prediction, reference):
        ids = tokenizer(text)["input_ids"]
        with torch.no_grad():
            states = model(torch.tensor([ids]), output_hidden_states=True).hidden_states[layer][0]
        sides.append((ids, states.double()))
    ends = {tokenizer.cls_token_id, tokenizer.sep_token_id}
    scores = []
    for (ids, states), (_, others) in (sides, sides[::-1]):
        weight = [(weights or {}).get(token, 1.0) * (token not in ends) for token in ids]
        best = [max(float(torch.cosine_similarity(one, other, dim=0)) for other in others) for one in states]
        scores.append(sum(w * b for w, b in zip(weight, best, strict=True)) / sum(weight))
    return scores


def test_equals_the_equations():
    model, tokenizer = bert(3).double(), wordpieces()
    predictions, references = CANDIDATES + OTHERS[0][:3], REFERENCES + OTHERS[1][:3]
    metric = BertScore(model=(model, tokenizer), layer=3)
    found = metric.compute(predictions=predictions, references=references)["per_document"]
    for row, pair in enumerate(zip(predictions, references, strict=True)):
        precision, recall = by_hand(model, tokenizer, *pair, 3)
        assert found["precision"][row] == pytest.approx(precision, abs=TOLERANCE)
        assert found["recall"][row] == pytest.approx(recall, abs=TOLERANCE)
        assert found["f1"][row] == pytest.approx(2 * precision * recall / (precision + recall), abs=TOLERANCE)


def test_idf_weighs_by_the_references():
    model, tokenizer = bert(4), wordpieces()
    predictions, references = ["the chef found the mall", "a mall"], ["the dead chef", "the mall"]
    ids = {word: tokenizer.convert_tokens_to_ids(word) for word in ("the", "dead", "chef", "mall", "found", "a")}
    # `the` is in both references, `chef`, `dead` and `mall` in one, `found` and `a` in none.
    held = {"the": 2, "chef": 1, "dead": 1, "mall": 1, "found": 0, "a": 0}
    weights = {ids[word]: math.log(3 / (count + 1)) for word, count in held.items()}
    found = BertScore(model=(model, tokenizer), layer=2, idf=True).compute(
        predictions=predictions, references=references
    )
    for row, pair in enumerate(zip(predictions, references, strict=True)):
        precision, recall = by_hand(model, tokenizer, *pair, 2, weights)
        assert found["per_document"]["precision"][row] == pytest.approx(precision, abs=TOLERANCE)
        assert found["per_document"]["recall"][row] == pytest.approx(recall, abs=TOLERANCE)


def test_identical_texts_score_one_in_every_script():
    texts = CANDIDATES + OTHERS[0][:3]
    found = BertScore(model=(bert(), wordpieces()), layer=2).compute(predictions=texts, references=texts)
    assert found["per_document"]["f1"] == pytest.approx([1] * len(texts), abs=TOLERANCE)
    assert found["notes"] == []


def test_texts_without_tokens_are_counted_apart():
    metric = BertScore(model=(bert(), wordpieces()), layer=2)
    found = metric.compute(
        predictions=["", " \n", "a mall", "a mall", "", "a " * 200], references=["a mall", "x", "a mall", "", "\t", "a"]
    )
    f1 = found["per_document"]["f1"]
    assert f1[:2] == [0, 0] and f1[2] == pytest.approx(1) and math.isnan(f1[3]) and math.isnan(f1[4])
    counts = {name: found[name] for name in ("documents", "empty_predictions", "empty_references", "truncated")}
    assert counts == {"documents": 4, "empty_predictions": 3, "empty_references": 2, "truncated": 1}
    assert found["f1"] == pytest.approx((1 + f1[5]) / 4)
    assert [note.split(": ")[-1] for note in found["notes"]] == ["3", "2", "1"]


def test_a_pair_that_weighs_nothing_is_undefined():
    metric = BertScore(model=(bert(), wordpieces()), layer=2, idf=True)
    found = metric.compute(predictions=["a mall"], references=["the mall"])
    assert found["unweighted"] == 1 and found["documents"] == 0 and math.isnan(found["f1"])
    assert len(found["notes"]) == 1
    assert math.isnan(metric.compute(predictions=[], references=[])["f1"])


def test_the_hash_says_what_a_score_hangs_on(folder):
    given = {"predictions": ["a"], "references": ["a"]}
    versions = f"version=rwkvgate-{rwkvgate.__version__}(hug_trans={transformers.__version__})"
    metric = BertScore(model=str(folder))
    assert metric.compute(layer=2, **given)["hash"] == f"{folder.name}_L2_no-idf_{versions}"
    assert metric.compute(layer=1, idf=True, **given)["hash"] == f"{folder.name}_L1_idf_{versions}"
    pair = BertScore(model=(bert(), wordpieces()), layer=2)
    assert pair.compute(**given)["hash"] == f"BertModel_L2_no-idf_{versions}"
    assert pickle.loads(pickle.dumps(metric)).compute(layer=2, **given)["f1"] == pytest.approx(1)


def test_an_encoder_of_an_encoder_and_decoder():
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_heads": 2, "num_layers": 2}
    model = drawn(T5Model(T5Config(vocab_size=len(wordpieces()), **sizes)), 0)
    found = BertScore(model=(model, wordpieces()), layer=2).compute(predictions=CANDIDATES, references=CANDIDATES)
    assert found["f1"] == pytest.approx(1, abs=TOLERANCE)


def test_the_model_is_left_as_it_was():
    model = bert().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.embeddings.eval()
    metric = BertScore(model=(model, wordpieces()), layer=1)
    first = metric.compute(predictions=CANDIDATES, references=REFERENCES)
    assert first == metric.compute(predictions=CANDIDATES, references=REFERENCES)
    assert model.training and not model.embeddings.training and len(model.encoder.layer) == 3
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_code_that_comes_with_a_model_is_refused(folder, tmp_path):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "strange", "auto_map": {"AutoConfig": "code.C", "AutoModel": "code.M"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(ValueError, match="trust_remote_code"):
        BertScore(model=tmp_path, layer=1).compute(predictions=["a"], references=["a"])
    assert not (tmp_path / "ran").exists()


def test_impossible_requests_are_refused(folder):
    given = {"predictions": ["a"], "references": ["a"], "model": folder}
    with pytest.raises(ValueError, match=r"layer is 4; .* has the layers 0 to 3"):
        BertScore().compute(layer=4, **given)
    with pytest.raises(ValueError, match="batch_size is 0"):
        BertScore().compute(layer=1, batch_size=0, **given)
    with pytest.raises(TypeError, match="BertScore needs layer, in its constructor or in compute"):
        BertScore().compute(**given)
