"""The explorer: a model's gates over a text, live in a notebook or as one page without a kernel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedModel

from rwkvgate.explore.kernel import EXAMPLES, KernelEngine, Models
from rwkvgate.explore.page import explorer_page
from rwkvgate.explore.picture import picture
from rwkvgate.rwkv6.extras import extra
from rwkvgate.rwkv6.files import write_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class GateExplorer:
    """Interactive view of a model's gates: type a text, look at every layer and channel, switch the gate off, compare
    losses and continuations.

    A notebook displays it at the end of a cell, with a picture where no widget can run. Several explorers may share a
    model and a kernel.

    Args:
        model: a patched model; for an unpatched one the explorer lists the arms that have gates.
        tokenizer: of the model.
        text: at the start.
        arms: further models by name, or functions that load one at its first use. One whose name holds the word
            "untrained" is the control that changes of the gate are shown from.
        name: of `model` among the arms.
        documents: texts, such as those of a test set, over which a card shows a channel: how its gate is spread, and
            where it is highest. They are read at the first look at a card, and when the page is written.
        notes: sentences on arms, by name.
        beside: the arm that others are compared with at the start; without one it is the arm itself, its gate on.

    Raises:
        ValueError: `arms` has an entry called `name`, there is no arm `beside`, or the text or a document is too long.

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
        documents: Sequence[str] = (),
        notes: Mapping[str, str] | None = None,
        beside: str = "",
    ) -> None:
        if name in (arms or {}):
            raise ValueError(f"name is {name!r}, which an arm has too; the names must differ")
        models = {name: model, **(arms or {})}
        self.engine = KernelEngine(models, tokenizer, text, documents=documents, notes=notes, beside=beside)

    @cached_property
    def widget(self) -> Any:
        """The widget to display, made at its first use.

        Raises:
            ImportError: anywidget is not installed.
            FileNotFoundError: the package was installed without its web files.
        """
        with extra("explorer"):
            from rwkvgate.explore.widget import ExplorerWidget

        return ExplorerWidget(self.engine)

    def to_html(self, path: str | Path | None = None, *, title: str = "The gate") -> str:
        """The explorer as one self-contained page, without a kernel and without a network.

        The page runs the models itself, on any text, where it can: RWKV-6 with the gates of `weights.pack` and a
        byte-level BPE. Else it holds the first arm's readings of the text, the gate on, off and open, and says why.

        Args:
            path: file that the page is written to, atomically; None writes none.
            title: of the page.

        Raises:
            ValueError: the model has no gate.
        """
        page = explorer_page(self.engine, title)
        if path is not None:
            write_text(path, page)
        return page

    def _repr_mimebundle_(self, **options: Any) -> Any:
        try:
            return self.widget._repr_mimebundle_(**options)
        except (ImportError, FileNotFoundError) as error:  # the picture is better than a traceback
            still = picture(self.engine)
            still["text/plain"] += f". It is not live: {error}"
            return still
