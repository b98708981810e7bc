"""Which code runs the WKV operator: plain PyTorch, or a package's kernels where a probe finds them right.

On a CPU the package is numba, which compiles the loops of `rwkvgate.rwkv6.loops`; on a GPU it is
flash-linear-attention with its Triton kernels. Those are written for recent GPUs, and are not always right: they need
tensor cores of compute capability 8.0, releases have differed in layout and scale, and the backward of their recurrent
op (version 0.6.0) omits the gradient of the final state. So "auto" takes a package only where it is installed and after
a probe: values and every gradient of a small random case, with decays that forget at once and decays that hardly
forget, against the chunked form in float64. It runs once for a device and head size. Everything else runs in plain
PyTorch: float64; on a GPU one token, which is the recurrence itself; and on a CPU what is traced or transformed.

Half precision is passed to the kernels in float32, and results and state are float32; but Triton multiplies float32
matrices in TF32 by default, whose 11 significant bits its tolerance allows. TRITON_F32_DEFAULT=ieee in the environment,
set before the first call, makes it full float32; `wkv_backend("chunked")` avoids the kernels.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from functools import cache
from importlib import import_module
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from rwkvgate.rwkv6.precision import without_autocast
from rwkvgate.rwkv6.recurrence import prepare, wkv6_chunked, wkv6_recurrent

BACKENDS = ("auto", "recurrent", "chunked", "numba", "fla")
VARIABLE = "RWKVGATE_WKV"
"""The environment variable that forces a backend, unless `wkv_backend` does."""
PACKAGES = {"numba": "numba", "fla": "flash-linear-attention"}
"""What the backends' packages are called on the Python index."""
LOOPS, OPERATORS = "rwkvgate.rwkv6.loops", "fla.ops.rwkv6"
LOWEST_CAPABILITY = (8, 0)
TOLERANCE = {"numba": 1e-5, "fla": 5e-3}
"""Largest difference that the probe allows, relative to the largest magnitude of the tensor.

numba's loops round as float32 does, to 6e-8, some hundred times. A product rounded to TF32 errs by up to 2 ** -10,
about 1e-3, and two of them follow each other. A wrong scale, layout or missing term errs by a tenth and more.
"""
FUSED_LENGTH = 64
"""Up to this number of tokens the recurrent op is the faster of the package's two."""
LOWEST_DECAY = -104.0
"""Its exponential is 0 in float32, as is that of any lower one."""
PROBE_TIME, PROBE_BATCH, PROBE_HEADS = 83, 2, 2

Form = Callable[..., tuple[Tensor, Tensor]]

_forced: str | None = None


