"""What a model costs: its matrix products in closed form and as counted, and time and memory against length."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from scipy import stats
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from rwkvgate.gate.config import GateConfig
from rwkvgate.metrics.gate_cost import gate_cost
from rwkvgate.metrics.inference import device_of, evaluating
from rwkvgate.metrics.latency import (
    PLACE,
    TIMES,
    Call,
    device_name,
    dtype_of,
    quartiles,
    ratio_of_medians,
    time_calls,
)
from rwkvgate.rwkv6.configuration import Rwkv6Config
from rwkvgate.rwkv6.prefill import prefill

SCALING_COLUMNS = ("arm", "mode", "tokens", "repeat", "seconds", "peak_mib", "threads", "device")
GRID_COLUMNS = ("arm", "measure", "batch", "tokens", *TIMES, "peak_mib", *PLACE)
WINDOWS, ONE_PASS = "windows", "one pass"
"""Reading a text with the state carried from window to window, as generation and scoring do, and all at once."""
LONGEST_PASS = 16384
"""Tokens of the longest single pass that is timed: its activations, not its arithmetic, would be timed beyond."""
FITTED_FROM = 4096
"""Tokens from which the exponent is fitted: below, the fixed cost of a call bends the curve."""


class Exponent(NamedTuple):
    """The power of the length that time grows with, and its 95 % interval; nan below three points."""

    estimate: float
    low: float
    high: float
    points: int


def base_flops(config: Rwkv6Config, tokens: int) -> int:
    """FLOPs of the weights' matrix products in one forward pass over a sequence, two for each multiply-add.

    Embedding, norms and elementwise work are not counted, nor is the WKV operator, whose products depend on how it
    is computed: by its definition it takes 2 C N multiply-adds a token and layer, with heads of N channels.
    """
    hidden, width, inner = config.hidden_size, config.attention_hidden_size, config.intermediate_size
    # The config fills these in.
    assert config.time_mix_rank is not None and config.time_decay_rank is not None
    assert width is not None and inner is not None
    attention = 5 * hidden * width
    mixing = 2 * 5 * hidden * config.time_mix_rank + (hidden + width) * config.time_decay_rank
    feed_forward = 2 * hidden * inner + hidden * hidden
    layers = config.num_hidden_layers * (attention + mixing + feed_forward)
    return 2 * tokens * (layers + hidden * config.vocab_size)


def wkv_flops(config: Rwkv6Config, tokens: int) -> int:
    """FLOPs of the WKV operator by its definition: k^T v and r S, one matrix of N x N a head and token each."""
    assert config.attention_hidden_size is not None
    return 2 * tokens * config.num_hidden_layers * 2 * config.attention_hidden_size * config.head_size


def counted_flops(model: nn.Module, tokens: int) -> int:
    """FLOPs of all matrix products in one forward pass over a sequence, counted by torch."""
    ids = torch.ones(1, tokens, dtype=torch.long, device=device_of(model))
    with evaluating(model), FlopCounterMode(display=False) as counter:
        model(ids, use_cache=False)
    return int(counter.get_total_flops())


def gate_shares(config: Rwkv6Config, gates: Mapping[str, GateConfig], tokens: int) -> dict[str, float]:
    """The gates' FLOPs over those of the base, its WKV by definition included: 0.01 is one more per cent."""
    whole, heads = base_flops(config, tokens) + wkv_flops(config, tokens), config.num_attention_heads
    assert heads is not None
    layers = config.num_hidden_layers
    return {
        arm: layers * gate_cost(gate, config.hidden_size, heads, tokens).flops / whole for arm, gate in gates.items()
    }


def cost_table(
    config: Rwkv6Config, gates: Mapping[str, GateConfig], tokens: int, counted: Mapping[str, float] | None = None
) -> pd.DataFrame:
    """Parameters, FLOPs and state of the gates on a model of this shape, beside the base's.

    Columns Arm, `Gate parameters`, `MFLOP a token` (weights' products, in closed form), `Of the base` (share of the
    base's, its WKV by definition included), `State` (numbers that the gates carry for a sequence) and `Counted` (MFLOP
    a token by torch's counter: all of the base's, and what the gates add to it; the base's WKV as it is computed).

    Args:
        counted: FLOPs a token of whole models by arm, as `counted_flops` gives them.
    """
    whole = base_flops(config, tokens) + wkv_flops(config, tokens)
    rows = [("base", 0, whole / tokens / 1e6, "100 %", 0)]
    layers, heads, shares = config.num_hidden_layers, config.num_attention_heads, gate_shares(config, gates, tokens)
    assert heads is not None
    for arm, gate in gates.items():
        cost = gate_cost(gate, config.hidden_size, heads, tokens)
        flops = layers * cost.flops
        share = f"+{100 * shares[arm]:.2f} %"
        rows.append((arm, layers * cost.parameters, flops / tokens / 1e6, share, layers * cost.state))
    frame = pd.DataFrame(rows, columns=["Arm", "Gate parameters", "MFLOP a token", "Of the base", "State"])
    known = counted or {}
    below = {arm: 0.0 if arm == "base" else known.get("base", np.nan) for arm in frame["Arm"]}
    return frame.assign(Counted=[(known.get(arm, np.nan) - below[arm]) / 1e6 for arm in frame["Arm"]])


