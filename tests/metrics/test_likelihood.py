"""Likelihood against a loop in float64, whatever the batch and the window."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from rwkvgate import Rwkv6Tokenizer
from rwkvgate.metrics.likelihood import bits_per_byte, perplexity, plan_batches, score_texts, token_losses

TEXTS = ["Once upon a time, in a distant land...", "", "a", "Füchse & 狐狸", "x" * 63, "the end. " * 20]
TOLERANCE = 1e-5


def direct(model, tokenizer, text):
    """Token by token, in float64, from the prefix."""
    model = model.double()
    state, previous, total = None, 0, 0.0
    with torch.no_grad():
        for token in tokenizer(text, add_special_tokens=False)["input_ids"]:
            output = model(torch.tensor([[previous]]), past_key_values=state)
            total -= float(output.logits[0, -1].log_softmax(-1)[token])
            state, previous = output.past_key_values, token
    return total


def test_equals_a_loop_in_float64(make_model, tokenizer):
    frame = score_texts(make_model(), tokenizer, TEXTS, batch_size=4, window=16)
    expected = [direct(make_model(), tokenizer, text) for text in TEXTS]
    assert frame["nll"].tolist() == pytest.approx(expected, rel=TOLERANCE)
    assert frame["document"].tolist() == list(range(len(TEXTS)))
    assert frame["tokens"].tolist() == [len(text.encode()) for text in TEXTS]
    assert frame["bytes"].tolist() == [len(text.encode()) for text in TEXTS]


@pytest.mark.parametrize(("batch_size", "window"), [(1, 1024), (2, 7), (6, 1), (3, 64)])
def test_batch_and_window_change_nothing(model, tokenizer, batch_size, window):
    expected = score_texts(model, tokenizer, TEXTS, batch_size=6, window=1024)
    frame = score_texts(model, tokenizer, TEXTS, batch_size=batch_size, window=window)
    assert frame["nll"].tolist() == pytest.approx(expected["nll"].tolist(), rel=TOLERANCE)


@pytest.mark.parametrize("model_type", ["gpt2", "rwkv"])
@pytest.mark.parametrize("window", [1, 4, 8])
def test_models_of_transformers_read_in_windows_what_they_read_at_once(model_type, window):
    small = {"gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2}, "rwkv": {"hidden_size": 16, "num_hidden_layers": 2}}
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, vocab_size=37, **small[model_type])
    model = AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():  # differences show where nothing is near zero
        nn.init.normal_(parameter, std=0.5)
    sequences = [list(range(1, 1 + n)) for n in (9, 9, 6, 5)]
    wanted = [token_losses(model, [one], batch_size=1)[0] for one in sequences]
    found = token_losses(model, sequences, batch_size=4, window=window)
    for here, there in zip(found, wanted, strict=True):
        np.testing.assert_allclose(here, there, rtol=1e-3)


def test_text_that_no_utf8_has(model):
    assert score_texts(model, Rwkv6Tokenizer(), ["a\ud800"], batch_size=1)["bytes"].tolist() == [4]


def test_a_hundred_thousand_tokens_in_bounded_windows(model, tokenizer):
    model.shapes.clear()
    frame = score_texts(model, tokenizer, ["abcdefghij" * 10_000, "short"], batch_size=8, window=512)
    assert frame["tokens"].tolist() == [100_000, 5]
    assert max(width for _, width in model.shapes) == 512
    # The short text is not dragged along as 200 windows of padding.
    assert [rows for rows, _ in model.shapes] == [1] * len(model.shapes)
    assert math.isfinite(perplexity(frame))


def test_empty_texts_are_listed_and_not_averaged_in(model, tokenizer):
    frame = score_texts(model, tokenizer, ["", "word", ""], batch_size=2)
    assert frame[["nll", "tokens", "bytes"]].iloc[0].tolist() == [0, 0, 0]
    alone = score_texts(model, tokenizer, ["word"], batch_size=2)
    assert perplexity(frame) == pytest.approx(perplexity(alone), rel=TOLERANCE)
    empty = score_texts(model, tokenizer, [""], batch_size=1)
    assert math.isnan(perplexity(empty)) and math.isnan(bits_per_byte(empty))
    assert len(score_texts(model, tokenizer, [], batch_size=1)) == 0


def test_perplexity_is_over_tokens_and_bits_over_bytes(model, tokenizer):
    frame = score_texts(model, tokenizer, TEXTS, batch_size=3)
    assert perplexity(frame) == pytest.approx(math.exp(frame["nll"].sum() / frame["tokens"].sum()))
    assert bits_per_byte(frame) == pytest.approx(math.log2(perplexity(frame)))  # here a token is a byte


def test_modes_are_restored_and_progress_is_reported(model, tokenizer):
    model.train()
    model.head.eval()
    calls = []
    score_texts(model, tokenizer, TEXTS, batch_size=2, progress=lambda done, of: calls.append((done, of)))
    assert model.training and not model.head.training
    assert calls[-1] == (len(TEXTS), len(TEXTS))
    assert calls == sorted(calls)


def test_half_precision_is_scored_in_float32(make_model, tokenizer):
    frame = score_texts(make_model().bfloat16(), tokenizer, TEXTS, batch_size=2)
    exact = score_texts(make_model(), tokenizer, TEXTS, batch_size=2)
    assert perplexity(frame) == pytest.approx(perplexity(exact), rel=0.05)


def test_batches_hold_every_document_once():
    lengths = [5, 0, 900, 30, 31, 0, 2000, 29]
    batches = plan_batches(lengths, batch_size=2, window=16)
    assert sorted(row for batch in batches for row in batch) == [0, 2, 3, 4, 6, 7]
    assert all(len(batch) <= 2 for batch in batches)


@pytest.mark.parametrize(
    "wrong", [{"batch_size": 0}, {"batch_size": 1, "window": 0}, {"batch_size": 1, "window": 1.5}, {"batch_size": True}]
)
def test_impossible_sizes_are_refused(model, tokenizer, wrong):
    with pytest.raises(ValueError, match="at least 1"):
        score_texts(model, tokenizer, ["a"], **wrong)
