"""Predicted training memory against what autograd really keeps."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rwkvgate.experiment.training import memory
from rwkvgate.experiment.training.memory import TrainingMemory, count, counting_saved, require_memory
from rwkvgate.gate.patch import select_trainable
from rwkvgate.gate.validation import SettingsError


@pytest.mark.parametrize("arm", [None, "enhanced"])
@pytest.mark.parametrize("length", [64, 192])
def test_activations_are_what_autograd_keeps(tiny_model: Any, tokens: Any, arm: str | None, length: int) -> None:
    model = tiny_model(arm, torch.float32).train()
    predicted = count(model).memory(3, length)
    ids = tokens(3, length)
    with counting_saved(model.parameters()) as saved:
        model(ids, labels=ids)
    kept = sum(saved.values())
    one = predicted.activations / (model.config.num_hidden_layers + 1)
    # Beside the blocks: ids, the final norm, and the loss's own gradients.
    beside = kept - (predicted.activations - one)
    assert 0 < beside < 0.15 * kept


def test_a_frozen_base_has_no_gradients(tiny_model: Any) -> None:
    model = tiny_model("enhanced", torch.float32)
    everything = count(model).memory(1, 64)
    assert everything.gradients == everything.weights and everything.optimizer == 2 * everything.weights
    select_trainable(model, "gate-and-norms")
    less = count(model).memory(1, 64)
    assert less.weights == everything.weights and less.gradients < everything.gradients
    assert less.total < everything.total and "GiB" in str(less)


def test_checkpointing_takes_less(tiny_model: Any) -> None:
    model = tiny_model("enhanced", torch.float32, num_hidden_layers=6).train()
    plain = count(model).memory(2, 128)
    model.activation_checkpointing_enable()
    assert count(model).memory(2, 128).activations < plain.activations / 2


def test_what_will_not_fit_is_refused_before_training(tiny_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    predicted = count(tiny_model()).memory(2, 128)
    require_memory(predicted, torch.device("cpu"))
    monkeypatch.setattr(memory.torch.cuda, "mem_get_info", lambda device: (predicted.total // 2, 2**34))
    monkeypatch.setattr(memory.torch.cuda, "memory_allocated", lambda device: 0)
    monkeypatch.setattr(memory.torch.cuda, "get_device_name", lambda device: "a small card")
    with pytest.raises(SettingsError, match=r"a small card has 0\.\d+ GiB free; the largest part is activations"):
        require_memory(predicted, torch.device("cuda"))


def test_a_refusal_needs_more_than_is_free_beside_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    predicted = TrainingMemory(weights=2**30, gradients=2**29, optimizer=2**30, activations=2**31, loss=2**28)
    monkeypatch.setattr(memory.torch.cuda, "memory_allocated", lambda device: 2**32)
    monkeypatch.setattr(memory.torch.cuda, "get_device_name", lambda device: "a small card")
    needed = predicted.total - predicted.weights
    monkeypatch.setattr(memory.torch.cuda, "mem_get_info", lambda device: (needed, 2**34))
    require_memory(predicted, torch.device("cuda"))
    monkeypatch.setattr(memory.torch.cuda, "mem_get_info", lambda device: (needed - 1, 2**34))
    with pytest.raises(SettingsError, match=r"needs about 4\.75 GiB .*, 3\.75 GiB more than.*activations$"):
        require_memory(predicted, torch.device("cuda"))


def test_several_processes_share_what_can_be_shared(tiny_model: Any) -> None:
    model = tiny_model("enhanced", torch.float32, num_hidden_layers=6)
    select_trainable(model, "gate-and-norms")
    alone = count(model).memory(4, 64)
    whole, spread = (count(model).memory(1, 64, processes=4, sharded=sharded) for sharded in (False, True))
    assert whole.weights == alone.weights and whole.exchanged == alone.gradients and alone.exchanged == 0
    assert whole.activations == pytest.approx(alone.activations / 4, abs=2)
    for part in ("weights", "gradients", "optimizer"):
        assert 0 <= 4 * getattr(spread, part) - getattr(alone, part) < 4
    # Gathered: embedding, head and the last norm, and two blocks; what is trained of them twice, for its gradient.
    outside = [model.get_input_embeddings(), model.get_output_embeddings(), model.base_model.ln_out]
    counted = [p for module in (*outside, *model.base_model.blocks[:2]) for p in module.parameters()]
    first = model.base_model.blocks[0].pre_ln
    # The largest block is the first, for it has a norm more, and it is counted twice.
    counted += list(first.parameters())
    assert spread.exchanged == sum(4 * p.numel() * (1 + p.requires_grad) for p in counted)
    assert "exchanged" in str(spread) and "exchanged" not in str(alone)
