"""Validated configuration: immutable models, and errors that name the key, its value and the values allowed."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

Model = TypeVar("Model", bound=BaseModel)


class SettingsError(ValueError):
    """Invalid settings: the message names the key, its value and the values allowed."""


def explain(model: type[BaseModel], problem: Any, where: str) -> str:
    """One of pydantic's errors in words that a user can act on."""
    path = [str(part) for part in problem["loc"]]
    if path[:2] in (["model", "sizes"], ["model", "checkpoint"]) and len(path) > 1:
        del path[1]  # pydantic's name for one of the two forms of a model, which is no key
    key = ".".join(path)
    if problem["type"] == "extra_forbidden":
        return unknown("key", key, sorted(_keys(model)), where)
    if problem["type"] == "missing":
        return f"missing key {key!r} in {where}"
    value, message = problem["input"], problem["msg"].removeprefix("Value error, ")
    if not path or isinstance(value, Mapping):
        return f"{key + ': ' if key else ''}{message} (in {where})"
    return f"{key} is {value!r} ({type(value).__name__}) in {where}: {message}"


def _keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield prefix + name
        parts = get_args(field.annotation)
        for part in (field.annotation, *parts, *(get_args(part)[0] for part in parts if get_args(part))):
            if isinstance(part, type) and issubclass(part, BaseModel):
                yield from _keys(part, f"{prefix}{name}.")


def unknown(kind: str, given: object, allowed: tuple[str, ...] | list[str], where: str = "") -> str:
    """The message that a name is not allowed, with the closest allowed one if any is close.

    Example:
        >>> unknown("gating", "sigmod", ["fixed", "sigmoid"])
        "unknown gating 'sigmod'; did you mean 'sigmoid'?"
    """
    message = f"unknown {kind} {given!r}" + (f" in {where}" if where else "")
    name = str(given)  # YAML's names may be numbers
    close = difflib.get_close_matches(name, allowed, n=1)
    if close:
        return f"{message}; did you mean {close[0]!r}?"
    parent = name.rpartition(".")[0]
    siblings = [key for key in allowed if key.rpartition(".")[0] == parent]
    return f"{message}; allowed: {', '.join(siblings or allowed)}"


def unknown_name(kind: str, given: str, allowed: tuple[str, ...] | list[str]) -> SettingsError:
    """The error with the message of `unknown`."""
    return SettingsError(unknown(kind, given, allowed))


class Frozen(BaseModel):
    """Base of every settings section: immutable, strict types, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def validate(model: type[Model], data: Mapping[str, Any], where: str) -> Model:
    """A `model` with these values, strictly typed.

    Args:
        where: what an error calls the source of the data.

    Raises:
        SettingsError: one line for each key that is unknown, missing or wrong.
    """
    try:
        return model.model_validate(_tuples(data))
    except ValidationError as error:
        lines = [explain(model, problem, where) for problem in error.errors()]
        raise SettingsError("\n".join(lines)) from None


def _tuples(data: Any) -> Any:
    # YAML and papermill have lists only; strict pydantic requires tuples for fixed-length fields.
    if isinstance(data, Mapping):
        return {key: _tuples(value) for key, value in data.items()}
    return tuple(data) if isinstance(data, list) else data
