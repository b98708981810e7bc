"""Writing files and folders atomically: under a temporary name beside the target, which is then renamed.

A killed process leaves its temporary file or folder, which the next writer of the same target removes, and may leave a
folder half replaced, which `restore_folder` completes.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

NO_ROOM = "No space left on device"
"""The system's message for a full disk."""
JSON_BYTES = 2**26
"""Size of the largest JSON file that is read."""
UMASK = os.umask(0o077)
"""What this process denies others of new files. It can only be read by setting it."""
os.umask(UMASK)


@contextmanager
def write_file(path: str | Path) -> Iterator[Path]:
    """A temporary path to write to, renamed to `path` when the block ends without an error, and removed otherwise."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path)
    handle, name = tempfile.mkstemp(prefix=_prefix(path), suffix=path.suffix, dir=path.parent)
    os.close(handle)
    fresh = Path(name)
    try:
        yield fresh
        fresh.chmod(0o666 & ~UMASK)  # mkstemp creates files that only their owner can read
        os.replace(fresh, path)
    except Exception as error:
        raise_on_full_disk(error, path)
        raise
    finally:
        fresh.unlink(missing_ok=True)


@contextmanager
def write_folder(path: str | Path) -> Iterator[Path]:
    """A temporary folder to fill, which replaces `path` when the block ends without an error.

    A rename cannot replace a folder, so the earlier one is moved aside first. `restore_folder` moves it back if the
    process is killed between the two renames.
    """
    path = _named(path)
    with suppress(FileNotFoundError):  # the current folder may be gone
        if Path.cwd().is_relative_to(path):
            raise OSError(errno.EBUSY, f"{path} is or holds the current folder, and cannot be replaced; name another")
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path)
    restore_folder(path)
    _remove(_aside(path))  # of a writer that was killed after its second rename
    fresh = Path(tempfile.mkdtemp(prefix=_prefix(path), dir=path.parent))
    try:
        yield fresh
        fresh.chmod(0o777 & ~UMASK)
        _replace_folder(path, fresh)
    except Exception as error:
        raise_on_full_disk(error, path, "a folder")
        raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


@contextmanager
def write_files(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary folder to fill, whose files go to `folder` when the block ends without an error; others stay there.

    It lies inside `folder`, which may be a disk of its own, and has the same name, which libraries read.
    """
    folder = Path(folder)
    if folder.is_file():
        raise NotADirectoryError(errno.ENOTDIR, f"{folder} is a file; it must be a folder")
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(folder / "saved")
    try:
        with tempfile.TemporaryDirectory(prefix=_prefix(folder / "saved"), dir=folder) as scratch:
            fresh = Path(scratch) / folder.absolute().name
            fresh.mkdir()
            yield fresh
            for path in [path for path in fresh.rglob("*") if path.is_file()]:
                target = folder / path.relative_to(fresh)
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(path, target)
    except Exception as error:
        raise_on_full_disk(error, folder, "files")
        raise
    finally:
        if is_new and not any(folder.iterdir()):
            folder.rmdir()


def raise_on_full_disk(error: Exception, path: Path, what: str = "a file", advice: str = "Make room there") -> None:
    """Raise an OSError that names the place, and `what` was written, where a writer's error is that the disk is full.

    safetensors, parquet and json each word this error differently, and none names the disk.
    """
    if NO_ROOM in str(error):
        path = path.absolute()
        free = shutil.disk_usage(next(place for place in (path, *path.parents) if place.is_dir())).free / 2**20
        message = f"{NO_ROOM}: {what} could not be written to {path}, where {free:,.1f} MiB are free. {advice}"
        raise OSError(errno.ENOSPC, message) from error


def restore_folder(path: str | Path) -> None:
    """Move a folder back whose replacement was killed after it had been moved aside; otherwise nothing.

    Readers call it too, so nothing is removed.
    """
    path = _named(path)
    # lexists, whatever the path is: too long, or no path at all
    if path.name and os.path.lexists(_aside(path)) and not os.path.lexists(path):
        with suppress(OSError):  # another process may be doing the same, or the disk is read-only
            os.replace(_aside(path), path)


def _replace_folder(path: Path, fresh: Path) -> None:
    for _ in range(100):
        try:
            if os.path.lexists(path):  # a link that leads nowhere is in the way, too
                os.replace(path, _aside(path))
            os.replace(fresh, path)
            break
        except BaseException as error:
            restore_folder(path)
            # A reader has just moved the earlier folder back, or another writer was faster.
            if getattr(error, "errno", None) not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
    else:
        raise OSError(errno.EEXIST, f"{path} could not be replaced: other processes write it again and again")
    _remove(_aside(path))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _named(path: str | os.PathLike[str]) -> Path:
    """The path with a name as its last part, which "." and ".." are none; a link stays one."""
    return Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow a link


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.replaced-by-rwkvgate")


def _prefix(path: Path) -> str:
    """How the names of this process's temporary files for a target begin: the target, this machine, this process."""
    machine = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())[:40]
    return f".{path.name[:120]}.{machine}.{os.getpid()}."


def _remove_abandoned(path: Path) -> None:
    """Remove what processes of this machine that have ended left while they wrote the same target."""
    start, process, _ = _prefix(path).rsplit(".", 2)
    for left in path.parent.glob(f"{glob.escape(start)}.*"):
        owner = left.name[len(start) + 1 :].split(".")[0]
        if owner.isdecimal() and owner != process and not _is_alive(int(owner)):
            _remove(left)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True  # another user's
    return True


def write_text(path: str | Path, text: str) -> None:
    """Write a text file atomically, in UTF-8."""
    with write_file(path) as fresh:
        fresh.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write a JSON file atomically, indented, its keys in the order given."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def file_hash(path: Path, status: os.stat_result | None = None) -> str:
    """SHA-256 of a file's content, in hexadecimal. A process reads a file once, and again when it has changed.

    Args:
        status: of `path.stat()`, where it is known.
    """
    return _read_hash(path, *file_state(path.stat() if status is None else status))


def file_state(status: os.stat_result) -> tuple[int, int, int, int]:
    """What differs between two states of a file: inode, size, and the times of its content and of its inode."""
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


@lru_cache(maxsize=4096)
def _read_hash(path: Path, *state: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def mark(path: Path) -> dict[str, Any]:
    """The size in bytes and the SHA-256 of a file, by which a reader notices damage."""
    return {"size": path.stat().st_size, "sha256": file_hash(path)}


def digest(value: Any) -> str:
    """A short SHA-256 of a JSON value, independent of the order of its keys.

    Example:
        >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
        True
    """
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def read_object(path: Path, error: type[Exception]) -> dict[str, Any]:
    """The JSON object of a file, of `JSON_BYTES` at most.

    Raises:
        Exception: `error`, where the file cannot be read, is damaged, too large, or holds another value.
    """
    try:
        size = path.stat().st_size
        value = json.loads(path.read_text(encoding="utf-8")) if size <= JSON_BYTES else None
    except (ValueError, RecursionError) as problem:
        raise error(f"{path} is damaged: {problem}") from None
    except OSError as problem:
        raise error(f"{path} cannot be read: {problem.strerror or problem}") from None
    if size > JSON_BYTES:
        raise error(f"{path} has {size:,} bytes; at most {JSON_BYTES:,} are read")
    if not isinstance(value, dict):
        raise error(f"{path} holds a {type(value).__name__}; it must be a JSON object")
    return value


def read_json(path: Path) -> Any:
    """The JSON value of a file; None where the file is missing, damaged, or a pipe or device, which may not end."""
    try:
        if not path.is_file():
            return None
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
