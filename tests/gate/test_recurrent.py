"""The recurrent shift: clamps inside the recurrence, and texts of one token and of many."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rwkvgate import GateConfig
from rwkvgate.explore.interventions import clamp_gate
from rwkvgate.gate.layer import GatedShift
from rwkvgate.gate.patch import gates_of
from rwkvgate.rwkv6.token_shift import TokenShift

ARM = "enhanced-recurrent"


@pytest.mark.parametrize("change", [{"value": 0.9}, {"scale": 0.5}])
def test_a_clamp_acts_inside_the_recurrence(change: dict[str, float], tiny_model: Any, tokens: Any) -> None:
    model, ids, passed = tiny_model(ARM), tokens(1, 9), []
    gate = gates_of(model)[1]
    gate.register_forward_hook(lambda _, inputs, output: passed.append((inputs[0], output[0])))
    with clamp_gate(model, 2, **change, channels=slice(3, 20), tokens=[2, 5]), torch.no_grad():
        model(ids)
    hidden, found = (x[0] for x in passed[0])
    result = torch.zeros_like(hidden[0])
    for t, h in enumerate(hidden):
        g = 1 / (1 + torch.exp(-(gate.gating.linear.weight @ h + gate.gating.linear.bias)))
        if t in (2, 5):
            g[3:20] = change.get("value", g[3:20] * change.get("scale", 1))
        total = h + g * result
        centred = total - total.mean()
        result = centred / (centred.square().mean() + 1e-5).sqrt() * gate.norm.weight + gate.norm.bias
        torch.testing.assert_close(found[t], result, rtol=1e-12, atol=1e-12)


def test_a_first_token_is_the_paper_gates(tiny_model: Any, tokens: Any) -> None:
    one, ids = tokens(2, 1), tokens(2, 5)
    recurrent, enhanced = tiny_model(ARM), tiny_model("enhanced")
    assert torch.equal(recurrent(one).logits, enhanced(one).logits)
    assert not torch.allclose(recurrent(ids).logits[:, 1:], enhanced(ids).logits[:, 1:])


def test_a_text_of_4096_tokens_is_read_in_parts_and_learned_from(
    tiny_model: Any, tokens: Any, relative_error: Any
) -> None:
    model, ids = tiny_model(ARM, num_hidden_layers=1), tokens(1, 4096)
    whole = model(ids, labels=ids, skip_logits=False)
    whole.loss.backward()
    assert all(bool(p.grad.isfinite().all()) for p in gates_of(model)[0].parameters())
    state, parts = None, []
    with torch.no_grad():
        for part in ids.split(1000, dim=1):
            out = model(part, past_key_values=state, use_cache=True)
            state = out.past_key_values
            parts.append(out.logits)
    assert relative_error(torch.cat(parts, 1), whole.logits) < 1e-10


def test_memory_for_the_gradient_grows_with_the_length_alone() -> None:
    gate = GatedShift(GateConfig.preset(ARM), 8)

    def saved(time: int) -> int:
        sizes: list[int] = []
        hidden = torch.randn(1, time, 8, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.nbytes) or x, lambda x: x):
            gate(hidden, TokenShift(None), None)
        return sum(sizes)

    assert saved(400) - saved(200) == 2 * (saved(200) - saved(100))
