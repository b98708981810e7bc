"""The front end's modules as one script: what a widget and a single file can carry.

Each module of `explore/web` becomes a function that is called once and returns what the module exports.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from graphlib import TopologicalSorter
from importlib.resources import files

_IMPORT = re.compile(r'^import \{([^}]*)\} from "\./([\w-]+)\.js";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:async function|function\*?|class|const|let) +(\w+))", re.MULTILINE)


@cache
def web_file(name: str) -> str:
    """The text of a file of `explore/web`.

    Raises:
        FileNotFoundError: there is no such file, as in a wheel that was built without the web files.
    """
    path = files("rwkvgate.explore").joinpath("web", name)
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise FileNotFoundError(
            f"the explorer's file {path} is missing: this installation of rwkvgate is not complete; install it again"
        ) from None


def bundle(*entries: str, others: Mapping[str, str] | None = None) -> str:
    """One script of modules and all that they import, in which `$name` holds the exports of the module `name`.

    Args:
        entries: names of modules, without ".js".
        others: sources of modules, by name, that are not in `explore/web`.

    Raises:
        ValueError: a module imports or exports in a form other than `import { a } from "./b.js";` and
            `export` before a declaration, or imports go round in a circle.

    Example:
        >>> print(bundle("a", others={"a": 'import { b } from "./c.js";\\n', "c": "export const b = 1;\\n"}), end="")
        const $c = (() => {
        const b = 1;
        return { b };
        })();
        const $a = (() => {
        const { b } = $c;
        return {  };
        })();
    """
    sources: dict[str, str] = {}
    waiting, needs = [*entries], dict[str, list[str]]()
    while waiting:
        name = waiting.pop()
        if name not in sources:
            sources[name] = (others or {}).get(name) or web_file(f"{name}.js")
            needs[name] = [match[2] for match in _IMPORT.finditer(sources[name])]
            waiting += needs[name]
    return "".join(_module(name, sources[name]) for name in TopologicalSorter(needs).static_order())


def _module(name: str, source: str) -> str:
    names = [match[1] for match in _EXPORT.finditer(source)]
    body = _EXPORT.sub("", _IMPORT.sub(_destructured, source))
    if left := re.search(r"^(?:import|export)\b.*", body, re.MULTILINE):
        raise ValueError(f"{name}.js has {left[0]!r}; a bundle takes named imports of ./x.js and exported declarations")
    return f"const ${name} = (() => {{\n{body}return {{ {', '.join(names)} }};\n}})();\n"


def _destructured(found: re.Match[str]) -> str:
    return f"const {{{found[1].replace(' as ', ': ')}}} = ${found[2]};\n"
