"""Cross-entropy of the next token straight from hidden states, without the logits ever standing in memory.

At a vocabulary of 65,536 the logits of 8 rows of 512 tokens take 1 GiB, and their softmax and its gradient as
much again. Here they exist for `CHUNK` tokens at a time, and the gradient is made in the forward pass, from
the same logits (after Hsu et al. 2024, "Liger Kernel", arXiv 2410.10989, section 3.2).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rwkvgate.rwkv6.precision import without_autocast

CHUNK = 512
"""Tokens whose logits exist at one time."""
IGNORED = -100
"""The label of a position that is not scored."""


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, fast: torch.dtype) -> Tensor:
        """hidden (token, channel), weight (vocabulary, channel), targets (token,) to their summed loss.

        Products are taken in `fast`, the softmax and both gradients in the widest type at hand.
        """
        wide = torch.promote_types(weight.dtype, torch.float32)
        head = weight.to(fast)
        grad_hidden = torch.empty_like(hidden, dtype=wide) if ctx.needs_input_grad[0] else None
        grad_weight = torch.zeros_like(weight, dtype=wide) if ctx.needs_input_grad[1] else None
        total = torch.zeros((), dtype=torch.float64 if hidden.device.type == "cpu" else wide, device=hidden.device)
        for start in range(0, len(hidden), CHUNK):
            part = hidden[start : start + CHUNK].to(fast)
            chosen = targets[start : start + CHUNK, None]
            scores = (part @ head.t()).to(wide)
            highest = scores.amax(1, keepdim=True)
            score = scores.gather(1, chosen)
            mass = scores.sub_(highest).exp_().sum(1, keepdim=True)
            total += (mass.log() + highest - score).sum()
            # From here on `scores` is the gradient by the logits: softmax minus one at the target.
            scores.div_(mass).scatter_add_(1, chosen, torch.full_like(mass, -1))
            slope = scores.to(fast)
            if grad_hidden is not None:
                grad_hidden[start : start + CHUNK] = slope @ head
            if grad_weight is not None:
                grad_weight += slope.t() @ part
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.types = hidden.dtype, weight.dtype
        return total.to(wide)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of the forward pass, scaled; the type is narrowed only after that."""
        made = zip(ctx.saved_tensors, ctx.types, strict=True)
        return *(None if x is None else (x * grad).to(dtype) for x, dtype in made), None, None


def next_token_loss(hidden: Tensor, weight: Tensor, labels: Tensor, items: Tensor | int | None = None) -> Tensor:
    """Mean cross-entropy, in nats a token, of each position's next token.

    Positions that are not scored cost nothing: they are dropped before the head. Differentiable once.

    Args:
        hidden: (batch, time, channel), what the head reads.
        weight: (vocabulary, channel), the head.
        labels: (batch, time), token ids with -100 where nothing is scored; shifted by one inside.
        items: divide the sum by this instead of the number of scored tokens, as gradient accumulation needs.

    Returns:
        A scalar in float32 or wider; not a number where no token is scored and `items` is not given.

    Raises:
        ValueError: the labels are not of the hidden states' batch and time.
    """
    if labels.shape != hidden.shape[:2]:
        raise ValueError(f"labels are {tuple(labels.shape)}; the tokens are {tuple(hidden.shape[:2])}")
    targets = labels[:, 1:].reshape(-1).to(hidden.device)
    scored = targets.ne(IGNORED).nonzero().squeeze(1)
    read = hidden[:, :-1].flatten(0, 1).index_select(0, scored)
    kind = hidden.device.type
    narrow = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    fast = torch.get_autocast_dtype(kind) if narrow else weight.dtype
    with without_autocast(hidden.device):
        total: Tensor = _LinearCrossEntropy.apply(read, weight, targets[scored], fast)
    return total / (len(scored) if items is None else items)
