"""The explorer without its widgets: a user's choices, their history, and the readings and views that they need."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import PreTrainedModel

from rwkvgate.explore.effects import ClampEffect, clamp_effect
from rwkvgate.explore.gated_text import GatedText, read_text
from rwkvgate.explore.interventions import Clamp, applied
from rwkvgate.explore.observing import gate_names, require_gates
from rwkvgate.explore.summaries import TOKEN_MEASURES
from rwkvgate.explore.views import (
    View,
    clamp_view,
    compare_view,
    distribution_view,
    extremes_view,
    layers_view,
    surprisal_view,
    text_view,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

EXAMPLES = {
    "a story (the paper's prompt)": "Once upon a time, in a distant land...",
    "an essay (the paper's prompt)": "In the realm of artificial intelligence...",
    "two people": "Mira kept a silver key, and her brother wanted it. When she slept, he looked for it in her coat.",
    "other scripts": "Hello, мир, שלום, 世界, 😀!",
}
"""Example texts by name."""
VIEWS = {
    "text": "the text, coloured",
    "layers": "layers and tokens",
    "distribution": "how the values are spread",
    "extremes": "highest and lowest",
    "surprisal": "gate and surprisal",
    "clamp": "the effect of the clamp",
    "compare": "side by side",
}
"""Labels of the views by name."""
LONGEST = 1000
"""Maximum tokens of a continuation."""
LONGEST_TEXT = 200_000
"""Maximum characters of a text: a tiny model on one core reads as many in ten seconds."""
CACHED = 6
"""Readings and effects in the cache."""

Progress = Callable[[int, int], None]
Stop = Callable[[], bool]
Models = Mapping[str, PreTrainedModel | Callable[[], PreTrainedModel]]
"""Arms by name: models, or functions that load one at its first use."""


@dataclass(frozen=True)
class Choice:
    """The settings of the explorer's controls.

    Attributes:
        measure: one of `TOKEN_MEASURES`, or a channel.
        clamp: applies to every view; None for none.
        other_arm, other_text: the other side of a comparison; "" is the same arm or text.
        temperature: of the continuation; 0 is greedy.
        length: tokens of the continuation.
    """

    text: str
    arm: str
    layer: str = "1"
    measure: str | int = "mean"
    view: str = "text"
    clamp: Clamp | None = None
    other_arm: str = ""
    other_text: str = ""
    temperature: float = 0.0
    length: int = 40


class Session:
    """One user's choices over several arms, with undo and a cache of readings.

    Args:
        arms: models by name, the first chosen at the start.
        tokenizer: of all arms.
        text: at the start.

    Raises:
        ValueError: `arms` is empty, or the text is too long or no text.
    """

    def __init__(self, arms: Models, tokenizer: PreTrainedTokenizerBase, text: str = "") -> None:
        if not arms:
            raise ValueError("there is no arm; at least one model is needed")
        _check_text(text)
        self.tokenizer = tokenizer
        self._arms = dict(arms)
        self._cache: OrderedDict[Any, GatedText | ClampEffect] = OrderedDict()
        self._lock = Lock()
        self.choice = Choice(text, next(iter(arms)))
        self._before: list[Choice] = []
        self._after: list[Choice] = []

    @property
    def arms(self) -> list[str]:
        """The arms' names."""
        return list(self._arms)

    @property
    def can_undo(self) -> bool:
        """Whether there is a change to undo."""
        return bool(self._before)

    @property
    def can_redo(self) -> bool:
        """Whether there is a change to redo."""
        return bool(self._after)

    def change(self, **changes: Any) -> Choice:
        """Set fields of the choice, as one step of undo. A layer that a new arm lacks becomes its first.

        Raises:
            ValueError: a value is not allowed; nothing changes.
        """
        choice = replace(self.choice, **changes)
        if choice == self.choice:
            return choice
        self._check(choice)
        labels = self.labels(choice.arm)
        if labels and choice.layer not in labels:
            if "layer" in changes:
                raise ValueError(f"layer is {choice.layer!r}; allowed are {', '.join(labels)}")
            choice = replace(choice, layer=labels[0])
        self._before.append(self.choice)
        self._after.clear()
        self.choice = choice
        return choice

    def undo(self) -> Choice:
        """Return to the choice before the last change, if there is one."""
        if self._before:
            self._after.append(self.choice)
            self.choice = self._before.pop()
        return self.choice

    def redo(self) -> Choice:
        """Make the last undone change again, if there is one."""
        if self._after:
            self._before.append(self.choice)
            self.choice = self._after.pop()
        return self.choice

    def model(self, arm: str) -> PreTrainedModel:
        """The model of an arm, loaded at its first use."""
        model = self._arms[arm]
        if not isinstance(model, PreTrainedModel):
            self._arms[arm] = model = model()
        return model

    def labels(self, arm: str) -> list[str]:
        """The labels of an arm's gates."""
        return [name.label for name in gate_names(self.model(arm))]

    def is_read(self) -> bool:
        """Whether `view` finds all its readings in the cache."""
        return all(key in self._cache for key in self._keys())

    def view(self, progress: Progress | None = None, stopped: Stop | None = None) -> View:
        """The view of the choice.

        Raises:
            ValueError: the arm has no gate, or the channel is out of range.
            Stopped: `stopped` returned true.
        """
        choice = self.choice
        require_gates(self.model(choice.arm))
        if choice.view == "clamp":
            return clamp_view(self.effect(progress, stopped))
        if choice.view == "compare":
            left, right = (self.reading(*side, progress, stopped) for side in self.sides())
            return compare_view(left, right, choice.layer, choice.measure, self.names())
        first = self.reading(choice.arm, choice.text, choice.clamp, progress, stopped)
        if choice.view in ("text", "extremes", "surprisal"):
            shown = {"text": text_view, "extremes": extremes_view, "surprisal": surprisal_view}[choice.view]
            return shown(first, choice.layer, choice.measure)
        return layers_view(first, choice.measure) if choice.view == "layers" else distribution_view(first)

    def sides(self) -> tuple[tuple[str, str, Clamp | None], tuple[str, str, Clamp | None]]:
        """Arm, text and clamp of the two sides of a comparison. Both have the clamp; if nothing else differs, the
        second alone."""
        choice = self.choice
        arm, text = choice.other_arm or choice.arm, choice.other_text or choice.text
        same = (arm, text) == (choice.arm, choice.text)
        return (choice.arm, choice.text, None if same else choice.clamp), (arm, text, choice.clamp)

    def names(self) -> tuple[str, str]:
        """Labels of the two sides of a comparison."""
        (arm, text, _), (other_arm, other_text, clamp) = self.sides()
        if arm == other_arm:
            if text != other_text:
                return "this text", "the other text"
            return arm, f"{arm}, {clamp}" if clamp else arm
        return (arm, other_arm) if text == other_text else (f"{arm}, this text", f"{other_arm}, the other text")

    def reading(
        self,
        arm: str,
        text: str,
        clamp: Clamp | None = None,
        progress: Progress | None = None,
        stopped: Stop | None = None,
    ) -> GatedText:
        """An arm's reading of a text, with a clamp or without."""

        def read() -> GatedText:
            model = self.model(arm)
            with applied(model, clamp):
                return read_text(model, self.tokenizer, text, progress=progress, stopped=stopped)

        gated = self._cached((arm, text, clamp), read)
        assert isinstance(gated, GatedText)
        return gated

    def effect(self, progress: Progress | None = None, stopped: Stop | None = None) -> ClampEffect:
        """The effect of the chosen clamp; without one, of the chosen layer clamped to 0."""
        choice, clamp = self.choice, self._clamp()

        def measured() -> ClampEffect:
            return clamp_effect(
                self.model(choice.arm),
                self.tokenizer,
                choice.text,
                clamp,
                new_tokens=choice.length,
                progress=progress,
                stopped=stopped,
            )

        effect = self._cached((choice.arm, choice.text, clamp, choice.length), measured)
        assert isinstance(effect, ClampEffect)
        return effect

    def _clamp(self) -> Clamp:
        return self.choice.clamp or Clamp(int(self.choice.layer.split()[0]), 0.0)

    def _keys(self) -> list[Any]:
        choice = self.choice
        if choice.view == "clamp":
            return [(choice.arm, choice.text, self._clamp(), choice.length)]
        return list(self.sides()) if choice.view == "compare" else [(choice.arm, choice.text, choice.clamp)]

    def _cached(self, key: Any, make: Callable[[], GatedText | ClampEffect]) -> GatedText | ClampEffect:
        entry = self._cache.get(key) or make()
        with self._lock:  # another thread may still be making a view that the user has left
            self._cache[key] = entry
            self._cache.move_to_end(key)
            while len(self._cache) > CACHED:
                self._cache.popitem(last=False)
        return entry

    def _check(self, choice: Choice) -> None:
        _check_text(choice.text)
        _check_text(choice.other_text)
        for name, value, allowed in (
            ("arm", choice.arm, self.arms),
            ("other_arm", choice.other_arm, ["", *self.arms]),
            ("view", choice.view, list(VIEWS)),
        ):
            if value not in allowed:
                raise ValueError(f"{name} is {value!r}; allowed are {', '.join(map(repr, allowed))}")
        if isinstance(choice.measure, str) and choice.measure not in TOKEN_MEASURES:
            raise ValueError(
                f"the measure is {choice.measure!r}; allowed are {', '.join(TOKEN_MEASURES)}, or a channel"
            )
        channels = self.model(choice.arm).config.hidden_size
        if not isinstance(choice.measure, str) and not 0 <= choice.measure < channels:
            raise ValueError(f"channel is {choice.measure}; allowed are 0 to {channels - 1}")
        if not (choice.temperature >= 0 and np.isfinite(choice.temperature)):
            raise ValueError(f"temperature is {choice.temperature}; it must be a finite number of at least 0")
        if not 1 <= choice.length <= LONGEST:
            raise ValueError(f"length is {choice.length}; allowed are 1 to {LONGEST} tokens")
        if choice.clamp is not None:
            choice.clamp.check(self.model(choice.arm))


def _check_text(text: str) -> None:
    if not isinstance(text, str):
        raise ValueError(f"the text is of type {type(text).__name__}; it must be a string")
    if len(text) > LONGEST_TEXT:
        raise ValueError(f"the text has {len(text):,} characters; at most {LONGEST_TEXT:,} are read")
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise ValueError("the text holds half of a surrogate pair, which no file of text can; leave it out")
