"""Parameters arrive as data: YAML without surprises, and nothing that papermill would write into a notebook as code."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import Any

import pytest

from rwkvgate.experiment.open_run import cells_so_far
from rwkvgate.experiment.parameters import NAMES, check_parameters, plain_name, read_parameters, refuse_unknown
from rwkvgate.experiment.settings import resolve
from rwkvgate.gate.validation import SettingsError

INJECTED = "# Parameters\n"


def test_the_names_are_those_of_the_settings() -> None:
    assert set(NAMES) == {"arm", "seed", *inspect.signature(resolve).parameters}


def test_a_file_is_read_as_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("seed: 7\nlarge: 1_000\nlow: -3\nrate: 1.0e-3\nrun_dir: '2026_11_24'\nboth: &a [1]\nagain: *a\n")
    assert read_parameters(path) == {
        "seed": 7, "large": 1000, "low": -3, "rate": 1e-3, "run_dir": "2026_11_24", "both": [1], "again": [1]
    }  # fmt: skip


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"seed: 1\nseed: 2\n", "key 'seed' stands twice (line 2); it must stand once"),
        (b"model:\n  steps: 1\n  'steps': 1\n", "key 'steps' stands twice"),
        (b"seed: 010", "'010' (line 1) is no plain whole number"),
        (b"seed: 1:30", "'1:30' (line 1) is no plain whole number"),
        (b"seed: 0x1F", "no plain whole number"),
        (b"seed: " + b"9" * 6000, "no plain whole number"),
        (b"seed: 2001-99-99", "cannot represent"),
        (b"\xff\xfe\x00", "not UTF-8 text (byte 0)"),
        (b"a: \x00", "not valid YAML"),
        (b"", "holds a NoneType; it must be a mapping"),
        (b"[1]", "holds a list; it must be a mapping"),
        (b"a: " + b"[" * 5000, "nested too deeply"),
        (b"a: !!python/object/apply:os.getcwd []", "not valid YAML"),
        (b"#" * (2**20 + 1), "more than 1,048,576 bytes"),
    ],
)
def test_a_file_that_holds_something_else_is_answered_in_one_line(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(content)
    with pytest.raises(SettingsError) as error:
        read_parameters(path)
    assert str(path) in str(error.value) and words in str(error.value) and "\n" not in str(error.value)


def test_what_is_no_file_is_answered_too(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name, words in ((".", "it is no file"), ("pipe", "it is no file"), ("loop", "cannot be read: Too many levels")):
        with pytest.raises(SettingsError, match=words):
            read_parameters(tmp_path / name)


@pytest.mark.parametrize(
    "name", ["a\nb", "a\0b", "a\x1b[2J", "\u202eabc", "\ud800", " a", "a ", "x" * 201, "x/" * 1001]
)
def test_names_that_cannot_be_seen_or_made_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"holds U\+|begins or ends with a space|too long"):
        plain_name(name)


@pytest.mark.parametrize("name", ["", "2026_11_24", "a b", "o'brien", "$(x);`y`", "-n", "猫/é", "~/x", "C:\\runs"])
def test_odd_names_that_can_be_seen_are_names(name: str) -> None:
    assert plain_name(name) == name


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"sed": 1}, "unknown parameter 'sed'; did you mean 'seed'"),
        ({"x = 1\nimport os\nos.abort()\ny": 1}, "unknown parameter 'x = 1"),
        ({3: 1}, "unknown parameter 3"),
        ({"model": {"checkpoint": b'"+evil()+"'}}, "(bytes); allowed are strings"),
        ({"gate": {"x": {1, 2}}}, "(set); allowed are strings"),
        ({"gate": {3: 1}}, "the key 3; keys must be strings"),
        ({"gate": {"x": [[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]}}, "16 levels deep"),
        ({"gate": {"x": [1] * 20_000}}, "at most 10,000 values"),
    ],
)
def test_parameters_that_papermill_would_write_as_code_are_refused(parameters: dict[Any, Any], words: str) -> None:
    with pytest.raises(SettingsError) as error:
        check_parameters(parameters)
    assert words in str(error.value)


def test_plain_parameters_pass() -> None:
    check_parameters({"seed": 1, "run_dir": "a\n$(x)", "model": {}, "corpus": {"splits": [0.8, None, True]}})


def test_known_parameters_and_other_cells_pass() -> None:
    values = "seed = -1\ngate = {'a': [1, -2.5, None, True, \"x\"], 'b': float('nan'), 'c': float('-inf')}\n"
    refuse_unknown(["", "steps = 3", f"{INJECTED}profile = 'smoke'\ntraining = {{'steps': 3}}\n", "print(seed)"])
    refuse_unknown([INJECTED, INJECTED + values])
    assert cells_so_far() == []


def test_a_misspelt_one_is_named_with_what_was_meant() -> None:
    with pytest.raises(SettingsError, match="unknown parameter 'traning'; did you mean 'training'"):
        refuse_unknown(["seed = 1", f"{INJECTED}seed = 2\ntraning = {{}}"])
    with pytest.raises(SettingsError, match="unknown parameter 'zzz'; allowed: arm"):
        refuse_unknown([f"{INJECTED}zzz = 2"])


@pytest.mark.parametrize(
    "code",
    [
        "import os",
        "x = 1\nimport os\ny = 3",
        "seed = print(1)",
        "seed = float('1')",
        "seed = __import__('os').getpid()",
        'model = {"checkpoint": "b\'"+evil+"\'"}',
        "seed = [i for i in range(3)]",
        "seed += 1",
        "seed, arm = 1, 2",
        "run.seed = 1",
        "print(1)",
        "!touch x\nseed = 1",
        "%%bash\nseed = 1",
        "seed = '\0'",
        "gate = {**{}}",
    ],
)
def test_a_cell_that_holds_code_is_said_to_have_run(code: str) -> None:
    with pytest.raises(SettingsError, match="which is code and no parameter, and this kernel has run it"):
        refuse_unknown([INJECTED + code])
