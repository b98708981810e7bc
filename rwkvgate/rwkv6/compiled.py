"""What the loops share that numba compiles: their vectors, and the threads that they run in.

The threads are those of PyTorch's own operations, which GNU's OpenMP keeps. They spin for a while after an operation,
so threads of any other kind would wait for the cores that they hold, and these wake in microseconds where a sleeping
thread takes a hundred. Where PyTorch has no GNU OpenMP, outside Linux, a loop runs in the thread that calls it.

Importing this module takes numba, which the extra `fast` installs. Its first call compiles for some seconds; numba
keeps the result beside the loop's file, or in the user's cache folder, for later processes.
"""

from __future__ import annotations

import ctypes
import hashlib
import inspect
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import Parameter

from rwkvgate.rwkv6.extras import extra

with extra("fast"):
    from llvmlite import ir
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
        loop: takes a task; of that it has its items by `taken`, and sizes and tensors by their places, counted through
            both. What it writes for one item, no other item reads or writes.
        sizes: numbers that it needs, such as those of the tensors.
        tensors: contiguous, of float32 or float64, in a CPU's memory.

    Raises:
        ValueError: a tensor is none of these.
        MemoryError: the loop found no memory to work in.
    """
    for x in tensors:
        if not (x.is_contiguous() and x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64)):
            raise ValueError(
                f"a compiled loop takes contiguous floats on a CPU, not {x.dtype} on {x.device}, {x.stride()}"
            )
        if type(x) not in (Tensor, Parameter) or x.is_neg() or (x.numel() and not x.data_ptr()):
            raise ValueError(
                f"a compiled loop takes plain tensors in memory, not a {type(x).__name__} without its numbers"
            )
    # All threads that PyTorch has, even for fewer items: OpenMP ends those it is not asked for, and starts them anew.
    threads = torch.get_num_threads() if items > 1 and items * work >= PARALLEL else 1
    enter = _threads() if threads > 1 else None
    parts = min(PARTS * threads, items) if enter else 1
    task = np.array([0, parts, items, *sizes, *(x.data_ptr() for x in tensors)], np.int64)
    run = _callback(loop)
    if enter:
        _pool.used = True
        enter(run.address, task.ctypes.data, threads, 0)
    else:
        run.ctypes(task.ctypes.data)
    if task[0] < parts:  # an error in a function that C calls is printed, and not raised
        raise MemoryError("a compiled loop has found no memory to work in")


def has_threads() -> bool:
    """Whether a call can be shared among threads."""
    return _threads() is not None


class _Pool:
    """OpenMP's threads: whether loops have used them in this process, and whether a fork has lost them.

    What PyTorch's own operations have used is not known here; where they have, they wait in a fork for ever, too.
    """

    used = lost = False

    def forked(self) -> None:
        """In a fork there is the calling thread alone."""
        self.lost |= self.used


_pool = _Pool()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.forked)


def _threads() -> Callable[[int, int, int, int], None] | None:
    """OpenMP's function that calls another, with one pointer, in so many threads; None where a loop must do without."""
    return None if _pool.lost else _openmp()


@cache
def _openmp() -> Callable[[int, int, int, int], None] | None:
    for library in (None, str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so")):  # None: what all have loaded
        with suppress(OSError, AttributeError, TypeError):
            enter = ctypes.CDLL(library).GOMP_parallel
            enter.argtypes, enter.restype = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint), None
            found: Callable[[int, int, int, int], None] = enter
            return found
    return None


@cache
def _callback(loop: Callable[[Any], None]) -> Any:
    """A compiled loop that C can call."""
    signature, own = types.void(types.voidptr), Path(inspect.getfile(loop))
    # numba names its file after the loop, and looks whether the loop's own module has changed, but not at this one.
    parts = Path(__file__).read_bytes(), own.read_bytes(), str(LANES).encode()
    loop.__qualname__ = f"{loop.__name__}_{hashlib.sha256(b''.join(parts)).hexdigest()[:12]}"
    try:
        return cfunc(signature, cache=True, **OPTIONS)(loop)
    except Exception:  # numba's file cannot be written or read; an error of the loop itself comes again
        return cfunc(signature, **OPTIONS)(loop)


class Vectors:
    """What is done with vectors in a loop that is put together here, since LLVM finds none in it by itself.

    An address is a number; `kind` is the type of a vector, `size` that of numbers of bytes, `bytes` those of a vector.
    """

    def __init__(self, context: Any, builder: Any, number: Any) -> None:
        self.builder, self.size = builder, context.get_value_type(types.intp)
        self.number = context.get_value_type(number)
        self.item, lanes = (8, LANES // 2) if number == types.float64 else (4, LANES)
        self.bytes, self.kind = self.item * lanes, ir.VectorType(self.number, lanes)
        add_up = ir.FunctionType(self.number, [self.number, self.kind])
        name = f"llvm.vector.reduce.fadd.v{lanes}f{8 * self.item}"
        self._add_up = cgutils.get_or_insert_function(builder.module, add_up, name)

    def at(self, address: Any, *offsets: Any) -> Any:
        """An address moved by bytes."""
        for offset in offsets:
            address = self.builder.add(address, self.size(offset) if isinstance(offset, int) else offset)
        return address

    def load(self, address: Any) -> Any:
        """The vector at an address."""
        return self.builder.load(self.builder.inttoptr(address, self.kind.as_pointer()), align=self.item)

    def store(self, vector: Any, address: Any) -> None:
        """Write a vector to an address."""
        self.builder.store(vector, self.builder.inttoptr(address, self.kind.as_pointer()), align=self.item)

    def repeated(self, address: Any) -> Any:
        """The number at an address, in every place of a vector."""
        number = self.builder.load(self.builder.inttoptr(address, self.number.as_pointer()))
        first = self.builder.insert_element(self.kind(ir.Undefined), number, ir.IntType(32)(0))
        places = ir.VectorType(ir.IntType(32), self.kind.count)(None)
        return self.builder.shuffle_vector(first, self.kind(ir.Undefined), places)

    def times(self, a: Any, b: Any, c: Any = None) -> Any:
        """a * b + c, rounded once where the processor can; without c the product."""
        term = self.builder.fmul(a, b, flags=("contract",))
        return term if c is None else self.builder.fadd(term, c, flags=("contract",))

    def sums(self, count: int) -> list[Any]:
        """Places for so many vectors that grow in a loop, at first zeros."""
        return [cgutils.alloca_once_value(self.builder, self.kind(None)) for _ in range(count)]

    def grow(self, place: Any, a: Any, b: Any) -> None:
        """Add a * b to what is in a place."""
        self.builder.store(self.times(a, b, self.builder.load(place)), place)

    def total(self, vector: Any) -> Any:
        """The sum of a vector."""
        return self.builder.call(self._add_up, [self.number(0), vector], fastmath=("reassoc",))


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
