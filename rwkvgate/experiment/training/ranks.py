"""The processes of one training: which of them this is, and how they agree.

In a training of one process nothing here has an effect. The main process alone decides what depends on a clock, a file
or a draw, and sends it to the others: two processes that disagree on whether to save would wait for each other for
ever.
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
    """Call `work` in the main process alone, and return its result, or raise its error, on every process.

    Args:
        work: its result must be picklable.

    Raises:
        Exception: the main process's; a `RuntimeError` with its words on the others where it cannot be sent.
    """
    if count() == 1:
        return work()
    message: list[object] = [None, None]  # result and error
    own: Exception | None = None
    if is_main():
        try:
            message[0] = work()
        except Exception as error:
            own = error
            message[1] = _sendable(error)
    dist.broadcast_object_list(message, src=0)
    if isinstance(message[1], Exception):
        raise own or message[1]
    return message[0]  # type: ignore[return-value]


@contextmanager
def on_main(entered: Callable[[], AbstractContextManager[object]]) -> Iterator[None]:
    """A block inside a context that the main process alone enters; all raise the error of entering it."""
    with ExitStack() as stack:
        from_main(lambda: stack.enter_context(entered()) and None)
        yield


@contextmanager
def main_first() -> Iterator[None]:
    """A block that the main process runs before the others: it downloads, and they read the cache."""
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
