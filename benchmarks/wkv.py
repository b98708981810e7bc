"""The WKV operator and the whole network: the chunked form and numba's loops beside the recurrence, from one run.

`make bench`.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.benchmark import Timer

from rwkvgate import Rwkv6Config, Rwkv6ForCausalLM
from rwkvgate.experiment.settings import resolve
from rwkvgate.rwkv6 import mixing
from rwkvgate.rwkv6.fused import wkv6_numba
from rwkvgate.rwkv6.wkv import wkv6_chunked, wkv6_recurrent

Form = Callable[..., tuple[torch.Tensor, torch.Tensor]]
FORMS: dict[str, Form] = {"recurrent": wkv6_recurrent, "chunked": wkv6_chunked, "numba": wkv6_numba}


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


def network(form: Form, batch: int, length: int) -> tuple[float, float]:
    """A training step's forward and backward, and a forward alone, of the cpu profile's model."""
    sizes = resolve("cpu").model.model_dump(exclude={"pretraining"})
    torch.manual_seed(0)
    model = Rwkv6ForCausalLM(Rwkv6Config(**sizes))
    ids = torch.randint(1, model.config.vocab_size, (batch, length))
    kept, mixing.wkv6 = mixing.wkv6, form  # type: ignore[assignment]
    try:
        step = median(lambda: model(ids, labels=ids).loss.backward())
        with torch.inference_mode():
            forward = median(lambda: model(ids, use_cache=False))
    finally:
        mixing.wkv6 = kept
    return step, forward


def main() -> None:
    """Print each form's seconds, and how many times the recurrence's speed that is."""
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    rows = {"WKV forward + backward, B 1, H 32, N 64, T 512": {name: operator(form) for name, form in FORMS.items()}}
    for batch, length in ((1, 1024), (16, 128)):
        found = {name: network(form, batch, length) for name, form in FORMS.items()}
        for i, part in enumerate(("training step", "forward")):
            rows[f"cpu model, {batch} x {length:,} tokens: {part}"] = {name: both[i] for name, both in found.items()}
    for row, seconds in rows.items():
        told = (f"{name} {own:.4f} s ({seconds['recurrent'] / own:.1f} times)" for name, own in seconds.items())
        print(f"{row}: {', '.join(told)}")


if __name__ == "__main__":
    main()
