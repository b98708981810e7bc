"""That the benchmarks can run: what they share, and what they import of the library, is there."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.py")))
def test_a_benchmark_finds_what_it_imports(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    for other in FOLDER.glob("*.py"):  # others of these names may have been imported
        monkeypatch.delitem(sys.modules, other.stem, raising=False)
    assert importlib.import_module(name).__file__ == str(FOLDER / f"{name}.py")
