"""The loss without logits beside the logits' cross-entropy, forward and backward, from one run. `make bench`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from wkv import medians

from rwkvgate.rwkv6.loss import CHUNK, next_token_loss

SHAPES = (("the cpu profile", 16, 128, 128, 2_048), ("the hub's vocabulary", 4, 256, 256, 65_536))
MIB = 2**20


def with_logits(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """What transformers' causal loss does."""
    logits = F.linear(hidden, weight).float()
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


def main() -> None:
    """Print seconds, their ratio, and what the logits take in memory at one time."""
    torch.manual_seed(0)
    for name, batch, time, channels, vocabulary in SHAPES:
        hidden = torch.randn(batch, time, channels, requires_grad=True)
        weight = (torch.randn(vocabulary, channels) / channels**0.5).requires_grad_()
        labels = torch.randint(vocabulary, (batch, time))
        losses = {"with": with_logits, "without": next_token_loss}
        calls = {way: lambda f=f, x=(hidden, weight, labels): f(*x).backward() for way, f in losses.items()}
        reference, ours = medians(calls).values()
        whole, part = (4 * tokens * vocabulary / MIB for tokens in (batch * time, min(CHUNK, batch * time)))
        print(
            f"loss, {batch} x {time} tokens, {channels} channels, {vocabulary:,} entries ({name}): "
            f"with logits {reference:.4f} s, without {ours:.4f} s, {reference / ours:.2f} times; "
            f"logits at one time {whole:.0f} MiB and {part:.0f} MiB"
        )


if __name__ == "__main__":
    main()
