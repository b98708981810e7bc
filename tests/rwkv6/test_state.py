"""The state as an object: rows picked, repeated, split, joined and written to disk, and its edge cases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rwkvgate import Rwkv6State


def flat(state: Rwkv6State) -> list[Tensor]:
    return [x for layer in state.layers for x in vars(layer).values() if x is not None]


def same(left: Rwkv6State, right: Rwkv6State) -> bool:
    ours, theirs = flat(left), flat(right)
    return len(ours) == len(theirs) and all(
        x.dtype == y.dtype and torch.equal(x, y) for x, y in zip(ours, theirs, strict=True)
    )


def state_of(model: Any, ids: Tensor) -> Rwkv6State:
    return model(ids, use_cache=True).past_key_values


@pytest.fixture(params=[None, "enhanced"])
def state(request: Any, tiny_model: Any, tokens: Any) -> Rwkv6State:
    """A state of three sequences, with and without a gate."""
    with torch.no_grad():
        return tiny_model(request.param)(tokens(3, 5), use_cache=True).past_key_values


def test_rows_are_selected_in_order_and_may_repeat(state: Rwkv6State) -> None:
    with pytest.raises(ValueError, match=r"rows are torch.bool; they must be integers"):
        state.select(torch.tensor([True, False, True]))
    with pytest.raises(ValueError, match=r"rows are torch.float32"):
        state.select([0.9])  # type: ignore[list-item]
    assert state.select([]).batch_size == 0
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
    assert state.get_seq_length() == 5


def test_a_part_may_be_empty(tiny_model: Any, tokens: Any) -> None:
    state = state_of(tiny_model("enhanced"), tokens(4, 5))
    parts = state.split([2, 0, 2])
    assert [part.batch_size for part in parts] == [2, 0, 2]
    assert same(Rwkv6State.concatenate(parts), state)


def test_states_that_differ_in_kind_are_not_joined(tiny_model: Any, tokens: Any) -> None:
    plain, gated = state_of(tiny_model(), tokens(1, 3)), state_of(tiny_model("enhanced"), tokens(1, 3))
    for states in ([plain, gated], [gated, plain]):
        with pytest.raises(ValueError, match="3 layers, 0 with a gate, 3 layers, 3 with a gate"):
            Rwkv6State.concatenate(states)
    with pytest.raises(ValueError, match=r"1 layers, .*3 layers"):
        Rwkv6State.concatenate([plain, Rwkv6State(plain.layers[:1])])
    with pytest.raises(ValueError, match="at least one"):
        Rwkv6State.concatenate([])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_many_layers_are_loaded_in_their_order(tiny_model: Any, tokens: Any, tmp_path: Path, dtype: Any) -> None:
    model = tiny_model("enhanced", dtype, num_hidden_layers=11, hidden_size=16)  # "10" sorts before "2"
    state = state_of(model, tokens(2, 5)).split([1, 1])[1]
    state.save(tmp_path / "state.safetensors")
    assert same(Rwkv6State.load(tmp_path / "state.safetensors"), state)


def test_a_save_that_fails_leaves_the_old_file(
    tiny_model: Any, tokens: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, path = state_of(tiny_model(), tokens(1, 3)), tmp_path / "state.safetensors"
    state.save(path)

    def full_disk(tensors: Any, name: str) -> None:
        Path(name).write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr("rwkvgate.rwkv6.state.save_file", full_disk)
    with pytest.raises(OSError, match="no space left"):
        state.save(path)
    assert same(Rwkv6State.load(path), state)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_picking_rows_leaves_the_first_tensors_alone(tiny_model: Any, tokens: Any) -> None:
    state = state_of(tiny_model("enhanced"), tokens(3, 5))
    before, kept = flat(state), [x.clone() for x in flat(state)]
    state.reorder_cache(torch.tensor([1, 1, 2]))
    assert all(map(torch.equal, before, kept))
    assert all(x.device.type == "meta" for x in flat(state.to("meta")))
    assert any(x.requires_grad for x in flat(state)) and not any(x.requires_grad for x in flat(state.detach()))


def test_a_state_of_another_width_is_refused(tiny_model: Any, tokens: Any) -> None:
    state = state_of(tiny_model(hidden_size=16), tokens(1, 3))
    with pytest.raises(ValueError, match="layer 0 of the state has 16 channels, but the model has 32"):
        tiny_model()(tokens(1, 2), past_key_values=state)


@pytest.mark.parametrize(
    ("part", "value", "words"),
    [
        ("seen", torch.tensor([3]), r"seen of the state is \(1,\) of torch.int64; it must be \(2,\) of torch.int64"),
        ("seen", torch.tensor([1.5, 2]), r"of torch.float32; it must be \(2,\) of torch.int64"),
        ("seen", torch.tensor([-5, 2]), r"seen of the state is \[-5, 2\]; it must be 0 or more"),
        ("wkv", torch.ones(2, 3, 1, 1), "wkv of layer 0 of the state is"),
        ("wkv", torch.ones(()), "holds 3 layers of 0 sequences"),
        ("wkv", None, "torch.int64; it must be"),
        ("attention_shift", torch.ones(()), "layer 0 of the state has 1 channels"),
        ("feed_forward_shift", torch.ones(1, 32), "feed_forward_shift of layer 0 of the state is"),
        ("gate", torch.ones(2), "gate of layer 0 of the state is"),
    ],
)
def test_a_damaged_state_is_refused(tiny_model: Any, tokens: Any, part: str, value: Any, words: str) -> None:
    model = tiny_model("enhanced")
    state = state_of(model, tokens(2, 3))
    if part == "seen":
        state.seen = value
    else:
        setattr(state.layers[0], part, state.layers[0].wkv.detach().long() if value is None else value)
    with pytest.raises(ValueError, match=words):
        model(tokens(2, 2), past_key_values=state)


def test_a_file_without_the_number_of_tokens(tiny_model: Any, tokens: Any, tmp_path: Path) -> None:
    state_of(tiny_model(), tokens(2, 3)).save(tmp_path / "state.safetensors")
    tensors = load_file(tmp_path / "state.safetensors")
    del tensors["seen"]
    save_file(tensors, tmp_path / "state.safetensors")
    with pytest.raises(ValueError, match="lacks seen, the number of tokens"):
        Rwkv6State.load(tmp_path / "state.safetensors")


def test_an_empty_part_has_read_nothing(state: Rwkv6State) -> None:
    assert state.split([0, 3])[0].get_seq_length() == 0
