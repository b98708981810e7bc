"""What is kept of a gate over a long text: a few numbers a token, a few a channel, and how all values are spread.

All of it adds up window by window, so that layer x token x channel is never held.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from rwkvgate.explore.observing import GateName, gate_names, observing
from rwkvgate.explore.reading import WINDOW, read
from rwkvgate.rwkv6.files import write_file

BINS = 50
"""Bins of the distribution of values over [0, 1]."""
LOW, HIGH = 0.05, 0.95
"""Quantiles over channels."""
MEASURES = ("mean", "low", "high", "saturated")
"""What is kept of every token: mean over channels, the two quantiles, and the share of saturated channels."""
SLICE = 4096
"""Tokens whose channels are sorted at once."""


@dataclass(frozen=True)
class GateSummary:
    """Gate values over a text, summed up over channels and over tokens. Float32; padding is nan.

    Attributes:
        mean, low, high, saturated: (gate, batch, time), over channels: mean, 5 and 95 % quantiles, share within
            `edge` of 0 or 1.
        channel_mean, channel_saturated: (gate, batch, channel), over real tokens.
        histogram: (gate, batch, `BINS`), values in each of the equal parts of [0, 1], counted over tokens and
            channels; scaled values beyond an end are in the last part there.
        input_ids: (batch, time).
        mask: (batch, time), false at padding; None where every token is real.
        gates: each gate's layer and place.
        losses: (batch, time), nats, where they were asked for; nan at a first token.
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

    def token_means(self, row: int = 0) -> Tensor:
        """The mean gate over channels of one sequence, (gate, time)."""
        return self.mean[:, row]

    def saturation(self, row: int = 0) -> Tensor:
        """The share of saturated channels, (gate, time)."""
        return self.saturated[:, row]

    def measure(self, name: str, row: int = 0) -> NDArray[np.float32]:
        """One of `MEASURES` of one sequence, (gate, time).

        Raises:
            ValueError: another name.
        """
        if name not in MEASURES:
            raise ValueError(f"the measure is {name!r}; allowed are {', '.join(MEASURES)}")
        found: NDArray[np.float32] = getattr(self, name)[:, row].numpy()
        return found

    def to_frame(self, tokens: Sequence[str], row: int = 0) -> pd.DataFrame:
        """One row a gate and real token: `layer` (from 1), `place`, `position` (real tokens before it), `token`,
        `MEASURES`, and `loss` (nats) where losses were asked for.

        Args:
            tokens: the text of each token, padding included, (time,).

        Raises:
            ValueError: there are more or fewer texts than tokens.
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
        columns |= {name: self.measure(name, row)[:, real].ravel() for name in MEASURES}
        if self.losses is not None:
            columns["loss"] = np.tile(self.losses[row].numpy()[real], count)
        return pd.DataFrame(columns)

    def to_array(self) -> dict[str, Any]:
        """What is kept of every token, (measure, gate, batch, token), as `xarray.DataArray.from_dict` reads it."""
        data = np.stack([getattr(self, name).numpy() for name in MEASURES])
        coords = {
            "measure": list(MEASURES),
            "gate": [name.label for name in self.gates],
            "batch": list(range(data.shape[2])),
            "token": list(range(data.shape[3])),
        }
        return {
            "name": "gate",
            "dims": tuple(coords),
            "coords": {name: {"dims": (name,), "data": labels, "attrs": {}} for name, labels in coords.items()},
            "data": data,
            "attrs": {"input_ids": self.input_ids.tolist()},
        }

    def to_parquet(self, path: str | Path, tokens: Sequence[str], row: int = 0) -> Path:
        """Write `to_frame` as a parquet file, whole or not at all; returns its path."""
        frame = self.to_frame(tokens, row)
        with write_file(path) as fresh:
            frame.to_parquet(fresh, index=False)
        return Path(path)


class Summarizer:
    """Adds up a gate's values as they come, gate by gate and window by window.

    Args:
        input_ids: (batch, time) of the whole text.
        mask: (batch, time), 0 at padding.
        gates: their names; numbers where there are none.
        edge: values within `edge` of 0 or 1 count as saturated.
        skip: tokens at the start that are read but left out, such as a prefix.
    """

    def __init__(
        self,
        input_ids: Tensor,
        mask: Tensor | None,
        gates: tuple[GateName, ...] = (),
        *,
        edge: float = 0.05,
        skip: int = 0,
    ) -> None:
        self.input_ids, self.edge, self.skip, self.names = input_ids[:, skip:].cpu(), edge, skip, gates
        self.mask = None if mask is None else mask[:, skip:].bool().cpu()
        self.kept: list[list[Tensor]] = []
        self.sums: list[Tensor] = []
        self.histograms: list[Tensor] = []
        self.read: list[int] = []

    def add(self, gate: int, values: Tensor) -> None:
        """The next values of a gate, (batch, time, channel); gates are numbered from 0, in the order of the passes."""
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
        near = (values < self.edge) | (values > 1 - self.edge)
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
        """What was added up.

        Raises:
            ValueError: a gate was given more or fewer tokens than `input_ids` has.
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
            gates=self.names or tuple(GateName(i + 1, "output") for i in range(len(self.kept))),
            losses=losses,
        )


def summarize_gates(
    model: PreTrainedModel,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    *,
    window: int = WINDOW,
    edge: float = 0.05,
    losses: bool = False,
    skip: int = 0,
    progress: Callable[[int, int], None] | None = None,
    stopped: Callable[[], bool] | None = None,
) -> GateSummary:
    """The gates over a text of any length, read in windows with the state carried between them.

    Args:
        input_ids: (batch, time).
        attention_mask: (batch, time), 0 at padding.
        edge: values within `edge` of 0 or 1 count as saturated.
        losses: keep each token's negative log-likelihood too.
        skip: tokens at the start that are read but left out of the summary, such as a prefix.
        progress: called with (tokens read, tokens in all) after each window.
        stopped: asked before each window.

    Raises:
        ValueError: the model carries no gate, there is no token, or `window` is below 1.
        Stopped: `stopped` said so.
    """
    summarizer = Summarizer(input_ids, attention_mask, gate_names(model), edge=edge, skip=skip)
    with observing(model, summarizer.add):
        found = read(model, input_ids, attention_mask, window=window, losses=losses, progress=progress, stopped=stopped)
    return summarizer.summary(None if found is None else found[:, skip:])


def _quantiles(values: Tensor) -> tuple[Tensor, Tensor]:
    """The quantiles over the last dimension, with linear interpolation; torch.quantile refuses large inputs."""
    ordered = values.sort(-1).values
    found = []
    for share in (LOW, HIGH):
        place = share * (values.shape[-1] - 1)
        under = int(place)
        over = min(under + 1, values.shape[-1] - 1)
        found.append(ordered[..., under].lerp(ordered[..., over], place - under))
    return found[0], found[1]
