"""Copies of the notebooks with the outputs that their deterministic cells must give, for nbval to compare.

The committed notebooks carry no outputs, and nbval compares with what a notebook carries. So the expected
outputs stand in expected.json, by cell id, and `make test-notebooks` runs nbval over the copies.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CHECKED = "nbval-check-output"


def main(folder: Path) -> None:
    """Write the copies; a checked cell without an expectation, or the other way round, is an error."""
    expected = json.loads((Path(__file__).parent / "expected.json").read_text(encoding="utf-8"))
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        checked = {cell["id"]: cell for cell in notebook["cells"] if CHECKED in cell["metadata"].get("tags", [])}
        wanted = expected[path.stem]
        if checked.keys() != wanted.keys():
            sys.exit(f"{path.name}: cells tagged {CHECKED} are {sorted(checked)}; expected.json has {sorted(wanted)}")
        for name, cell in checked.items():
            cell["execution_count"] = 1  # nbval takes a cell with outputs and no count for a mistake
            cell["outputs"] = [{"name": "stdout", "output_type": "stream", "text": wanted[name].splitlines(True)}]
        (folder / path.name).write_text(json.dumps(notebook, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main(ROOT / "build" / "notebooks")
