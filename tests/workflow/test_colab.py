"""A notebook opened from its badge: the first cell, what pip may do, the line about the GPU."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub import constants

from rwkvgate.experiment import budget, order, plan, settings
from rwkvgate.gate.validation import SettingsError
from rwkvgate.workflow import colab
from rwkvgate.workflow.colab import (
    INSTALL_METADATA,
    check_environment,
    constraints,
    gpu_summary,
    install_cell,
    install_missing,
    prepare,
)
from rwkvgate.workflow.release import release, slug, stamp

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def pip(monkeypatch: Any) -> list[dict[str, Any]]:
    """pip's calls instead of pip: the command and the constraints it was given."""
    calls: list[dict[str, Any]] = []

    def run(command: list[str], **_: Any) -> Any:
        lines = Path(command[command.index("--constraint") + 1]).read_text().splitlines()
        calls.append({"command": command, "constraints": lines})
        return SimpleNamespace(returncode=0, stdout="", stderr="")

    monkeypatch.setattr(subprocess, "run", run)
    return calls


def as_on_colab(monkeypatch: Any, **changes: str | None) -> dict[str, str]:
    """Installed versions like Colab's: without the three that it lacks, and with its build of torch."""
    found = colab.installed_versions()
    absent = {"evaluate", "sacrebleu", "rouge-score", "portalocker", "colorama"}
    found = {name: version for name, version in found.items() if name not in absent}
    found |= {"torch": "2.11.0+cu128", "python-apt": "0.0.0", "odd": "unknown-build"}
    found |= {name: version for name, version in changes.items() if version}
    monkeypatch.setattr(colab, "installed_versions", lambda: found)
    return found


