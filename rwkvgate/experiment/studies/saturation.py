"""How far the gates are saturated: a gate that stays at 0 or 1, or never moves, regulates nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd
import torch

from rwkvgate.experiment.run import Run, Variant
from rwkvgate.experiment.steps import ensure_arm, ensure_texts
from rwkvgate.experiment.steps.probes import sample_size
from rwkvgate.experiment.studies.study import Study, documents_read, moving_gates, record_text

COLUMNS = ("arm", "seed", "layer", "saturated", "mean", "deviation")


def saturation_by_layer(table: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds of the study's columns, one row an arm and layer."""
    measures = ["saturated", "mean", "deviation"]
    return table.groupby(["arm", "layer"], sort=False)[measures].mean().reset_index()


def _saturation(run: Run, variants: Sequence[Variant]) -> Iterator[pd.DataFrame]:
    texts = ensure_texts(run)
    for variant in variants:
        model = ensure_arm(variant)
        traces = [record_text(model, texts.tokenizer, d.text) for d in texts.corpus.test[: sample_size(run)]]
        shares = torch.cat([trace.saturation() for trace in traces], dim=1)  # (layer, token)
        means = torch.cat([trace.token_means() for trace in traces], dim=1)  # (layer, token)
        rows = [
            (variant.arm.name, variant.seed, layer + 1, float(share.mean()), float(mean.mean()), float(mean.std()))
            for layer, (share, mean) in enumerate(zip(shares, means, strict=True))
        ]
        yield pd.DataFrame(rows, columns=list(COLUMNS))


SATURATION = Study("saturation", COLUMNS, _saturation, documents_read, moving_gates)
"""Every gate that can move, over test documents: `saturated` is the share of channels within 0.05 of 0 or 1, `mean`
and `deviation` are, over tokens, of the mean over channels."""
