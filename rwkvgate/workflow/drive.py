"""A copy of the run folder in Google Drive, for sessions that end without warning.

A run works on the machine's own disk. After every finished step and every notebook cell the files that have changed are
copied to Drive, each under a temporary name and then renamed; a listing says with their SHA-256 which files of the copy
are complete, and is written last. A later session restores those and makes the rest again. So a full Drive, a dropped
mount or a lost upload costs the newest changes and nothing else.

Drive holds no more than the run folder: each file once, without the checkpoints of an unfinished training. A file that
is replaced or removed is emptied first, so that Drive's bin, which counts towards its size, gets nothing.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
from pathlib import Path, PurePosixPath
from typing import Any

from rwkvgate.experiment.environment import commit
from rwkvgate.experiment.run import MANIFEST, RECORD, Run, after_step, write_manifest
from rwkvgate.rwkv6.files import file_hash, read_json, write_file, write_json

DRIVE_VARIABLE = "RWKVGATE_DRIVE"
"""The environment variable that names the Drive folder; child processes inherit it."""
MOUNT = Path("/content/drive")
LISTING = "copy.json"
UNCOPIED = ("checkpoints",)
"""Checkpoints of an unfinished training: large, and replaced every few seconds."""

_seen: dict[Path, set[str]] = {}
"""The files of each copy that this process has had in its run folder: what another session copied is not removed."""
_reported: dict[Path, str] = {}
"""The last error of each copy, which is printed once and not after every cell."""


class DriveError(RuntimeError):
    """Drive cannot be mounted, read or written; the message says what is still there."""


class DamagedError(OSError):
    """A copied file differs from what was written."""


def mount_drive(folder: str) -> Path:
    """Mount Drive if it is not mounted, and choose the folder in it that keeps runs; returns that folder.

    Raises:
        DriveError: the name leads out of Drive, or Drive is not mounted and nobody is there to allow it.
    """
    inside = PurePosixPath(folder.strip())
    if not inside.parts or inside.is_absolute() or ".." in inside.parts:
        raise DriveError(f"DRIVE is {folder!r}; it must be the name of a folder inside My Drive, such as 'rwkvgate'")
    home = MOUNT / "MyDrive"
    if not _answers(home):
        if not is_interactive():
            raise DriveError(
                f"Drive is not mounted at {MOUNT}, and this cell runs unattended: nobody could allow it. Mount it in "
                'the session first, or set DRIVE = ""'
            )
        from google.colab import drive

        drive.mount(str(MOUNT), force_remount=True)
    chosen = home / inside
    chosen.mkdir(parents=True, exist_ok=True)
    os.environ[DRIVE_VARIABLE] = str(chosen)
    return chosen


def _answers(folder: Path) -> bool:
    try:
        return folder.is_dir()
    except OSError:  # a dropped mount is neither there nor absent
        return False


def notebook_shell() -> Any:
    """IPython's shell where this process is a notebook's kernel, else None."""
    ipython = sys.modules.get("IPython")
    return ipython.get_ipython() if ipython else None


def is_interactive() -> bool:
    """Whether a person runs this cell: papermill and nbval forbid the kernel to ask, and mounting asks."""
    return bool(getattr(getattr(notebook_shell(), "kernel", None), "_allow_stdin", False))


def keep_in_drive(run: Run) -> None:
    """Restore what Drive keeps of a run, and copy from now on what changes; nothing where no Drive folder is chosen.

    Raises:
        DriveError: Drive does not answer, or holds something else in the copy's place.
    """
    chosen = os.environ.get(DRIVE_VARIABLE, "").strip()
    if not chosen:
        return
    # By profile, so that run folders of one name and two profiles do not meet in Drive.
    place = Path(chosen) / run.settings.profile / run.folder.name
    if other := _other_commit(place):
        print(
            f"{place} was written by commit {other} of this project: of its steps those that depend on nothing that "
            "has changed since are used; the others are made again and replace it",
            flush=True,
        )
    restored, damaged = restore(place, run.folder)
    if restored:
        write_manifest(run)
        print(f"restored from {place}: {_shortened(restored)}", flush=True)
    if damaged:
        print(f"damaged in {place}, to be made again: {_shortened(damaged)}", flush=True)
    after_step["drive"] = lambda _: copy_or_report(run.folder, place)
    if shell := notebook_shell():
        shell.events.register("post_run_cell", _after_cell)


def _other_commit(place: Path) -> str:
    """The first digits of the commit that wrote a copy, where it is not this checkout's; "" where they agree."""
    manifest = read_json(place / MANIFEST)
    recorded = manifest.get("commit") if isinstance(manifest, dict) else None
    theirs = str((recorded if isinstance(recorded, dict) else {}).get("id") or "")
    own = commit()["id"]
    return theirs[:10] if theirs and own and theirs != own else ""


def _after_cell(_: object) -> None:
    """Copy what a cell wrote outside of steps: tables, figures, the report. IPython registers a function only once."""
    if copy := after_step.get("drive"):
        copy(Path())


def copy_or_report(run_folder: Path, place: Path) -> None:
    """Copy what has changed; a failure is printed and stops nothing."""
    try:
        if copied := copy_changes(run_folder, place):
            print(f"copied to {place}: {_shortened(copied)}", flush=True)
        _reported.pop(place, None)
    except DriveError as error:
        if _reported.get(place) != str(error):
            print(error, flush=True)
        _reported[place] = str(error)


def _shortened(names: list[str]) -> str:
    """The finished steps among the files, and how many files there are."""
    steps = [name.removesuffix(f"/{RECORD}") for name in names if name.endswith(f"/{RECORD}")]
    return ", ".join([*steps, f"{len(names)} file{'s' if len(names) > 1 else ''}"])


