"""The explorer: a text, a model, and every view of its gate, as widgets or as one page without a kernel."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedModel

from rwkvgate.explore.observing import require_gates
from rwkvgate.explore.page import static_page
from rwkvgate.explore.session import EXAMPLES, Models, Session
from rwkvgate.rwkv6.files import write_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from rwkvgate.explore.panel import Panel


class GateExplorer:
    """Type a text, see every layer's gate over its tokens, hold a layer's gate, and watch loss and continuation.

    In a notebook the last line of a cell shows it. Several explorers may share a model and a kernel.

    Args:
        model: a patched model; an unpatched one is answered, in the widget, with the arms that have gates.
        tokenizer: of the model.
        text: the text to begin with.
        arms: further arms by name, as models or as functions that load one when it is first chosen.
        name: what `model` is called among the arms.

    Raises:
        ValueError: an arm of `arms` has the name of the model.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        text: str = next(iter(EXAMPLES.values())),
        *,
        arms: Models | None = None,
        name: str = "model",
    ) -> None:
        if name in (arms or {}):
            raise ValueError(f"name is {name!r}, which an arm has too; the names must differ")
        self.session = Session({name: model, **(arms or {})}, tokenizer, text)

    @cached_property
    def panel(self) -> Panel:
        """The widgets, made when they are first asked for.

        Raises:
            ImportError: ipywidgets is not installed.
        """
        from rwkvgate.explore.panel import Panel

        return Panel(self.session)

    @property
    def widget(self) -> Any:
        """The widget to display."""
        return self.panel.root

    def to_html(self, path: str | Path | None = None, *, title: str = "The gate") -> str:
        """One self-contained page of what is chosen: every view, a layer slider, values on hover, no network.

        Args:
            path: where it is written, whole or not at all; None for nowhere.
            title: of the page.

        Raises:
            ValueError: the model carries no gate.
        """
        session, choice = self.session, self.session.choice
        require_gates(session.model(choice.arm))
        reading, other = session.reading(choice.arm, choice.text, choice.held), None
        left, right = session.sides()
        if left != right and left[2] == choice.held:  # a clamp alone has its own section
            other = (*session.names(), session.reading(*right))
        page = static_page(reading, title=title, effect=session.effect(), other=other)
        if path is not None:
            write_text(path, page)
        return page

    def _ipython_display_(self) -> None:
        from IPython.display import display

        display(self.widget)
