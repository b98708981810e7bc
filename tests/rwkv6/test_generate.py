"""`generate` against plain loops over the whole text, which know nothing of state or caches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

NEW = 9
ARMS = [None, "enhanced", "no-layer-norm", "fixed-gate", "enhanced-recurrent"]


def greedy_loop(model: Any, ids: Tensor, new: int = NEW) -> Tensor:
    """Read the whole text anew for every token."""
    with torch.no_grad():
        for _ in range(new):
            ids = torch.cat((ids, model(ids).logits[:, -1:].argmax(-1)), dim=1)
    return ids


def generate(model: Any, ids: Tensor, **options: Any) -> Tensor:
    """transformers' `generate` with a fixed number of new tokens and no early end."""
    mask = options.pop("attention_mask", torch.ones_like(ids))
    settings = {"max_new_tokens": NEW, "do_sample": False, "eos_token_id": None, "pad_token_id": 0} | options
    return model.generate(ids, attention_mask=mask, **settings)


@pytest.mark.parametrize("arm", ARMS)
def test_greedy(tiny_model: Any, tokens: Any, arm: str | None) -> None:
    model, ids = tiny_model(arm), tokens(3, 6)
    assert torch.equal(generate(model, ids), greedy_loop(model, ids))
    assert torch.equal(generate(model, ids, use_cache=False), greedy_loop(model, ids))


@pytest.mark.parametrize("arm", ARMS)
def test_left_padded_prompts_generate_what_they_do_alone(tiny_model: Any, tokens: Any, arm: str | None) -> None:
    model, lengths = tiny_model(arm), (8, 3, 1)
    rows = [tokens(1, n, seed=n) for n in lengths]
    ids = torch.cat([torch.nn.functional.pad(row, (8 - row.shape[1], 0)) for row in rows])
    found = generate(model, ids, attention_mask=(ids != 0).long())
    for i, row in enumerate(rows):
        assert torch.equal(found[i, 8:], greedy_loop(model, row)[0, row.shape[1] :])


@pytest.mark.parametrize("arm", [None, "enhanced"])
def test_sampling(tiny_model: Any, tokens: Any, arm: str | None) -> None:
    model, start = tiny_model(arm), tokens(4, 5)
    with torch.random.fork_rng():
        torch.manual_seed(11)
        found = generate(model, start, do_sample=True, temperature=0.7, top_k=0, top_p=1.0)
        torch.manual_seed(11)
        ids = start
        with torch.no_grad():
            for _ in range(NEW):
                chances = (model(ids).logits[:, -1].float() / 0.7).softmax(-1)
                ids = torch.cat((ids, torch.multinomial(chances, 1)), dim=1)
    assert torch.equal(found, ids)


def beam_loop(model: Any, ids: Tensor, beams: int, new: int) -> list[int]:
    """Beam search over one prompt, rereading the text each time: the best continuation by total log-probability."""
    kept = [(0.0, ids[0].tolist())]
    with torch.no_grad():
        for _ in range(new):
            scores = model(torch.tensor([text for _, text in kept])).logits[:, -1].float().log_softmax(-1)
            grown = [
                (total + scores[i, token].item(), [*text, token])
                for i, (total, text) in enumerate(kept)
                for token in range(scores.shape[1])
            ]
            kept = sorted(grown, key=lambda pair: -pair[0])[:beams]
    return kept[0][1]


@pytest.mark.parametrize("arm", ARMS)
def test_beams(tiny_model: Any, tokens: Any, arm: str | None) -> None:
    model, ids = tiny_model(arm), tokens(2, 5)
    cached = generate(model, ids, num_beams=4)
    assert torch.equal(cached, generate(model, ids, num_beams=4, use_cache=False))
    for row, found in zip(ids, cached, strict=True):
        assert found.tolist() == beam_loop(model, row[None], 4, NEW)


def test_several_sequences_for_a_prompt(tiny_model: Any, tokens: Any) -> None:
    model, ids = tiny_model("enhanced"), tokens(2, 5)
    beams = generate(model, ids, num_beams=3, num_return_sequences=3)
    assert beams.shape[0] == 6 and len({tuple(row.tolist()) for row in beams[:3]}) == 3


def test_it_stops_at_the_end_of_text(tiny_model: Any, tokens: Any) -> None:
    model, ids = tiny_model(), tokens(1, 5)
    expected = greedy_loop(model, ids)[0, 5:].tolist()
    stop = expected[3]
    found = generate(model, ids, eos_token_id=stop)[0, 5:].tolist()
    assert found == expected[: expected.index(stop) + 1]


@pytest.mark.parametrize("arm", [None, "enhanced"])
@pytest.mark.parametrize("more", [1, 4])
def test_generation_goes_on_from_a_state(tiny_model: Any, tokens: Any, arm: str | None, more: int) -> None:
    model, ids = tiny_model(arm), tokens(2, 9)
    with torch.no_grad():
        state = model(ids[:, :-more], use_cache=True).past_key_values
    found = generate(model, ids[:, -more:], attention_mask=torch.ones_like(ids), past_key_values=state)
    assert torch.equal(found[:, more:], greedy_loop(model, ids)[:, 9:])


def test_prompts_padded_on_the_right_are_refused(tiny_model: Any, tokens: Any) -> None:
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])  # transformers warns only where the last id is the padding's
    with pytest.raises(ValueError, match="attention_mask ends in padding; prompts must be padded on the left"):
        tiny_model().generate(tokens(2, 4), attention_mask=mask, max_new_tokens=2, do_sample=False)


@pytest.mark.parametrize("shape", [(1, 0), (0, 3), (3,)])
def test_a_prompt_of_no_token_is_refused(tiny_model: Any, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"the input is \(.*; it must be \(batch, time\) with at least one token"):
        tiny_model().generate(torch.ones(shape, dtype=torch.long), max_new_tokens=1, pad_token_id=0)


@pytest.mark.parametrize("end", [None, 30, 0])
def test_a_0_in_a_prompt_without_a_mask_is_read(tiny_model: Any, end: int | None) -> None:
    """Token 0 separates texts; transformers would take it for padding, where it does not end a text."""
    model = tiny_model()
    for prompt in ([0, 5, 6], [5, 6, 0, 7], [5, 0], [0]):
        ids = torch.tensor([prompt])
        found = model.generate(ids, max_new_tokens=4, do_sample=False, eos_token_id=end, pad_token_id=0)
        length = found.shape[1] - len(prompt)
        assert torch.equal(found, greedy_loop(model, ids, new=length)) and length > 0