def scaling(models: Mapping[str, nn.Module], lengths: Sequence[int], *, repeats: int) -> pd.DataFrame:
    """Time and memory of reading a text against its length, models in turn; the logits of the last token alone.

    Returns:
        One row a model, mode (`WINDOWS`, and `ONE_PASS` up to `LONGEST_PASS` tokens), length and repeat with
        `SCALING_COLUMNS`; `peak_mib` is what the call added at its peak.
    """
    rows = []
    with evaluating(*models.values()):
        modes = [(mode, n) for mode in (WINDOWS, ONE_PASS) for n in lengths if mode == WINDOWS or n <= LONGEST_PASS]
        for mode, tokens in modes:
            calls = {name: _reading_of(model, mode, tokens) for name, model in models.items()}
            seconds = time_calls(calls, repeats=repeats, warmup=1, synchronize=_synchronize(models))
            for name, model in models.items():
                device = device_of(model)
                peak = peak_growth(calls[name], device)
                where = (torch.get_num_threads(), device_name(device))
                rows += [(name, mode, tokens, i, float(s), peak, *where) for i, s in enumerate(seconds[name])]
    return pd.DataFrame(rows, columns=list(SCALING_COLUMNS))


def latency_grid(
    models: Mapping[str, nn.Module], batches: Sequence[int], lengths: Sequence[int], *, repeats: int, base: str = "base"
) -> pd.DataFrame:
    """Prefill and decoding over batch sizes and lengths, models in turn.

    Prefill reads (batch, tokens) in one pass and keeps the last logits; decoding is one token more, after them.

    Returns:
        One row a model, `measure` ("prefill", "decode"), batch and length with `GRID_COLUMNS`: median seconds and
        quartiles of the call, its ratio to `base` with a 95 % interval, and the MiB that it adds at its peak.
    """
    rows = []
    with evaluating(*models.values()):
        for batch in batches:
            for tokens in lengths:
                both = {name: _prefill_and_decode(model, batch, tokens) for name, model in models.items()}
                for index, measure in enumerate(("prefill", "decode")):
                    calls = {name: pair[index] for name, pair in both.items()}
                    seconds = time_calls(calls, repeats=repeats, warmup=1, synchronize=_synchronize(models))
                    for name, model in models.items():
                        ratio = ratio_of_medians(seconds[name], seconds[base])
                        peak = peak_growth(calls[name], device_of(model))
                        where = (dtype_of(model), torch.get_num_threads(), device_name(device_of(model)))
                        found = (*quartiles(seconds[name]), ratio.estimate, ratio.low, ratio.high, peak)
                        rows.append((name, measure, batch, tokens, *found, *where))
    return pd.DataFrame(rows, columns=list(GRID_COLUMNS))


def exponent(tokens: ArrayLike, values: ArrayLike, fitted_from: int = FITTED_FROM) -> Exponent:
    """The slope of log value against log length from `fitted_from` tokens on, by least squares.

    All lengths are fitted where fewer than three reach that far.
    """
    x, y = np.asarray(tokens, dtype=np.float64), np.asarray(values, dtype=np.float64)
    far = x >= fitted_from
    if len(np.unique(x[far])) < 3:
        far = np.ones_like(far)
    x, y = np.log(x[far]), np.log(y[far])
    if len(x) < 3 or np.ptp(x) == 0:
        return Exponent(np.nan, np.nan, np.nan, len(x))
    found = stats.linregress(x, y)
    half = float(stats.t.ppf(0.975, len(x) - 2)) * float(found.stderr)
    return Exponent(float(found.slope), float(found.slope) - half, float(found.slope) + half, len(x))


def peak_growth(call: Call, device: torch.device) -> float:
    """MiB that a call adds at its peak to what is held before it; nan where the platform does not tell.

    Of the allocator on a GPU; of this process on a CPU, sampled every millisecond (Linux).
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        torch.cuda.synchronize(device)
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    gc.collect()
    # What the allocator holds back for later would hide what the call takes.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
    peak = held = _resident()
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
    return max(peak, _resident()) - held


def _resident() -> float:
    """MiB that this process holds (Linux), or nan."""
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


def _synchronize(models: Mapping[str, nn.Module]) -> Call | None:
    on_gpu = any(device_of(model).type == "cuda" for model in models.values())
    return torch.cuda.synchronize if on_gpu else None
