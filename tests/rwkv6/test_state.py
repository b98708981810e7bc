"""The state as an object: rows picked, repeated, split, joined and written to disk."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rwkvgate import Rwkv6State


def same(left: Rwkv6State, right: Rwkv6State) -> bool:
    """Whether two states hold equal tensors."""
    return all(
        (a is None and b is None) or torch.equal(a, b)
        for one, other in zip(left.layers, right.layers, strict=True)
        for a, b in zip(vars(one).values(), vars(other).values(), strict=True)
    )


@pytest.fixture(params=[None, "enhanced"])
def state(request: Any, tiny_model: Any, tokens: Any) -> Rwkv6State:
    """A state of three sequences, with and without a gate."""
    with torch.no_grad():
        return tiny_model(request.param)(tokens(3, 5), use_cache=True).past_key_values


def test_rows_are_selected_in_order_and_may_repeat(state: Rwkv6State) -> None:
    picked = state.select([2, 0, 2])
    assert torch.equal(picked.layers[1].wkv, state.layers[1].wkv[[2, 0, 2]])
    state.reorder_cache(torch.tensor([2, 0, 2]))
    assert same(state, picked)


def test_split_and_concatenate_are_inverse(state: Rwkv6State) -> None:
    parts = state.split([1, 2])
    assert [part.batch_size for part in parts] == [1, 2]
    assert same(Rwkv6State.concatenate(parts), state)
    with pytest.raises(ValueError, match="do not add up to the batch, 3"):
        state.split([1, 1])


def test_saved_and_resumed(state: Rwkv6State, tmp_path: Any) -> None:
    state.save(tmp_path / "state.safetensors")
    assert same(Rwkv6State.load(tmp_path / "state.safetensors"), state)


def test_moved_and_detached(state: Rwkv6State) -> None:
    assert same(state.to("cpu"), state) and same(state.detach(), state)
    assert state.get_seq_length() == 0
