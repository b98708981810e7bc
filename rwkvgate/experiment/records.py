"""Records of written files: the size and SHA-256 of each, under a seal, by which a reader notices damage.

A step's folder holds the record of the step; results, figures and gates, which are no steps, have one in the folder
that they lie in. Imports no torch, so that the run graph starts quickly.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from rwkvgate.experiment.locks import take
from rwkvgate.gate.validation import SettingsError
from rwkvgate.rwkv6.files import digest, file_hash, file_state, mark, read_json, write_json

KEPT = "files.json"
"""The record of files that no step wrote, in the folder that they lie in."""
SEAL = "seal"
LOCK = ".files.lock"
PATIENCE = 30.0
"""Seconds to wait for another process that adds to a record."""


def write_sealed(path: Path, record: dict[str, Any]) -> None:
    """Write a record as JSON, with the hash of its content."""
    write_json(path, record | {SEAL: digest(record)})


def read_sealed(path: Path) -> dict[str, Any] | None:
    """The record of a file without its seal; None where the file is missing or damaged, or has no seal.

    A process parses a file once, and again when it has changed: values inside it are not to be changed in place.
    """
    try:
        record = _read_sealed(path, *file_state(path.stat()))
        return None if record is None else dict(record)
    except (OSError, ValueError):  # of a missing file, or of a name with NUL
        return None


@lru_cache(maxsize=1024)
def _read_sealed(path: Path, *state: int) -> dict[str, Any] | None:
    record = read_json(path)
    if not isinstance(record, dict):
        return None
    seal = record.pop(SEAL, None)
    return record if seal == digest(record) else None


def marks(folder: Path, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The mark, size and SHA-256, of each of a folder's files."""
    return {name: mark(folder / name) for name in names}


def files_below(folder: Path) -> list[str]:
    """Relative names of all files below a folder."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def difference(folder: Path, files: dict[str, dict[str, Any]]) -> str:
    """The first difference between a folder's files and their marks, in words; "" where there is none.

    Every size is looked at before any content is read.
    """
    try:
        found = {}
        for name, written in files.items():
            status = found[name] = (folder / name).stat()
            if not stat.S_ISREG(status.st_mode):
                return f"{name} is no file"
            if status.st_size != written["size"]:
                return f"{name} has {status.st_size:,} bytes and not the {written['size']:,} that were written"
        for name, written in files.items():
            if file_hash(folder / name, found[name]) != written["sha256"]:
                return f"the content of {name} is not what was written"
    except FileNotFoundError:
        return f"{name} is missing"
    except OSError as error:
        return f"{name} cannot be read ({error})"
    return ""


def unknown_files(folder: Path, files: Iterable[str]) -> list[str]:
    """Files beside those of the record that a library might read with them, but for hidden ones."""
    known = {folder / name for name in files}
    found = [path for place in {path.parent for path in known} if place.is_dir() for path in place.iterdir()]
    return sorted(str(path) for path in found if path.is_file() and path not in known and path.name[0] != ".")


def keep_record(folder: Path, *paths: Path) -> None:
    """Add files below a folder, which were just written, to the folder's record."""
    keep_marks(folder, marks(folder, [path.relative_to(folder).as_posix() for path in paths]))


def keep_marks(folder: Path, new: dict[str, dict[str, Any]], drop: Callable[[str], bool] = lambda _: False) -> None:
    """Add marks of files, by their names, to a folder's record, and remove those of its other files that `drop` names.

    A file that the record does not name stays.
    """
    if (folder / KEPT).is_dir():
        raise SettingsError(f"{folder / KEPT} is a folder; a file of that name holds the record of {folder}. Remove it")
    lock = take(folder / LOCK, f"another process writes to the record of {folder}", PATIENCE)
    try:
        known = (read_sealed(folder / KEPT) or {}).get("files", {})
        old = [name for name in known if name not in new and drop(name)]
        for name in old:
            (folder / name).unlink(missing_ok=True)
        write_sealed(folder / KEPT, {"files": {name: of for name, of in known.items() if name not in old} | new})
    finally:
        if lock is not None:
            lock.release()


def kept_difference(folder: Path, name: str = "") -> str:
    """What differs between a folder, or one file in it, and the folder's record, in words.

    "" where nothing does, where there is no record, and for a file that it does not name.
    """
    if not (folder / KEPT).exists():
        return ""
    record = read_sealed(folder / KEPT) or {}
    if "files" not in record:
        return f"{KEPT} is damaged"
    return difference(folder, {key: written for key, written in record["files"].items() if name in ("", key)})


def intact(path: Path) -> Path:
    """The path of a file that is what the record of its folder says.

    Where there is no record, as in runs of earlier versions, this is printed once, and the file is used.

    Raises:
        SettingsError: the file or the record is damaged.
    """
    folder = path.parent
    record = read_sealed(folder / KEPT)
    if record is None and not (folder / KEPT).exists():
        _say_unverified(folder)
        return path
    written = (record or {}).get("files", {}).get(path.name)
    wrong = difference(folder, {path.name: written}) if written else f"{KEPT} is damaged, or does not name {path.name}"
    if wrong:
        raise SettingsError(f"{folder} is damaged: {wrong}. Run the run's command again, which makes it anew")
    return path


@contextmanager
def reading(path: Path) -> Iterator[Path]:
    """A block that reads a file which was verified before: since then it may be gone.

    Raises:
        SettingsError: the file cannot be read.
    """
    try:
        yield path
    except (OSError, ValueError) as error:
        advice = "Run the run's command again, which makes it anew"
        raise SettingsError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}. {advice}") from None


@cache
def _say_unverified(folder: Path) -> None:
    print(f"{folder} holds no {KEPT} with the hashes of its files: they are read unverified", flush=True)
