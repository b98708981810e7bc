"""Long prompts in windows: the numbers of one pass, and no block ever seeing more than a window."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from rwkvgate import Rwkv6State
from rwkvgate.rwkv6 import modeling
from rwkvgate.rwkv6.prefill import WINDOW, prefill
from tests.conftest import ROUNDING

ARMS = pytest.mark.parametrize("arm", [None, "enhanced", "no-layer-norm", "fixed-gate", "enhanced-recurrent"])
NEW = 6


@contextmanager
def watched(model: Any) -> Iterator[list[int]]:
    """The time dimension of every call of the last block."""
    times: list[int] = []
    hook = model.rwkv.blocks[-1].register_forward_pre_hook(lambda _, inputs: times.append(inputs[0].shape[1]))
    try:
        yield times
    finally:
        hook.remove()


@pytest.fixture
def small_window(monkeypatch: pytest.MonkeyPatch) -> int:
    """`generate` reads four tokens at a time."""
    monkeypatch.setattr(modeling, "WINDOW", 4)
    return 4


def values(state: Rwkv6State) -> list[Tensor]:
    return [x for layer in state.layers for x in vars(layer).values() if x is not None]


def assert_same_state(found: Rwkv6State, wanted: Rwkv6State, relative_error: Callable) -> None:
    for a, b in zip(values(found), values(wanted), strict=True):
        assert relative_error(a, b) <= ROUNDING


def generate(model: Any, ids: Tensor, **options: Any) -> Any:
    settings = {"max_new_tokens": NEW, "do_sample": False, "eos_token_id": None, "pad_token_id": 0} | options
    return model.generate(ids, **settings)


def left_padded(rows: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Prompts of several lengths as one batch, and its mask."""
    width = max(row.shape[1] for row in rows)
    ids = torch.cat([pad(row, (width - row.shape[1], 0)) for row in rows])
    return ids, (ids != 0).long()


@ARMS
@pytest.mark.parametrize("window", [1, 7, 16, 39, 40, 64])
def test_windows_give_what_one_pass_gives(
    tiny_model: Any, tokens: Any, relative_error: Callable, arm: str | None, window: int
) -> None:
    model, ids = tiny_model(arm), tokens(3, 40)
    with torch.no_grad():
        whole = model(ids, use_cache=True)
    with watched(model) as times:
        logits, state = prefill(model, ids, window=window)
    assert sum(times) == 40 and max(times) == min(window, 40)
    assert logits.shape == (3, model.config.vocab_size)
    assert relative_error(logits, whole.logits[:, -1]) <= ROUNDING
    assert_same_state(state, whole.past_key_values, relative_error)


@ARMS
@pytest.mark.parametrize("window", [3, 8])
def test_unequal_prompts_give_what_they_give_alone(
    tiny_model: Any, tokens: Any, relative_error: Callable, arm: str | None, window: int
) -> None:
    model, rows = tiny_model(arm), [tokens(1, length, seed=length) for length in (30, 11, 1)]
    ids, mask = left_padded(rows)  # the short rows' first windows are nothing but padding
    logits, state = prefill(model, ids, mask, window)
    for i, row in enumerate(rows):
        with torch.no_grad():
            alone = model(row, use_cache=True)
        assert relative_error(logits[i], alone.logits[0, -1]) <= ROUNDING
        assert_same_state(state.select([i]), alone.past_key_values, relative_error)


@ARMS
def test_it_goes_on_from_a_state_and_leaves_it_alone(
    tiny_model: Any, tokens: Any, relative_error: Callable, arm: str | None
) -> None:
    model, rows = tiny_model(arm), [tokens(1, length, seed=length) for length in (30, 22)]
    ids, mask = left_padded(rows)
    wanted, end = prefill(model, ids, mask)
    _, middle = prefill(model, ids[:, :13], mask[:, :13], window=5)
    before = [x.clone() for x in values(middle)]
    for seen in (mask, mask[:, 13:]):  # a mask of all that was ever read, or of what is read now
        logits, state = prefill(model, ids[:, 13:], seen, window=5, past_key_values=middle)
        assert relative_error(logits, wanted) <= ROUNDING
        assert_same_state(state, end, relative_error)
    assert all(torch.equal(a, b) for a, b in zip(values(middle), before, strict=True))