class wkv_backend:
    """Force a WKV backend, inside a `with` block or, by a plain call, from then on.

    It applies to the whole process, threads of autograd's backward included, and takes precedence over the environment
    variable `RWKVGATE_WKV`.

    Args:
        name: "auto", "recurrent", "chunked", "numba" (on a CPU) or "fla" (flash-linear-attention, on a GPU).

    Raises:
        ValueError: another name. Nothing is changed.

    Example:
        >>> with wkv_backend("chunked"):
        ...     describe_backend("cpu")
        {'name': 'chunked', 'reason': 'forced by wkv_backend'}
    """

    def __init__(self, name: str) -> None:
        global _forced
        self._before, _forced = _forced, _allowed(name, "the WKV backend")

    def __enter__(self) -> None:
        """Nothing: the call has forced the backend already."""

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Restore what was forced before, if anything."""
        global _forced
        _forced = self._before


def describe_backend(
    device: torch.device | str, dtype: torch.dtype = torch.float32, head_size: int = 64
) -> dict[str, str]:
    """The WKV backend for many tokens on a device, and the reason for it, for the record of an experiment.

    Returns:
        `name`, one of "recurrent", "chunked", "numba" and "fla", and `reason`, such as "compute capability 7.5 < 8.0".

    Raises:
        ValueError: the environment variable names no backend.
        RuntimeError: the forced backend cannot run.
    """
    name, source = _requested()
    device = _indexed(torch.device(device))
    package = _package(device) if name == "auto" else name
    evidence, problem = _examine(package, device, dtype, head_size) if package in PACKAGES else (None, None)
    if name != "auto":
        if problem:
            raise RuntimeError(_refusal(name, source, problem))
        return {"name": name, "reason": f"forced by {source}" + (f"; {evidence}" if evidence else "")}
    return {"name": "chunked", "reason": problem} if problem else {"name": package, "reason": str(evidence)}


def choose(r: Tensor) -> Form:
    """The form of the operator for a receptance like r, (batch, time, head, channel).

    Raises:
        ValueError: the environment variable names no backend.
        RuntimeError: the forced form cannot run here.
    """
    name, source = _requested()
    package, single = _package(r.device) if name == "auto" else name, r.shape[1] <= 1
    if name == "recurrent" or (name == "auto" and single and package == "fla"):
        return wkv6_recurrent
    if name == "chunked":
        return wkv6_chunked
    if package == "numba" and followed(r):
        problem: str | None = "the tensors are traced or transformed"
    else:
        problem = _examine(package, r.device, r.dtype, r.shape[-1])[1]
    if problem and name != "auto":
        raise RuntimeError(_refusal(name, source, problem))
    if problem:
        return wkv6_recurrent if single else wkv6_chunked
    return _kernels(package)


def followed(r: Tensor) -> bool:
    """Whether torch.compile, a mode, a transform or a subclass follows torch's operations, and would miss numba's."""
    return (
        torch.compiler.is_compiling()
        or type(r) is not Tensor
        or torch.jit.is_tracing()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._are_functorch_transforms_active()
        or torch.autograd.forward_ad._current_level >= 0
    )


def _package(device: torch.device) -> str:
    """The backend whose kernels are for such a device."""
    return "fla" if _capability(device) else "numba"


def _kernels(package: str) -> Form:
    """A package's operator; it is imported here."""
    if package == "fla":
        return _wkv6_fla
    form: Form = import_module(LOOPS).wkv6_numba
    return form


def _requested() -> tuple[str, str]:
    """The requested backend, and where it was requested."""
    if _forced is not None:
        return _forced, "wkv_backend"
    return _allowed(os.environ.get(VARIABLE) or "auto", VARIABLE), VARIABLE


def _allowed(name: str, source: str) -> str:
    if name not in BACKENDS:
        raise ValueError(f"{source} is {name!r}; it must be one of {', '.join(BACKENDS)}")
    return name


def _refusal(name: str, source: str, problem: str) -> str:
    return f"{source} asks for the WKV backend {name!r}, which cannot run here: {problem}"


def _indexed(device: torch.device) -> torch.device:
    """The device with its index, as tensors have it: "cuda" is the current one."""
    if device.type == "cuda" and device.index is None and torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return device


def _capability(device: torch.device) -> tuple[int, int] | None:
    """Compute capability; None where the device has none."""
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else None


def _examine(package: str, device: torch.device, dtype: torch.dtype, channels: int) -> tuple[str | None, str | None]:
    """The reason for a package's kernels, or the reason against them; the other is None."""
    if dtype == torch.float64:
        return None, "float64 is computed in plain PyTorch"
    capability = _capability(device)
    if package == "numba":
        if device.type != "cpu":
            return None, f"device {device.type} is no CPU"
        reason = "device cpu"
    elif capability is None:
        return None, f"device {device.type} is not CUDA"
    elif capability < LOWEST_CAPABILITY:
        return None, f"compute capability {_dotted(capability)} < {_dotted(LOWEST_CAPABILITY)}"
    else:
        reason = f"compute capability {_dotted(capability)}"
    error, problem = _probe(package, device, channels)
    if problem:
        return None, problem
    return f"{reason}, relative error {error:.1e} in the probe", None


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))


