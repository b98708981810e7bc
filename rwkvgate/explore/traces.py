"""Gate values of a patched model over a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedModel

from rwkvgate.gate.config import ARMS
from rwkvgate.gate.layer import GatedShift
from rwkvgate.gate.patch import gates_of


@dataclass(frozen=True)
class GateTrace:
    """Gate values in [0, 1], (layer, batch, time, channel), float16, and the tokens they belong to."""

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

    def record(gate: GatedShift, inputs: tuple[Any, ...]) -> None:
        kept.append(gate.gate_values(inputs[0]).detach().to("cpu", torch.float16))

    handles = [gate.register_forward_pre_hook(record) for gate in gates]
    try:
        with torch.inference_mode():
            model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False, logits_to_keep=1)
    finally:
        for handle in handles:
            handle.remove()
    return GateTrace(torch.stack(kept), input_ids.cpu())
