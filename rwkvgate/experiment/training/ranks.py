"""The processes that share one training: which of them this is, and what they have to agree on.

Everything here does nothing in a training of one process. What is decided by a clock, a file or a draw is decided by
the main process alone and told to the others: two processes that disagree on whether to save would wait for each other
for ever.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TypeVar

import torch.distributed as dist

T = TypeVar("T")


def count() -> int:
    """Processes of this training, on all machines together; 1 outside a launch."""
    return dist.get_world_size() if _grouped() else 1


def index() -> int:
    """This process among them, from 0."""
    return dist.get_rank() if _grouped() else 0


def is_main() -> bool:
    """Whether this process is the one that writes files and prints."""
    return index() == 0


def barrier() -> None:
    """Wait until every process is here."""
    if count() > 1:
        dist.barrier()


def from_main(work: Callable[[], T]) -> T:
    """What `work`, done by the main process alone, returns: on every process, and so is the error it raises.

    Args:
        work: its result must be picklable.

    Raises:
        Exception: the main process's; a `RuntimeError` with its words on the others where it cannot be sent.
    """
    if count() == 1:
        return work()
    told: list[object] = [None, None]
    mine: Exception | None = None
    if is_main():
        try:
            told[0] = work()
        except Exception as error:
            mine = error
            told[1] = _sendable(error)
    dist.broadcast_object_list(told, src=0)
    if isinstance(told[1], Exception):
        raise mine or told[1]
    return told[0]  # type: ignore[return-value]


@contextmanager
def on_main(entered: Callable[[], AbstractContextManager[object]]) -> Iterator[None]:
    """A block inside a context that the main process alone enters; an error of its entrance is raised on all."""
    with ExitStack() as stack:
        from_main(lambda: stack.enter_context(entered()) and None)
        yield


@contextmanager
def main_first() -> Iterator[None]:
    """The main process goes through the block before the others do: it downloads, they find it in the cache."""
    if not is_main():
        barrier()
    yield
    if is_main():
        barrier()


def _grouped() -> bool:
    return dist.is_available() and dist.is_initialized()


def _sendable(error: Exception) -> Exception:
    try:
        if str(pickle.loads(pickle.dumps(error))) == str(error):
            return error
    except Exception:  # whatever an exception's own constructor makes of its arguments
        pass
    return RuntimeError(f"{type(error).__name__}: {error}")
