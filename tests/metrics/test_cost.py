"""FLOPs of weights and gates against torch's counter, and exponents of curves whose exponent is known."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from rwkvgate.gate.config import PRESETS
from rwkvgate.metrics.cost import (
    SCALING_COLUMNS,
    base_flops,
    cost_table,
    counted_flops,
    exponent,
    gate_cost,
    latency_grid,
    scaling,
    wkv_flops,
)
from rwkvgate.rwkv6 import mixing


@pytest.fixture
def without_wkv(monkeypatch: Any) -> None:
    """Replace the WKV operator by one without matrix products: their number depends on how it is computed."""

    def nothing(r: Any, k: Any, v: Any, w: Any, u: Any, state: Any = None) -> Any:
        return v, torch.zeros(v.shape[0], v.shape[2], v.shape[3], v.shape[3])

    monkeypatch.setattr(mixing, "wkv6", nothing)


@pytest.mark.usefixtures("without_wkv")
@pytest.mark.parametrize("arm", [None, *PRESETS])
@pytest.mark.parametrize("tokens", [1, 33])
def test_base_and_gates_add_up_to_what_torch_counts(arm: str | None, tokens: int, tiny_model: Any) -> None:
    model = tiny_model(arm, torch.float32)
    config = model.config
    expected = base_flops(config, tokens)
    if arm is not None:
        cost = gate_cost(PRESETS[arm], config.hidden_size, config.num_attention_heads, tokens)
        expected += config.num_hidden_layers * cost.flops
    assert counted_flops(model, tokens) == expected


def test_the_cost_of_the_papers_model() -> None:
    from rwkvgate import Rwkv6Config, Rwkv6ForCausalLM

    config = Rwkv6Config(vocab_size=65536, hidden_size=2048, num_hidden_layers=24, head_size=64, intermediate_size=7168)
    gates = {arm: PRESETS[arm] for arm in ("enhanced", "low-rank")}
    table = cost_table(config, gates, 1000).set_index("arm")
    with torch.device("meta"):
        model = Rwkv6ForCausalLM(config)
    # Two FLOPs for every number of a weight that a token is multiplied with: every matrix but the embedding.
    vectors = ("embeddings", "time_faaaa")
    matrices = [p for n, p in model.named_parameters() if not n.endswith(vectors) and sum(d > 1 for d in p.shape) > 1]
    used = sum(p.numel() for p in matrices if p is not model.rwkv.embeddings.weight)
    assert base_flops(config, 1) == 2 * used
    assert table.loc["base", "mflops"] == pytest.approx((base_flops(config, 1) + wkv_flops(config, 1)) / 1e6)
    assert table.loc["enhanced", "parameters"] == 24 * (2048 * 2048 + 3 * 2048)
    share = 2 * 24 * 2048 * 2048 / (base_flops(config, 1) + wkv_flops(config, 1))
    counted = {"base": 5e6, "enhanced": 7e6}
    counts = cost_table(config, gates, 9, counted)["counted"]
    assert counts.tolist()[:2] == [5, 2] and np.isnan(counts[2]) and table["counted"].isna().all()
    assert table.loc["enhanced", "share"] == pytest.approx(share) and table.loc["base", "share"] == 1
    assert wkv_flops(config, 10) == 10 * wkv_flops(config, 1)


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
def test_a_known_exponent_is_recovered(power: float) -> None:
    tokens = np.repeat([256, 1024, 4096, 16384, 65536], 5)
    covered, repeats = 0, 300
    for seed in range(repeats):
        noise = np.exp(np.random.default_rng(seed).normal(0, 0.02, tokens.size))
        bent = 0.5 * (tokens < 4096)  # a fixed cost bends the short end, which is not fitted
        fit = exponent(tokens, 1e-6 * tokens**power * noise + bent)
        assert fit.estimate == pytest.approx(power, abs=0.03) and fit.points == 15
        covered += fit.low <= power <= fit.high
    low, high = stats.binom.interval(0.999, repeats, 0.95)
    assert low <= covered <= high


def test_too_few_lengths_give_nan() -> None:
    assert np.isnan(exponent([256, 256, 256], [1, 1, 1]).estimate)
    assert np.isnan(exponent([256, 512], [1, 2]).low)
    # All lengths are fitted where too few are long.
    assert exponent([256, 512, 1024], [1, 2, 4]).estimate == pytest.approx(1.0)


def test_time_and_memory_are_measured_for_every_length(tiny_model: Any) -> None:
    models = {arm or "base": tiny_model(arm, torch.float32) for arm in (None, "enhanced")}
    frame = scaling(models, [1, 17, 64], repeats=2)
    assert list(frame.columns) == list(SCALING_COLUMNS) and len(frame) == 2 * 2 * 3 * 2
    assert bool((frame["seconds"] > 0).all()) and set(frame["arm"]) == {"base", "enhanced"}


def test_a_grid_without_the_base_has_no_ratios(tiny_model: Any) -> None:
    frame = latency_grid({"enhanced": tiny_model("enhanced", torch.float32)}, [1, 2], [3], repeats=2)
    assert len(frame) == 4 and bool((frame["seconds_median"] > 0).all()) and bool(frame["ratio"].isna().all())


HOLD_128_MIB = """
import time, torch
from rwkvgate.metrics.cost import peak_growth

def call():
    first = torch.ones(2**24)  # 64 MiB
    second = torch.ones(2**24)
    time.sleep(0.2)
    del first
    third = torch.ones(2**24)
    time.sleep(0.2)
    del second, third

for work in (call, call, lambda: None):  # memory that the allocator has kept counts again
    print(peak_growth(work, torch.device("cpu")))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has /proc")
def test_peak_growth_is_the_memory_in_use_at_once() -> None:
    # A process of its own: the heap of one that has run other tests may have no hole for the third block.
    done = subprocess.run([sys.executable, "-c", HOLD_128_MIB], capture_output=True, text=True, check=True)
    first, again, nothing = map(float, done.stdout.split())
    assert first == pytest.approx(128, abs=8) and again == pytest.approx(128, abs=8)
    assert nothing < 2