def copy_changes(run_folder: Path, place: Path) -> list[str]:
    """Copy the files that the copy lacks or has in another version; returns their names.

    Unfinished files, whose names begin with a dot, and links are left out. A file that the run folder lacks stays in
    the copy, unless this process has removed it from a folder that is still there.

    Raises:
        DriveError: the copy failed, or something else lies in its place.
    """
    inner, outer = place.resolve(), run_folder.resolve()
    if inner.is_relative_to(outer) or outer.is_relative_to(inner):
        raise DriveError(f"{place} and the run folder {run_folder} lie in each other; choose a folder outside")
    try:
        listing, local = _read_listing(place), {name: file_hash(run_folder / name) for name in _files(run_folder)}
        changed = sorted((name for name, sha in local.items() if listing.get(name) != sha), key=_records_last)
        seen = _seen.setdefault(place, set())
        removed = [name for name in listing if name in seen - local.keys() and (run_folder / name).parent.is_dir()]
        seen.update(local)
        if not changed and not removed:
            return []
        complete = {name: sha for name, sha in listing.items() if name not in {*changed, *removed}}
        write_json(place / LISTING, complete)  # a file is not listed while it is replaced
        try:
            for name in changed:
                _copy(run_folder / name, place / name, local[name])
                complete[name] = local[name]
            for name in removed:
                _empty(place / name)
                (place / name).unlink(missing_ok=True)
        finally:
            write_json(place / LISTING, complete)
    except OSError as error:
        reason, advice = error.strerror or error, "If Drive is gone, run the first cell again"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            size = sum(path.stat().st_size for name in local if (path := run_folder / name).is_file())
            reason = os.strerror(error.errno)  # without how much is free, which changes: the same is said once
            advice = f"Drive is full: the run needs {size / 1e9:.1f} GB there, and Drive's bin counts too"
        raise DriveError(
            f"the run was not copied to {place}: {reason}. The run folder and what was copied before "
            f"are intact. {advice}"
        ) from error
    return changed


def _empty(path: Path) -> None:
    """Empty a file of the copy that is replaced or removed: Drive keeps the earlier one in its bin, which counts."""
    if path.is_file() and not path.is_symlink():
        os.truncate(path, 0)


def restore(place: Path, run_folder: Path) -> tuple[list[str], list[str]]:
    """Restore the files that the run folder lacks; the names of those restored, and of those damaged in the copy.

    A finished step of the run folder is left alone. A step with a damaged file gets no record, so it is made again.

    Raises:
        DriveError: Drive does not answer, or something else lies in the copy's place.
    """
    restored: list[str] = []
    damaged: dict[str, str] = {}
    try:
        listing = _read_listing(place)
        steps = {name: _step_of(name, listing) for name in listing}
        finished = {step for step in steps.values() if step and (run_folder / step / RECORD).exists()}
        for name in sorted(listing, key=_records_last):
            if steps[name] in finished or (run_folder / name).exists():
                continue
            try:
                if name.endswith(RECORD) and steps[name] in damaged.values():
                    raise DamagedError
                _copy(place / name, run_folder / name, listing[name])
                restored.append(name)
            except (FileNotFoundError, DamagedError):
                damaged[name] = steps[name]
        _seen.setdefault(place, set()).update(_files(run_folder))
        if damaged:
            write_json(place / LISTING, {name: sha for name, sha in listing.items() if name not in damaged})
    except OSError as error:
        raise DriveError(f"{place} cannot be restored: {error}. Run the first cell again to mount Drive") from error
    return restored, list(damaged)


def _read_listing(place: Path) -> dict[str, str]:
    """SHA-256 of each complete file of a copy, by its name; empty where nothing was copied yet.

    Raises:
        OSError: Drive is not there.
        DriveError: something else lies in the copy's place.
    """
    place.parents[1].stat()  # an unmounted Drive must not be imitated on the local disk
    listing = read_json(place / LISTING)
    if not isinstance(listing, dict) and place.exists() and any(place.iterdir()):
        raise DriveError(f"{place} holds something else than a copy of a run; choose another folder, or move it away")
    listing = listing if isinstance(listing, dict) else {}
    outside = [name for name in listing if not name or name.startswith("/") or ".." in PurePosixPath(name).parts]
    if outside:
        raise DriveError(f"{place / LISTING} names {outside[0]!r}, outside of the run; move the copy away")
    return listing


def _files(folder: Path) -> list[str]:
    """Relative names of a folder's regular files; neither hidden ones nor anything behind a link."""
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in UNCOPIED]
        found += [Path(place, name) for name in names if not name.startswith(".")]
    return [path.relative_to(folder).as_posix() for path in found if not path.is_symlink()]


def _records_last(name: str) -> tuple[bool, str]:
    """Sorts the record of a step behind the files that it vouches for."""
    return name.endswith(f"/{RECORD}"), name


def _step_of(name: str, listing: dict[str, str]) -> str:
    """The folder of the step that a file lies in; "" for none."""
    return next((str(p) for p in PurePosixPath(name).parents if f"{p}/{RECORD}" in listing), "")


def _copy(source: Path, target: Path, sha: str) -> None:
    """Copy one file and read the copy back.

    Raises:
        DamagedError: the copy has another SHA-256.
    """
    with write_file(target) as fresh:
        shutil.copyfile(source, fresh)
        if file_hash(fresh) != sha:
            raise DamagedError(f"{target} differs from {source} after copying")
        _empty(target)