def test_the_install_cell_does_nothing_elsewhere(monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.delenv(colab.ON_COLAB, raising=False)
    monkeypatch.chdir(tmp_path)

    def forbidden(*_: Any, **__: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(subprocess, "run", forbidden)
    before = list(sys.path)
    source = install_cell(slug(ROOT), release(ROOT)).replace('DRIVE = ""', 'DRIVE = "rwkvgate"')
    exec(compile(source, "install", "exec"), {})
    assert sys.path == before and Path.cwd() == tmp_path
    prepare("rwkvgate")


def test_the_install_cell_clones_the_release(monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setenv(colab.ON_COLAB, "release-colab-1")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    commands, prepared = [], []

    def clone(command: list[str], **_: Any) -> Any:
        commands.append(command)
        Path(command[-1]).mkdir()
        return SimpleNamespace(returncode=0, stderr="")

    monkeypatch.setattr(subprocess, "run", clone)
    monkeypatch.setattr(colab, "prepare", lambda **given: prepared.append(given))
    source = install_cell("somebody/fork", "v9.9").replace("/content", str(tmp_path))
    for _ in range(2):
        exec(compile(source, "install", "exec"), {})
    assert len(commands) == 1, "a second run of the cell finds the clone"
    assert commands[0][-4:-1] == ["--branch", "v9.9", "https://github.com/somebody/fork"]
    assert Path.cwd() == tmp_path / "rwkvgate-v9.9" and sys.path[0] == str(Path.cwd())
    assert prepared == [{"drive": "", "budget_minutes": 0}] * 2


def test_a_tag_that_is_not_there_is_the_default_branch_and_said(monkeypatch: Any, tmp_path: Path, capsys: Any) -> None:
    """With the real git, on a repository without a tag."""
    origin = tmp_path / "origin"
    for words in (["init", "--quiet", str(origin)], ["-C", str(origin), *COMMIT]):
        subprocess.run(["git", *words], check=True)
    monkeypatch.setenv(colab.ON_COLAB, "release-colab-1")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(colab, "prepare", lambda **_: None)
    source = install_cell("somebody/fork", "v9.9").replace("/content", str(tmp_path))
    source = source.replace("https://github.com/somebody/fork", origin.as_uri())
    exec(compile(source, "install", "exec"), {})
    assert Path.cwd() == tmp_path / "rwkvgate-v9.9" and (Path.cwd() / ".git").is_dir()
    assert capsys.readouterr().out == "There is no tag v9.9 yet: this is the newest state of the default branch.\n"


COMMIT = ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "--allow-empty", "--message", "first"]


def test_no_network_is_one_sentence(monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setenv(colab.ON_COLAB, "release-colab-1")
    calls = []

    def run(command: list[str], **_: Any) -> Any:
        calls.append(command)
        return SimpleNamespace(returncode=128, stderr="fatal: unable to access: Could not resolve host: github.com")

    monkeypatch.setattr(subprocess, "run", run)
    source = install_cell("somebody/fork", "v9.9").replace("/content", str(tmp_path))
    with pytest.raises(
        RuntimeError, match=r"^https://github.com/somebody/fork could not be cloned; is there a network\?"
    ):
        exec(compile(source, "install", "exec"), {})
    assert len(calls) == 1, "the default branch would not be reached either"


def test_only_what_is_missing_is_installed_and_nothing_may_move(pip: list[dict[str, Any]], monkeypatch: Any) -> None:
    as_on_colab(monkeypatch, numpy="2.1.3")
    added = install_missing()
    assert {pin.partition("==")[0] for pin in added} == {"evaluate", "sacrebleu", "rouge-score"}
    (call,) = pip
    assert call["command"][-3:] == added
    given = call["constraints"]
    assert {"torch==2.11.0+cu128", "numpy==2.1.3"} <= set(given)
    assert any(line.startswith("portalocker==") for line in given), "what a missing package needs is pinned too"
    assert not any("unknown-build" in line for line in given), "pip refuses a file with such a line"
    names = [line.partition("==")[0] for line in given]
    assert len(names) == len(set(names))


def test_nothing_missing_is_no_call(pip: list[dict[str, Any]]) -> None:
    assert install_missing() == [] and not pip


def test_constraints_keep_what_is_installed() -> None:
    lines = constraints({"torch": "2.11.0+cu128", "ipywidgets": "7.7.1"})
    assert "ipywidgets==7.7.1" in lines and not [line for line in lines if line.startswith("ipywidgets==8")]


def test_pip_s_own_words_are_shown(monkeypatch: Any) -> None:
    as_on_colab(monkeypatch)
    failed = SimpleNamespace(returncode=1, stderr="ERROR: ResolutionImpossible")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(RuntimeError, match=r"pip could not add evaluate==.*\n.*ResolutionImpossible"):
        install_missing()


def test_a_library_loaded_at_another_version_asks_for_a_restart(monkeypatch: Any) -> None:
    as_on_colab(monkeypatch, torch=torch.__version__, numpy="2.0.0")
    with pytest.raises(RuntimeError, match=r"numpy [\d.]+ is loaded and 2.0.0 is installed. Restart the session once"):
        check_environment()


def test_a_build_label_is_no_other_version(monkeypatch: Any, capsys: Any) -> None:
    as_on_colab(monkeypatch, torch=torch.__version__.partition("+")[0] + "+cu128")
    check_environment()
    assert capsys.readouterr().out == ""


def test_an_older_library_is_named(monkeypatch: Any, capsys: Any) -> None:
    as_on_colab(monkeypatch, torch=torch.__version__, pandas="2.0.3")
    check_environment()
    said = capsys.readouterr().out
    assert "pandas 2.0.3 is installed; the package is tested with " in said
    assert re.search(r'If it fails: %pip install "pandas\S*>=2\.2\S*", and restart the session', said)


def test_prepare_in_order(monkeypatch: Any, capsys: Any) -> None:
    done: list[Any] = []
    monkeypatch.setenv(colab.ON_COLAB, "release-colab-1")
    monkeypatch.setattr(colab, "install_missing", lambda: done.append("installed"))
    monkeypatch.setattr(colab, "check_environment", lambda: done.append("checked"))
    monkeypatch.setattr(colab, "mount_drive", lambda folder: done.append(folder))
    monkeypatch.setattr(colab, "forecasts", lambda: "forecasts")
    monkeypatch.setenv(budget.VARIABLE, "")
    prepare()
    assert done == ["installed", "checked"], "Drive is left alone"
    assert budget.minutes() == math.inf
    prepare("papers", budget_minutes=30)
    assert done[2:] == ["installed", "checked", "papers"] and budget.minutes() == 30
    assert capsys.readouterr().out.endswith("forecasts\n")
    with pytest.raises(SettingsError, match="must be a number of minutes"):
        prepare(budget_minutes=-1)


def test_the_first_cell_says_what_each_notebook_takes_and_downloads(monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setenv("RWKVGATE_PROFILE", "t4")
    monkeypatch.setattr(order.Step, "is_finished", property(lambda step: False))  # whatever lies in outputs/t4
    monkeypatch.setattr(plan, "predicted", lambda step, device: 60.0)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    head, *lines = colab.forecasts().splitlines()
    assert head.startswith("profile auto is t4 here")
    assert [line.partition(",")[0] for line in lines] == ["01_setup", "02_finetune", "03_evaluate", "04_ablations"]
    for line in lines:
        assert re.search(r"\d+ of \d+ steps are missing: about [\d:]+, as counted for a Tesla T4", line)
        assert "downloads RWKV/v6-Finch-1B6-HF (3.2 GB), the first documents of roneneldan/TinyStories" in line
    assert "2 of 2 steps are missing: about 2:00" in lines[0] and "3 of 3 steps are missing: about 3:00" in lines[1]


def test_the_first_cell_forecasts_without_a_gpu_too(monkeypatch: Any) -> None:
    monkeypatch.setenv("RWKVGATE_PROFILE", "smoke")
    monkeypatch.setattr(order.Step, "is_finished", property(lambda step: False))  # whatever lies in outputs/smoke
    monkeypatch.setattr(plan, "predicted", lambda step, device: 1.0)
    assert colab.forecasts().count("as counted for two cores of a CPU; downloads nothing") == 4


def gpu(monkeypatch: Any, capability: tuple[int, int], name: str, memory: int) -> None:
    """A machine with this GPU, in torch's eyes."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: name)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda *_: SimpleNamespace(total_memory=memory))
    # It counts emulation, so nothing may ask it.
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)


@pytest.mark.parametrize(
    ("capability", "name", "memory", "kind"),
    [((7, 5), "Tesla T4", 15_828_320_256, "float16"), ((9, 0), "NVIDIA H200", 150_000_000_000, "bfloat16")],
)
def test_the_gpu_s_line(monkeypatch: Any, capability: tuple[int, int], name: str, memory: int, kind: str) -> None:
    gpu(monkeypatch, capability, name, memory)
    said = gpu_summary()
    shown = ".".join(map(str, capability))
    assert f"{name}, compute capability {shown}, {memory / 2**30:.1f} GiB; torch {torch.__version__}, CUDA" in said
    assert f"Half precision here is {kind}" in said


def test_no_gpu_s_line(monkeypatch: Any) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu_summary().startswith(f"No GPU: torch {torch.__version__}") and "Profile cpu fits" in gpu_summary()


@pytest.mark.parametrize("profile", ["t4", "gpu"])
def test_a_gpu_s_profile_without_a_gpu_is_one_error_at_once(monkeypatch: Any, profile: str, tmp_path: Path) -> None:
    from rwkvgate.experiment.open_run import open_run

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SettingsError, match=f"profile '{profile}' needs a GPU.*profile 'cpu' fits"):
        open_run(profile=profile, run_dir=str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    for fits in ("cpu", "smoke"):
        settings.require_hardware(fits)
    gpu(monkeypatch, (7, 5), "Tesla T4", 2**34)
    settings.require_hardware(profile)


def test_stamp_writes_one_place_into_all(tmp_path: Path) -> None:
    for name in ("pyproject.toml", "README.md", "CITATION.cff"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    project = (tmp_path / "pyproject.toml").read_text()
    version = release(ROOT)[1:]
    project = project.replace(slug(ROOT), "somebody/fork").replace(f'version = "{version}"', 'version = "7.0.0"', 1)
    (tmp_path / "pyproject.toml").write_text(project)
    (tmp_path / "notebooks").mkdir()
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        (tmp_path / "notebooks" / path.name).write_text(path.read_text())
    assert len(stamp(tmp_path)) == 7 and stamp(tmp_path) == []
    for path in (tmp_path / "notebooks").glob("*.ipynb"):
        text = path.read_text()
        assert f"github/somebody/fork/blob/v7.0.0/notebooks/{path.name}" in text and slug(ROOT) not in text
        cells = {cell["id"]: cell for cell in json.loads(text)["cells"]}
        assert "".join(cells["install"]["source"]) == install_cell("somebody/fork", "v7.0.0")
        assert cells["install"]["metadata"] == INSTALL_METADATA
        assert len(cells) == len(json.loads((ROOT / "notebooks" / path.name).read_text())["cells"])