def test_the_state_holds_no_history_and_decodes_on(tiny_model: Any, tokens: Any, relative_error: Callable) -> None:
    model, ids = tiny_model("enhanced"), tokens(2, 21)
    logits, state = prefill(model, ids[:, :-1], window=6)
    assert not logits.requires_grad and not any(x.requires_grad for x in values(state))
    with torch.no_grad():
        found = model(ids[:, -1:], past_key_values=state).logits[:, -1]
        assert relative_error(found, model(ids).logits[:, -1]) <= ROUNDING


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window": 0}, "window is 0; it must be at least 1"),
        ({"attention_mask": torch.tensor([[1] * 9, [1] * 8 + [0]])}, "ends in padding"),
        ({"attention_mask": torch.ones(2, 8)}, r"attention_mask is \(2, 8\); it must be \(2, 9\)"),
        ({"attention_mask": torch.ones(1, 9)}, r"attention_mask is \(1, 9\)"),
        ({"input_ids": torch.ones(9, dtype=torch.long)}, r"the input is \(9,\)"),
        ({"input_ids": torch.ones(2, 0, dtype=torch.long)}, r"the input is \(2, 0\)"),
        ({"past_key_values": Rwkv6State([])}, "the state holds 0 layers"),
    ],
)
def test_what_cannot_be_read_is_refused(tiny_model: Any, tokens: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prefill(tiny_model(), **({"input_ids": tokens(2, 9), "window": 4} | changes))


def test_a_hundred_thousand_tokens(tiny_model: Any, tokens: Any, relative_error: Callable) -> None:
    model, ids = tiny_model("enhanced", torch.float32, num_hidden_layers=1), tokens(1, 100_000)
    with watched(model) as times:
        logits, state = prefill(model, ids)
    assert max(times) == WINDOW and sum(times) == 100_000
    assert bool(logits.isfinite().all())
    with watched(model) as times:
        found = generate(model, ids, max_new_tokens=3, return_dict_in_generate=True)
    assert max(times) == WINDOW and sum(times) == 100_002
    assert found.sequences[0, 100_000] == logits.argmax()
    with torch.no_grad():
        whole = model(ids, use_cache=True, logits_to_keep=1)
    assert relative_error(logits, whole.logits[:, -1]) < 1e-4
    assert sum(x.numel() for x in values(state)) == sum(x.numel() for x in values(whole.past_key_values))


@ARMS
@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"num_beams": 2, "num_return_sequences": 2}], ids=str)
def test_generate_reads_in_windows(
    tiny_model: Any, tokens: Any, monkeypatch: pytest.MonkeyPatch, arm: str | None, options: dict[str, Any]
) -> None:
    model, rows = tiny_model(arm), [tokens(1, length, seed=length) for length in (18, 9, 1)]
    ids, mask = left_padded(rows)
    with watched(model) as times:
        wanted = generate(model, ids, attention_mask=mask, **options)
    assert times[0] == 18
    monkeypatch.setattr(modeling, "WINDOW", 4)
    with watched(model) as times:
        found = generate(model, ids, attention_mask=mask, **options)
    assert torch.equal(found, wanted)
    assert times[:5] == [4, 4, 4, 2, 4] and set(times[5:]) == {1}


