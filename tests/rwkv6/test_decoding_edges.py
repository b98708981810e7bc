"""`generate` in combinations: beams with padding or a state, sampled beams, embeddings, brute force."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

NEW = 10
GATES = pytest.mark.parametrize("arm", [None, "enhanced"])


def endless(model: Any) -> Any:
    """The model with no token that ends a text."""
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model


def generate(model: Any, ids: Tensor, **options: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return model.generate(ids, **({"max_new_tokens": NEW, "do_sample": False} | options))


@torch.no_grad()
def most_likely(model: Any, ids: Tensor, new: int, vocabulary: int) -> Tensor:
    """The continuation of highest probability among all there are."""
    every = torch.tensor(list(itertools.product(range(vocabulary), repeat=new)))
    texts = torch.cat((ids.expand(len(every), -1), every), dim=1)
    logs = torch.log_softmax(model(texts, use_cache=False).logits[:, -new - 1 : -1].float(), dim=-1)
    return texts[logs.gather(2, every.unsqueeze(-1)).sum((1, 2)).argmax()]


@GATES
@pytest.mark.parametrize("seed", range(3))
def test_wide_beams_find_the_most_likely_text(tiny_model: Any, arm: str | None, seed: int) -> None:
    model = endless(tiny_model(arm, vocab_size=6))
    ids = torch.randint(1, 6, (1, 5), generator=torch.Generator().manual_seed(seed))
    found = generate(model, ids, max_new_tokens=3, num_beams=36)  # as many beams as texts one token short
    assert torch.equal(found[0], most_likely(model, ids, 3, 6))


@pytest.mark.parametrize(
    "options",
    [
        {"do_sample": True, "num_return_sequences": 3},
        {"do_sample": True, "num_beams": 3},
        {"num_beams": 4, "num_return_sequences": 4},
    ],
    ids=["several", "sampled beams", "all beams"],
)
@GATES
def test_the_cache_changes_nothing(tiny_model: Any, tokens: Any, arm: str | None, options: dict[str, Any]) -> None:
    model, ids = endless(tiny_model(arm)), tokens(2, 5)
    assert torch.equal(generate(model, ids, **options), generate(model, ids, use_cache=False, **options))


@GATES
def test_beams_on_left_padded_prompts_go_on_as_alone(tiny_model: Any, tokens: Any, arm: str | None) -> None:
    model, prompts = endless(tiny_model(arm)), [tokens(1, length, length) for length in (9, 1, 4)]
    ids, mask = (torch.zeros(3, 9, dtype=torch.long) for _ in range(2))
    for i, prompt in enumerate(prompts):
        ids[i, 9 - prompt.shape[1] :], mask[i, 9 - prompt.shape[1] :] = prompt, 1
    found = generate(model, ids, attention_mask=mask, num_beams=3)
    for row, prompt in zip(found, prompts, strict=True):
        assert torch.equal(row[9:], generate(model, prompt, num_beams=3)[0, prompt.shape[1] :])


@GATES
def test_beams_go_on_from_a_state(tiny_model: Any, tokens: Any, arm: str | None) -> None:
    model, ids = endless(tiny_model(arm)), tokens(2, 9)
    state = model(ids[:, :5], use_cache=True).past_key_values.detach()
    repeated = state.select([0, 0, 0, 1, 1, 1])  # a beam is a row of its own
    mask = torch.ones_like(ids)
    found = generate(model, ids[:, 5:], attention_mask=mask, past_key_values=repeated, num_beams=3)
    assert torch.equal(found[:, 4:], generate(model, ids, num_beams=3)[:, 9:])


@GATES
def test_a_returned_state_goes_on_with_the_text(tiny_model: Any, tokens: Any, arm: str | None) -> None:
    model, ids = endless(tiny_model(arm)), tokens(2, 5)
    first = generate(model, ids, max_new_tokens=4, return_dict_in_generate=True)
    again = generate(model, first.sequences, past_key_values=first.past_key_values, max_new_tokens=4)
    assert torch.equal(again, generate(model, ids, max_new_tokens=8))


@GATES
def test_embeddings_stand_in_for_a_prompt(tiny_model: Any, tokens: Any, arm: str | None) -> None:
    model, ids = endless(tiny_model(arm)), tokens(2, 5)
    found = model.generate(inputs_embeds=model.rwkv.embeddings(ids), max_new_tokens=NEW, do_sample=False)
    assert torch.equal(found, generate(model, ids)[:, 5:])
