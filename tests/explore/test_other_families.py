"""Recording, windows and clamps on transformers' RWKV-4, whose blocks know nothing of gates."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import RwkvConfig, RwkvForCausalLM

from rwkvgate import GateConfig, patch
from rwkvgate.explore import clamp_gate, record_gates, summarize_gates
from rwkvgate.gate.patch import gates_of


@pytest.mark.parametrize("arm", ["enhanced", "conv-routing", "attention-gate", "hierarchical"])
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
