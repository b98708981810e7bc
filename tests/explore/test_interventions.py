"""Clamps against gates computed by hand, every gated arm, in forward and in generation; nothing left behind."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
from transformers import RwkvConfig, RwkvForCausalLM

from rwkvgate import GateConfig, patch
from rwkvgate.explore.interventions import clamp_gate
from rwkvgate.explore.observing import observing
from rwkvgate.explore.summaries import summarize_gates
from rwkvgate.explore.traces import record_gates
from rwkvgate.gate.config import PRESETS
from rwkvgate.gate.patch import gates_of
from tests.gate.combinations import SPREAD

GATED = list(PRESETS)


@pytest.mark.parametrize("arm", GATED)
def test_a_clamped_gate_is_the_one_computed_by_hand(arm: str, tiny_model: Any, tokens: Any) -> None:
    model, ids = tiny_model(arm), tokens(2, 9)
    gate = gates_of(model)[1]
    seen: list[Any] = []
    gate.gating.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0].now.clone(), output)))
    outputs: list[torch.Tensor] = []
    gate.register_forward_hook(lambda _, inputs, output: outputs.append(output[0]))
    before = model(ids).logits
    layer = next(i for i, block in enumerate(model.rwkv.blocks, 1) if gate in set(block.children()))
    with torch.no_grad():
        with clamp_gate(model, layer, 0.3):
            model(ids)
        (_, _), (hidden, gated) = seen[-2:]
        # How far the gate moves things when it is wide open, by its own formula.
        moved = gated.moved if gated.values is None else gated.moved / _wide(gated.values, hidden)
        if gate.config.shift == "recurrent":  # it knows the result before the pass, and the clamped ones follow
            moved = torch.cat((moved, outputs[-1][:, :-1]), 1)
        moved = moved * (1 if gate.gate_scale is None else gate.gate_scale)
        expected = hidden + 0.3 * moved
        expected = expected if gate.norm is None else gate.norm(expected)
    torch.testing.assert_close(outputs[-1], expected, atol=1e-12, rtol=1e-9)
    assert torch.equal(model(ids).logits, before)
    assert all(gate.override is None for gate in gates_of(model))


def _wide(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return values.expand(*values.shape[:-1], like.shape[-1] // values.shape[-2]).flatten(-2)


@pytest.mark.parametrize("arm", GATED)
def test_only_the_chosen_channels_tokens_and_layers_change(arm: str, tiny_model: Any, tokens: Any) -> None:
    model, ids = tiny_model(arm, torch.float32), tokens(2, 9)
    free = record_gates(model, ids)
    with clamp_gate(model, 1, 0.25, channels=slice(4, 12, 2), tokens=[3, 7]):
        clamped = record_gates(model, ids)
    first = next(i for i, name in enumerate(free.gates) if name.layer == 1)
    expected = free.values[first].clone()
    expected[:, [3, 7], 4:12:2] = 0.25
    # The second gate of a layer may read what the first one changed, but only from the clamped token on.
    torch.testing.assert_close(clamped.values[first][:, :4], expected[:, :4], atol=0, rtol=0)
    assert (clamped.values[first][:, [3, 7], 4:12:2] == 0.25).all()
    torch.testing.assert_close(clamped.values[:, :, :3], free.values[:, :, :3], atol=0, rtol=0)


@pytest.mark.parametrize("name", [*GATED, *list(SPREAD)[::5]])
def test_token_by_token_left_padded_and_in_generation(name: str, tiny_model: Any, tokens: Any) -> None:
    model, ids = tiny_model(SPREAD.get(name, name)), tokens(1, 8)
    padded = torch.cat((torch.zeros(1, 3, dtype=torch.long), ids), 1)
    mask = torch.tensor([[0] * 3 + [1] * 8])
    clamp: dict[str, Any] = {"layer": [1, 3], "value": 0.6, "channels": [0, 5, 31], "tokens": slice(2, 6)}
    with torch.no_grad(), clamp_gate(model, **clamp):
        one_pass = model(ids).logits
        left = model(padded, attention_mask=mask).logits[:, 3:]
        state, steps = None, []
        for i in range(8):
            output = model(ids[:, i : i + 1], past_key_values=state, use_cache=True)
            state = output.past_key_values
            steps.append(output.logits)
    torch.testing.assert_close(torch.cat(steps, 1), one_pass, atol=1e-9, rtol=1e-7)
    torch.testing.assert_close(left, one_pass, atol=1e-9, rtol=1e-7)
    assert (one_pass - model(ids).logits).abs().max() > 1e-9


def test_generation_under_a_clamp_is_that_of_repeated_forward_passes(tiny_model: Any, tokens: Any) -> None:
    model, ids = tiny_model("enhanced"), tokens(1, 4)
    with clamp_gate(model, None, 0.0, tokens=slice(6, None)), torch.no_grad():
        trace = record_gates(model, ids, new_tokens=6, eos_token_id=None)
        longer = ids
        for _ in range(6):
            longer = torch.cat((longer, model(longer).logits[:, -1:].argmax(-1)), 1)
    assert trace.sequences is not None and torch.equal(trace.sequences, longer)
    assert (trace.values[:, :, 6:] == 0).all() and (trace.values[:, :, :6] > 0.01).any()


@pytest.mark.parametrize("arm", ["enhanced", "attention-gate", "fixed-gate"])
def test_clamps_nest_scale_and_leave_in_any_order(arm: str, tiny_model: Any, tokens: Any) -> None:
    model, ids = tiny_model(arm, torch.float32), tokens(1, 5)
    before, free = model(ids).logits, record_gates(model, ids).values[0].float()
    with clamp_gate(model, 1, scale=0.5):
        torch.testing.assert_close(record_gates(model, ids).values[0].float(), free / 2, atol=1e-3, rtol=0)
        with clamp_gate(model, 1, 0.0), clamp_gate(model, 1, 0.8, channels=3):
            inner = record_gates(model, ids).values[0]
            assert (inner[..., 3] == torch.tensor(0.8).half()).all() and (inner[..., 4:] == 0).all()
        torch.testing.assert_close(record_gates(model, ids).values[0].float(), free / 2, atol=1e-3, rtol=0)
    first, second = clamp_gate(model, 1, 0.1), clamp_gate(model, 1, 0.9)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert (record_gates(model, ids).values[0] == torch.tensor(0.9).half()).all()
    second.__exit__(None, None, None)
    assert torch.equal(model(ids).logits, before)


def test_an_exception_restores(tiny_model: Any, tokens: Any) -> None:
    model, ids = tiny_model("enhanced"), tokens(1, 5)
    before = model(ids).logits
    with pytest.raises(RuntimeError, match="stop here"), clamp_gate(model, 2, 0.5):
        raise RuntimeError("stop here")
    assert torch.equal(model(ids).logits, before)


def test_a_second_user_of_the_kernel_sees_no_clamp(tiny_model: Any, tokens: Any) -> None:
    model, ids = tiny_model("enhanced", torch.float32), tokens(1, 5)
    free, seen = record_gates(model, ids).values, []
    with clamp_gate(model, None, 1.0):
        other = Thread(target=lambda: seen.append(record_gates(model, ids).values))
        other.start()
        assert (record_gates(model, ids).values == 1).all()
    other.join(20)
    assert torch.equal(seen[0], free)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": 0, "value": 0.5}, "layer is 0; the model has layers 1 to 3"),
        ({"layer": [1, 4], "value": 0.5}, "layer is 4; the model has layers 1 to 3"),
        ({"layer": True, "value": 0.5}, "layer is True"),
        ({"value": 0.5, "channels": 32}, "channels includes 32; allowed are 0 to 31"),
        ({"value": 0.5, "tokens": [-1]}, "tokens includes -1; allowed are at least 0"),
        ({"value": 0.5, "tokens": slice(-3, None)}, "its ends must be at least 0"),
        ({"value": 1.5}, "must be 0 to 1"),
        ({"value": float("nan")}, "must be 0 to 1"),
        ({"scale": -1.0}, "at least 0"),
        ({}, "exactly one"),
        ({"value": 0.1, "scale": 2.0}, "exactly one"),
    ],
)
def test_values_out_of_range_are_refused(options: dict[str, Any], message: str, tiny_model: Any) -> None:
    model = tiny_model("enhanced")
    with pytest.raises(ValueError, match=message), clamp_gate(model, **options):
        pass
    assert all(gate.override is None for gate in gates_of(model))


def test_an_unpatched_model_is_refused(tiny_model: Any) -> None:
    with pytest.raises(ValueError, match="arms with one: enhanced"), clamp_gate(tiny_model(), None, 0.5):
        pass


def test_numbers_of_numpy_and_torch_serve_as_well(tiny_model: Any, tokens: Any) -> None:
    model, ids = tiny_model("enhanced"), tokens(1, 6)
    with clamp_gate(model, 2, 0.5, channels=[1, 4], tokens=3):
        expected = record_gates(model, ids).values
    for number in (np.int64, torch.tensor):
        with clamp_gate(model, [number(2)], 0.5, channels=np.array([1, 4]), tokens=np.int32(3)):
            assert torch.equal(record_gates(model, ids).values, expected)
    with pytest.raises(TypeError), clamp_gate(model, 1.5, 0.5):  # type: ignore[arg-type]
        pass


@pytest.mark.parametrize("arm", ["enhanced", "enhanced-recurrent", "conv-routing", "attention-gate", "hierarchical"])
def test_rwkv4_is_recorded_in_windows_and_clamped(arm: str, scramble: Any, tokens: Any) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = RwkvConfig(vocab_size=37, hidden_size=16, num_hidden_layers=2, rescale_every=0)
        model = patch(scramble(RwkvForCausalLM(config).eval()), GateConfig.preset(arm))
    ids = tokens(1, 11)
    before = model(ids).logits
    with clamp_gate(model, 2, 0.5, channels=[0, 3], tokens=slice(4, None)):
        trace, parts = record_gates(model, ids), summarize_gates(model, ids, window=4)
        longer = record_gates(model, ids[:, :6], new_tokens=5, eos_token_id=None)
    assert (trace.values[1, 0, 4:, [0, 3]] == 0.5).all() and (longer.values[1, 0, 4:, [0, 3]] == 0.5).all()
    assert not (trace.values[1, 0, :4, [0, 3]] == 0.5).any() and longer.values.shape[2] == 10
    torch.testing.assert_close(parts.mean, trace.summary().mean, atol=1e-3, rtol=0)
    assert torch.equal(model(ids).logits, before)
    assert all(gate.override is None and gate.observer is None for gate in gates_of(model))


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_a_copy_made_inside_is_a_model_without_clamps_and_recorders(how: str, tiny_model: Any, tokens: Any) -> None:
    model, ids = tiny_model("enhanced"), tokens(1, 5)
    free = model(ids).logits
    with clamp_gate(model, value=0.0), observing(model, lambda gate, values: None):
        twin = copy.deepcopy(model) if how == "deepcopy" else pickle.loads(pickle.dumps(model))
        assert torch.equal(twin(ids).logits, free) and not torch.equal(model(ids).logits, free)
    assert torch.equal(model(ids).logits, free) and torch.equal(twin(ids).logits, free)
    assert all(gate.override is None and gate.observer is None for gate in gates_of(twin))


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_a_boolean_selection_is_a_mask(kind: Any, tiny_model: Any, tokens: Any) -> None:
    model, ids = tiny_model("enhanced"), tokens(1, 5)
    channels = [False] * 30 + [True] * 2
    for mask, numbers in (
        (kind([False, True, True]), [1, 2]),
        (kind([True, False, False, False, False, True]), [0, 5]),
    ):
        with clamp_gate(model, value=0.0, tokens=mask, channels=kind(channels)):
            found = model(ids).logits
        with clamp_gate(model, value=0.0, tokens=numbers, channels=[30, 31]):
            assert torch.equal(found, model(ids).logits)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokens": True}, "tokens is True; it must be a number, several, a slice or a mask"),
        ({"tokens": [True, 2]}, r"includes True \(bool\); it must hold whole numbers"),
        ({"tokens": torch.ones(1, 3, dtype=torch.bool)}, "must hold whole numbers"),
        ({"tokens": slice(0.5, None)}, r"includes 0\.5 \(float\)"),
        ({"tokens": "12"}, r"includes '12' \(str\)"),
        ({"tokens": 10**30}, "tokens includes 10"),
        ({"tokens": slice(0, 10**30)}, "its ends must be at least 0"),
        ({"channels": [True]}, "the mask of channels has 1 entries; it must have 32"),
        ({"layer": []}, "it must name at least one"),
        ({"layer": 10**8}, "layer is 100000000; the model has layers 1 to 3"),
        ({"value": "0"}, "value is a str; it must be a number"),
        ({"value": torch.zeros(2)}, r"value is of shape \(2,\); it must be a number or \(32,\), \(token, 32\)"),
        ({"value": torch.zeros(1, 2, 3, 32)}, r"value is of shape \(1, 2, 3, 32\)"),
        ({"value": torch.full((4, 32), 1.5)}, r"value holds 1\.5 to 1\.5; a gate's values must be 0 to 1"),
        ({"value": torch.full((32,), torch.nan)}, "must be 0 to 1"),
    ],
)
def test_selections_that_cannot_be_meant_are_refused(options: Any, message: str, tiny_model: Any) -> None:
    model = tiny_model("enhanced")
    with pytest.raises((TypeError, ValueError), match=message), clamp_gate(model, **({"value": 0.0} | options)):
        pass
    assert all(gate.override is None for gate in gates_of(model))


def test_a_long_range_of_tokens_takes_no_memory(tiny_model: Any, tokens: Any) -> None:
    model, ids = tiny_model("enhanced"), tokens(1, 5)
    with clamp_gate(model, value=0.0, tokens=range(1, 10**12, 2)):
        found = model(ids).logits
    with clamp_gate(model, value=0.0, tokens=[1, 3]):
        assert torch.equal(found, model(ids).logits)


def test_another_threads_pass_is_neither_clamped_nor_recorded(tiny_model: Any, tokens: Any) -> None:
    model, ids, seen = tiny_model("enhanced"), tokens(1, 5), []
    free = model(ids).logits
    with (
        ThreadPoolExecutor(1) as other,
        clamp_gate(model, value=0.0),
        observing(model, lambda gate, _: seen.append(gate)),
    ):
        assert torch.equal(other.submit(lambda: model(ids).logits).result(), free) and not seen
        assert not torch.equal(model(ids).logits, free) and seen == [0, 1, 2]


def test_a_clamp_holds_where_a_backward_pass_computes_blocks_again(tiny_model: Any, tokens: Any) -> None:
    model, ids = tiny_model("enhanced").train(), tokens(1, 5)

    def gradient() -> Any:
        model.zero_grad()
        with clamp_gate(model, value=0.0):
            model(ids, labels=ids).loss.backward()
        return model.rwkv.embeddings.weight.grad.clone()

    plain = gradient()
    model.gradient_checkpointing_enable()
    assert torch.equal(gradient(), plain)


def test_an_iterator_is_read_once(tiny_model: Any, tokens: Any) -> None:
    model, ids = tiny_model("enhanced"), tokens(1, 5)
    with clamp_gate(model, value=0.0, tokens=[1, 3]):
        wanted = model(ids).logits
    with clamp_gate(model, value=0.0, tokens=iter([1, 3])):
        assert torch.equal(model(ids).logits, wanted)


@pytest.mark.parametrize("arm", ["enhanced", "conv-routing", "attention-gate", "per-head"])
def test_own_values_change_nothing_in_any_shape(arm: str, tiny_model: Any, tokens: Any) -> None:
    model, ids = tiny_model(arm), torch.cat((tokens(2, 9), torch.zeros(2, 2, dtype=torch.long)), dim=1)
    mask = torch.tensor([[1] * 9 + [0] * 2, [1] * 5 + [0] * 6])
    with torch.no_grad():
        free, values = model(ids, attention_mask=mask).logits, own_values(model, ids, mask)
        with ExitStack() as clamps:
            for layer, value in enumerate(values, start=1):
                clamps.enter_context(clamp_gate(model, layer, value))
            clamped = model(ids, attention_mask=mask).logits
            state, steps = None, []
            for i in range(5):  # token by token: positions go on from the state
                output = model(ids[:, i : i + 1], past_key_values=state, use_cache=True)
                state = output.past_key_values
                steps.append(output.logits)
    real = mask.bool()
    torch.testing.assert_close(clamped[real], free[real], atol=1e-9, rtol=1e-7)
    torch.testing.assert_close(torch.cat(steps, dim=1), free[:, :5], atol=1e-9, rtol=1e-7)


def own_values(model: Any, ids: torch.Tensor, mask: torch.Tensor) -> list[torch.Tensor]:
    seen: list[torch.Tensor] = []
    with observing(model, lambda _, values: seen.append(values)):
        model(ids, attention_mask=mask)
    return seen


def test_values_of_channels_and_of_tokens_are_those_given(tiny_model: Any, tokens: Any) -> None:
    model, ids = tiny_model("enhanced", torch.float32), tokens(2, 6)
    free, channels, table = record_gates(model, ids).values[0], torch.rand(32), torch.rand(4, 32)
    with clamp_gate(model, 1, channels, tokens=[0, 2]):
        found = record_gates(model, ids).values[0]
    assert torch.equal(found[:, [0, 2]], channels.half().expand(2, 2, -1)) and torch.equal(found[:, 1], free[:, 1])
    with clamp_gate(model, 1, table, channels=slice(0, 8)):
        found = record_gates(model, ids).values[0]
    assert torch.equal(found[:, :4, :8], table[:, :8].half().expand(2, -1, -1))  # tokens after its end keep their own
    assert torch.equal(found[:, 4:], free[:, 4:]) and torch.equal(found[..., 8:], free[..., 8:])
    with clamp_gate(model, 1, torch.rand(3, 4, 32)), pytest.raises(ValueError, match="of 3 texts; the model reads 2"):
        model(ids)
