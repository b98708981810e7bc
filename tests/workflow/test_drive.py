"""The copy of a run in Drive: whole or not there, two generations, and never at the cost of local work."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from rwkvgate.experiment.open_run import open_run
from rwkvgate.experiment.run import Run, after_step, step
from rwkvgate.rwkv6.files import write_json, write_text
from rwkvgate.workflow import drive
from rwkvgate.workflow.drive import (
    DRIVE_VARIABLE,
    LISTING,
    DriveError,
    copy_to_drive,
    keep,
    mount_drive,
    restore_from_drive,
)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def run_files(folder: Path) -> dict[str, bytes]:
    """The same without a copy's list."""
    return {name: data for name, data in contents(folder).items() if name != LISTING}


@pytest.fixture
def local(tmp_path: Path) -> Path:
    """A run folder with two finished steps and a result."""
    folder = tmp_path / "disk" / "smoke"
    write_json(folder / "manifest.json", {"settings": {"profile": "smoke"}})
    write_json(folder / "base" / "step.json", {"inputs": "a"})
    (folder / "base" / "model.bin").write_bytes(os.urandom(5000))
    write_json(folder / "arms" / "enhanced" / "seed0" / "step.json", {"inputs": "b"})
    write_text(folder / "results" / "table.txt", "1")
    return folder


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where the copy goes: below a mounted Drive."""
    (tmp_path / "MyDrive" / "rwkvgate").mkdir(parents=True)
    return tmp_path / "MyDrive" / "rwkvgate" / "smoke" / "smoke"


def test_a_copy_and_back(local: Path, place: Path) -> None:
    assert copy_to_drive(local, place) == place
    wanted = contents(local)
    assert run_files(place) == wanted
    shutil.rmtree(local)
    assert restore_from_drive(place, local) == place
    assert contents(local) == wanted


def test_two_generations_and_no_third(local: Path, place: Path) -> None:
    for text in "123":
        write_text(local / "results" / "table.txt", text)
        copy_to_drive(local, place)
    assert sorted(path.name for path in place.parent.iterdir()) == ["smoke", "smoke.older"]
    tables = [(folder / "results" / "table.txt").read_text() for folder in (place, place.with_name("smoke.older"))]
    assert tables == ["3", "2"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.ENOTCONN, errno.EDQUOT])
@pytest.mark.parametrize("function", ["copyfile", "replace"])
def test_a_failure_halfway_costs_the_new_copy_only(
    local: Path, place: Path, monkeypatch: Any, code: int, function: str
) -> None:
    copy_to_drive(local, place)
    copy_to_drive(local, place)
    write_text(local / "results" / "table.txt", "2")
    on_drive, on_disk = contents(place), contents(local)
    module: Any = shutil if function == "copyfile" else os
    real, calls = getattr(module, function), []

    def failing(source: Any, target: Any, **options: Any) -> Any:
        if str(place.parent) in str(target):
            calls.append(target)
            if len(calls) == 2:
                raise OSError(code, os.strerror(code), str(target))
        return real(source, target, **options)

    monkeypatch.setattr(module, function, failing)
    with pytest.raises(DriveError, match=f"was not copied to .*{os.strerror(code)}.*copies made before are as they"):
        copy_to_drive(local, place)
    monkeypatch.undo()
    assert contents(place) == on_drive and contents(local) == on_disk
    assert not [path for path in place.parent.iterdir() if path.name.startswith(".")]
    copy_to_drive(local, place)
    assert (place / "results" / "table.txt").read_text() == "2"


def test_a_copy_that_reads_back_wrong_is_refused(local: Path, place: Path, monkeypatch: Any) -> None:
    copy_to_drive(local, place)
    before, real = contents(place), shutil.copyfile

    def spoil(source: Any, target: Any, **options: Any) -> None:
        real(source, target, **options)
        data = bytearray(Path(target).read_bytes())
        data[0] ^= 1
        Path(target).write_bytes(data)

    monkeypatch.setattr(shutil, "copyfile", spoil)
    with pytest.raises(DriveError, match=r"differs from .* after copying"):
        copy_to_drive(local, place)
    assert contents(place) == before


def test_what_a_killed_copy_left_is_in_nobody_s_way(local: Path, place: Path) -> None:
    write_text(place.with_name(".smoke.copying") / "base" / "half", "half")
    copy_to_drive(local, place)
    assert run_files(place) == contents(local)
    assert not place.with_name(".smoke.copying").exists()


def test_links_and_unfinished_files_stay_behind(local: Path, place: Path, tmp_path: Path) -> None:
    wanted = contents(local)
    secret = tmp_path / "private" / "key.txt"
    write_text(secret, "mine")
    (local / "link.txt").symlink_to(secret)
    (local / "base" / "folder").symlink_to(secret.parent)
    (local / "gone").symlink_to(tmp_path / "nowhere")
    write_text(local / ".base.abc" / "model.bin", "half")
    copy_to_drive(local, place)
    assert run_files(place) == wanted


def test_a_link_in_the_copy_is_not_followed_back(local: Path, place: Path, tmp_path: Path) -> None:
    copy_to_drive(local, place)
    (place / "results" / "table.txt").unlink()
    write_text(tmp_path / "other.txt", "1")
    (place / "results" / "table.txt").symlink_to(tmp_path / "other.txt")
    shutil.rmtree(local)
    with pytest.raises(DriveError, match="no whole copy"):
        restore_from_drive(place, local)
    assert not local.exists()


def test_a_damaged_copy_gives_way_to_the_older_one(local: Path, place: Path) -> None:
    write_text(local / "results" / "table.txt", "1")
    copy_to_drive(local, place)
    write_text(local / "results" / "table.txt", "2")
    copy_to_drive(local, place)
    (place / "results" / "table.txt").write_text("X")  # the same size
    shutil.rmtree(local)
    assert restore_from_drive(place, local) == place.with_name("smoke.older")
    assert (local / "results" / "table.txt").read_text() == "1"


def test_an_upload_that_never_arrived_does_not_push_out_the_older_copy(local: Path, place: Path) -> None:
    copy_to_drive(local, place)
    copy_to_drive(local, place)
    (place / LISTING).unlink()
    (place / "base" / "model.bin").unlink()
    older = contents(place.with_name("smoke.older"))
    copy_to_drive(local, place)
    assert contents(place.with_name("smoke.older")) == older and run_files(place) == contents(local)


def test_no_generation_is_whole(local: Path, place: Path) -> None:
    copy_to_drive(local, place)
    (place / "base" / "model.bin").unlink()
    shutil.rmtree(local)
    with pytest.raises(DriveError, match=r"no whole copy in .*Nothing was changed"):
        restore_from_drive(place, local)
    assert not local.exists()


def test_local_work_is_not_written_over(local: Path, place: Path) -> None:
    copy_to_drive(local, place)
    write_text(local / "results" / "table.txt", "newer")
    before = contents(local)
    assert restore_from_drive(place, local) is None
    assert contents(local) == before


def test_a_fresh_manifest_alone_is_no_work(local: Path, place: Path) -> None:
    copy_to_drive(local, place)
    wanted = contents(local)
    shutil.rmtree(local)
    write_json(local / "manifest.json", {"settings": {"profile": "smoke"}, "steps": {}})
    assert restore_from_drive(place, local) == place
    assert contents(local) == wanted


def test_nothing_to_bring_back(tmp_path: Path) -> None:
    assert restore_from_drive(tmp_path / "none", tmp_path / "run") is None
    assert not (tmp_path / "run").exists()


def test_finished_steps_in_drive_are_not_lost_to_a_poorer_run(local: Path, place: Path) -> None:
    copy_to_drive(local, place)
    before = contents(place)
    shutil.rmtree(local / "arms")
    with pytest.raises(DriveError, match=r"has finished steps that .* lacks, among them arms/enhanced/seed0"):
        copy_to_drive(local, place)
    assert contents(place) == before


def test_somebody_else_s_folder_is_left_alone(local: Path, place: Path) -> None:
    write_text(place / "photo.txt", "mine")
    with pytest.raises(DriveError, match="holds something else than a copy of a run"):
        copy_to_drive(local, place)
    assert contents(place) == {"photo.txt": b"mine"}


def test_an_unmounted_drive_is_not_imitated(local: Path, place: Path) -> None:
    shutil.rmtree(place.parents[2])
    with pytest.raises(DriveError, match="run the install cell again"):
        copy_to_drive(local, place)
    assert not place.parents[2].exists()


@pytest.mark.parametrize("inside", ["copy", "base/copy", ".."])
def test_folders_in_each_other(local: Path, inside: str) -> None:
    with pytest.raises(DriveError, match="lie in each other"):
        copy_to_drive(local, (local / inside).resolve())


def test_a_drive_that_does_not_answer(local: Path, place: Path, monkeypatch: Any) -> None:
    copy_to_drive(local, place)
    shutil.rmtree(local)
    real = Path.exists

    def exists(self: Path, **options: Any) -> bool:
        if str(self).startswith(str(place)):
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN), str(self))
        return real(self, **options)

    monkeypatch.setattr(Path, "exists", exists)
    with pytest.raises(DriveError, match=r"cannot be read.*Run the install cell again"):
        restore_from_drive(place, local)


@pytest.fixture
def kept(place: Path, monkeypatch: Any) -> Path:
    """A session whose install cell has named a Drive folder; leaves no hook behind."""
    monkeypatch.setenv(DRIVE_VARIABLE, str(place.parents[1]))
    monkeypatch.setattr(drive, "_copied", {})
    monkeypatch.setitem(after_step, "drive", print)  # so that the hook of the test is undone
    return place


def finish(run: Run, name: str) -> None:
    """A finished step of a run."""
    with step(run.folder / name, name, {"name": name}, 0.0) as fresh:
        write_text(fresh / "value.txt", name)


def test_a_session_after_a_disconnect_finds_its_steps(
    kept: Path, tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    run = open_run(profile="smoke", run_dir=str(tmp_path / "disk" / "smoke"))
    drive.resume(run)
    finish(run, "base")
    assert (kept / "base" / "value.txt").is_file()
    monkeypatch.setattr(drive, "SPARING", 1e6)
    finish(run, "arm")
    assert not (kept / "arm").exists(), "too soon after a copy that took long"
    keep(run)
    shutil.rmtree(run.folder)
    run = open_run(profile="smoke", run_dir=str(tmp_path / "disk" / "smoke"))
    drive.resume(run)
    assert "2 finished steps" in capsys.readouterr().out
    assert (run.folder / "arm" / "value.txt").read_text() == "arm"


def test_a_full_drive_is_said_and_stops_nothing(kept: Path, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    run = open_run(profile="smoke", run_dir=str(tmp_path / "disk" / "smoke"))
    drive.resume(run)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shutil, "copyfile", full)
    finish(run, "base")
    out = capsys.readouterr().out
    assert out.count("was not copied to") == 1 and "No space left" in out
    assert (run.folder / "base" / "value.txt").is_file()


def test_without_a_drive_folder_nothing_happens(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.delenv(DRIVE_VARIABLE, raising=False)
    monkeypatch.setattr(drive, "after_step", {})
    run = open_run(profile="smoke", run_dir=str(tmp_path / "smoke"))
    drive.resume(run)
    keep(run)
    assert not drive.after_step and capsys.readouterr().out == ""


class FakeDrive(ModuleType):
    """`google.colab.drive`, which makes the folder that mounting would show."""

    def __init__(self) -> None:
        super().__init__("google.colab.drive")
        self.mounted: list[str] = []

    def mount(self, path: str, force_remount: bool = False) -> None:
        """Count, and show My Drive."""
        self.mounted.append(path)
        (Path(path) / "MyDrive").mkdir(parents=True)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: Any) -> FakeDrive:
    """A Colab whose Drive is not mounted yet."""
    module, colab = FakeDrive(), ModuleType("google.colab")
    colab.drive = module  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    monkeypatch.setattr(drive, "MOUNT", tmp_path / "content" / "drive")
    monkeypatch.setenv(DRIVE_VARIABLE, "")
    return module


def test_mounting_once_in_a_cell_that_a_person_runs(fake: FakeDrive, monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setattr(drive, "is_interactive", lambda: True)
    wanted = tmp_path / "content" / "drive" / "MyDrive" / "papers" / "rwkvgate"
    assert mount_drive("papers/rwkvgate") == mount_drive("papers/rwkvgate") == wanted
    assert len(fake.mounted) == 1 and os.environ[DRIVE_VARIABLE] == str(wanted) and wanted.is_dir()


def test_nothing_is_mounted_unattended(fake: FakeDrive) -> None:
    assert not drive.is_interactive()
    with pytest.raises(DriveError, match="runs unattended"):
        mount_drive("rwkvgate")
    assert not fake.mounted


@pytest.mark.parametrize("name", ["", " ", "/content/elsewhere", "../shared", "a/../../b"])
def test_a_folder_outside_my_drive_is_refused(fake: FakeDrive, name: str) -> None:
    with pytest.raises(DriveError, match="must be the name of a folder inside My Drive"):
        mount_drive(name)
    assert not fake.mounted


@pytest.mark.parametrize("attended", [True, False])
def test_a_kernel_knows_whether_a_person_runs_its_cells(attended: bool) -> None:
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(kernel_name="python3")
    said: list[str] = []
    try:
        client.execute_interactive(
            "from rwkvgate.workflow.drive import is_interactive; print(is_interactive())",
            allow_stdin=attended,  # pages of JupyterLab and Colab say True here, papermill and nbval False
            output_hook=lambda message: said.append(message["content"].get("text", "")),
            timeout=60,
        )
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    assert "".join(said).strip() == str(attended)
