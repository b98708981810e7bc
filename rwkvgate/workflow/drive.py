"""A copy of the run folder in Google Drive, for sessions that end without asking.

Results are written to the machine's own disk; this copies them, whole. A copy is made under a temporary name beside
the last one, read back, compared by size and SHA-256, and renamed. Two generations are kept. A full Drive or a
dropped mount therefore costs the newest copy and nothing else.

The folder is named in the environment, so that child processes find it; only `mount_drive` asks for Drive, and only
in a cell that a person runs.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from rwkvgate.experiment.run import ENVIRONMENT, MANIFEST, RECORD, Run, after_step
from rwkvgate.rwkv6.files import read_json, write_folder, write_json

DRIVE_VARIABLE = "RWKVGATE_DRIVE"
MOUNT = Path("/content/drive")
LISTING = "copy.json"
"""Size and SHA-256 of every file of a copy; it lies in the copy and is no part of the run."""

SPARING = 10.0
"""A step that is finished within so many times as long as the last copy took waits for the next; a notebook's end
copies in any case. So a small run is copied after every step, and a large one does not spend its session copying."""

HERE = PurePosixPath()

_copied: dict[Path, tuple[float, float]] = {}


class DriveError(RuntimeError):
    """A copy in Drive could not be made or used; the message says what is still there."""


def mount_drive(folder: str) -> Path:
    """Mount Drive where it is not, and name a folder of it for `resume` and `keep`; the folder.

    Raises:
        DriveError: the name leaves Drive, or Drive is not mounted and nobody is there to allow it.
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
    place = home / inside
    place.mkdir(parents=True, exist_ok=True)
    os.environ[DRIVE_VARIABLE] = str(place)
    return place


def _answers(folder: Path) -> bool:
    try:
        return folder.is_dir()
    except OSError:  # a dropped mount is neither there nor absent
        return False


def is_interactive() -> bool:
    """Whether a person runs this cell. papermill and nbval forbid the kernel to ask, and mounting asks."""
    ipython = sys.modules.get("IPython")
    kernel = getattr(ipython.get_ipython() if ipython else None, "kernel", None)
    return bool(getattr(kernel, "_allow_stdin", False))


def resume(run: Run) -> None:
    """Bring back what an earlier session kept of this run, and keep it from now on as steps are finished.

    Does nothing unless the install cell, or `RWKVGATE_DRIVE`, names a folder.

    Raises:
        DriveError: there is a copy and it cannot be brought back.
    """
    place = _place(run)
    if place is None:
        return
    found = restore_from_drive(place, run.folder)
    if found is not None:
        steps = sum(name.name == RECORD for name in _files(run.folder))
        print(f"brought back from {found}: {steps} finished steps", flush=True)
    after_step["drive"] = lambda _: keep(run, sparing=SPARING)


def keep(run: Run, sparing: float = 0) -> None:
    """Copy the run to the Drive folder of the install cell, if there is one; a failure is said and does no harm.

    Args:
        sparing: do nothing where the last copy ended less than this many times its own duration ago.
    """
    place = _place(run)
    if place is None:
        return
    started = time.monotonic()
    ended, took = _copied.get(place, (started, 0.0))
    if started - ended < sparing * took:
        return
    try:
        print("copied to", copy_to_drive(run.folder, place), flush=True)
    except DriveError as error:
        print(error, flush=True)
    _copied[place] = time.monotonic(), time.monotonic() - started


def _place(run: Run) -> Path | None:
    # By profile, so that folders of one name never meet in Drive with runs of two profiles in them.
    named = os.environ.get(DRIVE_VARIABLE, "").strip()
    return Path(named) / run.settings.profile / run.folder.name if named else None


def copy_to_drive(run_folder: str | Path, drive_folder: str | Path) -> Path:
    """Copy the run folder to `drive_folder`, which becomes the newer of two generations; the folder.

    Unfinished files, whose names begin with a dot, and links stay behind. The folder above `drive_folder` may be
    new, the one above that must be there: an unmounted Drive is not to be imitated on the local disk.

    Raises:
        DriveError: the copy failed, or would replace something else or the only copy of a finished step.
    """
    source, target = Path(run_folder).resolve(), Path(drive_folder).absolute()
    older, fresh = _beside(target)
    if target.is_relative_to(source) or source.is_relative_to(target):
        raise DriveError(f"{target} and the run folder {source} lie in each other; name a folder outside")
    try:
        target.parent.mkdir(exist_ok=True)
        names = list(_files(source))
        _refuse_loss(set(names), source, target, older)
        _remove(fresh)
        fresh.mkdir()
        files = {name.as_posix(): _copy(source / name, fresh / name) for name in names}
        write_json(fresh / LISTING, {"made": datetime.now(UTC).isoformat(timespec="seconds"), "files": files})
        _swap(fresh, target, older)
    except OSError as error:
        raise DriveError(
            f"the run was not copied to {target}: {error}. The run folder and the copies made before are as they "
            "were. If Drive is full, its bin counts too; if it is gone, run the install cell again"
        ) from error
    finally:
        # Nothing more can be done where this fails too: the next copy removes the remains first.
        shutil.rmtree(fresh, ignore_errors=True)
    return target


