"""Gate values of a patched model over a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedModel

from rwkvgate.explore.observing import GateName, gate_names, observing, require_gates
from rwkvgate.explore.summaries import GateSummary, Summarizer
from rwkvgate.metrics.inference import evaluating
from rwkvgate.rwkv6.files import write_file


@dataclass(frozen=True)
class GateTrace:
    """Gate values in [0, 1], (gate, batch, time, channel), float16, and the tokens they belong to.

    There is a gate in every layer, first to last, and two where the gate sits before both mixers.

    Attributes:
        mask: (batch, time), false at padding; None where every token is real.
        gates: each gate's layer, from 1, and its place in the layer.
        sequences: what generation returned, (batch, time + 1 or less): its last token was never read.
    """

    values: Tensor
    input_ids: Tensor
    mask: Tensor | None = None
    gates: tuple[GateName, ...] = ()
    sequences: Tensor | None = None

    def token_means(self, row: int = 0) -> Tensor:
        """The mean gate over channels of one sequence, (layer, time), float32."""
        return self.values[:, row].float().mean(-1)

    def saturation(self, row: int = 0, edge: float = 0.05) -> Tensor:
        """The share of channels within `edge` of 0 or 1, (layer, time)."""
        values = self.values[:, row].float()
        return ((values < edge) | (values > 1 - edge)).float().mean(-1)

    def summary(self, edge: float = 0.05) -> GateSummary:
        """What `summarize_gates` would have kept of it."""
        summarizer = Summarizer(self.input_ids, self.mask, self.gates, edge=edge)
        for gate, values in enumerate(self.values):
            summarizer.add(gate, values)
        return summarizer.summary()

    def to_frame(self, tokens: Sequence[str], row: int = 0, *, each_channel: bool = False) -> pd.DataFrame:
        """One row a layer and real token: `layer` (from 1), `place`, `position`, `token`, `mean`, `low` and `high`
        (5 and 95 % quantiles over channels), `saturated` (share of channels).

        Args:
            tokens: the text of each token, padding included, (time,).
            each_channel: one row a channel too, with `channel` and `value` in place of the summaries.

        Raises:
            ValueError: there are more or fewer texts than tokens.
        """
        frame = self.summary().to_frame(tokens, row)
        if not each_channel:
            return frame
        real = slice(None) if self.mask is None else self.mask[row].bool()
        values = self.values[:, row][:, real]
        channels = values.shape[-1]
        wide = frame[["layer", "place", "position", "token"]].loc[frame.index.repeat(channels)].reset_index(drop=True)
        return wide.assign(channel=np.tile(np.arange(channels), len(frame)), value=values.float().flatten().numpy())

    def to_array(self) -> dict[str, Any]:
        """Values, `dims`, `coords` and `attrs`, as `xarray.DataArray.from_dict` reads them."""
        gates, batch, time, channels = self.values.shape
        coords = {
            "gate": [name.label for name in self.gates] or [str(i + 1) for i in range(gates)],
            "batch": list(range(batch)),
            "token": list(range(time)),
            "channel": list(range(channels)),
        }
        return {
            "name": "gate",
            "dims": tuple(coords),
            "coords": {name: {"dims": (name,), "data": data, "attrs": {}} for name, data in coords.items()},
            "data": self.values.numpy(),
            "attrs": {"input_ids": self.input_ids.tolist()},
        }

    def to_parquet(self, path: str | Path, tokens: Sequence[str], row: int = 0, *, each_channel: bool = False) -> Path:
        """Write `to_frame` as a parquet file, whole or not at all; returns its path."""
        frame = self.to_frame(tokens, row, each_channel=each_channel)
        with write_file(path) as fresh:
            frame.to_parquet(fresh, index=False)
        return Path(path)


def record_gates(
    model: PreTrainedModel,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    *,
    new_tokens: int = 0,
    **options: Any,
) -> GateTrace:
    """The gate of every layer over `input_ids` (batch, time), from one forward pass, or while generating from them.

    Args:
        attention_mask: (batch, time), 0 at padding.
        new_tokens: generate up to that many tokens; the trace then covers all but the last of them, which is never
            read, and `sequences` has them all.
        **options: of `generate`; greedy by default.

    Raises:
        ValueError: the model carries no gate, there is no token, or beams are asked for, whose rows change places.
    """
    if options.get("num_beams", 1) != 1:
        raise ValueError(f"num_beams is {options['num_beams']}; gates are recorded for one beam")
    if options and not new_tokens:
        raise ValueError(f"{', '.join(options)} given, but new_tokens is 0; they are options of generation")
    kept: list[list[Tensor]] = [[] for _ in require_gates(model)]

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
    values = torch.stack([torch.cat(parts, dim=1) if len(parts) > 1 else parts[0] for parts in kept])
    ids = input_ids.cpu() if sequences is None else sequences[:, : values.shape[2]]
    mask = None if attention_mask is None else _extended(attention_mask, ids)
    return GateTrace(values, ids, mask, gate_names(model), sequences)


def _extended(mask: Tensor, ids: Tensor) -> Tensor:
    """The prompt's mask over prompt and continuation, once for each sequence of a prompt."""
    mask = mask.bool().cpu().repeat_interleave(ids.shape[0] // mask.shape[0], dim=0)
    return torch.cat((mask, torch.ones(ids.shape[0], ids.shape[1] - mask.shape[1], dtype=torch.bool)), dim=1)
