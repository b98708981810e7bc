"""Traces: the gate's values as they are, the model's output as it was; and pictures of hostile text."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rwkvgate.explore.plots import gate_distribution, layers_by_tokens, saturation_by_tokens, token_labels
from rwkvgate.explore.traces import record_gates
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
        wanted = torch.full_like(hidden[0], gate.config.value)
    else:
        wanted = torch.sigmoid(hidden[0] @ gate.gate.linear.weight.T + gate.gate.linear.bias)
    torch.testing.assert_close(trace.values[1].float(), wanted.detach(), atol=1e-3, rtol=0)
    assert all(gate.observer is None for gate in gates_of(model))


def test_nothing_leaks_after_an_error(tiny_model: Any, tokens: Any) -> None:
    model = tiny_model("enhanced")
    with pytest.raises(ValueError, match="at least one token"):
        record_gates(model, tokens(1, 3)[:, :0])
    assert all(gate.observer is None for gate in gates_of(model))


def test_an_unpatched_model_is_told_which_arms_have_gates(tiny_model: Any, tokens: Any) -> None:
    with pytest.raises(ValueError, match="arms with one: enhanced-untrained, enhanced"):
        record_gates(tiny_model(), tokens(1, 3))


@pytest.mark.filterwarnings("ignore:Glyph")  # a script that the font lacks is drawn as boxes
@pytest.mark.parametrize("time", [1, 40, 300])
def test_pictures_of_hostile_tokens(time: int, tiny_model: Any, tokens: Any, tmp_path: Any) -> None:
    hostile = ["<script>", "$x^2$", "\n", " ", "שלום", "\ufffd", "\x00", "$$", "猫", "\\frac"]
    trace = record_gates(tiny_model("enhanced", torch.float32), tokens(1, time))
    names = [hostile[i % len(hostile)] for i in range(time)]
    for i, figure in enumerate(
        (layers_by_tokens(trace, names), saturation_by_tokens(trace, names), gate_distribution(trace))
    ):
        figure.savefig(tmp_path / f"{i}.png")
        assert (tmp_path / f"{i}.png").stat().st_size > 1000
    frame = trace.to_frame(names)
    assert len(frame) == 3 * time and frame["mean"].between(0, 1).all() and (frame["low"] <= frame["high"]).all()


def test_labels_show_what_cannot_be_seen() -> None:
    assert token_labels([" a", "\n", "\x07"]) == ["·a", "⏎", "□"]
