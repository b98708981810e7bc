"""The explorer: every view of a model's gates over a text, as widgets or as one page without a kernel."""

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
    """Interactive view of a model's gates: type a text, look at every layer, clamp a gate, compare losses and
    continuations.

    A notebook displays it at the end of a cell. Several explorers may share a model and a kernel.

    Args:
        model: a patched model; for an unpatched one the widget lists the arms that have gates.
        tokenizer: of the model.
        text: at the start.
        arms: further models by name, or functions that load one at its first use.
        name: of `model` among the arms.

    Raises:
        ValueError: `arms` has an entry called `name`.

    Example:
        >>> from rwkvgate import GateConfig, Rwkv6Config, Rwkv6ForCausalLM, Rwkv6Tokenizer, patch
        >>> config = Rwkv6Config(hidden_size=32, num_hidden_layers=2, head_size=16)
        >>> model = patch(Rwkv6ForCausalLM(config), GateConfig.preset("enhanced"))
        >>> page = GateExplorer(model, Rwkv6Tokenizer(), "Once upon a time").to_html(title="Two gates")
        >>> "<title>Two gates</title>" in page
        True
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
        """The widgets, made at their first use.

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
        """The chosen reading as one self-contained page: every view, a layer slider, values on hover, no network.

        Args:
            path: file that the page is written to, atomically; None writes none.
            title: of the page.

        Raises:
            ValueError: the model has no gate.
        """
        session, choice = self.session, self.session.choice
        require_gates(session.model(choice.arm))
        reading, other = session.reading(choice.arm, choice.text, choice.clamp), None
        left, right = session.sides()
        if left != right and left[2] == choice.clamp:  # a clamp alone has its own section
            other = (*session.names(), session.reading(*right))
        page = static_page(reading, title=title, effect=session.effect(), other=other)
        if path is not None:
            write_text(path, page)
        return page

    def _ipython_display_(self) -> None:
        from IPython.display import display

        display(self.widget)
