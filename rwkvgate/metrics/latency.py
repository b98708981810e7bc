"""Time: forward pass and generation of several models, interleaved, with an interval on the ratio.

A processor's clock drifts with heat and neighbours, so models timed one after another differ without
differing. Here every repeat times all of them, each repeat starting with the next one, and the ratio to the
base is taken within repeats. `torch.utils.benchmark.Timer` is not used because it repeats one statement alone
and calls it at least twice more for each sample.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn

from rwkvgate.metrics.inference import at_least_one, device_of, evaluating
from rwkvgate.metrics.statistics import Interval

Call = Callable[[], object]

TIMES = ("seconds_median", "seconds_low", "seconds_high", "ratio", "ratio_low", "ratio_high")
PLACE = ("dtype", "threads", "device")
LATENCY_COLUMNS = ("arm", "seed", "measure", "batch", "tokens", *TIMES, "repeats", "peak_mib", "peak_of", *PLACE)


@dataclass(frozen=True)
class Timing:
    """Seconds of two calls timed in turn: medians, quartiles, and the ratio arm / base with its interval."""

    base_median: float
    base_low: float
    base_high: float
    arm_median: float
    arm_low: float
    arm_high: float
    ratio: Interval
    repeats: int


def time_pair(
    base_call: Call,
    arm_call: Call,
    repeats: int,
    warmup: int = 2,
    synchronize: Call | None = None,
    *,
    seed: int = 0,
) -> Timing:
    """Time two calls in turn: `warmup` untimed rounds, then `repeats` rounds of base and arm.

    Args:
        synchronize: called before the clock starts and before it stops, where calls return early (CUDA).
        seed: of the bootstrap of the ratio.

    Raises:
        ValueError: `repeats` is below 1 or `warmup` below 0.
    """
    seconds = time_calls({"base": base_call, "arm": arm_call}, repeats, warmup, synchronize)
    base, arm = seconds["base"], seconds["arm"]
    return Timing(*quartiles(base), *quartiles(arm), ratio_of_medians(arm, base, seed=seed), repeats)


def time_calls(
    calls: Mapping[str, Call], repeats: int, warmup: int = 2, synchronize: Call | None = None
) -> dict[str, NDArray[np.float64]]:
    """Seconds of each call in each repeat, (repeats,); the order rotates by one with each repeat.

    Raises:
        ValueError: `repeats` is below 1 or `warmup` below 0.
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


def quartiles(seconds: NDArray[np.float64]) -> tuple[float, float, float]:
    """Median, lower and upper quartile."""
    low, middle, high = np.percentile(seconds, [25, 50, 75])
    return float(middle), float(low), float(high)


