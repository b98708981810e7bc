"""RWKV-7: the delta rule by chunks against its definition, and the network against the paper's equations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from rwkvgate.experiment.study.rwkv7 import STRONGEST, Rwkv7ForCausalLM, wkv7_chunked, wkv7_recurrent


def inputs(time: int, dtype: torch.dtype = torch.float64, decay: float | None = None) -> list[Tensor]:
    """r, w, k, v, a and b as time mixing makes them: (2, time, 3, 8) each; a log decay of the whole range, or one."""
    generator = torch.Generator().manual_seed(time)
    r, w, k, v, a, b = torch.randn(6, 2, time, 3, 8, dtype=torch.float64, generator=generator).unbind(0)
    w = -STRONGEST * torch.sigmoid(3 * w) if decay is None else torch.full_like(w, decay)
    removal = torch.nn.functional.normalize(a, dim=-1)
    return [x.to(dtype).requires_grad_() for x in (r, w, k, v, -removal, removal * torch.sigmoid(b))]


def both(parts: list[Tensor], form: Any) -> list[Tensor]:
    """The output, and the gradients of a random sum of it."""
    out = form(*parts)
    weight = torch.randn(out.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).to(out.dtype)
    return [out, *torch.autograd.grad((out * weight).sum(), parts)]


@pytest.mark.parametrize("time", [1, 31, 32, 33, 100])
def test_chunks_give_the_definitions_numbers_and_gradients(time: int) -> None:
    parts = inputs(time)
    for found, exact in zip(both(parts, wkv7_chunked), both(parts, wkv7_recurrent), strict=True):
        torch.testing.assert_close(found, exact, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("decay", [0.0, -STRONGEST])
def test_float32_is_exact_at_both_ends_of_the_decay(decay: float) -> None:
    found = both(inputs(100, torch.float32, decay), wkv7_chunked)
    exact = both(inputs(100, decay=decay), wkv7_recurrent)
    for one, other in zip(found, exact, strict=True):
        assert float(((one.double() - other).abs().max() / other.abs().max()).detach()) < 1e-5


def test_the_gradient_is_that_of_differences() -> None:
    parts = [x[:1, :5, :1, :3].detach().requires_grad_() for x in inputs(5)]
    assert torch.autograd.gradcheck(lambda *x: wkv7_chunked(*x, chunk=2), parts)


def test_a_chunk_of_no_token_is_refused() -> None:
    with pytest.raises(ValueError, match="chunk is 0; it must be at least 1"):
        wkv7_chunked(*inputs(3), chunk=0)


def by_the_paper(model: Rwkv7ForCausalLM, ids: list[int]) -> Tensor:
    """Logits (time, vocabulary) of one text, a token and a head at a time, as section 4 of arXiv 2503.14456 has it."""

    def normal(x: Tensor, norm: Any, epsilon: float = 1e-5) -> Tensor:
        return (x - x.mean()) / (x.var(correction=0) + epsilon).sqrt() * norm.weight + norm.bias

    layers, heads = len(model.blocks), model.heads
    size = model.channels // heads
    states = [[torch.zeros(size, size, dtype=torch.float64) for _ in range(heads)] for _ in range(layers)]
    previous = [[torch.zeros(model.channels, dtype=torch.float64) for _ in range(2)] for _ in range(layers)]
    logits = []
    for token in ids:
        hidden, v_0 = normal(model.embeddings.weight[token], model.first_norm), None
        for layer, block in enumerate(model.blocks):
            time: Any = block.time
            x, last = normal(hidden, block.norms[0]), previous[layer][0]
            previous[layer][0] = x
            x_r, x_w, x_k, x_v, x_a, x_g = (x + (last - x) * mu.flatten() for mu in time.shares)
            d = time.time_decay + torch.tanh(x_w @ time.decay.down) @ time.decay.up
            w = torch.exp(-torch.exp(torch.tensor(-0.5, dtype=torch.float64)) * torch.sigmoid(d))
            r, k, v = (m.weight @ y for m, y in ((time.receptance, x_r), (time.key, x_k), (time.value, x_v)))
            if v_0 is None:
                v_0 = v
            else:
                nu = torch.sigmoid(time.first_start + x_v @ time.first.down @ time.first.up)
                v = (1 - nu) * v + nu * v_0
            a = torch.sigmoid(time.rate_start + x_a @ time.rate.down @ time.rate.up)
            g = torch.sigmoid(x_g @ time.gate.down) @ time.gate.up
            kappa = k * time.removal
            k = k * (1 - time.replacement + a * time.replacement)
            parts = []
            for head in range(heads):
                own = slice(head * size, (head + 1) * size)
                unit = kappa[own] / kappa[own].norm()
                transition = torch.diag(w[own]) - torch.outer(unit, a[own] * unit)
                states[layer][head] = states[layer][head] @ transition + torch.outer(v[own], k[own])
                y = states[layer][head] @ r[own]
                y = (y - y.mean()) / (y.var(correction=0) + 64e-5).sqrt()
                y = y * time.norm.weight[own] + time.norm.bias[own]
                parts.append(y + (r[own] * k[own] * time.bonus[own]).sum() * v[own])
            hidden = hidden + time.output.weight @ (torch.cat(parts) * g)
            x, last = normal(hidden, block.norms[1]), previous[layer][1]
            previous[layer][1] = x
            key = torch.relu(block.key.weight @ (x + (last - x) * block.share))
            hidden = hidden + block.value.weight @ key**2
        logits.append(model.head.weight @ normal(hidden, model.last_norm))
    return torch.stack(logits)


def test_the_network_is_the_papers() -> None:
    torch.manual_seed(0)
    model = Rwkv7ForCausalLM(vocabulary=11, channels=12, layers=3, heads=2, inner=20).double()
    with torch.no_grad():
        for parameter in model.parameters():  # what starts at zero too
            parameter += 0.3 * torch.randn_like(parameter)
        ids = torch.randint(11, (2, 37))
        found = model(ids).logits
        for row, tokens in zip(found, ids.tolist(), strict=True):
            torch.testing.assert_close(row, by_the_paper(model, tokens), rtol=1e-9, atol=1e-9)


def test_it_starts_as_the_reference_does() -> None:
    torch.manual_seed(0)
    model = Rwkv7ForCausalLM(vocabulary=64, channels=32, layers=2, heads=2, inner=128)
    first, last = (block.time for block in model.blocks)
    assert "first_start" not in dict(first.named_parameters())
    # w0 = -6 + 6 (n / (C - 1))^(1 + depth^0.3) + 0.5 + 2.5 zigzag, whose zigzag runs from -1 to 1 in each head.
    torch.testing.assert_close(first.time_decay[[0, 15, 31]], torch.tensor([-8.0, -3 + 6 * 15 / 31, 3.0]))
    torch.testing.assert_close(last.time_decay[15], torch.tensor(-3 + 6 * (15 / 31) ** 2))
    torch.testing.assert_close(last.rate_start[[0, 31]], torch.tensor([-0.69, 0.31]))
    torch.testing.assert_close(last.first_start[[0, 31]], torch.tensor([0.93, 0.53]))
    torch.testing.assert_close(last.shares[:, 0, 0, 16], 1 - 0.5 ** (torch.tensor([0.2, 0.9, 0.7, 0.7, 0.9, 0.2]) / 2))
    torch.testing.assert_close(last.norm.weight[0], torch.tensor(1.0))
    torch.testing.assert_close(last.decay.up @ last.decay.up.T, 0.01 * torch.eye(32), atol=1e-6, rtol=0)
    for zero in (last.output.weight, model.blocks[1].value.weight, last.decay.down, last.gate.down):
        assert not zero.any()
    assert float(last.key.weight.detach().abs().max()) == pytest.approx(0.05 / 32**0.5, rel=0.1)


@pytest.mark.parametrize("heads", [3, 8])
def test_heads_that_do_not_fit_are_refused(heads: int) -> None:
    with pytest.raises(ValueError, match=f"heads is {heads}; it must divide the 8 channels"):
        Rwkv7ForCausalLM(vocabulary=9, channels=8, layers=1, heads=heads, inner=8)
