"""What every gate of the family adds at the 1.6 B model's layer shape, and putting one on it.

    python benchmarks/gates.py [--arms enhanced low-rank per-head] [--tokens 512] [--repeats 25] [--json FILE]

One layer of 2,048 channels with and without each arm's gate, on the same weights, timed in turn: a forward pass, a step
of decoding for one text and for eight, a training step. The ratio of the medians with its bootstrap interval stands
beside the gate's share of the products. Then prompts of 256 to 65,536 tokens, without a gate and with those that have a
goal: seconds, the exponent with which they grow, and the peak of memory. Last, the whole model of 24 layers in float16
is patched: seconds, and memory beside the gate's own. On a GPU all runs there.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from rwkvgate import GateConfig, Rwkv6Config, Rwkv6ForCausalLM, patch, unpatch
from rwkvgate.experiment.arms import ARMS
from rwkvgate.gate.families import family_of
from rwkvgate.gate.patch import gates_of
from rwkvgate.metrics.cost import gate_cost
from rwkvgate.metrics.latency import device_name, ratio_of_medians, time_calls
from rwkvgate.rwkv6.prefill import prefill

LAYER = {"vocab_size": 256, "hidden_size": 2048, "num_hidden_layers": 1, "head_size": 64, "intermediate_size": 7168}
WHOLE = LAYER | {"vocab_size": 65536, "num_hidden_layers": 24}
HEADS = 32
CHANGES: dict[str, dict[str, Any]] = {"low-rank": {"rank": 64}}
GOALS = {"enhanced": 0.5, "low-rank": 0.5, "per-head": 0.5}
"""Points of overhead, for `enhanced` beyond its share of the products."""
BATCHES = 1, 8
LENGTHS = 256, 4096, 65536
EXPONENT = 1.03
PATCH_SECONDS = 10


def random_model(sizes: dict[str, int], dtype: torch.dtype, device: torch.device) -> Rwkv6ForCausalLM:
    """A model with random weights of ordinary sizes."""
    with torch.device("meta"):
        model = Rwkv6ForCausalLM(Rwkv6Config(**sizes)).to(dtype)
    model = model.to_empty(device=device).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(0, 0.02)
            if parameter.dim() == 1 and name.endswith("weight"):
                parameter.add_(1)
    return model


class Fitted:
    """One layer's model, its gates by arm, and what is timed on it with an arm's gate or with none."""

    def __init__(self, device: torch.device, arms: list[str]) -> None:
        self.device = device
        self.model = random_model(LAYER, torch.float32 if device.type == "cpu" else torch.float16, device)
        self.configs = {name: GateConfig.preset(name, **CHANGES.get(name, {})) for name in arms}
        self.block, self.places = self.model.rwkv.blocks[0], family_of(self.model).places
        self.gates: dict[str, tuple[Any, ...]] = {"base": (None,) * len(self.places)}
        for name, config in self.configs.items():
            patch(self.model, config)
            self.gates[name] = tuple(getattr(self.block, place) for place in self.places)
            unpatch(self.model)
        self.wait = torch.cuda.synchronize if device.type == "cuda" else None

    def fit(self, name: str) -> None:
        """Put an arm's gate on the layer."""
        for place, gate in zip(self.places, self.gates[name], strict=True):
            setattr(self.block, place, gate)

    def ids(self, batch: int, tokens: int) -> torch.Tensor:
        """Random tokens."""
        return torch.randint(LAYER["vocab_size"], (batch, tokens), device=self.device)

    def seconds(self, call: Callable[[str], Any], repeats: int) -> dict[str, Any]:
        """Seconds of a call with each arm's gate, in turn."""
        calls = {name: partial(call, name) for name in self.gates}
        return time_calls(calls, repeats=repeats, warmup=min(2, repeats), synchronize=self.wait)

    def forward(self, tokens: int) -> Callable[[str], Any]:
        """A forward pass, with gradients also the backward one."""
        ids = self.ids(1, tokens)

        def run(name: str) -> None:
            self.fit(name)
            hidden = self.model.rwkv(ids, use_cache=False).last_hidden_state
            if torch.is_grad_enabled():
                hidden.sum().backward()

        return run

    def decoding(self, batch: int) -> Callable[[str], Any]:
        """One more token of each text; every arm has its own state."""
        ids, states = self.ids(batch, 1), {}
        for name in self.gates:
            self.fit(name)
            states[name] = self.model.rwkv(ids, use_cache=True).past_key_values

        def run(name: str) -> None:
            self.fit(name)
            output = self.model.rwkv(ids, past_key_values=states[name], use_cache=True)
            states[name] = output.past_key_values

        return run


