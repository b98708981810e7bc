"""transformers' own tests of a model: fetched for the installed version, and imported as a package of that name.

The source distribution on PyPI holds the tests that all models share, but not those that they import from subfolders
(generation, export, the settings of every configuration). Those come from the repository's archive on GitHub at the tag
of the version; where it does not answer, empty stand-ins take their place, and `missing` names what is then not run.

As a program it fetches what is not there yet and prints the folder. `TRANSFORMERS_TESTS` names a folder to be used
instead, such as the one in a checkout of transformers.
"""

from __future__ import annotations

import importlib
import io
import os
import subprocess
import sys
import tarfile
import types
import urllib.request
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any

VARIABLE = "TRANSFORMERS_TESTS"
PACKAGE = "transformers_tests"
ARCHIVE = "https://codeload.github.com/huggingface/transformers/tar.gz/refs/tags/v{version}"
HOME = Path(__file__).resolve().parents[2] / "build" / "transformers"
LIBRARIES = HOME / "lib"
FOLDERS = ("tests", "tests/generation", "tests/exporters", "tests/utils", "utils/test_module")
"""The folders of an archive whose modules are taken."""
STAND_INS: dict[str, dict[str, Any]] = {
    "generation.test_utils": {"GenerationTesterMixin": type("GenerationTesterMixin", (), {})},
    "exporters.test_export": {"ExportTesterMixin": type("ExportTesterMixin", (), {})},
    "utils.test_configuration_utils": {
        "config_common_kwargs": {"return_dict": False, "output_hidden_states": True, "dtype": "float16"}
    },
}
"""Modules that the shared tests import and the source distribution lacks, by what takes their place."""


def fetch() -> Path:
    """The folder of the tests of the installed transformers, fetched where it is not there yet.

    pip checks the source distribution against the hash that PyPI states. A file that both sources hold must be the
    same in both.

    Raises:
        CalledProcessError: PyPI gave no source distribution of that version.
        ValueError: the archive on GitHub is of another version.
    """
    _pip("install", "--no-deps", "--upgrade", "--target", str(LIBRARIES), "parameterized==0.9.0")
    if given := os.environ.get(VARIABLE):
        return Path(given).resolve()
    release = version("transformers")
    tests, distribution = HOME / release / "tests", HOME / f"transformers-{release}.tar.gz"
    if not distribution.is_file():
        _pip("download", "--no-deps", "--no-binary", "transformers", "--dest", str(HOME), f"transformers=={release}")
    shared = _modules(distribution.read_bytes())
    files = {PurePosixPath("tests/__init__.py"): b""}
    if missing(tests):
        try:
            with urllib.request.urlopen(ARCHIVE.format(version=release), timeout=15) as answer:
                files |= _modules(answer.read())
        except OSError as error:
            print(f"GitHub gave no archive of transformers {release}: {error}", file=sys.stderr)
    if differing := sorted(str(path) for path in files.keys() & shared.keys() if files[path] != shared[path]):
        raise ValueError(f"{', '.join(differing)} differ between PyPI and GitHub")
    for path, content in (files | shared).items():
        target = tests.parent / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    return tests


def _pip(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", "--quiet", *arguments], check=True, stdout=sys.stderr)


def _modules(content: bytes) -> dict[PurePosixPath, bytes]:
    """The test modules in an archive by their paths, without its top folder."""
    found = {}
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        for member in archive.getmembers():
            path = PurePosixPath(*PurePosixPath(member.name).parts[1:])
            file = archive.extractfile(member) if path.suffix == ".py" and str(path.parent) in FOLDERS else None
            if file is not None:
                found[path] = file.read()
    return found


def missing(tests: Path) -> list[str]:
    """The modules that the shared tests import and the folder lacks, as paths below it."""
    paths = (f"{name.replace('.', '/')}.py" for name in STAND_INS)
    return [path for path in paths if not (tests / path).is_file()]


def load(tests: Path) -> dict[str, types.ModuleType]:
    """Import the shared tests from a folder, with stand-ins for the modules that it lacks.

    Returns:
        The modules test_modeling_common, test_configuration_common, generation.test_utils by name.
    """
    sys.path.append(str(LIBRARIES))
    package = types.ModuleType(PACKAGE)
    package.__path__ = [str(tests)]
    sys.modules[PACKAGE] = package
    for path in missing(tests):
        name = path.removesuffix(".py").replace("/", ".")
        folder, _, _ = name.partition(".")
        parent = sys.modules.setdefault(f"{PACKAGE}.{folder}", types.ModuleType(f"{PACKAGE}.{folder}"))
        parent.__path__ = [str(tests / folder)]
        module = types.ModuleType(f"{PACKAGE}.{name}")
        vars(module).update(STAND_INS[name])
        sys.modules[module.__name__] = module
    names = ("generation.test_utils", "test_modeling_common", "test_configuration_common")
    return {name: importlib.import_module(f"{PACKAGE}.{name}") for name in names}


if __name__ == "__main__":
    try:
        print(fetch())
    except (subprocess.CalledProcessError, ValueError) as error:
        sys.exit(f"the tests of transformers cannot be had: {error}")
