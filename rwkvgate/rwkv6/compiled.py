"""What the loops share that numba compiles: the width of their vectors, and the threads that they run in.

The threads are those of PyTorch's own operations, which GNU's OpenMP keeps. They spin for a while after an operation,
so threads of any other kind would wait for the cores that they hold, and these wake in microseconds where a sleeping
thread takes a hundred. Where PyTorch has no GNU OpenMP, outside Linux, a loop runs in the thread that calls it.

Importing this module takes numba, which the extra `fast` installs. Its first call compiles for some seconds; numba
keeps the result beside the loop's file, or in the user's cache folder, for later processes.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rwkvgate.rwkv6.extras import extra

with extra("fast"):
    from llvmlite.binding import get_host_cpu_features
    from numba import carray, cfunc, config, njit, types
    from numba.core import cgutils
    from numba.extending import intrinsic

if config.DISABLE_JIT:  # type: ignore[attr-defined]
    raise ImportError("NUMBA_DISABLE_JIT is set, and Python's own loops would take thousands of times as long")

FLAGS = {"avx512f": 16, "avx": 8}
"""What an x86 processor is said to have, the widest first, and `LANES` where it has it."""
LANES = next((lanes for flag, lanes in FLAGS.items() if get_host_cpu_features().get(flag)), 4)
"""Numbers of float32 in a vector of this processor."""
OPTIONS: dict[str, Any] = {"nogil": True, "fastmath": {"reassoc", "contract", "nsz"}}
"""Sums may be taken in another order, and a product and a sum become one instruction; NaN and infinity stay."""
PARALLEL = 2**18
"""Multiply-adds of a call from which on it is shared among threads; below, waking them takes longer."""
PARTS = 4
"""Parts of a call for each thread: one that is held up by other work takes fewer."""
FIRST = 3
"""Where a task's sizes begin, after the next part, the number of parts and the number of items."""


def share(loop: Callable[[Any], None], items: int, work: int, sizes: Sequence[int], tensors: Sequence[Tensor]) -> None:
    """Call a loop over all items, in threads where they have much to do: `work` multiply-adds each.

    Args:
        loop: takes a task, from which it has its parts by `taken` and its tensors by `array`.
        sizes: of the tensors, as the loop has them.
        tensors: contiguous, on a CPU.
    """
    assert all(x.is_contiguous() for x in tensors)
    threads = min(torch.get_num_threads(), items) if items * work >= PARALLEL else 1
    enter = _threads() if threads > 1 else None
    parts = min(PARTS * threads, items) if enter else 1
    task = np.array([0, parts, items, *sizes, *(x.data_ptr() for x in tensors)], np.int64)
    run = _callback(loop)
    if enter:
        _entered.add(os.getpid())
        enter(run.address, task.ctypes.data, threads, 0)
    else:
        run.ctypes(task.ctypes.data)


def has_threads() -> bool:
    """Whether a call can be shared among threads."""
    return _threads() is not None


_entered: set[int] = set()
"""The processes, this one and those it was forked from, that have had threads. A fork has them no more."""


def _threads() -> Callable[[int, int, int, int], None] | None:
    """OpenMP's function that calls another, with one pointer, in so many threads; None where a loop must do without."""
    return None if _entered - {os.getpid()} else _openmp()


@cache
def _openmp() -> Callable[[int, int, int, int], None] | None:
    try:  # a library's functions include those of the libraries that it has loaded
        enter = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so")).GOMP_parallel
    except (OSError, AttributeError):
        return None
    enter.argtypes, enter.restype = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint), None
    found: Callable[[int, int, int, int], None] = enter
    return found


@cache
def _callback(loop: Callable[[Any], None]) -> Any:
    """A compiled loop that C can call."""
    signature = types.void(types.voidptr)
    try:
        return cfunc(signature, cache=True, **OPTIONS)(loop)
    except RuntimeError:  # no folder can be written to
        return cfunc(signature, **OPTIONS)(loop)


@intrinsic
def _claim(_: Any, address: Any) -> tuple[Any, Any]:
    """Count the number at an address on by one, whatever other threads do, and return what it was."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        size = context.get_value_type(types.intp)
        return builder.atomic_rmw("add", builder.inttoptr(values[0], size.as_pointer()), size(1), "monotonic")

    return types.intp(types.intp), generate


@intrinsic
def _pointer(_: Any, address: Any) -> tuple[Any, Any]:
    """An address as a pointer."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.inttoptr(values[0], cgutils.voidptr_t)

    return types.voidptr(types.intp), generate


@njit
def taken(task):  # type: ignore[no-untyped-def]
    """The first item of the next part of a task, and the item after its last; 0 and 0 where no part is left."""
    head = carray(task, FIRST, np.int64)
    part, parts, items = _claim(head.ctypes.data), head[1], head[2]
    if part >= parts:
        return 0, 0
    return items * part // parts, items * (part + 1) // parts


@njit
def number(task, place):  # type: ignore[no-untyped-def]
    """A number of a task, after its head: first its sizes, then its tensors' addresses."""
    return carray(task, FIRST + place + 1, np.int64)[FIRST + place]


@njit
def array(task, place, shape, dtype):  # type: ignore[no-untyped-def]
    """A task's tensor."""
    return carray(_pointer(number(task, place)), shape, dtype)