def restore_from_drive(drive_folder: str | Path, run_folder: str | Path) -> Path | None:
    """Bring a copy back where the run folder is missing or holds no step yet; the generation used.

    The newer generation is tried first. None means that the local folder has work in it, or Drive has no copy.

    Raises:
        DriveError: Drive does not answer, or neither generation is whole.
    """
    source, target = Path(drive_folder).absolute(), Path(run_folder).absolute()
    if any(path.name not in (MANIFEST, ENVIRONMENT) for path in target.glob("[!.]*")):
        return None
    problem: object = f"{LISTING} or a file of its list is missing"
    try:
        generations = [folder for folder in (source, _beside(source)[0]) if folder.exists()]
        for folder in generations:
            listing = _listing(folder)
            if listing is None:
                continue
            try:
                with write_folder(target) as fresh:
                    for name, wanted in listing.items():
                        if _copy(folder / name, fresh / name) != wanted:
                            raise OSError(f"{folder / name} is damaged")
                return folder
            except OSError as error:
                problem = error
    except OSError as error:
        raise DriveError(f"{source} cannot be read: {error}. Run the install cell again to mount Drive") from error
    if generations:
        raise DriveError(
            f"no whole copy in {source}: {problem}. Nothing was changed. Move it away or set DRIVE to another folder"
        )
    return None


def _beside(target: Path) -> tuple[Path, Path]:
    """Where the older generation of a copy lies, and where a new one is made."""
    return target.with_name(f"{target.name}.older"), target.with_name(f".{target.name}.copying")


def _files(folder: Path, below: PurePosixPath = HERE) -> Iterator[PurePosixPath]:
    """The regular files of a folder, as relative paths; neither hidden ones nor anything behind a link."""
    with os.scandir(folder / below) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        name = below / entry.name
        if entry.name.startswith(".") or entry.is_symlink() or name == PurePosixPath(LISTING):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _files(folder, name)
        elif entry.is_file(follow_symlinks=False):
            yield name


def _copy(source: Path, target: Path) -> dict[str, Any]:
    """Copy one file and read the copy back; its size in bytes and SHA-256.

    Raises:
        OSError: the copy is not what was read, besides what reading and writing raise.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    wanted = _fingerprint(source)
    shutil.copyfile(source, target, follow_symlinks=False)
    if _fingerprint(target) != wanted:
        raise OSError(f"{target} differs from {source} after copying")
    return wanted


def _fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"bytes": file.tell(), "sha256": digest}


def _listing(copy: Path) -> dict[str, dict[str, Any]] | None:
    """What a copy holds, by its own list; None where it has no list or a listed file is absent or of another size.

    Drive uploads late: of a copy renamed just before the machine went away, a part may never have arrived.
    """
    listing = read_json(copy / LISTING)
    files = listing.get("files") if isinstance(listing, dict) else None
    if not isinstance(files, dict):
        return None
    there = {name.as_posix() for name in _files(copy)}
    whole = files.keys() <= there and all((copy / name).stat().st_size == kept["bytes"] for name, kept in files.items())
    return files if whole else None


def _refuse_loss(names: set[PurePosixPath], source: Path, target: Path, older: Path) -> None:
    copies = [_listing(folder) for folder in (target, older)]
    newest = next((files for files in copies if files is not None), None)
    if newest is None and target.exists() and any(target.iterdir()):
        raise DriveError(f"{target} holds something else than a copy of a run; name another folder, or move it away")
    lost = [name for name in map(PurePosixPath, newest or ()) if name.name == RECORD and name not in names]
    if lost:
        raise DriveError(
            f"the copy in {target} has finished steps that {source} lacks, among them {lost[0].parent}; it was left "
            f"as it is. Move {source} away, and the copy is brought back; or set DRIVE to another folder"
        )


def _swap(fresh: Path, target: Path, older: Path) -> None:
    """Give the new copy its name; what had the name becomes the older generation, if it is whole."""
    if target.exists():
        if _listing(target) is None:
            _remove(target)  # the rest of a lost upload must not push out the older copy, which is whole
        else:
            _remove(older)
            os.replace(target, older)
    try:
        os.replace(fresh, target)
    except OSError:
        with suppress(OSError):
            os.replace(older, target)
        raise


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
