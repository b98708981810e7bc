"""Summaries: windows against one pass, statistics against numpy, a prefix left out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from rwkvgate.explore.summaries import summarize_gates
from rwkvgate.explore.traces import record_gates


@pytest.mark.parametrize("arm", ["enhanced", "ungated-shift", "hierarchical", "attention-gate"])
@pytest.mark.parametrize("window", [1, 4, 100])
def test_windows_add_up_to_the_whole(arm: str, window: int, tiny_model: Any, tokens: Any) -> None:
    model, ids = tiny_model(arm), tokens(2, 13)
    mask = torch.ones_like(ids)
    mask[0, :6] = 0
    whole = record_gates(model, ids, mask).summary()
    found = summarize_gates(model, ids, mask, window=window, losses=True)
    assert found.gates == whole.gates
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
