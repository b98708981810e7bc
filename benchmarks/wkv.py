"""The WKV operator and the whole network, chunked beside recurrent, from one run. `make bench`."""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.benchmark import Timer

from rwkvgate import Rwkv6Config, Rwkv6ForCausalLM
from rwkvgate.experiment.settings import resolve
from rwkvgate.rwkv6 import mixing
from rwkvgate.rwkv6.wkv import wkv6_chunked, wkv6_recurrent

Form = Callable[..., tuple[torch.Tensor, torch.Tensor]]


def median(call: Callable[[], Any], seconds: float = 4.0) -> float:
    """Median seconds of a call after a warm-up, on all threads."""
    call()
    timer = Timer("call()", globals={"call": call}, num_threads=torch.get_num_threads())
    return float(timer.blocked_autorange(min_run_time=seconds).median)


def operator(form: Form) -> float:
    """Forward and backward at B 1, H 32, N 64, T 512, float32."""
    torch.manual_seed(0)
    r, k, v, d = (torch.randn(1, 512, 32, 64, requires_grad=True) for _ in range(4))
    u = torch.randn(32, 64, requires_grad=True)
    upstream = torch.randn(1, 512, 32, 64)
    return median(lambda: form(r, k, v, -d.exp(), u)[0].backward(upstream))


def network(form: Form) -> tuple[float, float]:
    """A training step's forward and backward, and a forward alone, of the cpu profile's model at 1 x 1,024 tokens."""
    sizes = resolve("cpu").model.model_dump(exclude={"pretraining"})
    torch.manual_seed(0)
    model = Rwkv6ForCausalLM(Rwkv6Config(**sizes))
    ids = torch.randint(1, model.config.vocab_size, (1, 1024))
    kept, mixing.wkv6 = mixing.wkv6, form  # type: ignore[assignment]
    try:
        step = median(lambda: model(ids, labels=ids).loss.backward())
        with torch.inference_mode():
            forward = median(lambda: model(ids, use_cache=False))
    finally:
        mixing.wkv6 = kept
    return step, forward


def main() -> None:
    """Print the three comparisons."""
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    rows = [("WKV forward + backward, B 1, H 32, N 64, T 512", operator(wkv6_recurrent), operator(wkv6_chunked), 10)]
    (slow_step, slow), (fast_step, fast) = network(wkv6_recurrent), network(wkv6_chunked)
    rows.append(("cpu model, 1 x 1,024 tokens: training step", slow_step, fast_step, 10))
    rows.append(("cpu model, 1 x 1,024 tokens: forward", slow, fast, 5))
    for name, reference, ours, goal in rows:
        print(f"{name}: recurrent {reference:.4f} s, chunked {ours:.4f} s, {reference / ours:.1f} times (goal {goal})")


if __name__ == "__main__":
    main()
