"""Traces: the values of every gate of a patched model over a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedModel

from rwkvgate.explore.observing import GateName, gate_names, observing, require_gates
from rwkvgate.explore.reading import check_text
from rwkvgate.explore.summaries import EDGE, GateSummary, Summarizer
from rwkvgate.metrics.inference import evaluating
from rwkvgate.rwkv6.precision import without_autocast


@dataclass(frozen=True)
class GateTrace:
    """Gate values over a batch of texts, and the tokens that they belong to.

    Gates stand in the order of the layers; a layer has two where they sit before its time and channel mixing.

    Attributes:
        values: (gate, batch, time, channel), float16, in [0, 1] unless a clamp scales them.
        input_ids: (batch, time).
        mask: (batch, time), false at padding; None without padding.
        gates: each gate's layer, from 1, and its place in the layer.
        sequences: generated ids, (batch, time + 1 or less), whose last token the model has not read; None for a forward
            pass.
    """

    values: Tensor
    input_ids: Tensor
    mask: Tensor | None
    gates: tuple[GateName, ...]
    sequences: Tensor | None = None

    def token_means(self, row: int = 0) -> Tensor:
        """Mean over channels for one row of the batch, (gate, time), float32."""
        return self.values[:, row].float().mean(-1)

    def saturation(self, row: int = 0) -> Tensor:
        """Share of channels within `EDGE` of 0 or 1 for one row of the batch, (gate, time)."""
        values = self.values[:, row].float()
        return ((values < EDGE) | (values > 1 - EDGE)).float().mean(-1)

    def summary(self) -> GateSummary:
        """The summary that `summarize_gates` makes of the same text."""
        summarizer = Summarizer(self.input_ids, self.mask, self.gates)
        for gate, values in enumerate(self.values):
            summarizer.add(gate, values)
        return summarizer.summary()

    def to_frame(self, tokens: Sequence[str], row: int = 0, *, each_channel: bool = False) -> pd.DataFrame:
        """Tidy frame of one row of the batch, a line per gate and real token.

        Columns: `layer` (from 1), `place`, `position`, `token`, and over channels `mean`, `low` and `high` (5 and 95 %
        quantiles) and `saturated` (the share within 0.05 of 0 or 1).

        Args:
            tokens: the text of each token, padding included, (time,).
            each_channel: a line per channel too, with `channel` and `value` in place of the four summaries.

        Raises:
            ValueError: the number of texts is not the number of tokens.
        """
        frame = self.summary().to_frame(tokens, row)
        if not each_channel:
            return frame
        real = slice(None) if self.mask is None else self.mask[row].bool()
        values = self.values[:, row][:, real]
        channels = values.shape[-1]
        wide = frame[["layer", "place", "position", "token"]].loc[frame.index.repeat(channels)].reset_index(drop=True)
        return wide.assign(channel=np.tile(np.arange(channels), len(frame)), value=values.float().flatten().numpy())


def record_gates(
    model: PreTrainedModel,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    *,
    new_tokens: int = 0,
    **options: Any,
) -> GateTrace:
    """Record every gate in one forward pass, or while generating; the model's output does not change.

    Args:
        input_ids: (batch, time).
        attention_mask: (batch, time), 0 at padding.
        new_tokens: tokens to generate at most. The trace covers all but the last, which the model never reads;
            `sequences` has them all.
        **options: of `generate`; greedy by default.

    Raises:
        ValueError: the model has no gate, what `reading.check_text` refuses, `num_beams` is not 1 (beams change rows),
            `use_cache` is False (tokens are read again), or options of generation come without `new_tokens`.

    Example:
        >>> from rwkvgate import GateConfig, Rwkv6Config, Rwkv6ForCausalLM, patch
        >>> config = Rwkv6Config(vocab_size=64, hidden_size=32, num_hidden_layers=2, head_size=16)
        >>> model = patch(Rwkv6ForCausalLM(config), GateConfig.preset("enhanced"))
        >>> trace = record_gates(model, torch.tensor([[5, 7, 11]]))
        >>> trace.values.shape  # gate, batch, time, channel
        torch.Size([2, 1, 3, 32])
        >>> list(trace.to_frame(["Once", " upon", " a"]).columns)
        ['layer', 'place', 'position', 'token', 'mean', 'low', 'high', 'saturated']
    """
    gates = require_gates(model)
    check_text(model, input_ids, attention_mask)
    if not isinstance(new_tokens, int) or new_tokens < 0:
        raise ValueError(f"new_tokens is {new_tokens!r}; it must be a whole number of at least 0")
    settings = options.get("generation_config") or getattr(model, "generation_config", None)
    for name, only, why in (("num_beams", 1, "for one beam"), ("use_cache", True, "once a token, with a state")):
        value = options.get(name, getattr(settings, name, only))
        if new_tokens and value not in (only, None):
            raise ValueError(f"{name} is {value}; gates are recorded {why}")
    if options and not new_tokens:
        raise ValueError(f"{', '.join(options)} given, but new_tokens is 0; they are options of generation")
    kept: list[list[Tensor]] = [[] for _ in gates]

    def record(gate: int, values: Tensor) -> None:
        kept[gate].append(values.to("cpu", torch.float16))

    sequences = None
    with observing(model, record), evaluating(model):
        if new_tokens:
            options = {"do_sample": False, "max_new_tokens": new_tokens, **options}
            output = cast(Any, model).generate(input_ids, attention_mask=attention_mask, **options)
            sequences = (output if isinstance(output, Tensor) else output.sequences).cpu()
        else:
            model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False, logits_to_keep=1)
    with without_autocast(torch.device("cpu")):  # which knows no float16 there
        values = torch.stack([torch.cat(parts, dim=1) if len(parts) > 1 else parts[0] for parts in kept])
    ids = input_ids.cpu() if sequences is None else sequences[:, : values.shape[2]]
    mask = None if attention_mask is None else _extended(attention_mask, ids)
    return GateTrace(values, ids, mask, gate_names(model), sequences)


def _extended(mask: Tensor, ids: Tensor) -> Tensor:
    """The mask of prompt and continuation, repeated for each sequence that a prompt returns."""
    mask = mask.bool().cpu().repeat_interleave(ids.shape[0] // mask.shape[0], dim=0)
    return torch.cat((mask, torch.ones(ids.shape[0], ids.shape[1] - mask.shape[1], dtype=torch.bool)), dim=1)
