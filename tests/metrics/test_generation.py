"""Greedy continuations: batched equals alone equals a plain loop."""

from __future__ import annotations

import pytest
import torch
from transformers import RwkvConfig, RwkvForCausalLM

from rwkvgate.metrics.generation import continue_prompts, end_ids
from rwkvgate.metrics.long_range import Probe, probe_gains

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


def test_a_model_that_ignores_padding_reads_row_by_row(tokenizer):
    """transformers' RWKV-4 takes padding for text."""
    torch.manual_seed(0)
    sizes = {"vocab_size": len(tokenizer), "hidden_size": 16, "num_hidden_layers": 2, "rescale_every": 0}
    model = RwkvForCausalLM(RwkvConfig(**sizes)).eval()
    alone, together = (continue_prompts(model, tokenizer, PROMPTS, new_tokens=6, batch_size=n) for n in (1, 4))
    assert alone == together and any(alone)
    asked = [Probe("copying", tuple(range(i, i + 9)), tuple(range(20, 29)), (i, 7)) for i in range(4)]
    alone, together = (probe_gains(model, asked, batch_size=n, window=8)["gain"].tolist() for n in (1, 4))
    assert alone == pytest.approx(together, abs=1e-6)


def test_one_string_is_no_list_of_prompts(model, tokenizer):
    with pytest.raises(ValueError, match="texts is one string; it must be a list of strings"):
        continue_prompts(model, tokenizer, "ab", new_tokens=3, batch_size=2)
