"""A text with the gates that read it: what every view is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from rwkvgate.explore.observing import gate_names, observing
from rwkvgate.explore.reading import WINDOW, read
from rwkvgate.explore.summaries import MEASURES, GateSummary, Summarizer
from rwkvgate.explore.tokens import token_texts
from rwkvgate.metrics.inference import PREFIX_ID, device_of, encode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MOST_KEPT = 2**28
"""Bytes of gate values that are kept beside the summary, so that one channel can be shown."""


@dataclass(frozen=True)
class GatedText:
    """A text, its tokens, and the gates over them; sequences have one row, without prefix and padding.

    Attributes:
        tokens: the text of each token; one that holds a part of a character is its bytes, ⟨e7 8c⟩.
        summary: with losses; its batch is 1.
        values: (gate, time, channel), float16; None where they would take more than `MOST_KEPT` bytes.
    """

    text: str
    tokens: list[str]
    summary: GateSummary
    values: Tensor | None

    @property
    def labels(self) -> list[str]:
        """What each gate is called: its layer's number, and its place where that is not the block's output."""
        return [name.label for name in self.summary.gates]

    @property
    def losses(self) -> NDArray[np.float32]:
        """Negative log-likelihood of each token given those before it, nats, (time,)."""
        assert self.summary.losses is not None
        found: NDArray[np.float32] = self.summary.losses[0].numpy()
        return found

    def gate(self, layer: int | str) -> int:
        """The number, from 0, of a gate named by its label, or of a layer's first gate.

        Raises:
            ValueError: there is no such layer.
        """
        for number, name in enumerate(self.summary.gates):
            if layer == (name.layer if isinstance(layer, int) else name.label):
                return number
        raise ValueError(f"layer is {layer!r}; allowed are {', '.join(self.labels)}")

    def measure(self, what: str | int = "mean") -> NDArray[np.float32]:
        """One number for each gate and token, (gate, time): one of `MEASURES`, or the value of a channel.

        Raises:
            ValueError: an unknown measure, a channel out of range, or the channels of a text that is too long.
        """
        if isinstance(what, str):
            return self.summary.measure(what)
        channels = self.summary.channel_mean.shape[-1]
        if not 0 <= what < channels:
            raise ValueError(f"channel is {what}; allowed are 0 to {channels - 1}, or {', '.join(MEASURES)}")
        if self.values is None:
            raise ValueError(f"a text of {len(self.tokens):,} tokens is too long for single channels; take the mean")
        found: NDArray[np.float32] = self.values[..., what].float().numpy()
        return found


def read_text(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    *,
    prefix_id: int = PREFIX_ID,
    window: int = WINDOW,
    progress: Callable[[int, int], None] | None = None,
    stopped: Callable[[], bool] | None = None,
) -> GatedText:
    """Read a text after the prefix token; an empty text has no tokens.

    Raises:
        ValueError: the model carries no gate.
        Stopped: `stopped`, asked before each window, said so.
    """
    sequence = encode(tokenizer, [text])[0]
    ids = torch.tensor([[prefix_id, *sequence]], device=device_of(model))
    names = gate_names(model)
    summarizer = Summarizer(ids, None, names, skip=1)
    kept: list[list[Tensor]] = [[] for _ in names]
    channels = int(getattr(model.config, "hidden_size", 0)) or 1
    keeping = 2 * channels * len(names) * len(sequence) <= MOST_KEPT

    def keep(gate: int, values: Tensor) -> None:
        summarizer.add(gate, values)
        if keeping:
            kept[gate].append(values[0].to("cpu", torch.float16))

    with observing(model, keep):
        losses = read(model, ids, window=window, losses=True, progress=progress, stopped=stopped)
    assert losses is not None
    values = torch.stack([torch.cat(parts)[1:] for parts in kept]) if keeping else None
    return GatedText(text, token_texts(tokenizer, sequence), summarizer.summary(losses[:, 1:]), values)
