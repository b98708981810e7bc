"""Greedy continuations: batched equals alone equals a plain loop."""

from __future__ import annotations

import pytest
import torch

from rwkvgate.metrics.generation import continue_prompts, end_ids

PROMPTS = ["Once upon a time", "", "x", "In the realm of artificial intelligence, minds", "狐狸", "ab" * 30]


def plain(model, tokenizer, prompt, new_tokens):
    ids = [0, *tokenizer(prompt, add_special_tokens=False)["input_ids"]]
    written: list[int] = []
    with torch.no_grad():
        for _ in range(new_tokens):
            token = int(model(torch.tensor([ids + written])).logits[0, -1].argmax())
            if token == 0:
                break
            written.append(token)
    return tokenizer.decode(written, skip_special_tokens=True, clean_up_tokenization_spaces=False)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_batched_equals_alone_equals_a_loop(make_model, tokenizer, seed):
    model = make_model(seed)
    expected = [plain(model, tokenizer, prompt, 12) for prompt in PROMPTS]
    assert any(expected)
    assert continue_prompts(model, tokenizer, PROMPTS, new_tokens=12, batch_size=4) == expected
    assert continue_prompts(model, tokenizer, PROMPTS, new_tokens=12, batch_size=1) == expected


def test_it_stops_at_the_end_of_text(model, tokenizer):
    with torch.no_grad():
        model.head.bias[0] = 1e4
    assert continue_prompts(model, tokenizer, PROMPTS, new_tokens=5, batch_size=3) == [""] * len(PROMPTS)


def test_end_ids_come_from_the_model_then_the_tokenizer(model, tokenizer):
    model.generation_config.eos_token_id = [5, 6]
    assert end_ids(model, tokenizer) == [5, 6]
    model.generation_config.eos_token_id = None
    assert end_ids(model, tokenizer) == [0]


def test_nothing_to_do_and_impossible_sizes(model, tokenizer):
    assert continue_prompts(model, tokenizer, [], new_tokens=3, batch_size=2) == []
    with pytest.raises(ValueError, match="new_tokens is 0"):
        continue_prompts(model, tokenizer, ["a"], new_tokens=0, batch_size=2)
