"""A text with its gates and losses, from which every view is made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from rwkvgate.explore.observing import gate_names, observing
from rwkvgate.explore.reading import read
from rwkvgate.explore.summaries import TOKEN_MEASURES, GateSummary, Summarizer
from rwkvgate.explore.tokens import token_texts
from rwkvgate.metrics.inference import PREFIX_ID, device_of, encode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

VALUES_LIMIT = 2**28
"""Bytes of gate values kept beside the summary, for views of a single channel."""


@dataclass(frozen=True)
class GatedText:
    """A text, its tokens, and the gates over them, without prefix and padding.

    Attributes:
        tokens: the text of each token; a part of a character is shown as its bytes, ⟨e7 8c⟩.
        summary: with losses; its batch is 1.
        values: (gate, time, channel), float16; None if they would take more than `VALUES_LIMIT` bytes.
    """

    text: str
    tokens: list[str]
    summary: GateSummary
    values: Tensor | None

    @property
    def labels(self) -> list[str]:
        """The name of each gate: its layer's number, followed by its place unless that is the block's output."""
        return [name.label for name in self.summary.gates]

    @property
    def losses(self) -> NDArray[np.float32]:
        """Negative log-likelihood of each token given those before it, nats, (time,)."""
        assert self.summary.losses is not None
        losses: NDArray[np.float32] = self.summary.losses[0].numpy()
        return losses

    def gate(self, layer: int | str) -> int:
        """The index of a gate by its label, or of a layer's first gate by its number.

        Raises:
            ValueError: no gate has that label or layer.
        """
        for number, name in enumerate(self.summary.gates):
            if layer == (name.layer if isinstance(layer, int) else name.label):
                return number
        raise ValueError(f"layer is {layer!r}; allowed are {', '.join(self.labels)}")

    def measure(self, measure: str | int = "mean") -> NDArray[np.float32]:
        """One of `TOKEN_MEASURES`, or the values of the channel of that number, (gate, time).

        Raises:
            ValueError: the measure is unknown, the channel is out of range, or `values` is None.
        """
        if isinstance(measure, str):
            return self.summary.measure(measure)
        channels = self.summary.channel_mean.shape[-1]
        if not 0 <= measure < channels:
            raise ValueError(f"channel is {measure}; allowed are 0 to {channels - 1}, or {', '.join(TOKEN_MEASURES)}")
        if self.values is None:
            raise ValueError(f"a text of {len(self.tokens):,} tokens is too long for single channels; take the mean")
        values: NDArray[np.float32] = self.values[..., measure].float().numpy()
        return values


def read_text(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    text: str,
) -> GatedText:
    """Read a text after the prefix token, with the gates and losses of its tokens.

    Raises:
        ValueError: the model has no gate.

    Example:
        >>> from rwkvgate import GateConfig, Rwkv6Config, Rwkv6ForCausalLM, Rwkv6Tokenizer, patch
        >>> config = Rwkv6Config(hidden_size=32, num_hidden_layers=2, head_size=16)
        >>> model = patch(Rwkv6ForCausalLM(config), GateConfig.preset("enhanced"))
        >>> gated = read_text(model, Rwkv6Tokenizer(), "Once upon a time")
        >>> gated.tokens, gated.measure("mean").shape
        (['Once', ' upon', ' a', ' time'], (2, 4))
    """
    sequence = encode(tokenizer, [text])[0]
    ids = torch.tensor([[PREFIX_ID, *sequence]], device=device_of(model))
    names = gate_names(model)
    summarizer = Summarizer(ids, None, names, skip=1)
    kept: list[list[Tensor]] = [[] for _ in names]
    channels = int(getattr(model.config, "hidden_size", 0)) or 1
    keeping = 2 * channels * len(names) * len(sequence) <= VALUES_LIMIT

    def keep(gate: int, values: Tensor) -> None:
        summarizer.add(gate, values)
        if keeping:
            kept[gate].append(values[0].to("cpu", torch.float16))

    with observing(model, keep):
        losses = read(model, ids, losses=True)
    assert losses is not None
    values = torch.stack([torch.cat(parts)[1:] for parts in kept]) if keeping else None
    return GatedText(text, token_texts(tokenizer, sequence), summarizer.summary(losses[:, 1:]), values)
