"""Latency of a forward pass and of generation: several models timed in turn, with an interval on each ratio.

A processor's clock drifts with heat and neighbours, so models timed one after another differ without differing. Here
every repeat times all of them, each repeat starts with the next model, and the ratio to the base is taken within
repeats. `torch.utils.benchmark.Timer` is not used because it repeats one statement alone and calls it at least twice
more per sample.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch import Tensor, nn

from rwkvgate.metrics.inference import at_least_one, device_of, evaluating
from rwkvgate.metrics.statistics import RESAMPLES, Floats, Interval

Call = Callable[[], object]

TIMES = ("seconds_median", "seconds_low", "seconds_high", "ratio", "ratio_low", "ratio_high")
PLACE = ("dtype", "threads", "device")
BASE = "base"
"""The arm that the others' times are divided by."""
LATENCY_COLUMNS = ("arm", "seed", "measure", "batch", "tokens", *TIMES, "repeats", "peak_mib", "peak_of", *PLACE)


def time_calls(
    calls: Mapping[str, Call], repeats: int, warmup: int = 2, synchronize: Call | None = None
) -> dict[str, Floats]:
    """Seconds of each call in each repeat, (repeats,); the order rotates by one with each repeat.

    Args:
        warmup: untimed rounds before the first repeat.
        synchronize: called before the clock starts and before it stops, where calls return early (CUDA).

    Raises:
        ValueError: `repeats` is below 1 or `warmup` below 0.

    Example:
        >>> order = []
        >>> seconds = time_calls({name: partial(order.append, name) for name in "ab"}, repeats=2, warmup=0)
        >>> order, seconds["a"].shape
        (['a', 'b', 'b', 'a'], (2,))
    """
    at_least_one(repeats=repeats, warmup=warmup + 1)
    wait: Call = synchronize or (lambda: None)
    names = list(calls)
    seconds = {name: np.empty(repeats) for name in names}
    for turn in range(-warmup, repeats):
        first = turn % len(names) if names else 0
        for name in names[first:] + names[:first]:
            wait()
            start = time.perf_counter()
            calls[name]()
            wait()
            if turn >= 0:
                seconds[name][turn] = time.perf_counter() - start
    return seconds


