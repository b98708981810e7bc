"""Seeded choices that come out the same on every Python version and platform."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")


class Draw:
    """Choices from one seed.

    Only `random.Random.random()` is used: of all its methods it alone is promised to repeat its
    sequence in later versions of Python.
    """

    def __init__(self, seed: str) -> None:
        self._source = random.Random(seed)

    def index(self, count: int) -> int:
        """A whole number from 0 to `count` - 1, each as likely."""
        return int(self._source.random() * count)

    def pick(self, items: Sequence[Item]) -> Item:
        """One of `items`, which must not be empty."""
        return items[self.index(len(items))]

    def sample(self, items: Sequence[Item], count: int) -> list[Item]:
        """`count` different items in random order.

        Raises:
            ValueError: there are fewer items than that.
        """
        if count > len(items):
            raise ValueError(f"cannot draw {count} of {len(items)} items")
        left = list(items)
        return [left.pop(self.index(len(left))) for _ in range(count)]
