"""float32 at least: what decay, state, normalisations and loss are computed in, whatever the type of the weights."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64, float32 for every narrower floating-point type."""
    return torch.promote_types(dtype, torch.float32)


def widened(x: Tensor) -> Tensor:
    """x in float32 at least."""
    return x.to(wide_dtype(x.dtype))


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Switches autocast off, which would take matrix products of float32 tensors in half precision."""
    name = device.type
    enabled = torch.amp.is_autocast_available(name) and torch.is_autocast_enabled(name)
    return torch.autocast(name, enabled=False) if enabled else nullcontext()
