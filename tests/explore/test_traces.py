"""Traces: the gate's values as they are, the model's output as it was; and pictures of hostile text."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from rwkvgate.explore.plots import gate_distribution, layers_by_tokens, saturation_by_tokens
from rwkvgate.explore.reading import Stopped
from rwkvgate.explore.summaries import summarize_gates
from rwkvgate.explore.tokens import token_labels
from rwkvgate.explore.traces import record_gates
from rwkvgate.gate.config import PRESETS
from rwkvgate.gate.patch import gates_of


@pytest.mark.parametrize("arm", ["enhanced", "no-layer-norm", "fixed-gate"])
def test_values_are_the_gates_and_nothing_is_changed(arm: str, tiny_model: Any, tokens: Any) -> None:
    model, ids = tiny_model(arm, torch.float32), tokens(2, 11)
    before = model(ids).logits
    trace = record_gates(model, ids)
    assert trace.values.shape == (3, 2, 11, 32) and trace.values.dtype == torch.float16
    assert torch.equal(model(ids).logits, before)
    hidden: list[torch.Tensor] = []
    gate = model.rwkv.blocks[1].gated_shift
    handle = gate.register_forward_pre_hook(lambda _, inputs: hidden.append(inputs[0]))
    model(ids)
    handle.remove()
    if gate.config.gating == "fixed":
        wanted = torch.full_like(hidden[0], gate.config.value)
    else:
        wanted = torch.sigmoid(hidden[0] @ gate.gate.linear.weight.T + gate.gate.linear.bias)
    torch.testing.assert_close(trace.values[1].float(), wanted.detach(), atol=1e-3, rtol=0)
    assert all(gate.observer is None for gate in gates_of(model))


def test_nothing_leaks_after_an_error(tiny_model: Any, tokens: Any) -> None:
    model = tiny_model("enhanced")
    with pytest.raises(ValueError, match="at least one token"):
        record_gates(model, tokens(1, 3)[:, :0])
    assert all(gate.observer is None for gate in gates_of(model))


def test_an_unpatched_model_is_told_which_arms_have_gates(tiny_model: Any, tokens: Any) -> None:
    with pytest.raises(ValueError, match="arms with one: enhanced"):
        record_gates(tiny_model(), tokens(1, 3))


@pytest.mark.filterwarnings("ignore:Glyph")  # a script that the font lacks is drawn as boxes
@pytest.mark.parametrize("time", [1, 40, 300])
def test_pictures_of_hostile_tokens(time: int, tiny_model: Any, tokens: Any, tmp_path: Any) -> None:
    hostile = ["<script>", "$x^2$", "\n", " ", "שלום", "\ufffd", "\x00", "$$", "猫", "\\frac"]
    trace = record_gates(tiny_model("enhanced", torch.float32), tokens(1, time))
    names = [hostile[i % len(hostile)] for i in range(time)]
    for i, figure in enumerate(
        (layers_by_tokens(trace, names), saturation_by_tokens(trace, names), gate_distribution(trace))
    ):
        figure.savefig(tmp_path / f"{i}.png")
        assert (tmp_path / f"{i}.png").stat().st_size > 1000
    frame = trace.to_frame(names)
    assert len(frame) == 3 * time and frame["mean"].between(0, 1).all() and (frame["low"] <= frame["high"]).all()


def test_labels_show_what_cannot_be_seen() -> None:
    assert token_labels([" a", "\n", "\x07"]) == ["·a", "⏎", "□"]


@pytest.mark.parametrize("arm", list(PRESETS))
def test_generation_is_recorded_and_unchanged(arm: str, tiny_model: Any, tokens: Any) -> None:
    model, ids = tiny_model(arm), tokens(2, 5)
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    options = {"max_new_tokens": 6, "eos_token_id": None, "pad_token_id": 0}
    plain = model.generate(ids, attention_mask=mask, do_sample=False, **options)
    trace = record_gates(model, ids, mask, new_tokens=6, eos_token_id=None, pad_token_id=0)
    assert trace.sequences is not None and torch.equal(trace.sequences, plain)
    assert trace.mask is not None and trace.mask.shape == trace.input_ids.shape == (2, 10)
    forward = record_gates(model, trace.input_ids, trace.mask)
    real = trace.mask[None, :, :, None].expand_as(trace.values)
    torch.testing.assert_close(trace.values[real], forward.values[real], atol=1e-3, rtol=0)
    assert torch.equal(model.generate(ids, attention_mask=mask, do_sample=False, **options), plain)


def test_what_recording_refuses(tiny_model: Any, tokens: Any) -> None:
    model = tiny_model("enhanced")
    with pytest.raises(ValueError, match="num_beams is 2"):
        record_gates(model, tokens(1, 3), new_tokens=2, num_beams=2)
    with pytest.raises(ValueError, match="do_sample given, but new_tokens is 0"):
        record_gates(model, tokens(1, 3), do_sample=True)
    with pytest.raises(ValueError, match="2 token texts; the trace has 3 tokens"):
        record_gates(model, tokens(1, 3)).to_frame(["a", "b"])


@pytest.mark.parametrize("arm", ["enhanced", "ungated-shift", "hierarchical", "attention-gate"])
@pytest.mark.parametrize("window", [1, 4, 100])
def test_windows_add_up_to_the_whole(arm: str, window: int, tiny_model: Any, tokens: Any) -> None:
    model, ids = tiny_model(arm), tokens(2, 13)
    mask = torch.ones_like(ids)
    mask[0, :6] = 0
    whole = record_gates(model, ids, mask).summary()
    seen: list[tuple[int, int]] = []
    found = summarize_gates(
        model, ids, mask, window=window, losses=True, progress=lambda done, all_: seen.append((done, all_))
    )
    assert seen[-1] == (13, 13) and found.gates == whole.gates
    for name in ("mean", "low", "high", "saturated", "channel_mean", "channel_saturated"):
        close = {"atol": 2e-3, "rtol": 0, "equal_nan": True}  # half precision moves a value over the edge of saturation
        if "saturated" not in name:
            torch.testing.assert_close(getattr(found, name), getattr(whole, name), **close)
        assert torch.equal(getattr(found, name).isnan(), getattr(whole, name).isnan())
    assert found.histogram.sum(-1)[0].tolist() == [7 * 32, 13 * 32]
    log_probabilities = model(ids, attention_mask=mask).logits.float().log_softmax(-1)
    wanted = -log_probabilities[:, :-1].gather(-1, ids[:, 1:, None])[..., 0].detach()
    assert found.losses is not None and found.losses[0, :7].isnan().all() and found.losses[1, :1].isnan().all()
    torch.testing.assert_close(found.losses[1, 1:], wanted[1], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.losses[0, 7:], wanted[0, 6:], atol=1e-4, rtol=1e-4)


def test_a_summary_against_numpy(tiny_model: Any, tokens: Any) -> None:
    trace = record_gates(tiny_model("enhanced", torch.float32), tokens(1, 9))
    values, summary = trace.values.float().numpy(), trace.summary()
    np.testing.assert_allclose(summary.mean, values.mean(-1), atol=1e-6)
    np.testing.assert_allclose(summary.low, np.quantile(values, 0.05, axis=-1), atol=1e-6)
    np.testing.assert_allclose(summary.high, np.quantile(values, 0.95, axis=-1), atol=1e-6)
    np.testing.assert_allclose(summary.channel_mean, values.mean(2), atol=1e-6)
    np.testing.assert_allclose(summary.saturated, ((values < 0.05) | (values > 0.95)).mean(-1), atol=1e-6)
    counts = np.stack([np.histogram(gate, 50, (0, 1))[0] for gate in values])
    assert np.abs(summary.histogram[:, 0].numpy() - counts).sum() <= 4  # values on an edge between bins


@pytest.mark.parametrize(("skip", "window"), [(1, 1), (1, 100), (5, 2), (13, 4)])
def test_a_skipped_prefix_is_read_and_not_summed_up(skip: int, window: int, tiny_model: Any, tokens: Any) -> None:
    model, ids = tiny_model("enhanced"), tokens(1, 13)
    found = summarize_gates(model, ids, window=window, skip=skip, losses=True)
    values = record_gates(model, ids).values[:, :, skip:].float()
    assert found.losses is not None and found.losses.shape == found.input_ids.shape == (1, 13 - skip)
    torch.testing.assert_close(found.mean, values.mean(-1), atol=1e-3, rtol=0)
    if skip < 13:
        torch.testing.assert_close(found.channel_mean, values.mean(2), atol=1e-3, rtol=0)
    assert found.histogram.sum() == 3 * 32 * (13 - skip)


def test_a_reading_stops_where_it_is_told(tiny_model: Any, tokens: Any) -> None:
    model, done = tiny_model("enhanced"), []
    with pytest.raises(Stopped, match="after 4 of 10"):
        summarize_gates(
            model, tokens(1, 10), window=4, progress=lambda a, _: done.append(a), stopped=lambda: bool(done)
        )
    assert all(gate.observer is None for gate in gates_of(model))
    with pytest.raises(ValueError, match="window is 0"):
        summarize_gates(model, tokens(1, 10), window=0)


def test_frames_arrays_and_files(tiny_model: Any, tokens: Any, tmp_path: Any) -> None:
    mask = torch.tensor([[0, 0, 1, 1, 1]])
    trace = record_gates(tiny_model("ungated-shift", torch.float32), tokens(1, 5), mask)
    names = ["", "", "a", "<script>", "猫"]
    frame = trace.to_frame(names)
    assert len(frame) == 6 * 3 and set(frame["place"]) == {"time", "channel"} and frame["layer"].max() == 3
    assert list(frame["position"][:3]) == [0, 1, 2] and list(frame["token"][:3]) == names[2:]
    long = trace.to_frame(names, each_channel=True)
    assert len(long) == 6 * 3 * 32
    row = long[(long["layer"] == 2) & (long["place"] == "channel") & (long["position"] == 1) & (long["channel"] == 7)]
    assert row["value"].item() == float(trace.values[3, 0, 3, 7])
    pd.testing.assert_frame_equal(pd.read_parquet(trace.to_parquet(tmp_path / "t.parquet", names)), frame)
    summary = trace.summary()
    pd.testing.assert_frame_equal(pd.read_parquet(summary.to_parquet(tmp_path / "s.parquet", names)), frame)
    array = trace.to_array()
    assert array["dims"] == ("gate", "batch", "token", "channel") and array["coords"]["gate"]["data"][1] == "1 channel"
    several = summary.to_array()
    for each in (array, several):
        assert each["data"].shape == tuple(len(each["coords"][name]["data"]) for name in each["dims"])
    np.testing.assert_array_equal(several["data"][0], summary.mean)