def overhead(fitted: Fitted, what: str, call: Callable[[str], Any], repeats: int, goals: bool) -> list[dict[str, Any]]:
    """Print what each arm's gate adds to a call, beside the gate's share of the products."""
    tokens = 512  # the share is the same at any number
    fitted.fit("base")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        fitted.model.rwkv(fitted.ids(1, tokens), use_cache=False)
    seconds = fitted.seconds(call, repeats)
    base = float(np.median(seconds["base"]))
    print(f"{what}, one layer of 2,048 channels, {device_name(fitted.device)}: {1000 * base:.2f} ms, and overhead in %")
    rows = []
    for name, config in fitted.configs.items():
        ratio = ratio_of_medians(seconds[name], seconds["base"])
        share = gate_cost(config, LAYER["hidden_size"], HEADS, tokens).flops / counter.get_total_flops()
        found, low, high = (100 * (x - 1) for x in (ratio.estimate, ratio.low, ratio.high))
        beyond = 100 * share if name == "enhanced" else 0.0
        text = f" (goal at most {beyond + GOALS[name]:.2f})" if goals and name in GOALS else ""
        print(f"  {name:18} {found:+6.2f} [{low:+6.2f}, {high:+6.2f}]; share of the products {100 * share:5.2f}{text}")
        rows.append({"arm": name, "overhead": found, "low": low, "high": high, "share": 100 * share})
    return rows


def lengths(fitted: Fitted) -> list[dict[str, Any]]:
    """Print seconds of prompts of each length, how they grow, and the memory that the longest takes beyond before."""
    print(
        f"prompts of {LENGTHS} tokens, in windows, one layer: seconds, exponent (goal at most {EXPONENT}), peak memory"
    )
    rows = []
    for name in ["base", *(name for name in fitted.configs if name in GOALS)]:
        fitted.fit(name)
        seconds, peaks = [], []
        for length in LENGTHS:
            ids = fitted.ids(1, length)
            before = forget_peak(fitted.device)
            call = {name: partial(prefill, fitted.model, ids)}
            repeats = 3 if length < LENGTHS[-1] else 1
            seconds.append(float(time_calls(call, repeats, repeats - 1, fitted.wait)[name].min()))
            peaks.append((peak(fitted.device) - before) / 2**20)
        exponent = float(np.polyfit(np.log(LENGTHS[1:]), np.log(seconds[1:]), 1)[0])
        times, memory = (", ".join(f"{x:{form}}" for x in xs) for xs, form in ((seconds, ".3f"), (peaks, ",.0f")))
        print(f"  {name:18} {times} s; {exponent:.3f} from {LENGTHS[1]:,} tokens; {memory} MiB", flush=True)
        rows.append({"arm": name, "seconds": seconds, "exponent": exponent, "peak_mib": peaks})
    return rows


def forget_peak(device: torch.device) -> float:
    """Begin a new peak of memory; returns the bytes in use now."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
    return resident(device)


def peak(device: torch.device) -> float:
    """The most bytes in use since then."""
    return float(torch.cuda.max_memory_allocated()) if device.type == "cuda" else resident(device, "VmHWM")


def patching(device: torch.device) -> dict[str, Any]:
    """Patch the whole model and print seconds and memory."""
    model = random_model(WHOLE, torch.float16, device)
    before = {p.data_ptr() for p in model.parameters()}
    start_memory, started = resident(device), time.perf_counter()
    patch(model, GateConfig.preset("enhanced"))
    seconds = time.perf_counter() - started
    added = (resident(device) - start_memory) / 2**20
    own = sum(p.nbytes for gate in gates_of(model) for p in gate.parameters()) / 2**20
    kept = before <= {p.data_ptr() for p in model.parameters()}
    print(
        f"patching 24 layers of 2,048 channels: {seconds:.2f} s (goal {PATCH_SECONDS}); "
        f"memory grew by {added:,.0f} MiB, the gates are {own:,.0f} MiB; "
        f"the base's tensors are {'the same' if kept else 'MOVED'}"
    )
    return {"seconds": seconds, "grew_mib": added, "gates_mib": own}


def resident(device: torch.device, field: str = "VmRSS") -> float:
    """Bytes in use: of the GPU's allocator, or of this process (Linux)."""
    if device.type == "cuda":
        return float(torch.cuda.memory_allocated())
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(field))) * 1024


def main() -> None:
    """Print all of it, and write the rows as JSON where a file is named."""
    gated = [name for name, arm in ARMS.items() if arm.gate and arm.trained]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", nargs="+", default=gated, choices=gated, metavar="ARM")
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=25)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    torch.manual_seed(0)
    fitted = Fitted(device, asked.arms)
    results: dict[str, Any] = {"device": device_name(device), "tokens": asked.tokens}
    with torch.inference_mode():
        what = f"a forward pass of {asked.tokens} tokens"
        results["layer"] = overhead(fitted, what, fitted.forward(asked.tokens), asked.repeats, goals=True)
        for batch in BATCHES:
            what = f"a step of decoding, batch {batch}"
            call = fitted.decoding(batch)
            results[f"decoding {batch}"] = overhead(fitted, what, call, 8 * asked.repeats, goals=True)
    what = f"a training step of {asked.tokens} tokens"
    results["training"] = overhead(fitted, what, fitted.forward(asked.tokens), asked.repeats, goals=False)
    results["lengths"] = lengths(fitted)
    results["patching"] = patching(device)
    if asked.json:
        asked.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
