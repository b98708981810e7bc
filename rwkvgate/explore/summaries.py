"""Summaries of a gate over a text of any length: statistics per token, per channel, and a histogram.

They accumulate window by window, so that no array of layer x token x channel exists.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from rwkvgate.explore.observing import GateName, gate_names, observing, require_gates
from rwkvgate.explore.reading import WINDOW, check_text, read

BINS = 50
"""Bins of the histogram over [0, 1]."""
EDGE = 0.05
"""Values within `EDGE` of 0 or 1 count as saturated."""
LOW, HIGH = 0.05, 0.95
"""Quantiles over channels."""
TOKEN_MEASURES = ("mean", "low", "high", "saturated")
"""Statistics of each token over channels: mean, two quantiles, and the share of saturated channels."""
SLICE = 4096
"""Tokens whose channels are sorted in one call."""


@dataclass(frozen=True)
class GateSummary:
    """Statistics of gate values over channels and over tokens. Float32; nan at padding.

    Attributes:
        mean, low, high, saturated: (gate, batch, time), over channels: mean, 5 and 95 % quantiles, share within
            `EDGE` of 0 or 1.
        channel_mean, channel_saturated: (gate, batch, channel), over real tokens.
        histogram: (gate, batch, `BINS`), counts over tokens and channels in equal bins of [0, 1]; values above 1, from
            a scaled gate, are in the last bin.
        input_ids: (batch, time).
        mask: (batch, time), false at padding; None without padding.
        gates: each gate's layer and place.
        losses: (batch, time), nats, nan at a row's first token; None unless they were requested.
    """

    mean: Tensor
    low: Tensor
    high: Tensor
    saturated: Tensor
    channel_mean: Tensor
    channel_saturated: Tensor
    histogram: Tensor
    input_ids: Tensor
    mask: Tensor | None
    gates: tuple[GateName, ...]
    losses: Tensor | None = None

    def measure(self, name: str, row: int = 0) -> NDArray[np.float32]:
        """One of `TOKEN_MEASURES` for one row of the batch, (gate, time).

        Raises:
            ValueError: the name is not one of them.
        """
        if name not in TOKEN_MEASURES:
            raise ValueError(f"the measure is {name!r}; allowed are {', '.join(TOKEN_MEASURES)}")
        values: NDArray[np.float32] = getattr(self, name)[:, row].numpy()
        return values

    def to_frame(self, tokens: Sequence[str], row: int = 0) -> pd.DataFrame:
        """Tidy frame of one row of the batch, a line per gate and real token.

        Columns: `layer` (from 1), `place`, `position` (real tokens before it), `token`, `TOKEN_MEASURES`, and `loss`
        (nats) if losses were requested.

        Args:
            tokens: the text of each token, padding included, (time,).

        Raises:
            ValueError: the number of texts is not the number of tokens.
        """
        count, time = self.mean.shape[0], self.mean.shape[2]
        if len(tokens) != time:
            raise ValueError(f"there are {len(tokens)} token texts; the trace has {time} tokens")
        real = np.ones(time, bool) if self.mask is None else self.mask[row].bool().numpy()
        columns: dict[str, Any] = {
            "layer": np.repeat([name.layer for name in self.gates], real.sum()),
            "place": np.repeat([name.place for name in self.gates], real.sum()),
            "position": np.tile(np.arange(real.sum()), count),
            "token": [token for token, kept in zip(tokens, real, strict=True) if kept] * count,
        }
        columns |= {name: self.measure(name, row)[:, real].ravel() for name in TOKEN_MEASURES}
        if self.losses is not None:
            columns["loss"] = np.tile(self.losses[row].numpy()[real], count)
        return pd.DataFrame(columns)


class Summarizer:
    """Accumulates a `GateSummary` from gate values that arrive gate by gate and window by window.

    Args:
        input_ids: (batch, time) of the whole text.
        mask: (batch, time), 0 at padding.
        gates: layer and place of each.
        skip: tokens at the start, such as a prefix, that the model reads and the summary leaves out.
    """

    def __init__(
        self,
        input_ids: Tensor,
        mask: Tensor | None,
        gates: tuple[GateName, ...],
        skip: int = 0,
    ) -> None:
        self.input_ids, self.skip, self.gates = input_ids[:, skip:].cpu(), skip, gates
        self.mask = None if mask is None else mask[:, skip:].bool().cpu()
        self.kept: list[list[Tensor]] = []
        self.sums: list[Tensor] = []
        self.histograms: list[Tensor] = []
        self.read: list[int] = []

    def add(self, gate: int, values: Tensor) -> None:
        """Add a window of a gate's values, (batch, window, channel); gates count from 0 and come in order."""
        for part in values.split(SLICE, dim=1):
            self._add(gate, part)

    def _add(self, gate: int, values: Tensor) -> None:
        values = values.float()
        if gate == len(self.kept):
            batch, _, channels = values.shape
            self.kept.append([])
            self.sums.append(values.new_zeros(2, batch, channels, dtype=torch.float64))
            self.histograms.append(values.new_zeros(batch, BINS))
            self.read.append(-self.skip)
        start = self.read[gate]
        if start < 0:
            self.read[gate] = start + min(-start, values.shape[1])
            values, start = values[:, -start:], self.read[gate]
        self.read[gate] = stop = start + values.shape[1]
        near = (values < EDGE) | (values > 1 - EDGE)
        low, high = _quantiles(values)
        token = torch.stack((values.mean(-1), low, high, near.float().mean(-1)))
        real = torch.ones(values.shape[:2]) if self.mask is None else self.mask[:, start:stop]
        real = real.to(values.device).unsqueeze(-1)
        self.kept[gate].append(token.masked_fill(real.squeeze(-1) == 0, torch.nan).cpu())
        self.sums[gate] += torch.stack(((values * real).sum(1), (near * real).sum(1)))
        for row, counted in enumerate(real[:, :, 0].bool()):
            inside = values[row][counted].clamp(0, 1)
            self.histograms[gate][row] += inside.histc(BINS, 0, 1)

    def summary(self, losses: Tensor | None = None) -> GateSummary:
        """The summary of all windows.

        Raises:
            ValueError: a gate's windows have more or fewer tokens than `input_ids`.
        """
        time = self.input_ids.shape[1]
        if set(self.read) != {time}:
            raise ValueError(f"gates were given {sorted(set(self.read))} tokens; the text has {time}")
        counts = torch.full((self.input_ids.shape[0],), time) if self.mask is None else self.mask.sum(1)
        counts = counts.clamp_min(1)
        means = torch.stack([(total / counts.to(total.device)[:, None]).float().cpu() for total in self.sums], dim=1)
        mean, low, high, saturated = torch.stack([torch.cat(parts, dim=-1) for parts in self.kept], dim=1)
        return GateSummary(
            mean=mean,
            low=low,
            high=high,
            saturated=saturated,
            channel_mean=means[0],
            channel_saturated=means[1],
            histogram=torch.stack([counted.cpu() for counted in self.histograms]),
            input_ids=self.input_ids,
            mask=self.mask,
            gates=self.gates,
            losses=losses,
        )