def ratio_of_medians(
    arm: NDArray[np.float64], base: NDArray[np.float64], *, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """median(arm) / median(base) with its bootstrap interval over repeats, which pair the two.

    Bounds are nan with one repeat; `n` is the number of repeats.
    """
    estimate = float(np.median(arm) / np.median(base))
    if len(arm) < 2:
        return Interval(estimate, np.nan, np.nan, len(arm))

    def statistic(x: NDArray[np.float64], y: NDArray[np.float64], axis: int = -1) -> NDArray[np.float64]:
        ratio: NDArray[np.float64] = np.median(x, axis=axis) / np.median(y, axis=axis)
        return ratio

    result: Any = stats.bootstrap(
        (arm, base),
        statistic,
        n_resamples=resamples,
        paired=True,
        vectorized=True,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    bounds = result.confidence_interval
    return Interval(estimate, float(bounds.low), float(bounds.high), len(arm))


def forward_time(
    models: Mapping[str, nn.Module],
    input_ids: Tensor,
    *,
    repeats: int,
    warmup: int = 2,
    base: str = "base",
    seed: int = 0,
) -> pd.DataFrame:
    """Seconds of one forward pass over `input_ids` (batch, tokens) for each arm, in evaluation mode.

    Args:
        models: by arm; all on one device. Without the arm `base` ratios are nan.
        seed: the training seed written beside each row.

    Returns:
        One row an arm with `LATENCY_COLUMNS`: `measure` is "forward"; `seconds_low` and `seconds_high` are
        quartiles; `ratio` is to `base` with a 95 % interval; `peak_mib` is the highest memory in MiB of the
        arm's own pass on CUDA (`peak_of` "cuda"), else of the whole process so far (`peak_of` "process").
    """
    calls: dict[str, Call] = {}
    for arm, model in models.items():
        calls[arm] = partial(model, input_ids.to(device_of(model)), use_cache=False)
    return _measure(models, calls, "forward", input_ids, input_ids.shape[1], repeats, warmup, base, seed)


def generation_time(
    models: Mapping[str, nn.Module],
    prompt_ids: Tensor,
    *,
    tokens: int = 50,
    repeats: int,
    warmup: int = 1,
    base: str = "base",
    seed: int = 0,
) -> pd.DataFrame:
    """Seconds to generate exactly `tokens` tokens greedily after `prompt_ids` (batch, time), prompt included.

    The end-of-text token is held back until then, so that all arms do the same work. Arguments and columns as
    in `forward_time`; `measure` is "generation" and `tokens` counts the new ones.
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
    return _measure(models, calls, "generation", prompt_ids, tokens, repeats, warmup, base, seed)


def _measure(
    models: Mapping[str, nn.Module],
    calls: Mapping[str, Call],
    measure: str,
    ids: Tensor,
    tokens: int,
    repeats: int,
    warmup: int,
    base: str,
    seed: int,
) -> pd.DataFrame:
    on_cuda = any(device_of(model).type == "cuda" for model in models.values())
    rows = []
    with evaluating(*models.values()):
        seconds = time_calls(calls, repeats, warmup, torch.cuda.synchronize if on_cuda else None)
        for arm, model in models.items():
            median, low, high = quartiles(seconds[arm])
            ratio = ratio_of_medians(seconds[arm], seconds[base]) if base in seconds else None
            peak_mib, peak_of = peak_memory(calls[arm], device_of(model))
            rows.append(
                {
                    "arm": arm,
                    "seed": seed,
                    "measure": measure,
                    "batch": ids.shape[0],
                    "tokens": tokens,
                    "seconds_median": median,
                    "seconds_low": low,
                    "seconds_high": high,
                    "ratio": ratio.estimate if ratio else np.nan,
                    "ratio_low": ratio.low if ratio else np.nan,
                    "ratio_high": ratio.high if ratio else np.nan,
                    "repeats": repeats,
                    "peak_mib": peak_mib,
                    "peak_of": peak_of,
                    "dtype": dtype_of(model),
                    "threads": torch.get_num_threads(),
                    "device": device_name(device_of(model)),
                }
            )
    return pd.DataFrame(rows, columns=list(LATENCY_COLUMNS))


def peak_memory(call: Call, device: torch.device) -> tuple[float, str]:
    """Peak memory in MiB, and of what: "cuda", the call alone beside what lies on the device; else "process".

    A process' high-water mark cannot be reset, so on a CPU it covers everything up to now, without calling.
    nan where the platform does not tell.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) / 2**20, "cuda"
    try:
        import resource
        import sys
    except ImportError:  # Windows has no such module
        return float("nan"), "process"
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20, "process"


def dtype_of(model: nn.Module) -> str:
    """The type most of the model's parameters have, such as "float32"."""
    counts: dict[str, int] = {}
    for parameter in model.parameters():
        name = str(parameter.dtype).removeprefix("torch.")
        counts[name] = counts.get(name, 0) + parameter.numel()
    return max(counts, key=counts.__getitem__) if counts else "none"


def device_name(device: torch.device) -> str:
    """ "cpu", or the name of the GPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
