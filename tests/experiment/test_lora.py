"""The control of equal size: as many parameters as the gate, equal to the base before training."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rwkvgate import GateConfig, patch
from rwkvgate.experiment.lora import TARGETS, add_lora, gate_size, lora_ranks
from rwkvgate.gate.patch import gates_of, select_trainable


def count(parameters: Any) -> int:
    return sum(p.numel() for p in parameters)


def test_the_gates_size_is_the_gates_size(tiny_model: Any) -> None:
    patched = patch(tiny_model(), GateConfig())
    assert gate_size(tiny_model()) == count(p for gate in gates_of(patched) for p in gate.parameters())


@pytest.mark.parametrize("hidden", [32, 64])
def test_as_many_parameters_as_the_gate(tiny_model: Any, hidden: int) -> None:
    model = tiny_model(hidden_size=hidden)
    wanted = gate_size(model)
    add_lora(model)
    adapters = [p for name, p in model.named_parameters() if "lora_" in name]
    assert len(adapters) == 2 * len(TARGETS) * model.config.num_hidden_layers
    one_rank = count(p for p in adapters) / sum(lora_ranks(tiny_model(hidden_size=hidden), wanted))
    assert abs(count(adapters) - wanted) <= one_rank / 2


def test_it_is_the_base_until_trained(tiny_model: Any, tokens: Any) -> None:
    ids = tokens(2, 11)
    wanted = tiny_model()(ids).logits
    model = add_lora(tiny_model())
    assert torch.equal(model(ids).logits, wanted)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.1)
    assert not torch.allclose(model(ids).logits, wanted)


@pytest.mark.parametrize("scope", ["all", "gate-and-norms"])
def test_adapters_are_trained_in_every_scope(tiny_model: Any, tokens: Any, scope: str) -> None:
    model = add_lora(tiny_model())
    names = select_trainable(model, scope)
    assert sum("lora_" in name for name in names) == 2 * len(TARGETS) * model.config.num_hidden_layers
    assert ("rwkv.blocks.0.attention.key.base_layer.weight" in names) == (scope == "all")
    assert "rwkv.blocks.0.ln1.weight" in names
    ids = tokens(2, 7)
    model.train()(ids, labels=ids).loss.backward()
    assert all(p.grad is not None for name, p in model.named_parameters() if "lora_B" in name)


def test_what_cannot_be_done_is_refused(tiny_model: Any) -> None:
    with pytest.raises(ValueError, match="adapters already"):
        add_lora(add_lora(tiny_model()))
    with pytest.raises(ValueError, match="100 parameters are too few for 3 blocks"):
        add_lora(tiny_model(), 100)
    with pytest.raises(TypeError, match="must be a Rwkv6Model"):
        add_lora(torch.nn.Linear(3, 3))  # type: ignore[type-var]