def summarize_gates(
    model: PreTrainedModel,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    *,
    window: int = WINDOW,
    losses: bool = False,
    skip: int = 0,
) -> GateSummary:
    """Summarize every gate over a text of any length, read in windows that carry the state.

    Args:
        input_ids: (batch, time).
        attention_mask: (batch, time), 0 at padding.
        window: tokens of a window.
        losses: whether to keep each token's negative log-likelihood, in nats.
        skip: tokens at the start, such as a prefix, that the model reads and the summary leaves out.

    Raises:
        ValueError: the model has no gate, what `reading.check_text` refuses, `window` is below 1, or `skip` is no
            number of its tokens.

    Example:
        >>> from rwkvgate import GateConfig, Rwkv6Config, Rwkv6ForCausalLM, patch
        >>> config = Rwkv6Config(vocab_size=64, hidden_size=32, num_hidden_layers=2, head_size=16)
        >>> model = patch(Rwkv6ForCausalLM(config), GateConfig.preset("enhanced"))
        >>> summary = summarize_gates(model, torch.arange(1, 41)[None], window=16)
        >>> summary.mean.shape, summary.channel_mean.shape  # (gate, batch, time), (gate, batch, channel)
        (torch.Size([2, 1, 40]), torch.Size([2, 1, 32]))
    """
    require_gates(model)
    check_text(model, input_ids, attention_mask)
    if not isinstance(skip, int) or not 0 <= skip <= input_ids.shape[1]:
        raise ValueError(f"skip is {skip!r}; of {input_ids.shape[1]} tokens at least 0 and at most all can be skipped")
    summarizer = Summarizer(input_ids, attention_mask, gate_names(model), skip=skip)
    with observing(model, summarizer.add):
        nats = read(model, input_ids, attention_mask, window=window, losses=losses)
    return summarizer.summary(None if nats is None else nats[:, skip:])


def _quantiles(values: Tensor) -> tuple[Tensor, Tensor]:
    """Quantiles over channels with linear interpolation; torch.quantile refuses large inputs."""
    ordered = values.sort(-1).values
    quantiles = []
    for share in (LOW, HIGH):
        place = share * (values.shape[-1] - 1)
        under = int(place)
        over = min(under + 1, values.shape[-1] - 1)
        quantiles.append(ordered[..., under].lerp(ordered[..., over], place - under))
    return quantiles[0], quantiles[1]
