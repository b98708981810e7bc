"""What a caller asks for is done or refused: outputs, positions, unknown arguments, a text that follows a state."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from rwkvgate import GateConfig
from rwkvgate.rwkv6 import modeling

GATES = pytest.mark.parametrize("arm", [None, "enhanced"])
GREEDY = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}


@GATES
def test_the_configs_outputs_are_those_of_a_call(tiny_model: Any, tokens: Any, arm: str | None) -> None:
    model, ids = tiny_model(arm), tokens(2, 5)
    wanted = model(ids, output_hidden_states=True)
    model.config.output_hidden_states, model.config.return_dict = True, False
    for network, first in ((model, wanted.logits), (model.rwkv, wanted.hidden_states[-1])):
        found = network(ids)
        assert isinstance(found, tuple) and torch.equal(found[0], first)
        assert all(map(torch.equal, found[-1], wanted.hidden_states))
        named = network(ids, output_hidden_states=False, return_dict=True)
        assert named.hidden_states is None and torch.equal(named[0], first)


@GATES
@pytest.mark.parametrize("options", [{}, {"num_beams": 2}, {"use_cache": False}], ids=str)
def test_generate_returns_hidden_states(
    tiny_model: Any, tokens: Any, monkeypatch: pytest.MonkeyPatch, arm: str | None, options: dict[str, Any]
) -> None:
    monkeypatch.setattr(modeling, "WINDOW", 3)  # a prompt of several windows gives the states of all of them
    model, ids = tiny_model(arm), tokens(2, 7)
    model.config.return_dict = False  # generate asks for named outputs itself
    found = model.generate(ids, output_hidden_states=True, return_dict_in_generate=True, **GREEDY, **options)
    rows = 2 * options.get("num_beams", 1)
    for step, layers in enumerate(found.hidden_states):
        time = 1 if step and options.get("use_cache", True) else 7 + step
        assert [tuple(x.shape) for x in layers] == [(rows, time, 32)] * 4
    prompt = model(ids, output_hidden_states=True, return_dict=True).hidden_states
    assert all(torch.allclose(x[:: rows // 2], y) for x, y in zip(found.hidden_states[0], prompt, strict=True))
    assert len(found.hidden_states) == 4


@GATES
def test_positions_that_count_on_change_nothing(tiny_model: Any, tokens: Any, arm: str | None) -> None:
    model, ids = tiny_model(arm), tokens(2, 6)
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
    of_padded = (mask.cumsum(1) - 1).masked_fill(mask == 0, 1)  # as transformers counts
    wanted = model(ids, attention_mask=mask).logits
    assert torch.equal(model(ids, attention_mask=mask, position_ids=of_padded).logits, wanted)
    for positions in (torch.arange(6), torch.arange(4, 10).expand(2, 6)):
        assert torch.equal(model(ids, position_ids=positions).logits, model(ids).logits)
        assert torch.equal(model.generate(ids, position_ids=positions, **GREEDY), model.generate(ids, **GREEDY))


PACKED = torch.tensor([[0, 1, 2, 0, 1, 2], [0, 1, 2, 3, 4, 5]])
REFUSED = [
    ("position_ids do not count on by one", {"position_ids": PACKED}),
    ("position_ids do not count on by one", {"position_ids": torch.tensor([0, 1, 2, 4, 5, 6])}),
    ("cu_seq_lens_q packs a row", {"cu_seq_lens_q": torch.tensor([0, 3, 6])}),
    ("seq_idx packs a row: .* a row of its own", {"seq_idx": PACKED}),
    ("output_attentions is True; it must be False", {"output_attentions": True}),
    ("is_causal is False; it must be True", {"is_causal": False}),
    ("attn_mask is not an argument", {"attn_mask": torch.ones(2, 6)}),
    ("token_type_ids is not an argument", {"token_type_ids": torch.zeros(2, 6)}),
    ("weight is not an argument", {"weight": 2.0, "labels": PACKED}),
]


@GATES
@pytest.mark.parametrize(("message", "options"), REFUSED, ids=[message for message, _ in REFUSED])
def test_what_would_be_ignored_is_refused(
    tiny_model: Any, tokens: Any, arm: str | None, message: str, options: dict[str, Any]
) -> None:
    model = tiny_model(arm)
    with pytest.raises(ValueError, match=message):
        model(tokens(2, 6), **options)
    if "labels" not in options:
        with pytest.raises(ValueError, match=message):
            model.rwkv(tokens(2, 6), **options)


@pytest.mark.parametrize(("message", "options"), REFUSED[:6], ids=[message for message, _ in REFUSED[:6]])
def test_generate_refuses_it_too(tiny_model: Any, tokens: Any, message: str, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_model().generate(tokens(2, 6), **options, **GREEDY)


IDS = torch.tensor([[3, 1, 4], [1, 5, 9]])
EMBEDS, KEPT = torch.zeros(2, 3, 32, dtype=torch.float64), torch.tensor([0, 3])


@pytest.mark.parametrize(
    ("message", "inputs"),
    [
        ("input_ids hold 37; ids must be from 0 to 36", {"input_ids": torch.tensor([[37, 40]])}),
        ("input_ids hold -1; ids must be from 0 to 36", {"input_ids": torch.tensor([[0, -1]])}),
        ("input_ids are torch.float32; they must be torch.int64", {"input_ids": IDS.float()}),
        ("the input is a list; it must be a tensor", {"input_ids": [[1, 2]]}),
        (r"the input is \(0, 3\); .* at least one token", {"input_ids": IDS[:0]}),
        (r"inputs_embeds are \(2, 3, 31\); the last size must be 32", {"inputs_embeds": torch.zeros(2, 3, 31)}),
        ("inputs_embeds are torch.int64", {"inputs_embeds": torch.zeros(2, 3, 32, dtype=torch.int64)}),
        ("attention_mask is a list; it must be a tensor", {"input_ids": IDS, "attention_mask": [[1]]}),
        ("position_ids are a list; they must be a tensor", {"input_ids": IDS, "position_ids": [0]}),
        (r"position_ids are a tensor \(\)", {"input_ids": IDS, "position_ids": torch.tensor(0)}),
        ("attention_mask holds 2; .* 0 at padding", {"input_ids": IDS, "attention_mask": torch.full_like(IDS, 2)}),
        ("attention_mask holds -3e[+]09; .* 0 at padding", {"input_ids": IDS, "attention_mask": IDS * -1e9}),
        ("labels hold 37; ids must be from 0 to 36", {"input_ids": IDS, "labels": IDS + 32}),
        ("labels hold -2; ids must", {"input_ids": IDS, "labels": torch.full_like(IDS, -2)}),
        ("labels are torch.float32", {"input_ids": IDS, "labels": IDS.float()}),
        (r"labels are \(2, 2\); the tokens are \(2, 3\)", {"input_ids": IDS, "labels": IDS[:, 1:]}),
        ("labels are a list; they must be a tensor", {"input_ids": IDS, "labels": IDS.tolist()}),
        ("shift_labels are given without labels", {"input_ids": IDS, "shift_labels": IDS}),
        ("shift_labels hold 37; ids", {"input_ids": IDS, "labels": IDS, "shift_labels": IDS + 32}),
        (r"shift_labels are \(2, 2\); the", {"input_ids": IDS, "labels": IDS, "shift_labels": IDS[:, 1:]}),
        ("logits_to_keep is -1; it must be 0", {"input_ids": IDS, "logits_to_keep": -1}),
        ("logits_to_keep is 1.5; it must be 0", {"input_ids": IDS, "logits_to_keep": 1.5}),
        ("logits_to_keep hold 3; positions must be from -3 to 2", {"input_ids": IDS, "logits_to_keep": KEPT}),
        ("logits_to_keep hold -4; positions must", {"inputs_embeds": EMBEDS, "logits_to_keep": -1 - KEPT}),
        ("logits_to_keep are torch.float32; they", {"input_ids": IDS, "logits_to_keep": KEPT.float()}),
        ("logits_to_keep are torch.bool; they", {"input_ids": IDS, "logits_to_keep": KEPT > 0}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("training", [False, True])
def test_inputs_that_are_no_tokens_are_refused(
    tiny_model: Any, message: str, inputs: dict[str, Any], training: bool
) -> None:
    model = tiny_model()
    with pytest.raises(ValueError, match=message):
        model.train(training)(**({"attention_mask": None, "labels": None} | inputs))


def test_positions_may_be_numbers_counted_from_either_end_or_a_mask(tiny_model: Any) -> None:
    model, wanted = tiny_model(), tiny_model()(IDS).logits[:, [0, 2]]
    for kept in ([0, 2], [0, -1], [-3, 2], [True, False, True]):
        # Fewer rows may take another matrix product, which rounds otherwise.
        torch.testing.assert_close(model(IDS, logits_to_keep=torch.tensor(kept)).logits, wanted)


def test_a_mask_of_ones_and_zeros_may_be_of_any_type(tiny_model: Any) -> None:
    model, mask = tiny_model(), torch.tensor([[0, 1, 1], [1, 1, 1]])
    wanted = model(IDS, attention_mask=mask).logits
    for dtype in (torch.bool, torch.float32, torch.bfloat16, torch.uint8):
        assert torch.equal(model(IDS, attention_mask=mask.to(dtype)).logits, wanted)


def test_options_that_ask_for_nothing_are_accepted(tiny_model: Any, tokens: Any) -> None:
    model, ids = tiny_model(), tokens(2, 6)
    nothing = {"position_ids": None, "seq_idx": None, "head_mask": None, "output_attentions": False, "is_causal": True}
    assert torch.equal(model(ids, labels=ids, **nothing).loss, model(ids, labels=ids).loss)


def test_options_of_the_loss_are_obeyed(tiny_model: Any, tokens: Any) -> None:
    model, ids = tiny_model(), tokens(2, 6)
    shifted = torch.nn.functional.pad(ids[:, 1:], (0, 1), value=7)
    for mode in (model.eval, model.train):
        mode()
        loss = model(ids, labels=torch.full_like(ids, 3), shift_labels=shifted, ignore_index=7).loss
        kept = shifted != 7
        wanted = torch.nn.functional.cross_entropy(model(ids).logits[kept].float(), shifted[kept])
        torch.testing.assert_close(loss.float(), wanted)
    model.loss_function = lambda logits, labels, vocab_size, temperature: logits.sum() * temperature
    assert torch.equal(model(ids, labels=ids, temperature=0.0).loss, torch.zeros((), dtype=torch.float64))


def padded(ids: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """The ids with the first row's first tokens taken for padding, so that it has `length`, and their mask."""
    mask = torch.ones_like(ids)
    mask[0, : ids.shape[1] - length] = 0
    return ids * mask, mask


