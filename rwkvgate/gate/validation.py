"""Validated configuration: immutable models, and errors that name the key, what was found and what is allowed."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

Model = TypeVar("Model", bound=BaseModel)


class SettingsError(ValueError):
    """Bad settings: the message names the key, what was found and what is allowed."""


def share_of(batch: int, processes: int, key: str = "training.batch_size") -> int:
    """Rows of a batch that each process takes.

    Raises:
        SettingsError: they do not come out even.
    """
    if batch % processes:
        allowed = [n for n in range(1, batch + 1) if batch % n == 0]
        raise SettingsError(
            f"{key} is {batch}, of all processes together, and {processes} processes cannot share it evenly; "
            f"their number must be {', '.join(map(str, allowed[:-1]))}{' or ' if allowed[:-1] else ''}{allowed[-1]}"
        )
    return batch // processes


def explain(model: type[BaseModel], problem: Any, where: str) -> str:
    """One of pydantic's errors in words a user can act on."""
    path = [str(part) for part in problem["loc"]]
    if path[:2] in (["model", "sizes"], ["model", "checkpoint"]) and len(path) > 1:
        del path[1]  # which of the two kinds of model it is, no key
    key = ".".join(path)
    if problem["type"] == "extra_forbidden":
        return unknown("key", key, sorted(_keys(model)), where)
    if problem["type"] == "missing":
        return f"missing key {key!r} in {where}"
    found = problem["input"]
    said = problem["msg"].removeprefix("Value error, ")
    if not path or isinstance(found, Mapping):
        return f"{key + ': ' if key else ''}{said} (in {where})"
    return f"{key} is {found!r} ({type(found).__name__}) in {where}: {said}"


def _keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield prefix + name
        parts = get_args(field.annotation)
        for kind in (field.annotation, *parts, *(get_args(part)[0] for part in parts if get_args(part))):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from _keys(kind, f"{prefix}{name}.")


def unknown(kind: str, found: object, allowed: tuple[str, ...] | list[str], where: str = "") -> str:
    """That a name is none of those allowed, with the nearest one where one is near."""
    message = f"unknown {kind} {found!r}" + (f" in {where}" if where else "")
    name = str(found)  # YAML's names may be numbers
    close = difflib.get_close_matches(name, allowed, n=1)
    if close:
        return f"{message}; did you mean {close[0]!r}?"
    parent = name.rpartition(".")[0]
    siblings = [key for key in allowed if key.rpartition(".")[0] == parent]
    return f"{message}; allowed: {', '.join(siblings or allowed)}"


def unknown_name(kind: str, found: str, allowed: tuple[str, ...] | list[str]) -> SettingsError:
    """The error for a name that is none of those allowed, with the nearest one suggested."""
    return SettingsError(unknown(kind, found, allowed))


class Frozen(BaseModel):
    """Base of every settings section: immutable, strict types, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def validate(model: type[Model], data: Mapping[str, Any], where: str) -> Model:
    """`model` built from `data`, with pydantic's errors put in words a user can act on.

    Raises:
        SettingsError: one line for each key that is unknown, missing or wrong.
    """
    try:
        return model.model_validate(_tuples(data))
    except ValidationError as error:
        lines = [explain(model, problem, where) for problem in error.errors()]
        raise SettingsError("\n".join(lines)) from None


def _tuples(data: Any) -> Any:
    # YAML and papermill know lists only; strict pydantic wants tuples for fixed-length fields.
    if isinstance(data, Mapping):
        return {key: _tuples(value) for key, value in data.items()}
    return tuple(data) if isinstance(data, list) else data
