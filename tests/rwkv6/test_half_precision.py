"""float16 and bfloat16 against float32 on the same rounded weights, at the magnitudes real checkpoints reach."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rwkvgate import GateConfig, Rwkv6ForCausalLM, patch
from rwkvgate.gate.patch import gates_of, select_trainable

ARMS = [None, "enhanced", "no-layer-norm", "fixed-gate", "identity-start"]


def pair(tiny_model: Any, arm: str | None, dtype: torch.dtype, change: Callable[[Rwkv6ForCausalLM], None]) -> Any:
    """A model in half precision, and the same weights in float32."""
    models = []
    for _ in range(2):
        model = tiny_model(None, torch.float32)
        with torch.no_grad():
            change(model)
        models.append(model.to(dtype))
    half, full = models[0], models[1].float()
    if arm is not None:
        for model in (half, full):
            torch.manual_seed(1)
            patch(model, GateConfig.preset(arm))
    return half, full


def stream_of(size: float) -> Callable[[Rwkv6ForCausalLM], None]:
    """Makes the residual stream as large as `size`, through what the first layer reads."""

    def change(model: Rwkv6ForCausalLM) -> None:
        norm = model.rwkv.blocks[0].pre_ln
        norm.weight.fill_(size / 2.5)  # the largest of 32 normalised channels is about 2.5
        norm.bias.zero_()

    return change


def largest(model: Rwkv6ForCausalLM, ids: Tensor) -> float:
    states = model(ids, output_hidden_states=True).hidden_states[1:-1]
    return max(float(state.detach().abs().max()) for state in states)


def error(tiny_model: Any, arm: str | None, size: float, ids: Tensor) -> float:
    """Root mean square of the logits' error in float16, relative to that of the logits."""
    half, full = pair(tiny_model, arm, torch.float16, stream_of(size))
    with torch.inference_mode():
        found, wanted = half(ids).logits, full(ids).logits
    assert found.dtype == torch.float16 and bool(found.isfinite().all())
    assert arm is not None or largest(full, ids) > size / 3
    return float((found.float() - wanted).square().mean().sqrt() / wanted.square().mean().sqrt())


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("size", [1e3, 3e4, 6e4])
def test_a_large_stream_costs_no_accuracy(tiny_model: Any, tokens: Any, arm: str | None, size: float) -> None:
    ids = tokens(2, 40)
    # Arms that normalise the stream anew at every layer have the larger error, at every size.
    assert error(tiny_model, arm, size, ids) < 1.5 * error(tiny_model, arm, 2.5, ids) < 0.03


@pytest.mark.parametrize("factor", [10, 1000])
def test_keys_whose_square_no_half_can_hold(
    tiny_model: Any, tokens: Any, relative_error: Callable[..., float], factor: float
) -> None:
    def change(model: Rwkv6ForCausalLM) -> None:
        for block in model.rwkv.blocks:
            block.feed_forward.key.weight.mul_(factor)

    half, full = pair(tiny_model, None, torch.float16, change)
    ids = tokens(2, 20)
    reached: list[float] = []
    hook = full.rwkv.blocks[0].feed_forward.key.register_forward_hook(
        lambda module, args, output: reached.append(float(output.max()))
    )
    wanted = full(ids).logits
    hook.remove()
    assert factor < 1000 or reached[0] > 256
    found = half(ids).logits
    assert bool(found.isfinite().all())
    assert relative_error(found, wanted) < 0.02


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("arm", ARMS)
def test_what_stays_in_float32(tiny_model: Any, tokens: Any, arm: str | None, dtype: torch.dtype) -> None:
    model, _ = pair(tiny_model, arm, dtype, lambda model: None)
    out = model(tokens(2, 9), use_cache=True, output_hidden_states=True)
    assert all(state.dtype == torch.float32 for state in out.hidden_states)
    for layer in out.past_key_values.layers:
        assert layer.wkv.dtype == torch.float32
        assert layer.gate is None or layer.gate.dtype == torch.float32
    assert all(p.dtype == torch.float32 for gate in gates_of(model) for p in gate.parameters())
    goes_on = model(tokens(2, 3), past_key_values=out.past_key_values)
    assert goes_on.logits.dtype == dtype


def test_the_gate_is_float32_under_autocast(tiny_model: Any, tokens: Any) -> None:
    model = tiny_model("enhanced", torch.float32)
    seen = []
    model.rwkv.blocks[0].gated_shift.gating.linear.register_forward_hook(
        lambda module, args, out: seen.append(out.dtype)
    )
    with torch.autocast("cpu", torch.bfloat16):
        model(tokens(1, 5))
    assert seen == [torch.float32]


@pytest.mark.parametrize("arm", ["enhanced", "identity-start"])
def test_a_frozen_half_base_trains_its_gate_by_a_scaler(tiny_model: Any, tokens: Any, arm: str) -> None:
    model, _ = pair(tiny_model, arm, torch.float16, lambda model: None)
    trained = select_trainable(model, "gate-and-norms")
    parameters = dict(model.named_parameters())
    assert all(parameters[name].dtype == torch.float32 for name in trained)
    frozen = {name: p.clone() for name, p in parameters.items() if name not in trained}
    assert all(p.dtype == torch.float16 for p in frozen.values())
    optimizer = torch.optim.AdamW([parameters[name] for name in trained], lr=0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    ids, losses = tokens(4, 16), []
    for _ in range(8):
        loss = model.train()(ids, labels=ids).loss
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.05
    assert all(torch.equal(p, parameters[name]) for name, p in frozen.items())


def test_layer_norm_takes_mixed_types() -> None:
    from rwkvgate.rwkv6.mixing import LayerNorm

    norm = LayerNorm(8).half()
    x = 1e4 * torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    for given in (x, x.half()):
        found = norm(given)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, nn.functional.layer_norm(given.float(), (8,)))


@pytest.mark.parametrize("arm", [None, "enhanced"])
def test_gradient_checkpointing_changes_no_gradient(
    tiny_model: Any, tokens: Any, relative_error: Callable[..., float], arm: str | None
) -> None:
    ids = tokens(2, 21)
    mask = torch.ones_like(ids)
    mask[0, :5] = 0

    def gradients(checkpointing: bool) -> dict[str, Tensor]:
        model = tiny_model(arm).train()
        if checkpointing:
            model.activation_checkpointing_enable()
        model(ids, attention_mask=mask, labels=ids).loss.backward()
        return {name: p.grad for name, p in model.named_parameters()}

    plain, again = gradients(False), gradients(True)
    assert max(relative_error(again[name], plain[name]) for name in plain) < 1e-12