@pytest.mark.parametrize("arm", [None, "enhanced", GateConfig(site="mixers")], ids=["base", "enhanced", "mixers"])
@pytest.mark.parametrize("embedded", [False, True])
def test_generate_reads_of_a_text_what_the_state_has_not(
    tiny_model: Any, tokens: Any, arm: Any, embedded: bool
) -> None:
    model = tiny_model(arm)
    ids, mask = padded(tokens(2, 8), 5)
    first = model.generate(ids, attention_mask=mask, return_dict_in_generate=True, **GREEDY)
    wanted = model.generate(ids, attention_mask=mask, **(GREEDY | {"max_new_tokens": 8}))
    whole = torch.nn.functional.pad(mask, (0, 4), value=1)
    text = {"inputs_embeds": model.rwkv.embeddings(first.sequences)} if embedded else {"inputs": first.sequences}
    lengths: list[int] = []
    hook = model.rwkv.blocks[0].register_forward_pre_hook(lambda _, args: lengths.append(args[0].shape[1]))
    found = model.generate(**text, attention_mask=whole, past_key_values=first.past_key_values, **GREEDY)
    hook.remove()
    assert torch.equal(found[:, -4:], wanted[:, -4:]) and lengths == [1] * 4


@GATES
def test_a_text_that_does_not_go_on_from_the_state_is_refused(tiny_model: Any, tokens: Any, arm: str | None) -> None:
    model, ids = tiny_model(arm), tokens(2, 9)
    state = model(ids[:, :5], use_cache=True).past_key_values
    other = (ids + 1) % 37
    for message, text, options in (
        (r"has read \[5, 5\] tokens, the text has \[4, 4\], and none is left", ids[:, 5:], {}),
        ("does not begin with the 5 tokens that the state has read: .* whole text", other, {}),
        ("2 unread tokens stand before those given", ids[:, 7:], {"attention_mask": padded(ids, 8)[1]}),
        (r"the input is \(2, 0\); .* at least one token", ids[:, :0], {}),
        ("use_cache is False; with past_key_values it must be True", ids, {"use_cache": False}),
        ("2 sequences; the call needs 3 layers of 4", ids, {"num_beams": 2}),
    ):
        with pytest.raises(ValueError, match=message):
            model.generate(text, past_key_values=state, **GREEDY, **options)
