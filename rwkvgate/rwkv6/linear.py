"""Products with a weight on a CPU: of few rows at the speed of memory, and of half precision at that of float32.

torch is fast at everything else. But with 1 to 16 rows, which is decoding, its product reads a large float32 weight at
a half to a fifth of the memory's speed. Loops that numba compiles read it at nearly all of it. And where the processor
multiplies no half precision, torch takes several times as long as in float32, in a backward hundreds of times as long:
there both sides are widened for the call. Which way is taken follows from shapes, types and processor alone, never from
a measurement, so that a run gives the same bits whatever else the machine does.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rwkvgate.rwkv6.kernels import followed
from rwkvgate.rwkv6.precision import without_autocast

FEW = 16
"""Rows up to which the compiled loops are faster than torch's product."""
LARGE = 2**20
"""Numbers in a weight from which on they are; a smaller one stays in the processor's cache."""
TOLERANCE = 1e-5
"""Largest error of the loops in a small product of ordinary numbers; float32 rounds them to 1e-6."""
FLAGS = {
    torch.float16: ("avx512_fp16", "amx_fp16", "avx_ne_convert"),
    torch.bfloat16: ("avx512_bf16", "amx_bf16", "avx_ne_convert"),
}
"""What an x86 processor is said to have where it multiplies a type."""


class Linear(nn.Linear):
    """torch's linear layer, whose product is made in the way that is fastest on this machine.

    Example:
        >>> layer, x = Linear(8, 4), torch.randn(2, 8)
        >>> torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))
        True
    """

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in) times the weight (out, in), plus the bias: (..., out)."""
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (..., in) times weight (out, in), plus bias (out,): (..., out), in the type of the weight, or of autocast."""
    if not is_plain(x, weight):
        return F.linear(x, weight, bias)
    dtype, rows = product_dtype(weight), x.numel() // max(1, x.shape[-1])
    same_type = x.dtype == dtype or weight.dtype != dtype  # else torch refuses them, but under autocast
    if rows > 1 and same_type and not multiplies(dtype):
        with without_autocast(weight.device):
            out: Tensor = _Widened.apply(*(None if part is None else part.to(dtype) for part in (x, weight, bias)))
            return out
    if weight.numel() >= LARGE and 1 <= rows <= FEW and (product := _loop(x, weight, dtype)) is not None:
        out = product(x.reshape(rows, -1).contiguous(), weight).view(*x.shape[:-1], -1)
        return out if bias is None else out.add_(bias)
    return F.linear(x, weight, bias)


def baddbmm(bias: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """bias + x (batch, rows, in) times weight (batch, in, out), in the type of the weight, or of autocast."""
    if not is_plain(x, weight) or multiplies(dtype := product_dtype(weight)):
        return torch.baddbmm(bias, x, weight)
    with without_autocast(weight.device):
        return torch.baddbmm(*(part.to(dtype).float() for part in (bias, x, weight))).to(dtype)


class _Widened(torch.autograd.Function):
    """`linear` by float32, rounded once. The backward widens again, so that no wide copy of a weight is kept for it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.linear(x.float(), weight.float(), None if bias is None else bias.float()).to(weight.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        slope = grad.float()  # (..., out)
        rows = slope.reshape(-1, len(weight))
        of_x = (slope @ weight.float()).to(x.dtype) if ctx.needs_input_grad[0] else None
        of_weight = rows.t() @ x.float().reshape(-1, weight.shape[1]) if ctx.needs_input_grad[1] else None
        of_bias = rows.sum(0) if ctx.needs_input_grad[2] else None
        return of_x, *(None if part is None else part.to(weight.dtype) for part in (of_weight, of_bias))


def is_plain(x: Tensor, weight: Tensor) -> bool:
    """Whether the product is of dense tensors in a CPU's memory, and nobody follows torch's operations."""
    on_cpu = x.device.type == weight.device.type == "cpu"
    dense = type(weight) in (Tensor, nn.Parameter) and weight.layout == torch.strided
    return on_cpu and dense and not followed(x)


def _loop(x: Tensor, weight: Tensor, dtype: torch.dtype) -> Callable[[Tensor, Tensor], Tensor] | None:
    """The compiled product, where it can make this one."""
    learns = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    plain = dtype == x.dtype == weight.dtype == torch.float32 and weight.is_contiguous()
    fits = weight.dim() == 2 and x.shape[-1] == weight.shape[1]  # else torch says what is wrong
    return _compiled_product() if plain and fits and not learns else None


@cache
def _compiled_product() -> Callable[[Tensor, Tensor], Tensor] | None:
    """The compiled product, after one small product beside torch's.

    None where calls cannot be shared among threads, and, with a warning, where numba fails.
    """
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(n, 50, generator=generator, device="cpu", dtype=torch.float32) for n in (5, 8))
    try:
        from rwkvgate.rwkv6.compiled import has_threads
        from rwkvgate.rwkv6.products import product

        if not has_threads():
            return None
        error = float((product(x, weight).double() - x.double() @ weight.double().t()).abs().max())
    except ModuleNotFoundError as missing:
        if missing.name == "numba":
            return None
        problem = f"numba cannot be imported: {missing}"
    except Exception as failure:  # compilers raise errors of many kinds
        problem = f"numba raised {type(failure).__name__}: {str(failure).partition(chr(10))[0]}"
    else:
        if error <= TOLERANCE:
            return product
        problem = f"numba errs by {error:.1e}, more than {TOLERANCE:.0e}"
    warnings.warn(f"products of few rows in plain PyTorch: {problem}", RuntimeWarning, stacklevel=2)
    return None


def product_dtype(weight: Tensor) -> torch.dtype:
    """The type in which a product with this weight is made: the weight's, or autocast's."""
    device = weight.device.type
    if weight.dtype == torch.float64:  # which autocast leaves alone
        return weight.dtype
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return weight.dtype


@cache
def multiplies(dtype: torch.dtype) -> bool:
    """Whether this processor multiplies numbers of this type; a warning says once that it does not."""
    if dtype not in FLAGS:
        return True
    if not hasattr(torch.cpu, "get_capabilities"):  # an older torch
        return True
    found = torch.cpu.get_capabilities()
    if found.get("architecture") != "x86_64" or any(found.get(flag) for flag in FLAGS[dtype]):
        return True
    name = str(dtype).removeprefix("torch.")
    warnings.warn(
        f"this processor multiplies no {name}, so weights are widened at every product; with the memory for twice "
        "their size, dtype=torch.float32 is faster",
        RuntimeWarning,
        stacklevel=2,
    )
    return False
