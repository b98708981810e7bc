"""Four layers at the 1.6 B model's shape beside what their matrix products and their memory allow. `make bench`.

Forward: the time over 512 tokens, as a multiple of that of its matrix products alone (every linear layer and the
low-rank maps, same shapes, same weights); beside it a forward with WKV token by token. Decode, of 1, 8 and 16 texts at
once: steps a second, beside the same steps with torch's products, and as a share of what reading every weight once a
step allows, at the speed at which this machine adds up a large matrix. What is compared is timed in turn, and the
fastest of the repeats stands for each: a neighbour's load costs many small parallel steps far more than one large
product.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rwkvgate import Rwkv6Config, Rwkv6ForCausalLM
from rwkvgate.metrics.latency import time_calls
from rwkvgate.rwkv6 import linear
from rwkvgate.rwkv6.kernels import wkv_backend

SIZES = {"vocab_size": 65536, "hidden_size": 2048, "num_hidden_layers": 4, "head_size": 64, "intermediate_size": 7168}
TIME = 512
FORWARD_GOAL, DECODE_GOAL = 1.3, 0.6
BATCHES = 1, 8, 16
PLAIN = 2**14, 2**13
"""Rows and columns of the matrix whose sum gives the reading speed: 512 MiB, beyond any cache."""


def random_model() -> Rwkv6ForCausalLM:
    """The slice with random weights of ordinary sizes."""
    with torch.device("meta"):
        model = Rwkv6ForCausalLM(Rwkv6Config(**SIZES))
    model = model.to_empty(device="cpu").eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(0, 0.02, generator=generator)
            if parameter.dim() == 1 and name.endswith("weight"):
                parameter.add_(1)
    return model


def products(model: Rwkv6ForCausalLM) -> Callable[[], None]:
    """All matrix products of the blocks at (1, TIME) tokens, and nothing else."""
    calls: list[tuple[Callable[[Tensor, Tensor], Tensor], Tensor, Tensor]] = []
    for block in model.rwkv.blocks:
        attention = block.attention
        x = torch.randn(1, TIME, SIZES["hidden_size"])
        calls += [(F.linear, torch.randn(1, TIME, m.in_features), m.weight) for m in linears(block)]
        ranks = attention.time_maa_w2.shape[:2]
        calls += [(torch.matmul, x, attention.time_maa_w1), (torch.matmul, x, attention.time_decay_w1)]
        calls += [(torch.bmm, torch.randn(ranks[0], TIME, ranks[1]), attention.time_maa_w2)]
        calls += [(torch.matmul, torch.randn(1, TIME, len(attention.time_decay_w2)), attention.time_decay_w2)]

    def run() -> None:
        for product, left, right in calls:
            product(left, right)

    return run


def linears(block: nn.Module) -> list[nn.Linear]:
    """A block's linear layers."""
    return [module for module in block.modules() if isinstance(module, nn.Linear)]


def forward(model: Rwkv6ForCausalLM) -> None:
    """Print the forward pass beside its products and the plain loop."""
    ids = torch.randint(SIZES["vocab_size"], (1, TIME))

    def looped() -> None:
        with wkv_backend("recurrent"):
            model.rwkv(ids, use_cache=False)

    calls: dict[str, Callable[[], Any]] = {
        "ours": lambda: model.rwkv(ids, use_cache=False),
        "products": products(model),
        "loop": looped,
    }
    seconds = time_calls(calls, repeats=9, warmup=1)
    ours, alone, loop = (float(seconds[name].min()) for name in calls)
    print(
        f"forward, 4 layers of 2,048 channels, 1 x {TIME} tokens, float32: {ours:.3f} s; matrix products alone "
        f"{alone:.3f} s, {ours / alone:.2f} times (goal at most {FORWARD_GOAL}); WKV token by token {loop:.3f} s, "
        f"{loop / ours:.1f} times ours"
    )


def decode(model: Rwkv6ForCausalLM, batch: int) -> None:
    """Print decoding beside torch's products, and beside the rate that reading the weights allows."""
    token = torch.ones(batch, 1, dtype=torch.long)
    state = model(token, use_cache=True).past_key_values
    matrix = torch.randn(PLAIN)

    def step() -> None:
        nonlocal state
        state = model(token, past_key_values=state, use_cache=True, logits_to_keep=1).past_key_values

    def plain_step() -> None:
        limit, linear.LARGE = linear.LARGE, 2**62
        step()
        linear.LARGE = limit

    calls = {"ours": step, "torch": plain_step, "read": matrix.sum}
    ours, plain, read = (float(seconds.min()) for seconds in time_calls(calls, repeats=30).values())
    size = sum(p.nbytes for name, p in model.named_parameters() if "embeddings" not in name)
    allowed = size / (matrix.nbytes / read)
    print(
        f"decode, the same model, batch {batch}: {1000 * ours:.1f} ms a step; with torch's products {1000 * plain:.1f} "
        f"ms, {plain / ours:.2f} times ours; reading {size / 2**20:,.0f} MiB at {matrix.nbytes / read / 2**30:.1f} "
        f"GiB/s takes {1000 * allowed:.1f} ms, {allowed / ours:.0%} of ours (goal {DECODE_GOAL:.0%} at batch 1)"
    )


def main() -> None:
    """Print both comparisons."""
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    model = random_model()
    with torch.inference_mode():
        forward(model)
        for batch in BATCHES:
            decode(model, batch)


if __name__ == "__main__":
    main()
