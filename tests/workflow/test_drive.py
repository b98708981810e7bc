"""The copy of a run in Drive: only complete files are used, only changes are copied, and local work is never lost."""

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
from rwkvgate.experiment.order import Step
from rwkvgate.experiment.run import Run, after_step
from rwkvgate.experiment.steps import making
from rwkvgate.rwkv6.files import write_json, write_text
from rwkvgate.workflow import drive
from rwkvgate.workflow.drive import (
    DRIVE_VARIABLE,
    LISTING,
    DriveError,
    copy_changes,
    keep_in_drive,
    mount_drive,
    restore,
)

BASE = ["base/model.bin", "base/step.json"]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def run_files(folder: Path) -> dict[str, bytes]:
    """The same without a copy's listing."""
    return {name: data for name, data in contents(folder).items() if name != LISTING}


@pytest.fixture
def local(tmp_path: Path) -> Path:
    """A run folder with three finished steps, one inside another, and a result."""
    folder = tmp_path / "disk" / "smoke"
    arm = folder / "arms" / "enhanced" / "seed0"
    write_json(folder / "manifest.json", {"settings": {"profile": "smoke"}})
    write_json(folder / "base" / "step.json", {"inputs": "a"})
    (folder / "base" / "model.bin").write_bytes(os.urandom(5000))
    write_json(arm / "step.json", {"inputs": "b"})
    write_text(arm / "weights.bin", "gate")
    write_json(arm / "evaluation" / "step.json", {"inputs": "c"})
    write_text(arm / "evaluation" / "documents.txt", "1")
    write_text(folder / "results" / "table.txt", "1")
    return folder


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where the copy goes: below a mounted Drive."""
    (tmp_path / "MyDrive" / "rwkvgate").mkdir(parents=True)
    return tmp_path / "MyDrive" / "rwkvgate" / "smoke" / "smoke"


def test_a_copy_and_back(local: Path, place: Path) -> None:
    assert sorted(copy_changes(local, place)) == sorted(contents(local))
    before = contents(local)
    assert run_files(place) == before
    shutil.rmtree(local)
    restored, damaged = restore(place, local)
    assert sorted(restored) == sorted(before) and not damaged
    assert contents(local) == before


def test_only_changes_are_copied(local: Path, place: Path) -> None:
    copy_changes(local, place)
    assert copy_changes(local, place) == []
    write_text(local / "results" / "table.txt", "2")
    write_json(local / "corpus" / "step.json", {"inputs": "d"})
    times = {path: path.stat().st_mtime_ns for path in place.rglob("*") if path.name not in (LISTING, "table.txt")}
    assert copy_changes(local, place) == ["results/table.txt", "corpus/step.json"], "a record follows its files"
    for path, time in times.items():
        assert path.is_dir() or path.stat().st_mtime_ns == time
    assert run_files(place) == contents(local)


def test_what_the_run_removed_leaves_the_copy_and_what_it_lacks_does_not(local: Path, place: Path) -> None:
    write_json(local / "arms" / "enhanced" / "seed1.failed.json", {"error": "the loss is nan"})
    copy_changes(local, place)
    (local / "arms" / "enhanced" / "seed1.failed.json").unlink()
    shutil.rmtree(local / "base")
    write_text(local / "results" / "table.txt", "2")
    copy_changes(local, place)
    assert set(run_files(place)) == {*contents(local), *BASE}
    assert sorted(restore(place, local)[0]) == BASE


def test_what_another_session_copied_is_left_alone(local: Path, place: Path, monkeypatch: Any) -> None:
    """Two sessions share a copy, in processes of their own, which this test stands for."""
    other = shutil.copytree(local, local.with_name("other"))
    copy_changes(local, place)
    write_text(local / "results" / "table.txt", "of this session")
    write_text(local / "results" / "claims.json", "[]")
    copy_changes(local, place)
    monkeypatch.setattr(drive, "_seen", {})
    copy_changes(other, place)
    assert (place / "results" / "claims.json").read_text() == "[]"
    write_text(other / "results" / "gates.txt", "1")
    copy_changes(other, place)
    (other / "results" / "gates.txt").unlink()
    copy_changes(other, place)
    assert "results/gates.txt" not in run_files(place) and "results/claims.json" in run_files(place)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.ENOTCONN, errno.EDQUOT])
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("function", ["copyfile", "replace"])
def test_a_failure_halfway_costs_the_newest_changes_only(
    local: Path, place: Path, monkeypatch: Any, code: int, count: int, function: str
) -> None:
    copy_changes(local, place)
    first = contents(local)
    unchanged = {name: data for name, data in first.items() if not name.startswith(("results", "base"))}
    write_text(local / "results" / "table.txt", "2")
    (local / "base" / "model.bin").write_text("another")
    write_json(local / "base" / "step.json", {"inputs": "other"})
    on_disk = contents(local)
    module: Any = shutil if function == "copyfile" else os
    real, calls = getattr(module, function), []

    def failing(source: Any, target: Any, **options: Any) -> Any:
        if str(place.parent) in str(target):
            calls.append(target)
            if len(calls) == count:
                raise OSError(code, os.strerror(code), str(target))
        return real(source, target, **options)

    monkeypatch.setattr(module, function, failing)
    with pytest.raises(DriveError, match=f"was not copied to .*{os.strerror(code)}.*copied before are intact"):
        copy_changes(local, place)
    monkeypatch.undo()
    assert contents(local) == on_disk
    assert not list(place.rglob(".*"))
    elsewhere = local.with_name("elsewhere")
    restored, _ = restore(place, elsewhere)
    assert set(unchanged) <= set(restored) and unchanged.items() <= contents(elsewhere).items()
    if "base/step.json" in restored:
        found = {name: contents(elsewhere).get(name) for name in BASE}
        assert found in ({name: version[name] for name in BASE} for version in (first, on_disk)), "one version, or none"
    copy_changes(local, place)
    assert run_files(place) == on_disk


def test_a_step_that_was_replaced_halfway_is_not_restored(local: Path, place: Path, monkeypatch: Any) -> None:
    copy_changes(local, place)
    (local / "base" / "model.bin").write_text("another")
    write_json(local / "base" / "step.json", {"inputs": "other"})
    real = shutil.copyfile

    def full(source: Any, target: Any, **options: Any) -> Any:
        if "step.json" in str(target):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(source, target, **options)

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(DriveError, match="No space left"):
        copy_changes(local, place)
    monkeypatch.undo()
    shutil.rmtree(local)
    restored, _ = restore(place, local)
    assert "base/step.json" not in restored and "arms/enhanced/seed0/step.json" in restored


def test_a_session_that_ends_while_a_file_is_copied_leaves_no_half_step(
    local: Path, place: Path, monkeypatch: Any
) -> None:
    copy_changes(local, place)
    (local / "base" / "model.bin").write_text("another")
    write_json(local / "base" / "step.json", {"inputs": "other"})
    on_drive: dict[str, bytes] = {}
    real = drive._copy

    def watched(*arguments: Any) -> None:
        real(*arguments)
        on_drive.update(contents(place))

    monkeypatch.setattr(drive, "_copy", watched)
    copy_changes(local, place)
    shutil.rmtree(local)
    for name, data in on_drive.items():  # as it stood before the last listing was written
        (place / name).write_bytes(data)
    monkeypatch.undo()
    assert not set(restore(place, local)[0]) & set(BASE)


def test_a_copy_that_reads_back_wrong_is_refused(local: Path, place: Path, monkeypatch: Any) -> None:
    copy_changes(local, place)
    before, real = run_files(place), shutil.copyfile
    write_text(local / "results" / "table.txt", "2")

    def spoil(source: Any, target: Any, **options: Any) -> None:
        real(source, target, **options)
        data = bytearray(Path(target).read_bytes())
        data[0] ^= 1
        Path(target).write_bytes(data)

    monkeypatch.setattr(shutil, "copyfile", spoil)
    with pytest.raises(DriveError, match=r"differs from .* after copying"):
        copy_changes(local, place)
    assert run_files(place) == before


def test_links_and_unfinished_files_are_not_copied(local: Path, place: Path, tmp_path: Path) -> None:
    before = contents(local)
    secret = tmp_path / "private" / "key.txt"
    write_text(secret, "mine")
    (local / "link.txt").symlink_to(secret)
    (local / "base" / "folder").symlink_to(secret.parent)
    (local / "gone").symlink_to(tmp_path / "nowhere")
    write_text(local / ".base.abc" / "model.bin", "half")
    write_text(local / "checkpoints" / "base" / "abc" / "checkpoint-5" / "optimizer.pt", "moments")
    copy_changes(local, place)
    assert run_files(place) == before


def test_a_link_in_the_copy_brings_nothing_else_back(local: Path, place: Path, tmp_path: Path) -> None:
    copy_changes(local, place)
    (place / "results" / "table.txt").unlink()
    write_text(tmp_path / "other.txt", "another")
    (place / "results" / "table.txt").symlink_to(tmp_path / "other.txt")
    shutil.rmtree(local)
    assert restore(place, local)[1] == ["results/table.txt"]
    assert not (local / "results" / "table.txt").exists()


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_a_step_with_a_damaged_file_is_made_again_and_all_else_is_restored(
    local: Path, place: Path, damage: str
) -> None:
    copy_changes(local, place)
    before = contents(local)
    if damage == "changed":
        data = (place / "base" / "model.bin").read_bytes()
        (place / "base" / "model.bin").write_bytes(data[::-1])  # the same size
    else:
        (place / "base" / "model.bin").unlink()
    shutil.rmtree(local)
    assert restore(place, local)[1] == BASE
    assert contents(local) == {name: data for name, data in before.items() if name not in BASE}
    (local / "base").mkdir(exist_ok=True)
    for name in BASE:
        (local / name).write_bytes(before[name])
    copy_changes(local, place)
    assert run_files(place) == before, "what was damaged is copied again, though it has not changed"


def test_a_damaged_result_is_copied_again(local: Path, place: Path) -> None:
    copy_changes(local, place)
    (place / "results" / "table.txt").unlink()
    (local / "results" / "table.txt").unlink()
    assert restore(place, local) == ([], ["results/table.txt"])
    write_text(local / "results" / "table.txt", "1")
    assert copy_changes(local, place) == ["results/table.txt"]


def test_local_work_is_not_written_over(local: Path, place: Path) -> None:
    copy_changes(local, place)
    write_text(local / "results" / "table.txt", "newer")
    write_json(local / "base" / "step.json", {"inputs": "newer"})
    (local / "base" / "model.bin").unlink()  # the newer step has no such file
    shutil.rmtree(local / "arms")
    before = contents(local)
    assert len(restore(place, local)[0]) == 4
    assert before.items() <= contents(local).items() and "base/model.bin" not in contents(local)


def test_a_restore_that_was_interrupted_is_taken_up(local: Path, place: Path, monkeypatch: Any) -> None:
    copy_changes(local, place)
    before = contents(local)
    shutil.rmtree(local)
    real, calls = drive._copy, []

    def interrupted(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) == 4:
            raise KeyboardInterrupt
        real(*arguments)

    monkeypatch.setattr(drive, "_copy", interrupted)
    with pytest.raises(KeyboardInterrupt):
        restore(place, local)
    assert not list(local.rglob("step.json"))
    restore(place, local)
    assert contents(local) == before


def test_nothing_to_restore(place: Path, tmp_path: Path) -> None:
    assert restore(place, tmp_path / "run") == ([], [])
    assert not (tmp_path / "run").exists() and not place.exists()


def test_finished_steps_in_drive_are_not_lost_to_a_poorer_run(local: Path, place: Path) -> None:
    copy_changes(local, place)
    before = run_files(place)
    shutil.rmtree(local / "arms")
    write_text(local / "results" / "table.txt", "2")
    copy_changes(local, place)
    assert run_files(place) == before | {"results/table.txt": b"2"}


def test_somebody_else_s_folder_is_left_alone(local: Path, place: Path) -> None:
    write_text(place / "photo.txt", "mine")
    for call in (copy_changes, lambda one, other: restore(other, one)):
        with pytest.raises(DriveError, match="holds something else than a copy of a run"):
            call(local, place)
    assert contents(place) == {"photo.txt": b"mine"}


def test_an_unmounted_drive_is_not_imitated(local: Path, place: Path) -> None:
    shutil.rmtree(place.parents[2])
    with pytest.raises(DriveError, match="run the first cell again"):
        copy_changes(local, place)
    with pytest.raises(DriveError, match="Run the first cell again"):
        restore(place, local)
    assert not place.parents[2].exists()


@pytest.mark.parametrize("inside", ["copy", "base/copy", ".."])
def test_folders_in_each_other(local: Path, inside: str) -> None:
    with pytest.raises(DriveError, match="lie in each other"):
        copy_changes(local, (local / inside).resolve())


@pytest.mark.parametrize("function", ["stat", "open"])
def test_a_drive_that_does_not_answer(local: Path, place: Path, monkeypatch: Any, function: str) -> None:
    copy_changes(local, place)
    shutil.rmtree(local)
    module: Any = Path if function == "stat" else shutil
    name = "stat" if function == "stat" else "copyfile"
    real = getattr(module, name)

    def dropped(path: Any, *more: Any, **options: Any) -> Any:
        if str(place.parents[1]) in str(path):
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN), str(path))
        return real(path, *more, **options)

    monkeypatch.setattr(module, name, dropped)
    with pytest.raises(DriveError, match=r"cannot be restored.*Run the first cell again"):
        restore(place, local)


@pytest.fixture
def chosen(place: Path, monkeypatch: Any) -> Path:
    """A session whose first cell has chosen a Drive folder; leaves no hook behind."""
    monkeypatch.setenv(DRIVE_VARIABLE, str(place.parents[1]))
    monkeypatch.setattr(drive, "_reported", {})
    monkeypatch.setitem(after_step, "drive", print)  # so that the hook of the test is undone
    return place


def finish(run: Run, name: str) -> None:
    """A finished step of a run."""
    step = Step(run, name, run.folder / name, {"name": name})
    making.Work(step).write(lambda folder: write_text(folder / "value.txt", name))


def test_a_session_after_a_disconnect_has_its_steps(chosen: Path, tmp_path: Path, capsys: Any) -> None:
    run = open_run(profile="smoke", run_dir=str(tmp_path / "disk" / "smoke"))
    keep_in_drive(run)
    finish(run, "base")
    assert (chosen / "base" / "value.txt").is_file()
    assert "copied to" in (said := capsys.readouterr().out) and "base, " in said
    write_text(run.results / "table.txt", "1")
    drive._after_cell(None)
    assert (chosen / "results" / "table.txt").is_file(), "a cell's other files are copied when it ends"
    shutil.rmtree(run.folder)
    run = open_run(profile="smoke", run_dir=str(tmp_path / "disk" / "smoke"))
    keep_in_drive(run)
    assert "restored from" in (said := capsys.readouterr().out) and "base, " in said
    assert (run.folder / "base" / "value.txt").read_text() == "base" and (run.results / "table.txt").is_file()
    assert '"base"' in (run.folder / "manifest.json").read_text(), "the manifest lists what was restored"


def test_a_full_drive_is_one_sentence_and_stops_nothing(
    chosen: Path, tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    run = open_run(profile="smoke", run_dir=str(tmp_path / "disk" / "smoke"))
    keep_in_drive(run)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shutil, "copyfile", full)
    finish(run, "base")
    drive._after_cell(None)
    out = capsys.readouterr().out
    assert out.count("was not copied to") == 1 and "No space left" in out
    assert "Drive is full: the run needs 0.0 GB there, and Drive's bin counts too" in out
    assert (run.folder / "base" / "value.txt").is_file()
    monkeypatch.undo()
    drive.copy_or_report(run.folder, chosen)
    assert (chosen / "base" / "value.txt").is_file() and "copied to" in capsys.readouterr().out


def test_drive_s_bin_gets_empty_files_only(local: Path, place: Path, monkeypatch: Any) -> None:
    write_json(local / "arms" / "enhanced" / "seed1.failed.json", {"error": "the loss is nan"})
    copy_changes(local, place)
    (local / "base" / "model.bin").write_text("another")
    (local / "arms" / "enhanced" / "seed1.failed.json").unlink()
    binned: dict[str, int] = {}

    def watched(real: Any) -> Any:
        def call(source: Any, *target: Any, **options: Any) -> Any:
            gone = Path(target[0] if target else source)
            if place in gone.parents and gone.is_file() and not gone.name.startswith((".", LISTING)):
                binned[gone.name] = gone.stat().st_size
            return real(source, *target, **options)

        return call

    monkeypatch.setattr(os, "replace", watched(os.replace))
    monkeypatch.setattr(os, "unlink", watched(os.unlink))
    monkeypatch.setattr(Path, "unlink", watched(Path.unlink))
    copy_changes(local, place)
    assert binned == {"model.bin": 0, "seed1.failed.json": 0}
    monkeypatch.undo()
    assert run_files(place) == contents(local)


def test_checkpoints_of_an_unfinished_training_stay_on_the_machine(local: Path, place: Path) -> None:
    write_text(local / "checkpoints" / "base" / "optimizer.pt", "large")
    copy_changes(local, place)
    assert not (place / "checkpoints").exists()
    assert sum(map(len, run_files(place).values())) < sum(map(len, contents(local).values()))


def test_a_copy_by_another_version_is_said(chosen: Path, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    run = open_run(profile="smoke", run_dir=str(tmp_path / "disk" / "smoke"))
    keep_in_drive(run)
    finish(run, "base")
    capsys.readouterr()
    keep_in_drive(run)
    assert "was written by commit" not in capsys.readouterr().out
    monkeypatch.setattr(drive, "commit", lambda: {"id": "f" * 40, "dirty": False})
    shutil.rmtree(run.folder)
    keep_in_drive(open_run(profile="smoke", run_dir=str(run.folder)))
    said = capsys.readouterr().out
    assert "was written by commit" in said and "the others are made again" in said
    assert (run.folder / "base" / "value.txt").is_file()


def test_without_a_drive_folder_nothing_happens(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.delenv(DRIVE_VARIABLE, raising=False)
    monkeypatch.setattr(drive, "after_step", {})
    keep_in_drive(open_run(profile="smoke", run_dir=str(tmp_path / "smoke")))
    drive._after_cell(None)
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


def test_a_kernel_knows_whether_a_person_runs_its_cells() -> None:
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(kernel_name="python3")
    said: list[str] = []
    try:
        for attended in (True, False):  # pages of JupyterLab and Colab say True here, papermill and nbval False
            client.execute_interactive(
                "from rwkvgate.workflow.drive import is_interactive; print(is_interactive())",
                allow_stdin=attended,
                output_hook=lambda message: said.append(message["content"].get("text", "")),
                timeout=60,
            )
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    assert "".join(said).split() == ["True", "False"]


@pytest.mark.parametrize("name", ["../../sitecustomize.py", "/etc/victim", "arms/../../x", ""])
def test_a_listing_that_leads_outside_is_refused(local: Path, place: Path, name: str) -> None:
    copy_changes(local, place)
    write_json(place / LISTING, {name: "0"})
    before = contents(local)
    for call in (restore, lambda there, here: copy_changes(here, there)):
        with pytest.raises(DriveError, match="outside of the run"):
            call(place, local)
    assert contents(local) == before