def ratio_of_medians(arm: Floats, base: Floats) -> Interval:
    """median(arm) / median(base) with its 95 % bootstrap interval over repeats, which pair the two.

    Bounds are nan with one repeat; `n` is the number of repeats.

    Example:
        >>> clock = np.linspace(1, 3, 40)  # slows down threefold
        >>> round(ratio_of_medians(1.1 * clock, clock).low, 3)
        1.1
    """
    estimate = float(np.median(arm) / np.median(base))
    if len(arm) < 2:
        return Interval(estimate, np.nan, np.nan, len(arm))

    def statistic(x: Floats, y: Floats, axis: int = -1) -> Floats:
        ratio: Floats = np.median(x, axis=axis) / np.median(y, axis=axis)
        return ratio

    result: Any = stats.bootstrap(
        (arm, base),
        statistic,
        n_resamples=RESAMPLES,
        paired=True,
        vectorized=True,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    bounds = result.confidence_interval
    return Interval(estimate, float(bounds.low), float(bounds.high), len(arm))


def times_of(arm: Floats, base: Floats | None) -> tuple[float, ...]:
    """The values of `TIMES`: median, lower and upper quartile of the arm's seconds, and its ratio to the base's.

    Example:
        >>> times_of(np.array([3.0, 1.0, 2.0]), None)
        (2.0, 1.5, 2.5, nan, nan, nan)
    """
    low, median, high = map(float, np.percentile(arm, [25, 50, 75]))
    ratio = Interval(np.nan, np.nan, np.nan, 0) if base is None else ratio_of_medians(arm, base)
    return median, low, high, ratio.estimate, ratio.low, ratio.high


def forward_time(models: Mapping[str, nn.Module], input_ids: Tensor, *, repeats: int, seed: int = 0) -> pd.DataFrame:
    """Seconds of one forward pass over `input_ids` (batch, tokens) for each arm, in evaluation mode.

    Args:
        models: by arm; all on one device. Without the arm "base" ratios are nan.
        seed: the training seed written beside each row.

    Returns:
        One row per arm with `LATENCY_COLUMNS`: `measure` is "forward"; `seconds_low` and `seconds_high` are
        quartiles; `ratio` is to the arm "base" with a 95 % interval; `peak_mib` is the highest memory in MiB of the
        arm's own pass on CUDA (`peak_of` "cuda"), else of the whole process so far (`peak_of` "process").

    Example:
        >>> from rwkvgate import Rwkv6Config, Rwkv6ForCausalLM
        >>> model = Rwkv6ForCausalLM(Rwkv6Config(vocab_size=9, hidden_size=8, num_hidden_layers=1, head_size=4))
        >>> times = forward_time({"base": model}, torch.tensor([[1, 2, 3]]), repeats=3)
        >>> times[["arm", "measure", "batch", "tokens"]].values.tolist()
        [['base', 'forward', 1, 3]]
    """
    calls: dict[str, Call] = {}
    for arm, model in models.items():
        calls[arm] = partial(model, input_ids.to(device_of(model)), use_cache=False)
    return _measure(models, calls, ("forward", *input_ids.shape), repeats, warmup=2, seed=seed)


def generation_time(
    models: Mapping[str, nn.Module], prompt_ids: Tensor, *, tokens: int = 50, repeats: int, seed: int = 0
) -> pd.DataFrame:
    """Seconds to generate exactly `tokens` tokens greedily after `prompt_ids` (batch, time), prompt included.

    The end-of-text token is suppressed until then, so that all arms do the same work. Arguments and columns as
    in `forward_time`; `measure` is "generation" and `tokens` counts the new ones.

    Example:
        >>> from rwkvgate import Rwkv6Config, Rwkv6ForCausalLM
        >>> model = Rwkv6ForCausalLM(Rwkv6Config(vocab_size=9, hidden_size=8, num_hidden_layers=1, head_size=4))
        >>> times = generation_time({"base": model}, torch.tensor([[1, 2, 3]]), tokens=3, repeats=3)
        >>> times[["arm", "measure", "batch", "tokens"]].values.tolist()
        [['base', 'generation', 1, 3]]
    """
    at_least_one(tokens=tokens)
    calls: dict[str, Call] = {}
    for arm, model in models.items():
        ids = prompt_ids.to(device_of(model))
        calls[arm] = partial(
            cast(Any, model).generate,
            ids,
            attention_mask=torch.ones_like(ids),
            min_new_tokens=tokens,
            max_new_tokens=tokens,
            do_sample=False,
            num_beams=1,
            pad_token_id=0,
        )
    return _measure(models, calls, ("generation", len(prompt_ids), tokens), repeats, warmup=1, seed=seed)


def _measure(
    models: Mapping[str, nn.Module],
    calls: Mapping[str, Call],
    measured: tuple[str | int, ...],
    repeats: int,
    warmup: int,
    seed: int,
) -> pd.DataFrame:
    """`measured` is the measure's name, the batch and the tokens."""
    rows = []
    with evaluating(*models.values()):
        seconds = time_calls(calls, repeats, warmup, synchronizer(models))
        for arm, model in models.items():
            times, peak = times_of(seconds[arm], seconds.get(BASE)), peak_memory(calls[arm], device_of(model))
            rows.append((arm, seed, *measured, *times, repeats, *peak, *place_of(model)))
    return pd.DataFrame(rows, columns=list(LATENCY_COLUMNS))


def synchronizer(models: Mapping[str, nn.Module]) -> Call | None:
    """What waits for the models' device: CUDA's synchronisation, or None on a CPU."""
    on_cuda = any(device_of(model).type == "cuda" for model in models.values())
    return torch.cuda.synchronize if on_cuda else None


def peak_memory(call: Call, device: torch.device) -> tuple[float, str]:
    """Peak memory in MiB, and whose: "cuda", the call's own beside what lies on the device; else "process".

    A process's high-water mark cannot be reset, so on a CPU it covers everything up to now, and nothing is called.
    nan where the platform does not say.

    Example:
        >>> peak_memory(lambda: None, torch.device("cpu"))[1]
        'process'
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) / 2**20, "cuda"
    try:
        import resource
    except ImportError:  # Windows has no such module
        return float("nan"), "process"
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20, "process"


def place_of(model: nn.Module) -> tuple[str, int, str]:
    """The values of `PLACE`: the type of most parameters ("float32"), torch's threads, and the device's name.

    Example:
        >>> place_of(nn.Linear(2, 2).bfloat16())[::2]
        ('bfloat16', 'cpu')
    """
    counts: dict[str, int] = {}
    for parameter in model.parameters():
        name = str(parameter.dtype).removeprefix("torch.")
        counts[name] = counts.get(name, 0) + parameter.numel()
    dtype = max(counts, key=counts.__getitem__) if counts else "none"
    return dtype, torch.get_num_threads(), device_name(device_of(model))


def device_name(device: torch.device) -> str:
    """ "cpu", or the name of the GPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
