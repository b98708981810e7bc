"""A JavaScript module of `web/` and all that it imports as one script, for pages that are a single file."""

from __future__ import annotations

import re
from pathlib import Path

WEB = Path(__file__).parent / "web"
_IMPORT = re.compile(r'^import (?:\{[^}]*\} from )?"\./([\w/.-]+)";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=async |function |class |const )", re.MULTILINE)


def bundle(*names: str, folder: Path = WEB) -> str:
    """The modules and those that they import, each once and after what it imports, without `import` and `export`.

    Top-level names of all modules share one scope, so they must differ; imports must be of the form
    `import { a, b } from "./file.js";`, without renaming.

    Raises:
        ValueError: two modules have a top-level name in common.

    Example:
        >>> [line for line in bundle("worker.js").splitlines() if line.startswith(("import ", "export "))]
        []
    """
    parts: dict[str, str] = {}

    def add(name: str) -> None:
        if name in parts:
            return
        source = (folder / name).read_text(encoding="utf-8")
        for imported in _IMPORT.findall(source):
            add(imported)
        parts[name] = _EXPORT.sub("", _IMPORT.sub("", source))

    for name in names:
        add(name)
    homes: dict[str, str] = {}
    for name, source in parts.items():
        for top in re.findall(r"^(?:async )?(?:function|class|const|let) (\w+)", source, re.MULTILINE):
            if homes.setdefault(top, name) != name:
                raise ValueError(f"{homes[top]} and {name} both have {top} at their top; names must differ")
    return "\n".join(parts.values())
