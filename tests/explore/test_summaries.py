"""Summaries: windows against one pass, statistics against numpy, a prefix left out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from rwkvgate.explore.summaries import summarize_gates
from rwkvgate.explore.traces import record_gates


@pytest.mark.parametrize("arm", ["enhanced", "enhanced-recurrent", "ungated-shift", "hierarchical", "attention-gate"])
@pytest.mark.parametrize("window", [1, 4, 100])
def test_windows_give_the_summary_of_one_pass(arm: str, window: int, tiny_model: Any, tokens: Any) -> None:
    model, ids = tiny_model(arm), tokens(2, 13)
    mask = torch.ones_like(ids)
    mask[0, :6] = 0
    one_pass = record_gates(model, ids, mask).summary()
    summary = summarize_gates(model, ids, mask, window=window, losses=True)
    assert summary.gates == one_pass.gates
    for name in ("mean", "low", "high", "saturated", "channel_mean", "channel_saturated"):
        close = {"atol": 2e-3, "rtol": 0, "equal_nan": True}  # half precision moves a value over the edge of saturation
        if "saturated" not in name:
            torch.testing.assert_close(getattr(summary, name), getattr(one_pass, name), **close)
        assert torch.equal(getattr(summary, name).isnan(), getattr(one_pass, name).isnan())
    assert summary.histogram.sum(-1)[0].tolist() == [7 * 32, 13 * 32]
    log_probabilities = model(ids, attention_mask=mask).logits.float().log_softmax(-1)
    expected = -log_probabilities[:, :-1].gather(-1, ids[:, 1:, None])[..., 0].detach()
    assert summary.losses is not None and summary.losses[0, :7].isnan().all() and summary.losses[1, :1].isnan().all()
    torch.testing.assert_close(summary.losses[1, 1:], expected[1], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(summary.losses[0, 7:], expected[0, 6:], atol=1e-4, rtol=1e-4)


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
    summary = summarize_gates(model, ids, window=window, skip=skip, losses=True)
    values = record_gates(model, ids).values[:, :, skip:].float()
    assert summary.losses is not None and summary.losses.shape == summary.input_ids.shape == (1, 13 - skip)
    torch.testing.assert_close(summary.mean, values.mean(-1), atol=1e-3, rtol=0)
    if skip < 13:
        torch.testing.assert_close(summary.channel_mean, values.mean(2), atol=1e-3, rtol=0)
    assert summary.histogram.sum() == 3 * 32 * (13 - skip)
