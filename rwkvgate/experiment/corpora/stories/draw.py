"""Seeded random choices, the same on every version of Python and every platform."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")


class Draw:
    """Random choices from one seed.

    It uses only `random.Random.random()`, the one method whose sequence Python promises to keep in later versions.
    """

    def __init__(self, seed: str) -> None:
        self._source = random.Random(seed)

    def index(self, count: int) -> int:
        """An integer from 0 to `count` - 1, all equally likely."""
        return int(self._source.random() * count)

    def pick(self, items: Sequence[Item]) -> Item:
        """One of `items`, which must not be empty."""
        return items[self.index(len(items))]

    def sample(self, items: Sequence[Item], count: int) -> list[Item]:
        """`count` different items in random order.

        Raises:
            ValueError: there are fewer items.
        """
        if count > len(items):
            raise ValueError(f"cannot draw {count} of {len(items)} items")
        left = list(items)
        return [left.pop(self.index(len(left))) for _ in range(count)]
