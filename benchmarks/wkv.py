"""The WKV operator and the whole network: the chunked form and numba's loops beside the recurrence, in turn.

`make bench`.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch

from rwkvgate import Rwkv6Config, Rwkv6ForCausalLM
from rwkvgate.experiment.settings import resolve
from rwkvgate.metrics.latency import time_calls
from rwkvgate.rwkv6.kernels import wkv_backend
from rwkvgate.rwkv6.wkv import wkv6

FORMS = ("recurrent", "chunked", "numba")
ROUNDS = 9


def operator() -> Callable[[str], Any]:
    """Forward and backward at B 1, H 32, N 64, T 512, float32."""
    torch.manual_seed(0)
    r, k, v, d = (torch.randn(1, 512, 32, 64, requires_grad=True) for _ in range(4))
    u, upstream = torch.randn(32, 64, requires_grad=True), torch.randn(1, 512, 32, 64)

    def both(name: str) -> None:
        with wkv_backend(name):
            wkv6(r, k, v, -d.exp(), u)[0].backward(upstream)

    return both


def network(batch: int, length: int) -> dict[str, Callable[[str], Any]]:
    """A training step's forward and backward, and a forward alone, of the cpu profile's model."""
    sizes = resolve("cpu").model.model_dump(exclude={"pretraining"})
    torch.manual_seed(0)
    model = Rwkv6ForCausalLM(Rwkv6Config(**sizes))
    ids = torch.randint(1, model.config.vocab_size, (batch, length))

    def step(name: str) -> None:
        with wkv_backend(name):
            model(ids, labels=ids).loss.backward()

    def forward(name: str) -> None:
        with wkv_backend(name), torch.inference_mode():
            model(ids, use_cache=False)

    return {"training step": step, "forward": forward}


def main() -> None:
    """Print each form's median seconds, and how many times the recurrence's speed that is."""
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    rows: dict[str, Callable[[str], Any]] = {"WKV forward + backward, B 1, H 32, N 64, T 512": operator()}
    for batch, length in ((1, 1024), (16, 128)):
        rows |= {
            f"cpu model, {batch} x {length:,} tokens: {part}": call for part, call in network(batch, length).items()
        }
    for row, call in rows.items():
        seconds = medians({name: partial(call, name) for name in FORMS})
        told = (f"{name} {own:.4f} s ({seconds['recurrent'] / own:.1f} times)" for name, own in seconds.items())
        print(f"{row}: {', '.join(told)}", flush=True)


def medians(calls: Mapping[str, Callable[[], Any]], rounds: int = ROUNDS) -> dict[str, float]:
    """Median seconds of each call, measured in turn."""
    return {name: float(np.median(own)) for name, own in time_calls(calls, rounds, warmup=1).items()}


if __name__ == "__main__":
    main()
