"""What make and snakemake are given reaches the run as it was typed, or is refused before a job starts."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rwkvgate.gate.validation import SettingsError
from rwkvgate.workflow.graph import changes, given, open_graph

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = [
    "o'brien",
    "$(touch pwned)",
    "$(shell touch pwned)",
    "$(error no)",
    "`touch pwned`",
    "a;touch pwned",
    'a"b',
    "a b",
    "a\nb",
    "-n",
    "$$HOME",
    "${HOME}",
    "x#y",
    "a\\",
    "*",
    "2026_11_24",
]
RECORDER = "#!/bin/sh\nfor word; do printf '%s\\0' \"$word\"; done\n"
"""A python that shows the words it is given, each with a zero byte behind it."""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The Makefile in a folder of its own, with `RECORDER` as the environment's python."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(RECORDER)
    python.chmod(0o755)
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".venv" / ".installed").touch()
    return tmp_path


def words(folder: Path, *arguments: str, **environment: str) -> list[str]:
    """The words that make gives to python."""
    kept = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL")}
    command = ["make", "--silent", *arguments]
    done = subprocess.run(command, cwd=folder, env=kept | environment, capture_output=True, check=True, timeout=60)
    return done.stdout.decode().split("\0")[:-1]


def test_make_installs_by_hashes(checkout: Path) -> None:
    (checkout / ".venv" / ".installed").unlink()
    plain = words(checkout, "install", PYTHON=sys.executable)
    assert {"--require-hashes", "requirements.lock", "torch"} <= set(plain)


@pytest.mark.parametrize("value", HOSTILE)
def test_make_passes_values_on_as_they_are(checkout: Path, value: str) -> None:
    names = ("ARMS", "SEEDS", "STUDIES", "RUN_DIR")
    settings = [f"{name.lower()}={value}" for name in names]
    assert words(checkout, "reproduce", *(f"{name}={value}" for name in names))[-4:] == settings
    assert words(checkout, "reproduce", **dict.fromkeys(names, value))[-4:] == settings
    assert words(checkout, "compare", f"A={value}", f"B={value}")[-3:] == ["--", value, value]
    assert words(checkout, "explore", f"RUN_DIR={value}")[-2:] == ["--", value]
    assert words(checkout, "search", f"PROFILE={value}")[-1] == f"--profile={value}"
    assert f"--profile=profiles/{value}" in words(checkout, "sweep", f"CLUSTER={value}")
    machine = words(checkout, "sweep", f"CORES={value}", f"MEMORY={value}", f"GPUS={value}")
    assert {f"--cores={value}", f"mem_mb={value}", f"gpu={value}"} <= set(machine)
    assert f"--numprocesses={value}" in words(checkout, "test-fast", f"WORKERS={value}")
    assert not (checkout / "pwned").exists()


def test_make_takes_a_python_as_one_name(checkout: Path) -> None:
    (checkout / ".venv" / ".installed").unlink()
    with pytest.raises(subprocess.CalledProcessError) as error:
        words(checkout, "install", "PYTHON=python3; touch pwned")
    assert b"not found" in error.value.stderr and not (checkout / "pwned").exists()


def test_make_gives_defaults_and_nothing_that_is_empty(checkout: Path) -> None:
    found = words(checkout, "reproduce", "RUN_DIR=")
    assert found[-5:] == ["--config", "profile=cpu", "-m", "rwkvgate.workflow.graph", "profile=cpu"]
    assert "gpu=1" in found
    assert int(next(word for word in found if word.startswith("--cores=")).removeprefix("--cores=")) >= 1
    assert words(checkout, "reproduce", PROFILE="smoke")[-1] == "profile=smoke"
    assert words(checkout, "explore") == ["-m", "rwkvgate.workflow.app"]


def test_values_are_those_that_were_typed() -> None:
    config = {"run_dir": 20261124, "seeds": 5, "profile": None}
    assert given(config, ["run_dir=2026_11_24", "seeds=5", "profile="]) == {"run_dir": "2026_11_24", "seeds": "5"}
    assert given({"seeds": 5, "studies": True}, []) == {"seeds": 5, "studies": True}  # from a file of snakemake's
    with pytest.raises(SettingsError, match="unknown key 'profil' in --config; did you mean 'profile'"):
        given({"profil": "smoke"}, ["profil=smoke"])


def test_arms_seeds_and_studies() -> None:
    assert changes({}) == {}
    assert changes({"arms": "enhanced, fixed-gate,enhanced"}) == {"arms": ["base", "enhanced", "fixed-gate"]}
    assert changes({"seeds": "5", "studies": "OFF"}) == {"seeds": 5, "studies": False}
    assert changes({"seeds": 5, "studies": True}) == {"seeds": 5, "studies": True}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seeds": "1.9"}, "seeds is '1.9'; it must be a whole number from 1 to 1000"),
        ({"seeds": "1e3"}, "seeds is '1e3'"),
        ({"seeds": "0"}, "seeds is '0'"),
        ({"seeds": "1_0"}, "seeds is '1_0'"),
        ({"seeds": "٣"}, "seeds is '٣'"),
        ({"seeds": "1" * 10**5}, "seeds is '1111"),
        ({"studies": "of"}, "studies is 'of'; it must be on or off"),
        ({"arms": ","}, "arms is ','; it must be all, or arms with commas"),
        ({"arms": "enhancd"}, "unknown arm 'enhancd'; did you mean 'enhanced'"),
        ({"profile": "smok"}, "unknown profile 'smok'; did you mean 'smoke'"),
        ({"run_dir": 20261124}, "run_dir is 20261124 (int)"),
        ({"run_dir": "~nobody-at-all"}, "no home folder"),
        ({"run_dir": "/dev"}, "no manifest.json: it is no run folder"),
        *(({"run_dir": f"/tmp/x{c}y"}, "the run graph takes no path with") for c in "'\"`$\\{}"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as error:
        open_graph({"profile": "smoke"} | settings)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_the_folder_is_looked_at_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "file").touch()
    for name, message in (
        ("loop", "cannot be used: Too many levels"),
        ("file/run", "is no folder"),
        (".", "no manifest.json: it is no run folder"),
    ):
        with pytest.raises(SettingsError, match=message):
            open_graph({"profile": "smoke", "run_dir": str(tmp_path / name)})
    run = open_graph({"profile": "smoke", "run_dir": str(tmp_path / "a b;c&(d)*~é猫" / "new")})
    assert run.folder.name == "new" and sorted(path.name for path in tmp_path.iterdir()) == ["file", "loop"]


def test_snakemake_says_it_without_a_traceback() -> None:
    plainly = ["--cores", "1", "--dry-run", "--nolock"]
    command = [sys.executable, "-m", "snakemake", *plainly, "--config", "profile=smoke", "seeds=1.9"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "Traceback" not in done.stderr and "line " not in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 2, done.stderr


def test_a_read_only_run_folder_is_refused_before_any_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = {"profile": "smoke", "run_dir": str(tmp_path)}
    open_graph(run)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(SettingsError, match="cannot be written to; the notebooks, opened by hand, read a finished run"):
        open_graph(run)
