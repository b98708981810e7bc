"""The loss without logits against `torch.nn.functional.cross_entropy`, in value and gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rwkvgate.rwkv6 import loss as loss_module
from rwkvgate.rwkv6.loss import CHUNK, IGNORED, next_token_loss

CHANNELS, VOCABULARY = 8, 29


def drawn(batch: int, time: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states, head and labels, a third of them not scored."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(batch, time, CHANNELS, generator=generator, dtype=dtype).requires_grad_()
    weight = torch.randn(VOCABULARY, CHANNELS, generator=generator, dtype=dtype).requires_grad_()
    labels = torch.randint(VOCABULARY, (batch, time), generator=generator)
    return hidden, weight, labels.masked_fill(torch.rand(batch, time, generator=generator) < 1 / 3, IGNORED)


def plain(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    logits = (hidden @ weight.t())[:, :-1].flatten(0, 1)
    return F.cross_entropy(logits, labels[:, 1:].flatten(), ignore_index=IGNORED)


@pytest.mark.parametrize("time", [2, 17, 2 * CHUNK + 3])
def test_value_and_gradients(time: int) -> None:
    hidden, weight, labels = drawn(3, time)
    labels[0, 1] = 5
    ours, reference = next_token_loss(hidden, weight, labels), plain(hidden, weight, labels)
    torch.testing.assert_close(ours, reference, rtol=1e-12, atol=0)
    wanted = torch.autograd.grad(reference * 3, (hidden, weight))
    for ours_grad, grad in zip(torch.autograd.grad(ours * 3, (hidden, weight)), wanted, strict=True):
        torch.testing.assert_close(ours_grad, grad, rtol=1e-10, atol=1e-14)


def test_gradcheck(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_module, "CHUNK", 4)
    hidden, weight, labels = drawn(2, 6)
    assert torch.autograd.gradcheck(lambda h, w: next_token_loss(h, w, labels), (hidden, weight))


def test_a_gradient_of_its_gradient_is_refused_and_not_left_out() -> None:
    hidden, weight, labels = drawn(2, 6)
    with pytest.raises(RuntimeError, match=r"differentiable once.*skip_logits=False"):
        torch.autograd.grad(next_token_loss(hidden, weight, labels), hidden, create_graph=True)


def test_a_sum_over_items_as_gradient_accumulation_needs() -> None:
    hidden, weight, labels = drawn(2, 9)
    scored = int((labels[:, 1:] != IGNORED).sum())
    torch.testing.assert_close(
        next_token_loss(hidden, weight, labels, 50), next_token_loss(hidden, weight, labels) * scored / 50
    )


@pytest.mark.parametrize("frozen", [0, 1])
def test_a_frozen_side_gets_no_gradient(frozen: int) -> None:
    hidden, weight, labels = drawn(2, 9)
    (hidden, weight)[frozen].requires_grad_(False)
    next_token_loss(hidden, weight, labels).backward()
    assert [x.grad is None for x in (hidden, weight)] == [frozen == 0, frozen == 1]


def test_scores_far_apart_stay_finite() -> None:
    hidden, weight, labels = drawn(2, 9, torch.float32)
    with torch.no_grad():
        hidden *= 1e4
    ours = next_token_loss(hidden, weight, labels)
    torch.testing.assert_close(ours, plain(hidden, weight, labels))
    ours.backward()
    assert all(torch.isfinite(x.grad).all() for x in (hidden, weight) if x.grad is not None)


def test_autocast_narrows_the_products_only() -> None:
    hidden, weight, labels = drawn(2, 40, torch.float32)
    exact = next_token_loss(hidden, weight, labels)
    with torch.autocast("cpu", torch.bfloat16):
        ours = next_token_loss(hidden, weight, labels)
    assert ours.dtype == torch.float32 and ours.item() != exact.item()
    torch.testing.assert_close(ours, exact, rtol=1e-2, atol=1e-2)
    ours.backward()
    assert hidden.grad is not None and hidden.grad.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights(dtype: torch.dtype) -> None:
    hidden, weight, labels = drawn(2, 300, torch.float32)
    halves = [x.detach().to(dtype).requires_grad_() for x in (hidden, weight)]
    ours = next_token_loss(halves[0], halves[1], labels)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, plain(hidden, weight, labels), rtol=1e-2, atol=1e-2)
    ours.backward()
    wanted = torch.autograd.grad(plain(hidden, weight, labels), (hidden, weight))
    for half, grad in zip(halves, wanted, strict=True):
        assert half.grad is not None and half.grad.dtype == dtype
        torch.testing.assert_close(half.grad.float(), grad, rtol=0, atol=0.02 * float(grad.abs().max()))


@pytest.mark.parametrize("time", [1, 4])
def test_nothing_scored_is_no_number(time: int) -> None:
    hidden, weight, _ = drawn(2, time)
    ours = next_token_loss(hidden, weight, torch.full((2, time), IGNORED))
    assert torch.isnan(ours)
    assert next_token_loss(hidden, weight, torch.full((2, time), IGNORED), 7).item() == 0


def test_labels_of_another_shape_are_refused() -> None:
    hidden, weight, labels = drawn(2, 9)
    with pytest.raises(ValueError, match=r"\(2, 8\); the tokens are \(2, 9\)"):
        next_token_loss(hidden, weight, labels[:, 1:])


def test_the_model_in_training_gives_the_loss_alone(
    tiny_model: Any, tokens: Any, relative_error: Callable[..., float]
) -> None:
    model = tiny_model("enhanced").train()
    ids = tokens(3, 20)
    labels = ids.masked_fill(torch.arange(20) > 16, IGNORED)

    def gradients(loss: Tensor) -> dict[str, Tensor]:
        model.zero_grad()
        loss.backward()
        return {"loss": loss.detach()} | {n: p.grad for n, p in model.named_parameters() if p.grad is not None}

    # By hand, for transformers' own loss rounds to float32.
    logits = model(ids, labels=labels, skip_logits=False).logits
    reference = gradients(F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()))
    output = model(ids, labels=labels)
    assert output.logits is None
    ours = gradients(output.loss)
    assert ours.keys() == reference.keys()
    assert max(relative_error(ours[name], reference[name]) for name in ours) < 1e-10
    assert model.eval()(ids, labels=labels).logits is not None


def test_whoever_changed_head_or_loss_gets_logits(tiny_model: Any, tokens: Any) -> None:
    ids = tokens(2, 9)
    model = tiny_model().train()
    handle = model.head.register_forward_hook(lambda module, args, output: output * 2)
    assert model(ids, labels=ids).logits is not None
    handle.remove()
    assert model(ids, labels=ids).logits is None
    assert model(ids, labels=ids, logits_to_keep=9).logits is not None
    assert model(ids, labels=ids, ignore_index=3).logits is not None
    model.loss_function = lambda logits, labels, **kwargs: logits.sum()
    output = model(ids, labels=ids)
    torch.testing.assert_close(output.loss, output.logits.sum())
    with pytest.raises(ValueError, match="skip_logits needs"):
        model(ids, labels=ids, skip_logits=True)
    with pytest.raises(ValueError, match="skip_logits needs labels"):
        tiny_model()(ids, skip_logits=True)
