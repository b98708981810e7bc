"""What a model and its gates cost: parameters, FLOPs and state; and time and memory against the text's length.

`python -m rwkvgate.metrics.cost` prints the table of docs/gates.md: every preset on the paper's model.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from scipy import stats
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from rwkvgate.gate.config import PRESETS, SITES, GateConfig
from rwkvgate.gate.layer import GatedShift
from rwkvgate.metrics.inference import device_of, evaluating
from rwkvgate.metrics.latency import BASE, PLACE, TIMES, Call, place_of, synchronizer, time_calls, times_of
from rwkvgate.rwkv6.configuration import Rwkv6Config
from rwkvgate.rwkv6.kernels import wkv_backend
from rwkvgate.rwkv6.modeling import Rwkv6ForCausalLM
from rwkvgate.rwkv6.prefill import prefill
from rwkvgate.rwkv6.token_shift import TokenShift

SCALING_COLUMNS = ("arm", "mode", "tokens", "repeat", "seconds", "peak_mib", "threads", "device")
GRID_COLUMNS = ("arm", "measure", "batch", "tokens", *TIMES, "peak_mib", *PLACE)
WINDOWS, ONE_PASS = "windows", "one pass"
"""How a text is read: window by window with the state carried, as generation and scoring do, or all at once."""
LONGEST_PASS = 16384
"""Tokens of the longest single pass that is timed; beyond, the time would be that of allocating its activations."""
FITTED_FROM = 4096
"""Tokens from which the exponent is fitted: below, the fixed cost of a call bends the curve."""


class Exponent(NamedTuple):
    """The power of the length that a cost grows with, and its 95 % interval; nan below three points."""

    estimate: float
    low: float
    high: float
    points: int


class GateCost(NamedTuple):
    """What the gates of one block cost.

    `flops` are those of matrix products, two per multiply-add, for one sequence from its start. Elementwise work, a
    few operations per channel and tap, is not counted. `state` is the numbers carried per sequence.
    """

    parameters: int
    flops: int
    state: int


def gate_cost(config: GateConfig, channels: int, heads: int = 1, tokens: int = 1) -> GateCost:
    """Parameters, FLOPs and state of a block's gates, counted on a gate without storage (the meta device).

    Args:
        config: which gate.
        channels: width of the hidden state, C.
        heads: the model's heads.
        tokens: length of the sequence whose `flops` are counted.

    Raises:
        SettingsError: the width cannot be divided as the config asks.

    Example:
        >>> gate_cost(GateConfig(), channels=8, tokens=10)  # W is 8 x 8; its bias and the norm's two vectors have 8
        GateCost(parameters=88, flops=1280, state=8)
    """
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        gate = GatedShift(config, channels, heads)
        gate(torch.empty(1, tokens, channels), TokenShift(None), None)
    places = len(SITES[config.site])
    parameters = sum(parameter.numel() for parameter in gate.parameters())
    return GateCost(places * parameters, places * counter.get_total_flops(), places * gate.rows * channels)


def base_flops(config: Rwkv6Config, tokens: int) -> int:
    """FLOPs of the weights' matrix products in one forward pass over a sequence, two per multiply-add.

    Embedding, norms and elementwise work are not counted, nor is the WKV operator: see `wkv_flops`.

    Example:
        >>> sizes = {"hidden_size": 64, "num_hidden_layers": 2, "head_size": 8}
        >>> config = Rwkv6Config(vocab_size=100, **sizes)
        >>> base_flops(config, 10) == 10 * base_flops(config, 1)
        True
    """
    with torch.device("meta"):
        model = Rwkv6ForCausalLM(config)
    matrices = [module.weight for module in model.modules() if isinstance(module, nn.Linear)]
    matrices += [weight for name, weight in model.named_parameters() if name.endswith(("_w1", "_w2"))]
    return 2 * tokens * sum(matrix.numel() for matrix in matrices)


def wkv_flops(config: Rwkv6Config, tokens: int) -> int:
    """FLOPs of the WKV operator by its definition: k^T v and r S, an N x N matrix each per head and token."""
    # torch's counter would give those of the form that runs (chunked, recurrent, a kernel), which differ.
    assert config.attention_hidden_size is not None
    return 2 * tokens * config.num_hidden_layers * 2 * config.attention_hidden_size * config.head_size


def counted_flops(model: nn.Module, tokens: int) -> int:
    """FLOPs of all matrix products in one forward pass over a sequence, counted by torch; WKV's in its chunked form.

    Example:
        >>> sizes = {"hidden_size": 64, "num_hidden_layers": 2, "head_size": 8}
        >>> model = Rwkv6ForCausalLM(Rwkv6Config(vocab_size=100, **sizes))
        >>> counted_flops(model, 10) >= base_flops(model.config, 10)
        True
    """
    ids = torch.ones(1, tokens, dtype=torch.long, device=device_of(model))
    with wkv_backend("chunked"), evaluating(model), FlopCounterMode(display=False) as counter:  # it sees torch's alone
        model(ids, use_cache=False)
    return int(counter.get_total_flops())


def cost_table(
    config: Rwkv6Config, gates: Mapping[str, GateConfig], tokens: int, counted: Mapping[str, float] | None = None
) -> pd.DataFrame:
    """Parameters, FLOPs and state of the gates on a model of this shape, beside the base's.

    Columns: `arm`; `parameters` (of the gates); `mflops` (10^6 FLOPs of matrix products per token, WKV by definition;
    of the gates alone, and of the whole base); `share` (of the base's: 0.01 is one per cent more; 1 for the base);
    `state` (numbers that the gates carry per sequence); `counted` (10^6 FLOPs per token by torch's counter: all of the
    base's, and what the gates add to it; WKV in its chunked form).

    Args:
        counted: FLOPs per token of whole models by arm, as `counted_flops` gives them.

    Example:
        >>> config = Rwkv6Config(vocab_size=100, hidden_size=64, num_hidden_layers=2, head_size=8)
        >>> cost_table(config, {"fixed-gate": PRESETS["fixed-gate"]}, tokens=64)["share"].tolist()
        [1.0, 0.0]
    """
    total, heads, layers = _total_flops(config, tokens), config.num_attention_heads, config.num_hidden_layers
    assert heads is not None  # the config fills it in
    rows: list[tuple[str, int, float, float, int]] = [("base", 0, total / tokens / 1e6, 1.0, 0)]
    for arm, gate in gates.items():
        cost = gate_cost(gate, config.hidden_size, heads, tokens)
        flops = layers * cost.flops
        rows.append((arm, layers * cost.parameters, flops / tokens / 1e6, flops / total, layers * cost.state))
    frame = pd.DataFrame(rows, columns=["arm", "parameters", "mflops", "share", "state"])
    known = counted or {}
    below = {arm: 0.0 if arm == "base" else known.get("base", np.nan) for arm in frame["arm"]}
    return frame.assign(counted=[(known.get(arm, np.nan) - below[arm]) / 1e6 for arm in frame["arm"]])


def preset_table(channels: int, heads: int, layers: int, tokens: int) -> str:
    """Every preset's cost on a model of this shape, as a Markdown table."""
    lines = ["| arm | parameters | multiply-adds per token | state, numbers per sequence |", "|---|---|---|---|"]
    for name, gate in PRESETS.items():
        cost = gate_cost(gate, channels, heads, tokens)
        adds = layers * cost.flops / 2 / tokens
        lines.append(f"| `{name}` | {layers * cost.parameters:,} | {adds:,.0f} | {layers * cost.state:,} |")
    return "\n".join(lines)


def scaling(models: Mapping[str, nn.Module], lengths: Sequence[int], *, repeats: int) -> pd.DataFrame:
    """Time and memory of reading a text against its length, models in turn; only the last token's logits are computed.

    Returns:
        One row per model, mode (`WINDOWS`, and `ONE_PASS` up to `LONGEST_PASS` tokens), length and repeat with
        `SCALING_COLUMNS`; `peak_mib` is what the call added at its peak.
    """
    rows = []
    with evaluating(*models.values()):
        modes = [(mode, n) for mode in (WINDOWS, ONE_PASS) for n in lengths if mode == WINDOWS or n <= LONGEST_PASS]
        for mode, tokens in modes:
            calls = {name: _reading_of(model, mode, tokens) for name, model in models.items()}
            seconds = time_calls(calls, repeats=repeats, warmup=1, synchronize=synchronizer(models))
            for name, model in models.items():
                peak, place = peak_growth(calls[name], device_of(model)), place_of(model)[1:]
                rows += [(name, mode, tokens, i, float(s), peak, *place) for i, s in enumerate(seconds[name])]
    return pd.DataFrame(rows, columns=list(SCALING_COLUMNS))


def latency_grid(
    models: Mapping[str, nn.Module], batches: Sequence[int], lengths: Sequence[int], *, repeats: int
) -> pd.DataFrame:
    """Latency of prefill and decoding over batch sizes and lengths, models in turn.

    Prefill reads (batch, tokens) in one pass and keeps the last logits; decoding is one token more, after them.

    Returns:
        One row per model, `measure` ("prefill", "decode"), batch and length with `GRID_COLUMNS`: median seconds and
        quartiles of the call, its ratio to the arm "base" with a 95 % interval, and the MiB that it adds at its peak.
    """
    rows = []
    with evaluating(*models.values()):
        for batch, tokens in product(batches, lengths):
            both = {name: _prefill_and_decode(model, batch, tokens) for name, model in models.items()}
            for index, measure in enumerate(("prefill", "decode")):
                calls = {name: pair[index] for name, pair in both.items()}
                seconds = time_calls(calls, repeats=repeats, warmup=1, synchronize=synchronizer(models))
                for name, model in models.items():
                    times, peak = times_of(seconds[name], seconds.get(BASE)), peak_growth(calls[name], device_of(model))
                    rows.append((name, measure, batch, tokens, *times, peak, *place_of(model)))
    return pd.DataFrame(rows, columns=list(GRID_COLUMNS))


def exponent(tokens: ArrayLike, values: ArrayLike) -> Exponent:
    """The slope of log value against log length from `FITTED_FROM` tokens on, by least squares.

    All lengths are fitted where fewer than three reach that far.

    Example:
        >>> round(exponent([4096, 8192, 16384], [1.0, 4.0, 16.1]).estimate, 2)
        2.0
    """
    x, y = np.asarray(tokens, dtype=np.float64), np.asarray(values, dtype=np.float64)
    far = x >= FITTED_FROM
    if len(np.unique(x[far])) < 3:
        far = np.ones_like(far)
    x, y = np.log(x[far]), np.log(y[far])
    if len(x) < 3 or np.ptp(x) == 0:
        return Exponent(np.nan, np.nan, np.nan, len(x))
    line = stats.linregress(x, y)
    half = float(stats.t.ppf(0.975, len(x) - 2)) * float(line.stderr)
    return Exponent(float(line.slope), float(line.slope) - half, float(line.slope) + half, len(x))


def peak_growth(call: Call, device: torch.device) -> float:
    """MiB that a call adds at its peak to the memory in use before it; nan where the platform does not say.

    The memory is the allocator's on a GPU, and on a CPU this process's, sampled every millisecond (Linux).

    Example:
        >>> peak_growth(lambda: None, torch.device("cpu")) < 50 or sys.platform != "linux"
        True
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        torch.cuda.synchronize(device)
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    gc.collect()
    # Freed memory that the allocator keeps for later would hide what the call takes.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
    peak = before = _resident()
    stop = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not stop.wait(0.001):
            peak = max(peak, _resident())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        call()
    finally:
        stop.set()
        watcher.join()
    return max(peak, _resident()) - before


def _resident() -> float:
    """Resident MiB of this process (Linux), or nan."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError):
        return float("nan")
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _reading_of(model: Any, mode: str, tokens: int) -> Call:
    ids = torch.randint(1, model.config.vocab_size, (1, tokens), device=device_of(model))
    if mode == WINDOWS:
        return lambda: prefill(model, ids)
    return lambda: model(ids, use_cache=False, logits_to_keep=1)


def _prefill_and_decode(model: Any, batch: int, tokens: int) -> tuple[Call, Call]:
    ids = torch.randint(1, model.config.vocab_size, (batch, tokens), device=device_of(model))
    state = model(ids, use_cache=True, logits_to_keep=1).past_key_values
    return (
        lambda: model(ids, use_cache=True, logits_to_keep=1),
        lambda: model(ids[:, -1:], past_key_values=state, use_cache=True),
    )


def _total_flops(config: Rwkv6Config, tokens: int) -> int:
    return base_flops(config, tokens) + wkv_flops(config, tokens)


if __name__ == "__main__":
    print(preset_table(channels=2048, heads=32, layers=24, tokens=1024))
