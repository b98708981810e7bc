"""The widget of a rater: a prompt, two continuations, three answers, each written at once."""

from __future__ import annotations

import time
from collections.abc import Callable
from html import escape

import ipywidgets as widgets

from rwkvgate.experiment.rating.pairs import (
    ANSWERS,
    FOLDER,
    QUESTION,
    SCRIPTED,
    Pair,
    Rating,
    check_name,
    read_answers,
    table,
)
from rwkvgate.explore.views import continuation, style
from rwkvgate.gate.validation import SettingsError, shown
from rwkvgate.rwkv6.files import write_text

SETTLED = 0.5
"""Seconds that a pair must have been on the screen before it is answered."""


class Rater:
    """One rater's answers. The file is read before each answer and written after it, so nothing is lost or mixed.

    Raises:
        SettingsError: the name is not plain or a script's, or the file is damaged or of another set.
    """

    def __init__(self, rating: Rating, name: str) -> None:
        if check_name(name).startswith(SCRIPTED):
            raise SettingsError(f"the rater's name is {shown(name)}; names that begin with {SCRIPTED!r} are programs'")
        self.rating, self.path = rating, rating.folder / FOLDER / f"{name}.csv"
        _ = self.answers

    @property
    def answers(self) -> dict[int, str]:
        """The answers by pair, in the order they were given."""
        return read_answers(self.path, self.rating.name, len(self.rating.pairs)) if self.path.exists() else {}

    @property
    def next(self) -> int | None:
        """The first pair without an answer; None if all have one."""
        answers = self.answers
        return next((pair for pair in range(1, len(self.rating.pairs) + 1) if pair not in answers), None)

    def answer(self, pair: int, answer: str) -> None:
        """Write the answer to a pair.

        Raises:
            SettingsError: it has one already, perhaps from another window.
            OSError: the disk is full.
        """
        answers = self.answers
        if pair in answers:
            raise SettingsError(f"pair {pair} is answered already, in another window or program; nothing was changed")
        self._write(answers | {pair: answer})

    def undo(self) -> None:
        """Remove the last answer, if there is one."""
        if answers := self.answers:
            answers.popitem()
            self._write(answers)

    def _write(self, answers: dict[int, str]) -> None:
        write_text(self.path, table(self.rating.name, answers))


class RatingPanel:
    """The widget by which a rater answers; it goes on where the rater stopped. Tab and Space press the buttons too.

    A notebook displays it at the end of a cell.

    Args:
        rating: the set of pairs.
        rater: a plain name, of small letters, digits and hyphens.

    Attributes:
        root: the widget to display.

    Raises:
        SettingsError: as `Rater`.
    """

    def __init__(self, rating: Rating, rater: str) -> None:
        self.rater = Rater(rating, rater)
        self._pair: int | None = None
        self._since = 0.0
        self.progress = widgets.IntProgress(min=0, max=len(rating.pairs))
        self.place, self.texts, self.message = (widgets.HTML(layout=widgets.Layout(width="98%")) for _ in range(3))
        self.buttons = {answer: widgets.Button(description=words) for answer, words in ANSWERS.items()}
        self.undo = widgets.Button(description="Undo", tooltip="take the last answer back")
        for answer, button in self.buttons.items():
            button.on_click(lambda _, answer=answer: self._do(lambda: self._answer(answer)))
        self.undo.on_click(lambda _: self._do(self.rater.undo))
        row = widgets.HBox([*self.buttons.values(), self.undo], layout=widgets.Layout(flex_flow="row wrap"))
        self.root = widgets.VBox([self.progress, self.place, self.texts, row, self.message])
        self._show()

    def _answer(self, answer: str) -> None:
        # A second click, perhaps of a busy kernel's queue, was meant for the pair before.
        if self._pair is not None and time.monotonic() - self._since >= SETTLED:
            self.rater.answer(self._pair, answer)

    def _do(self, change: Callable[[], None]) -> None:
        try:
            self.message.value = ""
            change()
        except (SettingsError, OSError) as error:  # a button has no caller that could show it
            self._say(error)
        self._show()

    def _say(self, error: Exception) -> None:
        self.message.value = f'<div class="rg"><p class="error" role="alert">{escape(str(error))}</p></div>'

    def _show(self) -> None:
        try:
            before, done, self._pair = self._pair, len(self.rater.answers), self.rater.next
        except (SettingsError, OSError) as error:
            self._say(error)
            return
        if before is not None and self._pair != before:
            self._since = time.monotonic()
        total = len(self.rater.rating.pairs)
        words = (
            f"All {total} pairs are answered." if self._pair is None else f"Pair {self._pair} of {total}. {QUESTION}"
        )
        self.progress.value, self.undo.disabled = done, not done
        for button in self.buttons.values():
            button.disabled = self._pair is None
        self.place.value = f'<div class="rg"><p role="status">{words}</p></div>'
        self.texts.value = "" if self._pair is None else _html(self.rater.rating.pairs[self._pair - 1])

    def _ipython_display_(self) -> None:
        from IPython.display import display

        display(self.root)


def _html(pair: Pair) -> str:
    sides = "".join(f"<div><h3>{side}</h3>{continuation(text)}</div>" for side, text in (("A", pair.a), ("B", pair.b)))
    body = f'<h3>Prompt</h3>{continuation(pair.prompt)}<div class="columns">{sides}</div>'
    return f'<div class="rg"><style>{style()}</style>{body}</div>'
