"""Traces: the gate's values as they are, the model's output as it was."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
import torch

from rwkvgate.explore.traces import record_gates
from rwkvgate.gate.config import PRESETS
from rwkvgate.gate.patch import gates_of


@pytest.mark.parametrize("arm", ["enhanced", "no-layer-norm", "fixed-gate"])
def test_values_are_the_gates_and_nothing_is_changed(arm: str, tiny_model: Any, tokens: Any) -> None:
    model, ids = tiny_model(arm, torch.float32), tokens(2, 11)
    before = model(ids).logits
    trace = record_gates(model, ids)
    assert trace.values.shape == (3, 2, 11, 32) and trace.values.dtype == torch.float16
    assert torch.equal(model(ids).logits, before)
    hidden: list[torch.Tensor] = []
    gate = model.rwkv.blocks[1].gated_shift
    handle = gate.register_forward_pre_hook(lambda _, inputs: hidden.append(inputs[0]))
    model(ids)
    handle.remove()
    if gate.config.gating == "fixed":
        expected = torch.full_like(hidden[0], gate.config.value)
    else:
        expected = torch.sigmoid(hidden[0] @ gate.gating.linear.weight.T + gate.gating.linear.bias)
    torch.testing.assert_close(trace.values[1].float(), expected.detach(), atol=1e-3, rtol=0)
    assert all(gate.observer is None for gate in gates_of(model))


def test_nothing_leaks_after_an_error(tiny_model: Any, tokens: Any) -> None:
    model = tiny_model("enhanced")
    with pytest.raises(ValueError, match="at least one token"):
        record_gates(model, tokens(1, 3)[:, :0])
    assert all(gate.observer is None for gate in gates_of(model))


def test_an_unpatched_model_is_refused_with_the_presets(tiny_model: Any, tokens: Any) -> None:
    with pytest.raises(ValueError, match="arms with one: enhanced"):
        record_gates(tiny_model(), tokens(1, 3))


@pytest.mark.parametrize("arm", list(PRESETS))
def test_generation_is_recorded_and_unchanged(arm: str, tiny_model: Any, tokens: Any) -> None:
    model, ids = tiny_model(arm), tokens(2, 5)
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    options = {"max_new_tokens": 6, "eos_token_id": None, "pad_token_id": 0}
    plain = model.generate(ids, attention_mask=mask, do_sample=False, **options)
    trace = record_gates(model, ids, mask, new_tokens=6, eos_token_id=None, pad_token_id=0)
    assert trace.sequences is not None and torch.equal(trace.sequences, plain)
    assert trace.mask is not None and trace.mask.shape == trace.input_ids.shape == (2, 10)
    forward = record_gates(model, trace.input_ids, trace.mask)
    real = trace.mask[None, :, :, None].expand_as(trace.values)
    torch.testing.assert_close(trace.values[real], forward.values[real], atol=1e-3, rtol=0)
    assert torch.equal(model.generate(ids, attention_mask=mask, do_sample=False, **options), plain)


def test_recording_refuses_beams_and_stray_options(tiny_model: Any, tokens: Any) -> None:
    model = tiny_model("enhanced")
    with pytest.raises(ValueError, match="num_beams is 2"):
        record_gates(model, tokens(1, 3), new_tokens=2, num_beams=2)
    with pytest.raises(ValueError, match="do_sample given, but new_tokens is 0"):
        record_gates(model, tokens(1, 3), do_sample=True)
    with pytest.raises(ValueError, match="2 token texts; the trace has 3 tokens"):
        record_gates(model, tokens(1, 3)).to_frame(["a", "b"])


def test_frames_by_token_and_by_channel(tiny_model: Any, tokens: Any) -> None:
    mask = torch.tensor([[0, 0, 1, 1, 1]])
    trace = record_gates(tiny_model("ungated-shift", torch.float32), tokens(1, 5), mask)
    names = ["", "", "a", "<script>", "猫"]
    frame = trace.to_frame(names)
    assert len(frame) == 6 * 3 and set(frame["place"]) == {"time", "channel"} and frame["layer"].max() == 3
    assert list(frame["position"][:3]) == [0, 1, 2] and list(frame["token"][:3]) == names[2:]
    long = trace.to_frame(names, each_channel=True)
    assert len(long) == 6 * 3 * 32
    row = long[(long["layer"] == 2) & (long["place"] == "channel") & (long["position"] == 1) & (long["channel"] == 7)]
    assert row["value"].item() == float(trace.values[3, 0, 3, 7])
    pd.testing.assert_frame_equal(trace.summary().to_frame(names), frame)
    assert frame["mean"].between(0, 1).all() and (frame["low"] <= frame["high"]).all()