@cache
def _probe(package: str, device: torch.device, channels: int) -> tuple[float, str | None]:
    """The kernels' largest relative error on one device and head size, and the reason against them, if any.

    A warning, once, tells of a package that is installed and fails.
    """
    error, called = float("inf"), PACKAGES[package]
    try:
        import_module(LOOPS if package == "numba" else OPERATORS)
        # The first call may come inside inference mode or autocast.
        with torch.inference_mode(False), torch.enable_grad(), without_autocast(device):
            error = _largest_error(_kernels(package), device, channels)
    except ModuleNotFoundError as missing:
        if missing.name == package:
            return error, f"{called} is not installed"
        problem = f"{called} cannot be imported: {missing}"
    except Exception as failure:  # compilers raise errors of many kinds
        problem = f"{called} raised {type(failure).__name__}: {str(failure).partition(chr(10))[0]}"
    else:
        if error <= TOLERANCE[package]:
            return error, None
        problem = f"{called} errs by {error:.1e} in the probe, more than {TOLERANCE[package]:.0e}"
    warnings.warn(f"WKV on {device} in plain PyTorch: {problem}", RuntimeWarning, stacklevel=2)
    return error, problem


def _largest_error(form: Form, device: torch.device, channels: int) -> float:
    """The largest relative error of values and gradients, of few tokens and of many; nan where one of them is nan."""
    inputs = _case(channels)
    exact = {name: x.double() for name, x in inputs.items()}
    here = {name: x.to(device) for name, x in inputs.items()}
    short = {name: x[:, : PROBE_TIME // 4] if x.dim() == 4 and name != "state" else x for name, x in here.items()}
    with torch.no_grad():
        expected = wkv6_chunked(**{name: x.double().cpu() for name, x in short.items()})
        pairs = list(zip(form(**short), expected, strict=True))
    pairs += zip(_with_gradients(form, here), _with_gradients(wkv6_chunked, exact), strict=True)
    errors = [(x.double().cpu() - y).abs().max() / y.abs().max() for x, y in pairs]
    return float(torch.stack(errors).max())


def _case(channels: int) -> dict[str, Tensor]:
    """Random inputs with decays from nearly none to complete, across channels and across time."""
    generator = torch.Generator().manual_seed(0)
    shape = (PROBE_BATCH, PROBE_TIME, PROBE_HEADS, channels)
    plain: dict[str, Any] = {"generator": generator, "dtype": torch.float32, "device": "cpu"}  # whatever the defaults
    values = {name: torch.randn(shape, **plain) for name in "rkvw"}
    w = -torch.exp(2 * values["w"] - 1)
    w[..., ::4], w[..., 1::4] = -1e-6, -50
    w[:, :, :, 2::4] = torch.where(torch.rand(w[:, :, :, 2::4].shape, **plain) < 0.1, -50.0, -1e-6)
    u = torch.randn(shape[2:], **plain)
    state = torch.randn(PROBE_BATCH, PROBE_HEADS, channels, channels, **plain)
    return values | {"w": w, "u": u, "state": state}


def _with_gradients(form: Form, inputs: dict[str, Tensor]) -> list[Tensor]:
    """Output, new state, and the gradient of every input under fixed upstream gradients of both."""
    leaves = {name: x.detach().requires_grad_() for name, x in inputs.items()}
    results = form(**leaves)
    generator = torch.Generator().manual_seed(1)
    upstream = [torch.randn(x.shape, generator=generator, device="cpu").to(x) for x in results]
    return [*(x.detach() for x in results), *torch.autograd.grad(results, list(leaves.values()), upstream)]


def _wkv6_fla(
    r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The package's operator with RWKV's scale. See `wkv6`."""
    r, k, v, w, u, state = prepare(r, k, v, w, u, state)
    time, heads = r.shape[1:3]
    if time == 0:
        return torch.zeros_like(v), state
    operators = import_module(OPERATORS)
    # The recurrent op omits the gradient of the final state, and warns of fewer tokens than heads.
    learns = torch.is_grad_enabled() and any(x.requires_grad for x in (r, k, v, w, u, state))
    fused = heads <= time <= FUSED_LENGTH and not learns
    operator = operators.fused_recurrent_rwkv6 if fused else operators.chunk_rwkv6
    with without_autocast(r.device):
        # Its sums of decays cancel, where -inf would give nan, and its scale is 1 / sqrt(channel) by default.
        w = w.clamp_min(LOWEST_DECAY)
        out, last = operator(r, k, v, w, u, scale=1.0, initial_state=state, output_final_state=True)
    return out.float(), last.float()