def test_sampling_draws_the_same(tiny_model: Any, tokens: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids, found = tiny_model("enhanced"), tokens(2, 15), []
    for window in (1024, 4):
        monkeypatch.setattr(modeling, "WINDOW", window)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            found.append(generate(model, ids, do_sample=True, num_return_sequences=2))
    assert torch.equal(*found)


def test_embeddings_are_read_in_windows(tiny_model: Any, tokens: Any, small_window: int) -> None:
    model, ids = tiny_model("enhanced"), tokens(2, 15)
    with watched(model) as times:
        found = model.generate(
            inputs_embeds=model.rwkv.embeddings(ids), max_new_tokens=NEW, do_sample=False, eos_token_id=None
        )
    assert max(times) == small_window and torch.equal(found, generate(model, ids)[:, 15:])


def test_generate_goes_on_from_a_state_in_windows(tiny_model: Any, tokens: Any, small_window: int) -> None:
    model, ids = tiny_model("enhanced"), tokens(2, 30)
    wanted = generate(model, ids)[:, 30:]
    _, state = prefill(model, ids[:, :11])
    mask = torch.ones_like(ids)
    for part in (ids, ids[:, 11:]):
        with watched(model) as times:
            found = generate(model, part, attention_mask=mask, past_key_values=state)
        assert sum(times) == 19 + NEW - 1 and torch.equal(found[:, -NEW:], wanted)


def test_without_a_cache_the_whole_is_read_each_time(tiny_model: Any, tokens: Any, small_window: int) -> None:
    model, ids = tiny_model("enhanced"), tokens(2, 9)
    with watched(model) as times:
        found = generate(model, ids, use_cache=False)
    assert times == list(range(9, 9 + NEW)) and torch.equal(found, generate(model, ids))


def test_the_librarys_own_windows_need_a_state_to_start_from(tiny_model: Any, tokens: Any) -> None:
    model, ids = tiny_model("enhanced"), tokens(2, 30)
    with pytest.raises(ValueError, match="prefill chunking without a cache"):
        generate(model, ids, prefill_chunk_size=8)
    _, state = prefill(model, ids[:, :11])
    mask = torch.ones_like(ids)
    for part in (ids, ids[:, 11:]):
        with watched(model) as times:
            found = generate(model, part, attention_mask=mask, past_key_values=state, prefill_chunk_size=8)
        assert times[:3] == [8, 8, 3] and torch.equal(found[:, -NEW:], generate(model, ids)[:, 30:])


@ARMS
def test_decoding_reads_one_token_a_step_and_its_state_never_grows(
    tiny_model: Any, tokens: Any, small_window: int, arm: str | None
) -> None:
    model, ids, sizes = tiny_model(arm), tokens(2, 9), set()
    for new in (1, 5, 40):
        with watched(model) as times:
            result = generate(model, ids, max_new_tokens=new, return_dict_in_generate=True)
        assert times == [4, 1, 4] + [1] * (new - 1)
        sizes.add(tuple(x.shape for x in values(result.past_key_values)))
    assert len(sizes) == 1


class Collected(BaseStreamer):
    """What `generate` streams: the prompt, then every token as it is chosen."""

    def __init__(self) -> None:
        self.parts: list[Tensor] = []
        self.ended = False

    def put(self, value: Tensor) -> None:
        self.parts.append(value)

    def end(self) -> None:
        self.ended = True


def test_tokens_are_streamed_as_they_come(tiny_model: Any, tokens: Any, small_window: int) -> None:
    model, ids, streamer = tiny_model("enhanced"), tokens(1, 10), Collected()
    found = generate(model, ids, streamer=streamer)
    assert streamer.ended and torch.equal(streamer.parts[0], ids)
    assert [part.item() for part in streamer.parts[1:]] == found[0, 10:].tolist()


class AfterToken(StoppingCriteria):
    """Each row stops where it has written one token."""

    def __init__(self, token: int) -> None:
        self.token = token

    def __call__(self, input_ids: Tensor, scores: Any, **options: Any) -> Tensor:
        return input_ids[:, -1] == self.token


def test_stopping_criteria_stop_it(tiny_model: Any, tokens: Any, small_window: int) -> None:
    model, ids = tiny_model("enhanced"), tokens(1, 10)
    expected = generate(model, ids, max_new_tokens=20)[0, 10:].tolist()
    last = expected[3]
    found = generate(model, ids, max_new_tokens=20, stopping_criteria=StoppingCriteriaList([AfterToken(last)]))
    assert found[0, 10:].tolist() == expected[: expected.index(last) + 1]
