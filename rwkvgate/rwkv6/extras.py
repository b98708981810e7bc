"""Packages that an extra of this one installs: an import that fails names the extra."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def extra(name: str) -> Iterator[None]:
    """A block of imports, for which the extra `name` installs what is missing.

    Raises:
        ModuleNotFoundError: a package is not installed; the message names it and the extra.

    Example:
        >>> with extra("dev"):
        ...     import no_such_package
        Traceback (most recent call last):
        ModuleNotFoundError: no_such_package is not installed; the extra `dev` brings it: pip install "rwkvgate[dev]"
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        if package == "rwkvgate":
            raise
        sentence = f'{package} is not installed; the extra `{name}` brings it: pip install "rwkvgate[{name}]"'
        raise ModuleNotFoundError(sentence, name=error.name) from None
