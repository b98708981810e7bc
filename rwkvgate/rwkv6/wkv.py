"""The WKV operator of RWKV-6: a linear recurrence with a decay for every channel and token.

For each head, with the state S of shape (key channel, value channel), Peng et al. 2024
(arXiv 2404.05892, section 4.2) define

    out_t = r_t (S_{t-1} + diag(u) k_t^T v_t)        read before the update; u is the bonus
    S_t   = diag(exp(w_t)) S_{t-1} + k_t^T v_t       w is the log decay, <= 0

`wkv6_recurrent` is that definition, one token at a time. `wkv6_chunked` computes the same numbers with matrix
products. `wkv6` picks between them and an optional package's kernels: see `rwkvgate.rwkv6.kernels`.

Shapes: r, k, v and w are (batch, time, head, channel), u is (head, channel), the state is
(batch, head, key channel, value channel). float64 is computed in float64; every other type is computed, and
returned, in float32, because the decay and the state need its range.
"""

from __future__ import annotations

from torch import Tensor

from rwkvgate.rwkv6.kernels import choose
from rwkvgate.rwkv6.recurrence import wkv6_chunked, wkv6_recurrent

__all__ = ["wkv6", "wkv6_chunked", "wkv6_recurrent"]


def wkv6(r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The WKV operator in the fastest form for this length and device, or in the form that the user forces.

    Args:
        r, k, v: receptance, key and value, (batch, time, head, channel).
        w: log decay, <= 0, same shape.
        u: bonus of the current token, (head, channel).
        state: (batch, head, key channel, value channel); zeros where None.

    Returns:
        The output, shaped like v, and the state after the last token.

    Raises:
        ValueError: the shapes do not agree, or the environment forces an unknown form.
        RuntimeError: the forced form cannot run here.

    Example:
        A sequence read in one call, or in two with the state carried between them:

        >>> import torch
        >>> from rwkvgate.rwkv6.wkv import wkv6
        >>> r, k, v = torch.randn(3, 2, 10, 4, 8).unbind(0)  # 2 sequences, 10 tokens, 4 heads of 8 channels
        >>> w, u = -torch.rand(2, 10, 4, 8), torch.randn(4, 8)
        >>> out, state = wkv6(r, k, v, w, u)
        >>> out.shape, state.shape
        (torch.Size([2, 10, 4, 8]), torch.Size([2, 4, 8, 8]))
        >>> _, middle = wkv6(r[:, :6], k[:, :6], v[:, :6], w[:, :6], u)
        >>> second, _ = wkv6(r[:, 6:], k[:, 6:], v[:, 6:], w[:, 6:], u, middle)
        >>> torch.allclose(second, out[:, 6:], atol=1e-4)
        True
    """
    return choose(r)(r, k, v, w, u, state)
