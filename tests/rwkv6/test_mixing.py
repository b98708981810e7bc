"""The five inputs of time mixing: the backward by hand against torch's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from rwkvgate.rwkv6 import mixing
from rwkvgate.rwkv6.mixing import _Moved


def draw(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """x and delta, (batch, time, channel), and the shares, (5, batch, time, channel)."""
    generator = torch.Generator().manual_seed(0)
    shapes = (2, 3, 4), (2, 3, 4), (5, 2, 3, 4)
    x, delta, share = (torch.randn(s, generator=generator).to(dtype).requires_grad_() for s in shapes)
    return x, delta, share


@pytest.mark.parametrize("wanted", range(5))
def test_gradients_are_those_of_the_plain_product(wanted: int) -> None:
    inputs = draw()
    slopes = [torch.randn(2, 3, 4, dtype=torch.float64) for _ in range(wanted + 1)]  # of the first few alone
    found = torch.autograd.grad(_Moved.apply(*inputs)[: wanted + 1], inputs, slopes)
    plain = torch.autograd.grad(torch.addcmul(*inputs).unbind(0)[: wanted + 1], inputs, slopes)
    for own, other in zip(found, plain, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-14, atol=1e-14)


def test_gradients_of_gradients() -> None:
    inputs = draw()
    assert torch.autograd.gradcheck(_Moved.apply, inputs) and torch.autograd.gradgradcheck(_Moved.apply, inputs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_half_precision_is_added_up_in_more(tiny_model: Any, dtype: torch.dtype, monkeypatch: Any) -> None:
    """Its five gradients would be rounded one after another."""
    taken: list[torch.dtype] = []

    class Watched:
        @staticmethod
        def apply(*inputs: Tensor) -> tuple[Tensor, ...]:
            taken.append(inputs[0].dtype)
            return _Moved.apply(*inputs)

    monkeypatch.setattr(mixing, "_Moved", Watched)
    tiny_model(dtype=dtype).train()(torch.tensor([[1, 2, 3]]))
    assert set(taken) == ({dtype} if dtype == torch.float32 else set())
