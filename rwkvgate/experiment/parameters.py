"""Parameters as they arrive: YAML files, and what papermill is given and injects into a notebook.

Nothing is converted on the way, and nothing that arrives as data is executed.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from rwkvgate.gate.validation import DEEPEST, SettingsError, shown, unknown_name, values_of

MARK = "# Parameters"
"""First line of the cell that papermill injects."""
NAMES = ("arm", "seed", "profile", "run_dir", "model", "corpus", "gate", "training", "evaluation")
"""The parameters of every notebook."""
LARGEST_FILE = 2**20
"""Bytes of a parameters file, at most."""


class Loader(yaml.SafeLoader):
    """YAML's plain values, without the conversions that a reader does not expect."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys: set[Any] = set()
        for name, _ in node.value:
            if name.tag == "tag:yaml.org,2002:merge":
                continue
            key = name.value if isinstance(name, yaml.ScalarNode) else repr(name)
            if key in keys:
                raise SettingsError(
                    f"key {shown(key)} stands twice (line {name.start_mark.line + 1}); it must stand once"
                )
            keys.add(key)
        return super().construct_mapping(node, deep)

    def whole_number(self, node: yaml.ScalarNode) -> int:
        """An integer that is written as one: YAML reads 010 as 8 and 1:30 as 90."""
        text = node.value.replace("_", "").removeprefix("+")
        digits = text.removeprefix("-")
        if not digits.isdecimal() or (digits[0] == "0" and digits != "0") or len(digits) > 100:
            line = node.start_mark.line + 1
            raise SettingsError(f"{shown(node.value)} (line {line}) is no plain whole number; write decimal digits")
        return int(text)


Loader.add_constructor("tag:yaml.org,2002:int", Loader.whole_number)


def read_parameters(path: Path) -> dict[Any, Any]:
    """The mapping of a YAML file of parameters, as written.

    Raises:
        FileNotFoundError: there is no such file.
        SettingsError: it cannot be read, is too large, not UTF-8, not YAML or no mapping, or a key stands twice.
    """
    try:
        data = yaml.load(_content(path), Loader=Loader)
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from None
    except RecursionError:
        raise SettingsError(f"{path} is nested too deeply; settings have at most {DEEPEST} levels") from None
    except yaml.YAMLError as error:
        raise SettingsError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    except (ValueError, TypeError) as error:  # such as a date that does not exist
        raise SettingsError(f"{path} holds a value that YAML cannot represent: {error}") from None
    if not isinstance(data, dict):
        raise SettingsError(f"{path} holds a {type(data).__name__}; it must be a mapping of settings")
    return data


def _content(path: Path) -> str:
    try:
        if path.exists() and not path.is_file():
            raise SettingsError("it is no file; it must be a YAML file of settings")
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise SettingsError(f"it cannot be read: {error.strerror}") from None
    if len(content) > LARGEST_FILE:
        raise SettingsError(f"it holds more than {LARGEST_FILE:,} bytes, which no file of settings does")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise SettingsError(f"it is not UTF-8 text (byte {error.start}); it must be a YAML file") from None


def plain_name(name: str) -> str:
    """A path or name as given; no character of it is invisible, and no part too long for a file system.

    Raises:
        ValueError: it holds a control or format character, white space at an end, or a part of more than 200 bytes.
    """
    if bad := [c for c in name if not c.isprintable()]:
        raise ValueError(f"it holds U+{ord(bad[0]):04X}; allowed are printable characters, without line ends")
    if name != name.strip():
        raise ValueError("it begins or ends with a space; names must not")
    if len(name.encode()) > 2000 or any(len(part.encode()) > 200 for part in name.split("/")):
        raise ValueError("it is too long; allowed are 2000 bytes, and 200 between two slashes")
    return name


def check_parameters(parameters: Mapping[Any, Any]) -> None:
    """Refuse, before a notebook runs, parameters that papermill would not write into it as plain assignments.

    papermill writes keys as they are, and values of other types than JSON's without quoting them: either could be code.

    Raises:
        SettingsError: names the parameter and the most similar known one, or the value.
    """
    for name in parameters:
        if name not in NAMES:
            raise unknown_name("parameter", name, NAMES)
    for value in values_of(parameters, "the parameters"):
        if isinstance(value, Mapping):
            if odd := [key for key in value if not isinstance(key, str)]:
                raise SettingsError(f"the parameters hold the key {shown(odd[0])}; keys must be strings")
        elif not isinstance(value, str | int | float | list | None):
            raise SettingsError(
                f"the parameters hold {shown(value)} ({type(value).__name__}); allowed are strings, numbers, true, "
                "false, null, lists and mappings"
            )


def refuse_unknown(cells: Iterable[str]) -> None:
    """Refuse injected cells that hold anything but assignments of plain values to known parameters.

    Such a cell has been executed by then, if papermill's own command line injected it, and the message says so.

    Args:
        cells: sources of the executed cells.

    Raises:
        SettingsError: names the parameter and the most similar known one, or shows the line.
    """
    for cell in cells:
        if not cell.startswith(MARK):
            continue
        try:
            statements: list[ast.stmt] = ast.parse(cell).body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            raise _is_code(cell.removeprefix(MARK)) from None
        names = []
        for statement in statements:
            match statement:
                case ast.Assign(targets=[ast.Name(id=name)], value=value) if _is_plain(value):
                    names.append(name)
                case _:
                    raise _is_code(ast.unparse(statement))
        for name in names:
            if name not in NAMES:
                raise unknown_name("parameter", name, NAMES)


def _is_code(source: str) -> SettingsError:
    return SettingsError(
        f"papermill injected {shown(source.strip())}, which is code and no parameter, and this kernel has run it: a "
        "key or value of what it was given is hostile or damaged. Allowed are plain values of " + ", ".join(NAMES)
    )


def _is_plain(node: ast.expr) -> bool:
    """Whether an expression is a value as papermill writes it: a literal, or float("nan") and the infinities."""
    match node:
        case ast.Constant() | ast.UnaryOp(op=ast.USub(), operand=ast.Constant()):
            return True
        case ast.Call(func=ast.Name(id="float"), args=[ast.Constant(value="nan" | "inf" | "-inf")], keywords=[]):
            return True
        case ast.List(elts=parts):
            return all(map(_is_plain, parts))
        case ast.Dict(keys=keys, values=values):
            return all(key is not None and _is_plain(key) for key in keys) and all(map(_is_plain, values))
    return False
