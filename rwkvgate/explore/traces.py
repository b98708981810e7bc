"""Gate values of a patched model over a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedModel

from rwkvgate.gate.arms import ARMS
from rwkvgate.gate.patch import gates_of


@dataclass(frozen=True)
class GateTrace:
    """Gate values in [0, 1], (gate, batch, time, channel), float16, and the tokens they belong to.

    There is a gate in every layer, first to last, and two where the gate sits before both mixers.
    """

    values: Tensor
    input_ids: Tensor

    def token_means(self, row: int = 0) -> Tensor:
        """The mean gate over channels of one sequence, (layer, time), float32."""
        return self.values[:, row].float().mean(-1)

    def saturation(self, row: int = 0, edge: float = 0.05) -> Tensor:
        """The share of channels within `edge` of 0 or 1, (layer, time)."""
        values = self.values[:, row].float()
        return ((values < edge) | (values > 1 - edge)).float().mean(-1)

    def to_frame(self, tokens: Sequence[str], row: int = 0) -> pd.DataFrame:
        """One row a layer and token: `layer` (from 1), `position`, `token`, `mean`, `low` and `high`
        (5 and 95 % quantiles over channels), `saturated` (share of channels)."""
        values = self.values[:, row].float()
        layers, time = values.shape[:2]
        low, high = torch.quantile(values, torch.tensor([0.05, 0.95]), dim=-1)
        return pd.DataFrame(
            {
                "layer": [layer + 1 for layer in range(layers) for _ in range(time)],
                "position": list(range(time)) * layers,
                "token": list(tokens) * layers,
                "mean": values.mean(-1).flatten().tolist(),
                "low": low.flatten().tolist(),
                "high": high.flatten().tolist(),
                "saturated": self.saturation(row).flatten().tolist(),
            }
        )


def record_gates(model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor | None = None) -> GateTrace:
    """The gate of every layer over `input_ids` (batch, time), from one forward pass.

    The pass itself is unchanged, and the recording is taken off again whatever happens.

    Raises:
        ValueError: the model carries no gate.
    """
    gates = gates_of(model)
    if not gates:
        gated = ", ".join(name for name, arm in ARMS.items() if arm.gate)
        raise ValueError(f"the model carries no gate to record; arms with one: {gated}")
    kept: list[Tensor] = []

    def record(values: Tensor) -> None:
        kept.append(values.to("cpu", torch.float16))

    try:
        for gate in gates:
            gate.observer = record
        with torch.inference_mode():
            model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False, logits_to_keep=1)
    finally:
        for gate in gates:
            gate.observer = None
    return GateTrace(torch.stack(kept), input_ids.cpu())
