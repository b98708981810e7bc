"""The explorer as a widget: the front end, with the kernel engine behind anywidget's messages."""

from __future__ import annotations

from typing import Any

import anywidget
import traitlets

from rwkvgate.explore.bundle import bundle, web_file
from rwkvgate.explore.kernel import KernelEngine
from rwkvgate.explore.picture import picture

VIEW = "application/vnd.jupyter.widget-view+json"


class ExplorerWidget(anywidget.AnyWidget):
    """The widget over an engine. Its display carries a PNG too, for where no widget can run.

    Attributes:
        about: what `KernelEngine.about` says.
        state: the user's choices, by which another view of the widget opens the same way.
    """

    _esm = f"{bundle('widget')}export default {{ render: $widget.render }};\n"
    _css = web_file("app.css")
    about = traitlets.Dict().tag(sync=True)
    state = traitlets.Dict().tag(sync=True)

    def __init__(self, engine: KernelEngine) -> None:
        super().__init__(about=engine.about())
        self.engine = engine
        self._picture: dict[str, str] | None = None
        self.on_msg(self._answer)

    def _answer(self, widget: Any, message: Any, buffers: Any) -> None:
        self.send(*self.engine.handle(message if isinstance(message, dict) else {}))

    # ipywidgets 7 would display the view alone.
    _ipython_display_ = None

    def _repr_mimebundle_(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """The view, and its first picture."""
        given = super()._repr_mimebundle_(**options)  # a tuple where Colab's metadata come with it
        shown, metadata = given if isinstance(given, tuple) else (given or {}, {})
        view = {VIEW: {"version_major": 2, "version_minor": 0, "model_id": self.model_id}}
        if self._picture is None:
            self._picture = picture(self.engine)
        return {**view, **shown, **self._picture}, metadata
