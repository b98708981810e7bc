"""The explorer's widgets: the controls and views of a session, in core ipywidgets, versions 7.7 and 8."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import Any

import ipywidgets as widgets

from rwkvgate.explore.effects import stream
from rwkvgate.explore.interventions import Clamp
from rwkvgate.explore.reading import Stopped
from rwkvgate.explore.session import EXAMPLES, LONGEST, VIEWS, Session
from rwkvgate.explore.summaries import TOKEN_MEASURES
from rwkvgate.explore.views import continuation, measure_name, style
from rwkvgate.explore.worker import Worker

CHANNEL = "channel"
"""The entry for a single channel in the list of measures."""


def _named(names: dict[str, str]) -> list[tuple[str, str]]:
    return [(label, name) for name, label in names.items()]


class Panel:
    """Widgets over a session. A view that needs a reading is made in a thread.

    Attributes:
        root: the widget to display.
        picture, continued, message: the view, the continuation, and errors or notes.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self._filling = False
        self._reader, self._writer = Worker(), Worker()
        choice, wide = session.choice, widgets.Layout(width="98%")
        self.example = widgets.Dropdown(options=[("examples…", ""), *EXAMPLES.items()], description="Begin with")
        self.text = widgets.Textarea(
            value=choice.text, description="Text", layout=wide, rows=4, continuous_update=False
        )
        self.arm = widgets.Dropdown(options=session.arms, value=choice.arm, description="Arm")
        self.layer = widgets.SelectionSlider(options=["1"], description="Layer")
        measures = {name: measure_name(name) for name in TOKEN_MEASURES} | {CHANNEL: "one channel"}
        self.measure = widgets.Dropdown(options=_named(measures), description="Shown")
        self.channel = widgets.BoundedIntText(min=0, max=2**20, description="Channel", continuous_update=False)
        self.view = widgets.Dropdown(options=_named(VIEWS), description="View")
        self.clamp = widgets.Dropdown(options=[("none", "none"), ("this layer", "one"), ("every layer", "all")])
        self.clamp.description = "Clamp"
        self.level = widgets.FloatSlider(
            min=0, max=1, step=0.05, value=0, description="to value", continuous_update=False
        )
        self.other_arm = widgets.Dropdown(options=[("the same", ""), *((a, a) for a in session.arms)])
        self.other_arm.description = "Beside: arm"
        self.other_text = widgets.Text(description="and text", placeholder="the same", layout=wide)
        # A reading waits until the user has finished; a change of layer needs none and follows the slider.
        for control in (self.text, self.level, self.other_text):
            control.continuous_update = False
        self.temperature = widgets.FloatSlider(min=0, max=2, step=0.1, value=0, description="Temperature")
        self.temperature.style.description_width = "initial"
        self.length = widgets.IntSlider(min=1, max=LONGEST, value=choice.length, description="Length")
        self.run = widgets.Button(description="Continue", button_style="primary", tooltip="write a continuation")
        self.stop = widgets.Button(description="Stop", tooltip="stop reading and writing")
        self.undo = widgets.Button(description="Undo", tooltip="undo the last change")
        self.redo = widgets.Button(description="Redo", tooltip="make the change again")
        self.progress = widgets.IntProgress(min=0, max=1, description="", layout=widgets.Layout(visibility="hidden"))
        self.message, self.picture, self.continued = (widgets.HTML(layout=wide) for _ in range(3))
        self.root = self._arrange()
        self._connect()
        self._fill()
        self.refresh()

    def refresh(self) -> None:
        """Show the session's view: at once if its readings are cached, otherwise from a thread."""
        self._reader.stop()
        if self.session.is_read():
            self._show(lambda: False)
        else:
            self._say(f"reading {len(self.session.choice.text):,} characters…")
            self._reader.start(self._show)

    def wait(self, seconds: float = 60.0) -> bool:
        """Wait for the view and the continuation; returns whether both are done."""
        return self._reader.wait(seconds) and self._writer.wait(seconds)

    def _arrange(self) -> Any:
        rows = [
            [self.example, self.arm, self.view],
            [self.layer, self.measure, self.channel],
            [self.clamp, self.level],
            [self.other_arm, self.other_text],
            [self.temperature, self.length],
            [self.run, self.stop, self.undo, self.redo, self.progress],
        ]
        boxes = [widgets.HBox(row, layout=widgets.Layout(flex_flow="row wrap")) for row in rows]
        self._beside = boxes[3]
        return widgets.VBox([self.text, *boxes, self.message, self.picture, self.continued])

    def _connect(self) -> None:
        def on(widget: Any, change: Callable[[Any], dict[str, Any]]) -> None:
            widget.observe(lambda event: self._changed(change(event["new"])), names="value")

        on(self.text, lambda value: {"text": value})
        on(self.arm, lambda value: {"arm": value})
        on(self.layer, lambda value: {"layer": value, "clamp": self._clamp(value)})
        on(self.measure, lambda value: {"measure": self.channel.value if value == CHANNEL else value})
        on(self.channel, lambda value: {"measure": value} if self.measure.value == CHANNEL else {})
        on(self.view, lambda value: {"view": value})
        on(self.clamp, lambda _: {"clamp": self._clamp(self.layer.value)})
        on(self.level, lambda _: {"clamp": self._clamp(self.layer.value)})
        on(self.other_arm, lambda value: {"other_arm": value})
        on(self.other_text, lambda value: {"other_text": value})
        on(self.temperature, lambda value: {"temperature": round(value, 3)})
        on(self.length, lambda value: {"length": value})
        self.example.observe(self._example, names="value")
        self.run.on_click(lambda _: self.write())
        self.stop.on_click(lambda _: self.halt())
        self.undo.on_click(lambda _: self._step(self.session.undo))
        self.redo.on_click(lambda _: self._step(self.session.redo))

    def _clamp(self, layer: str) -> Clamp | None:
        if self.clamp.value == "none":
            return None
        return Clamp(int(layer.split()[0]) if self.clamp.value == "one" else None, round(self.level.value, 3))

    def _changed(self, changes: dict[str, Any]) -> None:
        """Handle a change that the user made."""
        if self._filling or not changes:
            return
        try:
            self.session.change(**changes)
        except Exception as error:
            self._fill()
            self._say(_words(error), error=True)
            return
        self._fill()
        if not changes.keys() <= {"temperature", "length"}:
            self.refresh()

    def _example(self, event: dict[str, Any]) -> None:
        if event["new"]:
            self._changed({"text": event["new"]})
            self.example.value = ""

    def _step(self, move: Callable[[], Any]) -> None:
        move()
        self._fill()
        self.refresh()

    def _fill(self) -> None:
        """Set the controls to the session's choice."""
        choice, self._filling = self.session.choice, True
        try:
            self.text.value, self.arm.value, self.view.value = choice.text, choice.arm, choice.view
            labels = self._labels()
            if tuple(self.layer.options) != tuple(labels):
                self.layer.options = labels
            self.layer.value = choice.layer if choice.layer in labels else labels[0]
            single = not isinstance(choice.measure, str)
            self.measure.value = CHANNEL if single else choice.measure
            if single:
                self.channel.value = choice.measure
            self.channel.disabled = not single
            self.clamp.value = "none" if choice.clamp is None else "all" if choice.clamp.layer is None else "one"
            if choice.clamp is not None:
                self.level.value = choice.clamp.value
            self.level.disabled = choice.clamp is None
            self.other_arm.value, self.other_text.value = choice.other_arm, choice.other_text
            self._beside.layout.display = "" if choice.view == "compare" else "none"
            self.temperature.value, self.length.value = choice.temperature, choice.length
            self.undo.disabled, self.redo.disabled = not self.session.can_undo, not self.session.can_redo
        finally:
            self._filling = False

    def _labels(self) -> list[str]:
        try:
            return self.session.labels(self.session.choice.arm) or ["1"]
        except Exception as error:  # an arm that cannot be loaded must not break the widget
            self._say(_words(error), error=True)
            return ["1"]

    def _show(self, stopped: Callable[[], bool]) -> None:
        try:
            view = self.session.view(self._advance, stopped)
        except Stopped:
            return
        except Exception as error:  # a thread has no caller that could show the error
            self.picture.value = ""
            self._say(_words(error), error=True)
            return
        finally:
            self.progress.layout.visibility = "hidden"
        if not stopped():
            self.picture.value = f'<div class="rg"><style>{style()}</style>{view}</div>'
            self._say("")

    def _advance(self, done: int, total: int) -> None:
        self.progress.max, self.progress.value = total, done
        self.progress.layout.visibility = "visible"

    def write(self) -> None:
        """Generate a continuation of the text and show it as it grows."""
        choice = self.session.choice

        def job(stopped: Callable[[], bool]) -> None:
            head = "Continuation" + (f", {choice.clamp}" if choice.clamp else "")
            try:
                self._continued(head, "")
                for text in stream(
                    self.session.model(choice.arm),
                    self.session.tokenizer,
                    choice.text,
                    clamp=choice.clamp,
                    new_tokens=choice.length,
                    temperature=choice.temperature,
                    stopped=stopped,
                ):
                    self._continued(head, text)
            except Exception as error:  # as above
                self._say(_words(error), error=True)

        self._writer.start(job)

    def halt(self) -> None:
        """Stop reading and generating; the continuation so far stays."""
        busy = self._reader.running or self._writer.running
        self._reader.stop()
        self._writer.stop()
        self._say("stopped" if busy else "nothing is running")

    def _continued(self, head: str, text: str) -> None:
        self.continued.value = f'<div class="rg"><h3>{escape(head)}</h3>{continuation(text) if text else ""}</div>'

    def _say(self, words: str, error: bool = False) -> None:
        kind = "error" if error else "note"
        self.message.value = (
            f'<div class="rg"><p class="{kind}" role="status">{escape(words)}</p></div>' if words else ""
        )


def _words(error: Exception) -> str:
    """The message of an error, with its type unless it is a ValueError."""
    return str(error) if isinstance(error, ValueError) and str(error) else f"{type(error).__name__}: {error}"
