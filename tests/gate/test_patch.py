"""Patching as behaviour: what changes, what does not, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from rwkvgate import GateConfig, patch, unpatch
from rwkvgate.gate.config import PRESETS
from rwkvgate.gate.layer import GatedShift
from rwkvgate.gate.patch import gate_config, gates_of, is_patched, select_trainable
from rwkvgate.gate.validation import SettingsError
from rwkvgate.rwkv6.token_shift import TokenShift

GATED = list(PRESETS)
TRAINED = [None, *PRESETS]


def snapshot(model: nn.Module) -> dict[str, torch.Tensor]:
    """Every parameter as it is now."""
    return {name: p.detach().clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("arm", ["enhanced", "no-layer-norm", "fixed-gate"])
def test_the_layer_is_the_papers_formula(arm: str) -> None:
    torch.manual_seed(0)
    gate = GatedShift(GateConfig.preset(arm), 6).double()
    hidden = torch.randn(2, 5, 6, dtype=torch.float64)
    found, carried = gate(hidden, TokenShift(None), None)
    for b in range(2):
        before = torch.zeros(6, dtype=torch.float64)
        for t in range(5):
            h = hidden[b, t]
            g = gate.config.value
            if g is None:
                g = torch.sigmoid(gate.gating.linear.weight @ h + gate.gating.linear.bias)
            wanted = h + g * before
            if gate.norm is not None:
                centred = wanted - wanted.mean()
                wanted = centred / torch.sqrt(centred.square().mean() + 1e-5) * gate.norm.weight + gate.norm.bias
            torch.testing.assert_close(found[b, t], wanted, rtol=1e-12, atol=1e-12)
            before = h
    assert torch.equal(carried[:, 0], hidden[:, -1])


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_a_fixed_gate_takes_any_value(value: float, tiny_model: Any, tokens: Any) -> None:
    model, ids = tiny_model(dtype=torch.float32), tokens(2, 6)
    plain = model(ids).logits
    patch(model, GateConfig(gating="fixed", value=value, norm="none"))
    assert torch.equal(model(ids).logits, plain) == (value == 0.0)


@pytest.mark.parametrize("arm", GATED)
def test_unpatching_restores_the_base_bit_for_bit(arm: str, tiny_model: Any, tokens: Any) -> None:
    model, ids = tiny_model(dtype=torch.float32), tokens(2, 12)
    before, names, config = model(ids).logits, list(model.state_dict()), model.config.to_dict()
    patch(model, GateConfig.preset(arm))
    assert is_patched(model)
    assert torch.equal(model(ids).logits, before) == (arm in ("identity-start", "ungated-shift"))
    unpatch(model)
    assert torch.equal(model(ids).logits, before)
    assert list(model.state_dict()) == names and model.config.to_dict() == config


@pytest.mark.parametrize("arm", GATED)
def test_names_say_gate_or_norm(arm: str, tiny_model: Any) -> None:
    plain, patched = tiny_model(), tiny_model(arm)
    added = {name for name, _ in patched.named_parameters()} - {name for name, _ in plain.named_parameters()}
    assert all(any(part in name for part in (".gating.", ".gate_")) or ".norm." in name for name in added)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_an_identity_start_learns_from_there(tiny_model: Any, tokens: Any, dtype: torch.dtype) -> None:
    model, ids = tiny_model(dtype=dtype), tokens(2, 12)
    before = model(ids, labels=ids)
    patch(model, GateConfig.preset("identity-start"))
    assert torch.equal(model(ids).logits, before.logits)
    assert all(gate.norm is None for gate in gates_of(model))
    select_trainable(model, "gate-and-norms")
    gates = [p for gate in gates_of(model) for p in gate.parameters()]
    optimizer = torch.optim.SGD(gates, lr=0.02)
    for _ in range(3):
        optimizer.zero_grad()
        model(ids, labels=ids, skip_logits=True).loss.backward()
        optimizer.step()
    # The factor moves first; once it is off zero, the gate behind it does too.
    assert all(p.grad is not None and bool(p.grad.abs().max() > 0) for p in gates)
    assert model(ids, labels=ids).loss < before.loss


def test_patching_twice_is_refused_with_nothing_changed(tiny_model: Any, tokens: Any) -> None:
    model, ids = tiny_model("enhanced"), tokens(1, 6)
    before, logits = snapshot(model), model(ids).logits
    with pytest.raises(ValueError, match="patched already"):
        patch(model, GateConfig.preset("fixed-gate"))
    after = snapshot(model)
    assert list(after) == list(before) and all(torch.equal(after[name], before[name]) for name in before)
    assert torch.equal(model(ids).logits, logits)


def test_wrong_things_are_refused(tiny_model: Any) -> None:
    with pytest.raises(ValueError, match="not patched"):
        unpatch(tiny_model())
    with pytest.raises(TypeError, match="must be a GateConfig"):
        patch(tiny_model(), {"gating": "sigmoid"})
    with pytest.raises(TypeError, match="is a Linear; it must be a Rwkv6Model"):
        patch(nn.Linear(2, 2), GateConfig())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_gate_on_a_half_precision_base_is_float32(dtype: torch.dtype, tiny_model: Any, tokens: Any) -> None:
    model = patch(tiny_model(dtype=dtype), GateConfig.preset("enhanced"))
    assert {p.dtype for gate in gates_of(model) for p in gate.parameters()} == {torch.float32}
    logits = model(tokens(2, 8)).logits
    assert logits.dtype == dtype and torch.isfinite(logits).all()


@pytest.mark.parametrize("arm", TRAINED)
@pytest.mark.parametrize("scope", ["all", "gate-and-norms"])
def test_only_what_is_named_changes_in_training(arm: str, scope: Any, tiny_model: Any, tokens: Any) -> None:
    model = tiny_model(arm).train()
    named = select_trainable(model, scope)
    if scope == "gate-and-norms":
        assert all(".gated_shift" in name or ".ln" in name or ".pre_ln" in name for name in named)
    before = snapshot(model)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    model(tokens(2, 16), labels=tokens(2, 16)).loss.backward()
    optimizer.step()
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == set(named)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: GateConfig.preset("enhnced"), "did you mean 'enhanced'"),
        (lambda: GateConfig.preset("base"), "unknown gated arm 'base'"),
        (lambda: GateConfig.preset("enhanced", gatng="fixed"), "unknown key 'gatng'.*did you mean 'gating'"),
        (lambda: GateConfig.preset("fixed-gate", value=1.5), "value is 1.5"),
        (
            lambda: GateConfig.preset("enhanced", value=0.5),
            "value is 0.5, and gating is 'sigmoid'; value goes",
        ),
        (lambda: GateConfig.preset("enhanced", norm="batch"), "norm is 'batch'"),
        (lambda: GateConfig.preset("enhanced", shift="convolution"), "taps is missing; shift 'convolution' needs it"),
        (lambda: GateConfig.preset("enhanced", shift="offset"), "offset is missing; shift 'offset' needs it"),
        (lambda: GateConfig.preset("enhanced", taps=4), "taps goes with shift 'learned' or 'convolution' or 'window'"),
        (lambda: GateConfig.preset("enhanced", position=True), "position goes with shift 'convolution'"),
        (lambda: GateConfig.preset("enhanced", rank=4), "rank is 4; it goes with shift 'learned' or gating 'low-rank'"),
        (lambda: GateConfig.preset("enhanced", heads=4), "heads is 4; it goes with gating 'per-head' or 'attention'"),
        (lambda: GateConfig.preset("enhanced", segment=16), "segment goes with gating 'hierarchical'"),
        (lambda: GateConfig.preset("enhanced", shift="window", taps=4), "attention, and no other gating, reads a"),
        (
            lambda: GateConfig.preset("routing-only", shift="recurrent"),
            "a recurrent shift goes with a gating that does",
        ),
        (lambda: GateConfig.preset("attention-gate", shift="previous", taps=None), "attention, and no other gating"),
        (lambda: GateConfig.preset("enhanced", site="input"), "site is 'input'.*'output', 'time-mixing'"),
        (lambda: GateConfig.preset("per-head", heads=3).sized(8), "heads is 3; it must divide the model's width, 8"),
        (lambda: GateConfig.preset("attention-gate", rank=6).sized(8), "rank is 6; heads, 4, must divide it"),
    ],
)
def test_bad_configs_are_refused_in_words(build: Any, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        build()


def test_a_gate_that_does_not_fit_leaves_the_model_alone(tiny_model: Any, tokens: Any) -> None:
    model, ids = tiny_model(), tokens(1, 6)
    before = model(ids).logits
    with pytest.raises(SettingsError, match="must divide the model's width, 32"):
        patch(model, GateConfig.preset("per-head", heads=5))
    assert not is_patched(model) and torch.equal(model(ids).logits, before)


def test_sizes_left_out_are_the_models(tiny_model: Any) -> None:
    model = patch(tiny_model(), GateConfig.preset("per-head"))
    assert gate_config(model).heads == model.config.num_attention_heads == 4
    assert gate_config(patch(tiny_model(), GateConfig.preset("low-rank"))).rank == 16
    assert GateConfig.preset("low-rank").sized(2048).rank == 64


def test_another_scope_is_refused(tiny_model: Any) -> None:
    model = tiny_model("enhanced")
    with pytest.raises(SettingsError, match=r"unknown scope 'everything'.*gate-and-norms"):
        select_trainable(model, "everything")
    assert all(p.requires_grad for p in model.parameters())


def test_a_model_inside_another_is_asked_for(tiny_model: Any) -> None:
    with pytest.raises(TypeError, match="wraps another; give the model inside"):
        patch(torch.compile(tiny_model()), GateConfig.preset("enhanced"))
