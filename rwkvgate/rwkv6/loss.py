"""Cross-entropy of the next token from hidden states, without all logits in memory at once.

At a vocabulary of 65,536 the logits of 8 rows of 512 tokens take 1 GiB, and their softmax and its gradient as
much again. Here they exist for `CHUNK` tokens at a time, and the forward pass computes the gradient from the same
logits (after Hsu et al. 2024, "Liger Kernel", arXiv 2410.10989, section 3.2).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rwkvgate.rwkv6.linear import is_plain, multiplies, product_dtype
from rwkvgate.rwkv6.once import once
from rwkvgate.rwkv6.precision import wide_dtype, without_autocast

CHUNK = 512
"""Tokens whose logits exist at one time."""
IGNORED = -100
"""The label of a position that is not scored."""


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, fast: torch.dtype) -> Tensor:
        """The summed loss of hidden (token, channel), weight (vocabulary, channel), targets (token,).

        A target of -100 counts nothing. Products are in the type `fast`, softmax and both gradients in float32 at
        least. Where the processor multiplies no `fast`, its numbers are, rounded alike, multiplied in float32.
        """
        wide = wide_dtype(weight.dtype)
        by_hand = is_plain(hidden, weight) and not multiplies(fast)

        def rounded(x: Tensor) -> Tensor:
            return x.to(fast).float() if by_hand else x.to(fast)

        head = rounded(weight)
        grad_hidden = torch.empty_like(hidden, dtype=wide) if ctx.needs_input_grad[0] else None
        grad_weight = torch.zeros_like(weight, dtype=wide) if ctx.needs_input_grad[1] else None
        total = torch.zeros((), dtype=torch.float64 if hidden.device.type == "cpu" else wide, device=hidden.device)
        for start in range(0, len(hidden), CHUNK):
            part = rounded(hidden[start : start + CHUNK])
            target = targets[start : start + CHUNK, None]  # (chunk, 1)
            scored = target.ne(IGNORED)
            chosen = target.where(scored, 0)
            scores = rounded(part @ head.t()).to(wide)  # (chunk, vocabulary)
            highest = scores.amax(1, keepdim=True)
            score = scores.gather(1, chosen)
            mass = scores.sub_(highest).exp_().sum(1, keepdim=True)
            total += (mass.log() + highest - score).where(scored, 0).sum()
            # From here on `scores` is the gradient with respect to the logits: softmax minus one at the target.
            scores.div_(mass.where(scored, torch.inf)).scatter_add_(1, chosen, -scored.to(wide))
            slope = rounded(scores)
            if grad_hidden is not None:
                grad_hidden[start : start + CHUNK] = slope @ head
            if grad_weight is not None:
                grad_weight += slope.t() @ part
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.types = hidden.dtype, weight.dtype
        return total.to(wide)

    @staticmethod
    @once("pass skip_logits=False, or compute the loss from logits")
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients that the forward pass computed, scaled, and only then in the type of their tensor."""
        saved = zip(ctx.saved_tensors, ctx.types, strict=True)
        return *(None if x is None else (x * grad).to(dtype) for x, dtype in saved), None, None


def next_token_loss(hidden: Tensor, weight: Tensor, labels: Tensor, items: Tensor | int | None = None) -> Tensor:
    """Mean cross-entropy of each position's next token, in nats per token.

    Positions that are not scored cost nothing: they are dropped before the head. Differentiable once.

    Args:
        hidden: (batch, time, channel), the head's input.
        weight: (vocabulary, channel), the head.
        labels: (batch, time), token ids with -100 where nothing is scored; shifted by one inside.
        items: divides the sum in place of the number of scored tokens, as gradient accumulation needs.

    Returns:
        A scalar in float32 or wider; not a number where no token is scored and `items` is not given.

    Raises:
        ValueError: the labels differ from the hidden states in batch or time.

    Example:
        >>> hidden, weight = torch.randn(2, 5, 8), torch.randn(11, 8)
        >>> labels = torch.randint(11, (2, 5))
        >>> logits = hidden @ weight.t()  # (batch, time, vocabulary)
        >>> plain = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        >>> torch.allclose(next_token_loss(hidden, weight, labels), plain)
        True
    """
    if labels.shape != hidden.shape[:2]:
        raise ValueError(f"labels are {tuple(labels.shape)}; the tokens are {tuple(hidden.shape[:2])}")
    targets = labels[:, 1:].reshape(-1).to(hidden.device)
    scored = targets.ne(IGNORED)
    read = hidden[:, :-1].flatten(0, 1)  # (tokens, C)
    count: Tensor | int = scored.sum()
    if not torch.compiler.is_compiling() and not hidden.is_meta:  # there shapes cannot depend on values
        read, targets = read.index_select(0, scored.nonzero().squeeze(1)), targets[scored]
        count = len(targets)
    fast = product_dtype(weight)
    with without_autocast(hidden.device):
        total: Tensor = _LinearCrossEntropy.apply(read, weight, targets, fast)
    return total / (count if items is None else items)
