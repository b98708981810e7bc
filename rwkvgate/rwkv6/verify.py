"""Check a checkpoint on the hub against published results: `python -m rwkvgate.rwkv6.verify`.

Downloads 3.2 GB the first time, and needs 7 GB of memory in float32. Exit code 0 where everything agrees, 1 where
anything differs or the checkpoint cannot be loaded, 2 where the hub cannot be reached.

The expected values are those that the plip-rs and candle-mi projects publish for their own RWKV-6
(`scripts/rwkv6_reference.json`): float32 on a CPU, no token before the prompt. The prompt is token ids, so that no
tokenizer takes part.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from rwkvgate.rwkv6.checkpoints import loaded_commit
from rwkvgate.rwkv6.hub import PAPER_MODEL, HubUnreachableError
from rwkvgate.rwkv6.layouts import CheckpointError
from rwkvgate.rwkv6.modeling import Rwkv6ForCausalLM

TOLERANCES = {"float32": 0.01, "bfloat16": 0.2, "float16": 0.05}
"""Largest allowed difference of a logit, by dtype; the compared logits span 0.2 to 4.8."""


@dataclass(frozen=True)
class Golden:
    """A checkpoint's expected results.

    Args:
        tensors: number of weights.
        prompt: token ids.
        logits: of the next token, by token id.
        continuation: token ids that greedy decoding appends.
    """

    tensors: int
    prompt: tuple[int, ...]
    logits: dict[int, float]
    continuation: tuple[int, ...]


FIBONACCI = Golden(
    tensors=678,
    prompt=(7334, 21676, 41943, 41, 111, 501, 28352),  # "def fibonacci(n):\n    "
    logits={
        1942: 4.79793,
        98: 3.16923,
        5170: 2.51246,
        42178: 1.95878,
        36: 1.62147,
        42175: 1.34555,
        7560: 1.29975,
        103: 0.52013,
        35433: 0.32534,
        8594: 0.15811,
    },
    # "if n == 0:\n        return 0\n    elif n == 1:\n        return 1\n    else:"
    continuation=(
        *(1942, 345, 3590, 283, 59, 54807, 42178, 283, 28352, 25216),
        *(345, 3590, 284, 59, 54807, 42178, 284, 28352, 25229, 59),
    ),
)


@torch.no_grad()
def compare(model: Rwkv6ForCausalLM, golden: Golden, tolerance: float) -> bool:
    """Print a model's results beside the expected ones; returns whether all agree."""
    ids = torch.tensor([golden.prompt], device=model.device)
    logits = model(ids, use_cache=False).logits[0, -1].float()
    grown = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=len(golden.continuation), do_sample=False
    )
    continuation = grown[0, ids.shape[1] :].tolist()
    likeliest = sorted(logits.topk(len(golden.logits)).indices.tolist())
    worst = max(abs(logits[token].item() - expected) for token, expected in golden.logits.items())
    print(f"{'token':>8} {'expected':>10} {'actual':>10} {'difference':>11}")
    for token, expected in golden.logits.items():
        actual = logits[token].item()
        print(f"{token:8d} {expected:10.5f} {actual:10.5f} {actual - expected:11.5f}")
    checks = {
        f"weights: {len(model.state_dict())}, expected {golden.tensors}": len(model.state_dict()) == golden.tensors,
        f"largest difference of a logit: {worst:.5f}, allowed {tolerance}": worst <= tolerance,
        f"the {len(likeliest)} likeliest tokens: {likeliest}": likeliest == sorted(golden.logits),
        f"greedy continuation: {continuation}": continuation == list(golden.continuation),
    }
    for line, agrees in checks.items():
        print(f"{'agrees ' if agrees else 'DIFFERS'} {line}")
    if continuation != list(golden.continuation):
        print(f"        expected             {list(golden.continuation)}")
    return all(checks.values())


def main(arguments: Sequence[str] | None = None, golden: Golden = FIBONACCI) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m rwkvgate.rwkv6.verify", description=__doc__.split("\n")[0])
    parser.add_argument("--model", default=PAPER_MODEL, help="name on the hub, or a folder")
    parser.add_argument("--revision", help="commit, tag or branch; default: the one that the expected results are of")
    parser.add_argument("--dtype", default="float32", choices=TOLERANCES)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ...")
    options = parser.parse_args(arguments)
    try:
        model = Rwkv6ForCausalLM.from_pretrained(options.model, revision=options.revision, dtype=options.dtype).to(
            options.device
        )
    except HubUnreachableError as error:
        print(f"not verified: {error}", file=sys.stderr)
        return 2
    except CheckpointError as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    parameters = sum(tensor.numel() for tensor in model.parameters())
    print(f"{options.model} at commit {loaded_commit(model)}: {parameters:,} parameters, {options.dtype}")
    agrees = compare(model, golden, TOLERANCES[options.dtype])
    print("verified" if agrees else "failed: the checkpoint's results are not the expected ones")
    return 0 if agrees else 1


if __name__ == "__main__":
    sys.exit(main())
