"""Padding anywhere in a row, on a fresh or a carried state: the row gives what it gives alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from rwkvgate import Rwkv6State
from tests.conftest import ROUNDING

PATCHED = pytest.mark.parametrize("arm", [None, "enhanced", "no-layer-norm", "fixed-gate", "enhanced-recurrent"])

PATTERNS = {
    "left": "........xxxxxxxxxxxxxxxx",
    "right": "xxxxxxxxx...............",
    "middle": "xxxxx......xxx.....xxxxx",
    "everywhere": "..x.xxxx.xxx...xxxxxx...",
    "first only": "x.......................",
    "last only": ".......................x",
    "none": "xxxxxxxxxxxxxxxxxxxxxxxx",
}
"""x is the next token, a dot is padding."""


def flat(state: Rwkv6State) -> list[Tensor]:
    return [x for layer in state.layers for x in vars(layer).values() if x is not None]


def lay_out(ids: Tensor, pattern: str) -> tuple[Tensor, Tensor]:
    mask = torch.tensor([[mark == "x" for mark in pattern]])
    row = torch.zeros(1, len(pattern), dtype=torch.long)
    row[mask] = ids[0, : int(mask.sum())]
    return row, mask.long()


@PATCHED
@pytest.mark.parametrize("carried", [False, True], ids=["fresh", "carried"])
def test_padded_rows_equal_the_rows_alone(
    tiny_model: Any, tokens: Any, relative_error: Callable, arm: str | None, carried: bool
) -> None:
    model, ids = tiny_model(arm), tokens(1, 24, 3)
    states = [model(tokens(1, 5, i), use_cache=True).past_key_values if carried else None for i in range(len(PATTERNS))]
    rows, masks = (torch.cat(x) for x in zip(*(lay_out(ids, p) for p in PATTERNS.values()), strict=True))
    joined = Rwkv6State.concatenate(states) if carried else None
    together = model(rows, attention_mask=masks, past_key_values=joined, use_cache=True)
    for i, name in enumerate(PATTERNS):
        real = masks[i].bool()
        alone = model(ids[:, : int(real.sum())], past_key_values=states[i], use_cache=True)
        assert relative_error(together.logits[i][real], alone.logits[0]) <= ROUNDING, name
        for found, wanted in zip(flat(together.past_key_values.select([i])), flat(alone.past_key_values), strict=True):
            assert relative_error(found, wanted) <= ROUNDING, name


@PATCHED
def test_what_stands_at_padding_does_not_matter(tiny_model: Any, tokens: Any, arm: str | None) -> None:
    model, (ids, mask) = tiny_model(arm), lay_out(tokens(1, 24), PATTERNS["everywhere"])
    found, wanted = (model(x, attention_mask=mask, use_cache=True) for x in (torch.where(mask.bool(), ids, 5), ids))
    assert torch.equal(found.logits[mask.bool()], wanted.logits[mask.bool()])
    assert all(map(torch.equal, flat(found.past_key_values), flat(wanted.past_key_values)))


@PATCHED
def test_a_row_of_padding_alone_keeps_its_state(tiny_model: Any, tokens: Any, arm: str | None) -> None:
    model, ids = tiny_model(arm), tokens(2, 6)
    mask = torch.ones(2, 6, dtype=torch.long)
    mask[1] = 0
    state = model(tokens(2, 5, 1), use_cache=True).past_key_values
    out = model(ids, attention_mask=mask, past_key_values=state, use_cache=True)
    assert bool(out.logits.isfinite().all())
    assert all(map(torch.equal, flat(out.past_key_values.select([1])), flat(state.select([1]))))
    fresh = model(ids, attention_mask=mask, use_cache=True).past_key_values
    assert not any(bool(x.any()) for x in flat(fresh.select([1])))


def test_gradients_at_padding_are_zero(tiny_model: Any, tokens: Any) -> None:
    model, (ids, mask) = tiny_model("enhanced"), lay_out(tokens(1, 24), PATTERNS["everywhere"])
    embeds = model.rwkv.embeddings(ids).detach().requires_grad_()
    logits = model(inputs_embeds=embeds, attention_mask=mask).logits[mask.bool()]
    (gradient,) = torch.autograd.grad(logits.square().sum(), embeds)
    assert not gradient[~mask.bool()].any() and gradient[mask.bool()].any()
