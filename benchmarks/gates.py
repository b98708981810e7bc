"""What every gate of the family adds to the forward pass at the 1.6 B model's layer shape, and putting one on it.

    python benchmarks/gates.py [--arms enhanced low-rank per-head] [--tokens 512] [--repeats 25] [--json FILE]

One layer of 2,048 channels with and without each arm's gate, on the same weights, timed in turn: a forward pass, then a
training step. The ratio of the medians with its bootstrap interval stands beside the gate's share of the products. Then
the whole model of 24 layers in float16 is patched: seconds, and memory beside the gate's own. On a GPU all runs there.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from rwkvgate import GateConfig, Rwkv6Config, Rwkv6ForCausalLM, patch, unpatch
from rwkvgate.experiment.arms import ARMS
from rwkvgate.gate.families import family_of
from rwkvgate.gate.patch import gates_of
from rwkvgate.metrics.cost import gate_cost
from rwkvgate.metrics.latency import device_name, ratio_of_medians, time_calls

LAYER = {"vocab_size": 256, "hidden_size": 2048, "num_hidden_layers": 1, "head_size": 64, "intermediate_size": 7168}
WHOLE = LAYER | {"vocab_size": 65536, "num_hidden_layers": 24}
HEADS = 32
CHANGES: dict[str, dict[str, Any]] = {"low-rank": {"rank": 64}}
GOALS = {"enhanced": 1.0, "low-rank": 1.0, "per-head": 1.0}
"""Points of overhead, for `enhanced` beyond its share of the products."""
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


def overhead(device: torch.device, arms: list[str], tokens: int, repeats: int) -> list[dict[str, Any]]:
    """Time each arm's gate on one layer, and print it: a forward pass, or with gradients on a training step."""
    training, dtype = torch.is_grad_enabled(), torch.float32 if device.type == "cpu" else torch.float16
    model = random_model(LAYER, dtype, device)
    ids = torch.randint(LAYER["vocab_size"], (1, tokens), device=device)
    with FlopCounterMode(display=False) as counter:
        model.rwkv(ids, use_cache=False)
    base_flops = counter.get_total_flops()
    configs = {name: GateConfig.preset(name, **CHANGES.get(name, {})) for name in arms}
    block, places = model.rwkv.blocks[0], family_of(model).places
    fitted: dict[str, tuple[Any, ...]] = {"base": (None,) * len(places)}
    for name, config in configs.items():
        patch(model, config)
        fitted[name] = tuple(getattr(block, place) for place in places)
        unpatch(model)

    def call(name: str) -> Callable[[], Any]:
        def run() -> None:
            for place, gate in zip(places, fitted[name], strict=True):
                setattr(block, place, gate)
            hidden = model.rwkv(ids, use_cache=False).last_hidden_state
            if training:
                hidden.sum().backward()

        return run

    wait = torch.cuda.synchronize if device.type == "cuda" else None
    seconds = time_calls({name: call(name) for name in fitted}, repeats=repeats, warmup=2, synchronize=wait)
    what = "a training step" if training else "a forward pass"
    print(f"{what} of one layer of 2,048 channels, 1 x {tokens} tokens, {dtype}, {device_name(device)}: overhead in %")
    rows = []
    for name, config in configs.items():
        ratio = ratio_of_medians(seconds[name], seconds["base"])
        share = gate_cost(config, LAYER["hidden_size"], HEADS, tokens).flops / base_flops
        found, low, high = (100 * (x - 1) for x in (ratio.estimate, ratio.low, ratio.high))
        goal = None if training else GOALS.get(name)
        beyond = 100 * share if name == "enhanced" else 0.0
        text = "" if goal is None else f" (goal at most {beyond + goal:.2f})"
        print(f"  {name:18} {found:+6.2f} [{low:+6.2f}, {high:+6.2f}]; share of the products {100 * share:5.2f}{text}")
        rows.append({"arm": name, "overhead": found, "low": low, "high": high, "share": 100 * share})
    return rows


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


def resident(device: torch.device) -> float:
    """Bytes in use: of the GPU's allocator, or of this process (Linux)."""
    if device.type == "cuda":
        return float(torch.cuda.memory_allocated())
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith("VmRSS"))) * 1024


def main() -> None:
    """Print both, and write the rows as JSON where a file is named."""
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
    with torch.inference_mode():
        rows = overhead(device, asked.arms, asked.tokens, asked.repeats)
    steps = overhead(device, asked.arms, asked.tokens, asked.repeats)
    results = {"device": device_name(device), "tokens": asked.tokens, "layer": rows, "training": steps}
    results["patching"] = patching(device)
    if asked.json:
        asked.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
