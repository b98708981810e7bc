"""Traces: the gate's values as they are, the model's output as it was."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
import torch
from transformers import GenerationConfig

from rwkvgate.explore.observing import observing
from rwkvgate.explore.summaries import summarize_gates
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


@pytest.mark.parametrize("arm", ["enhanced", "enhanced-recurrent", "per-head", "attention-gate", "hierarchical"])
def test_gates_are_recorded_under_autocast_on_the_cpu(arm: str, tiny_model: Any, tokens: Any) -> None:
    model, ids, seen = tiny_model(arm, torch.float32), tokens(1, 5), []
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode():
        trace, written = record_gates(model, ids), record_gates(model, ids, new_tokens=2)
        summary = summarize_gates(model, ids, losses=True)
        with observing(model, lambda gate, values: seen.append(values.cpu().half())):
            model(ids, use_cache=False, logits_to_keep=1)
    assert torch.equal(trace.values, torch.stack(seen)) and written.values.shape[2] in (5, 6)
    torch.testing.assert_close(summary.mean, trace.values.float().mean(-1), atol=1e-3, rtol=0)


BAD_TEXTS = {
    "an id beyond": ({"input_ids": torch.tensor([[37]])}, "input_ids hold 37; ids must be from 0 to 36"),
    "a negative id": ({"input_ids": torch.tensor([[-1]])}, "input_ids hold -1"),
    "no whole numbers": ({"input_ids": torch.ones(1, 2)}, "input_ids are torch.float32"),
    "a list": ({"input_ids": [[1]]}, "input_ids is a list; it must be"),
    "no row": ({"input_ids": torch.zeros(0, 3, dtype=torch.long)}, r"input_ids is \(0, 3\); it must be"),
    "no token": ({"input_ids": torch.zeros(1, 0, dtype=torch.long)}, r"input_ids is \(1, 0\); it must be"),
    "an additive mask": ({"attention_mask": torch.tensor([[0.0, -1e9, 0.0]])}, r"holds -1e\+09; it must hold 1"),
    "no numbers": ({"attention_mask": torch.full((1, 3), torch.nan)}, "holds nan; it must hold 1 at tokens"),
    "a count": ({"attention_mask": torch.tensor([[1, 2, 1]])}, "attention_mask holds 2"),
    "a short mask": ({"attention_mask": torch.ones(1, 2)}, r"attention_mask is \(1, 2\); it must be \(1, 3\)"),
    "a mask of lists": ({"attention_mask": [[1, 1, 1]]}, "attention_mask is list; it must be"),
}


@pytest.mark.parametrize("reading", [record_gates, summarize_gates])
@pytest.mark.parametrize("name", BAD_TEXTS)
def test_a_text_that_the_model_cannot_read_is_refused(name: str, reading: Any, tiny_model: Any) -> None:
    options, message = BAD_TEXTS[name]
    model = tiny_model("enhanced")
    with pytest.raises(ValueError, match=message):
        reading(model, **({"input_ids": torch.tensor([[1, 2, 3]])} | options))
    assert all(gate.observer is None for gate in gates_of(model))


def test_a_float_mask_of_zeros_and_ones_is_a_mask(tiny_model: Any, tokens: Any) -> None:
    model, ids, mask = tiny_model("enhanced"), tokens(2, 4), torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]])
    found = [record_gates(model, ids, m).values for m in (mask, mask.bool(), mask.double())]
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"new_tokens": -1}, "new_tokens is -1"),
        ({"new_tokens": 1.5}, "new_tokens is 1.5"),
        ({"new_tokens": 2, "use_cache": False}, "use_cache is False; gates are recorded once a token"),
        ({"new_tokens": 2, "generation_config": GenerationConfig(num_beams=2)}, "num_beams is 2"),
    ],
)
def test_generation_that_would_mix_up_tokens_is_refused(
    options: Any, message: str, tiny_model: Any, tokens: Any
) -> None:
    with pytest.raises(ValueError, match=message):
        record_gates(tiny_model("enhanced"), tokens(1, 3), **options)
