"""What a user of the explorer has chosen, what that shows, and the way back: everything but the widgets."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import PreTrainedModel

from rwkvgate.explore.effects import ClampEffect, Held, clamp_effect, clamped
from rwkvgate.explore.gated_text import GatedText, read_text
from rwkvgate.explore.html import (
    View,
    clamp_view,
    compare_view,
    distribution_view,
    extremes_view,
    layers_view,
    surprisal_view,
    text_view,
)
from rwkvgate.explore.observing import gate_names, require_gates
from rwkvgate.explore.summaries import MEASURES

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

EXAMPLES = {
    "a story (the paper's prompt)": "Once upon a time, in a distant land...",
    "an essay (the paper's prompt)": "In the realm of artificial intelligence...",
    "two people": "Mira kept a silver key, and her brother wanted it. When she slept, he looked for it in her coat.",
    "other scripts": "Hello, мир, שלום, 世界, 😀!",
}
"""Texts to begin with."""
VIEWS = {
    "text": "the text, coloured",
    "layers": "layers and tokens",
    "distribution": "how the values are spread",
    "extremes": "highest and lowest",
    "surprisal": "gate and surprisal",
    "clamp": "the effect of the clamp",
    "compare": "side by side",
}
"""Views by name, and what they are called."""
LONGEST = 1000
"""Tokens of a continuation, at most."""
CACHED = 6
"""Readings and effects that are kept."""

Progress = Callable[[int, int], None]
Stop = Callable[[], bool]
Models = Mapping[str, PreTrainedModel | Callable[[], PreTrainedModel]]
"""Arms by name: models, or functions that load one when it is first asked for."""


@dataclass(frozen=True)
class Choice:
    """Everything that a user can set.

    Attributes:
        what: one of `MEASURES`, or a channel.
        held: the clamp; None for none. A view under a clamp shows what the model does under it.
        other_arm, other_text: what the chosen arm and text are compared with; "" for the same.
        temperature: of the continuation; 0 is greedy.
        length: tokens of the continuation.
    """

    text: str
    arm: str
    layer: str = "1"
    what: str | int = "mean"
    view: str = "text"
    held: Held | None = None
    other_arm: str = ""
    other_text: str = ""
    temperature: float = 0.0
    length: int = 40


class Session:
    """One user's choices over some arms, each change undoable, with the readings that they need.

    Args:
        arms: models by name; the first is chosen.
        tokenizer: what all of them read.
        text: the text to begin with.

    Raises:
        ValueError: there is no arm.
    """

    def __init__(self, arms: Models, tokenizer: PreTrainedTokenizerBase, text: str = "") -> None:
        if not arms:
            raise ValueError("there is no arm; at least one model is needed")
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
        """Whether there is a change to take back."""
        return bool(self._before)

    @property
    def can_redo(self) -> bool:
        """Whether there is a change that was taken back."""
        return bool(self._after)

    def change(self, **changes: Any) -> Choice:
        """Set fields of the choice; one step of undo. What is refused changes nothing.

        A layer that another arm lacks becomes its first.

        Raises:
            ValueError: a value that is not allowed; the message says what is.
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
        """The choice before the last change; the same where there is none."""
        if self._before:
            self._after.append(self.choice)
            self.choice = self._before.pop()
        return self.choice

    def redo(self) -> Choice:
        """The change that was taken back last, made again."""
        if self._after:
            self._before.append(self.choice)
            self.choice = self._after.pop()
        return self.choice

    def model(self, arm: str) -> PreTrainedModel:
        """The model of an arm, loaded where that is not done yet."""
        found = self._arms[arm]
        if not isinstance(found, PreTrainedModel):
            self._arms[arm] = found = found()
        return found

    def labels(self, arm: str) -> list[str]:
        """What the gates of an arm are called; none for an arm without gates."""
        return [name.label for name in gate_names(self.model(arm))]

    def is_read(self) -> bool:
        """Whether `view` needs nothing but what was read before."""
        return all(key in self._cache for key in self._keys())

    def view(self, progress: Progress | None = None, stopped: Stop | None = None) -> View:
        """What the choice shows.

        Raises:
            ValueError: the arm has no gate; the message says which arms have one. Or a channel is out of range.
            Stopped: `stopped`, asked between windows of the text, said so.
        """
        choice = self.choice
        require_gates(self.model(choice.arm))
        if choice.view == "clamp":
            return clamp_view(self.effect(progress, stopped))
        if choice.view == "compare":
            left, right = (self.reading(*side, progress, stopped) for side in self.sides())
            return compare_view(left, right, choice.layer, choice.what, self.names())
        first = self.reading(choice.arm, choice.text, choice.held, progress, stopped)
        if choice.view in ("text", "extremes", "surprisal"):
            shown = {"text": text_view, "extremes": extremes_view, "surprisal": surprisal_view}[choice.view]
            return shown(first, choice.layer, choice.what)
        return layers_view(first, choice.what) if choice.view == "layers" else distribution_view(first)

    def sides(self) -> tuple[tuple[str, str, Held | None], tuple[str, str, Held | None]]:
        """Arm, text and clamp of the two sides of a comparison. The clamp is on both sides, but where nothing else
        differs: there the first has none."""
        choice = self.choice
        arm, text = choice.other_arm or choice.arm, choice.other_text or choice.text
        same = (arm, text) == (choice.arm, choice.text)
        return (choice.arm, choice.text, None if same else choice.held), (arm, text, choice.held)

    def names(self) -> tuple[str, str]:
        """What the two sides of a comparison are called."""
        (arm, text, _), (other_arm, other_text, held) = self.sides()
        if arm == other_arm:
            if text != other_text:
                return "this text", "the other text"
            return arm, f"{arm}, {held}" if held else arm
        return (arm, other_arm) if text == other_text else (f"{arm}, this text", f"{other_arm}, the other text")

    def reading(
        self,
        arm: str,
        text: str,
        held: Held | None = None,
        progress: Progress | None = None,
        stopped: Stop | None = None,
    ) -> GatedText:
        """A text as an arm reads it, under a clamp or none."""

        def read() -> GatedText:
            model = self.model(arm)
            with clamped(model, held):
                return read_text(model, self.tokenizer, text, progress=progress, stopped=stopped)

        found = self._cached((arm, text, held), read)
        assert isinstance(found, GatedText)
        return found

    def effect(self, progress: Progress | None = None, stopped: Stop | None = None) -> ClampEffect:
        """What the chosen clamp does; without one, the chosen layer held at 0."""
        choice, held = self.choice, self._held()

        def measured() -> ClampEffect:
            return clamp_effect(
                self.model(choice.arm),
                self.tokenizer,
                choice.text,
                held,
                new_tokens=choice.length,
                progress=progress,
                stopped=stopped,
            )

        found = self._cached((choice.arm, choice.text, held, choice.length), measured)
        assert isinstance(found, ClampEffect)
        return found

    def _held(self) -> Held:
        return self.choice.held or Held(int(self.choice.layer.split()[0]), 0.0)

    def _keys(self) -> list[Any]:
        choice = self.choice
        if choice.view == "clamp":
            return [(choice.arm, choice.text, self._held(), choice.length)]
        return list(self.sides()) if choice.view == "compare" else [(choice.arm, choice.text, choice.held)]

    def _cached(self, key: Any, make: Callable[[], GatedText | ClampEffect]) -> GatedText | ClampEffect:
        found = self._cache.get(key) or make()
        with self._lock:  # a picture that is no longer wanted may still be in the making
            self._cache[key] = found
            self._cache.move_to_end(key)
            while len(self._cache) > CACHED:
                self._cache.popitem(last=False)
        return found

    def _check(self, choice: Choice) -> None:
        for name, found, allowed in (
            ("arm", choice.arm, self.arms),
            ("other_arm", choice.other_arm, ["", *self.arms]),
            ("view", choice.view, list(VIEWS)),
        ):
            if found not in allowed:
                raise ValueError(f"{name} is {found!r}; allowed are {', '.join(map(repr, allowed))}")
        if isinstance(choice.what, str) and choice.what not in MEASURES:
            raise ValueError(f"the measure is {choice.what!r}; allowed are {', '.join(MEASURES)}, or a channel")
        channels = self.model(choice.arm).config.hidden_size
        if not isinstance(choice.what, str) and not 0 <= choice.what < channels:
            raise ValueError(f"channel is {choice.what}; allowed are 0 to {channels - 1}")
        if not (choice.temperature >= 0 and np.isfinite(choice.temperature)):
            raise ValueError(f"temperature is {choice.temperature}; it must be a finite number of at least 0")
        if not 1 <= choice.length <= LONGEST:
            raise ValueError(f"length is {choice.length}; allowed are 1 to {LONGEST} tokens")
        if choice.held is not None and not 0 <= choice.held.value <= 1:
            raise ValueError(f"the clamp is at {choice.held.value}; a gate's value must be 0 to 1")
