"""What all studies share: how one is declared, which arms it reads, and intervals over documents."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rwkvgate.experiment import order
from rwkvgate.experiment.arms import ARMS
from rwkvgate.experiment.inputs import gate_of
from rwkvgate.experiment.order import Step
from rwkvgate.experiment.run import Run, Variant
from rwkvgate.experiment.steps.making import Write, read_frame
from rwkvgate.explore.traces import GateTrace, record_gates
from rwkvgate.metrics.inference import device_of
from rwkvgate.metrics.statistics import Reduce, interval, mean


def no_variants(run: Run) -> list[Variant]:
    """The variants of a study that reads no tuned arm, but the base alone."""
    return []


@dataclass(frozen=True)
class Study:
    """One measurement over some arms of a run together.

    Attributes:
        name: of its step, its folder, its result file and its field of `registry.Studies`.
        columns: of its table.
        measure: from the run and the variants that it reads to the parts of its table, one below the other.
        inputs: the JSON values that the table depends on, beside the variants' weights.
        variants: the arms and seeds that it reads, which are trained first.
        claim: the claim in `rules.RULES` that its table decides; "" for a study that decides none.
    """

    name: str
    columns: tuple[str, ...]
    measure: Callable[[Run, Sequence[Variant]], Iterable[pd.DataFrame]]
    inputs: Callable[[Run], dict[str, Any]]
    variants: Callable[[Run], list[Variant]] = no_variants
    claim: str = ""

    def ensure(self, run: Run) -> pd.DataFrame:
        """Its table, measured where that is not done yet."""
        return read_frame(self.step(run), self.file)

    def step(self, run: Run) -> Step:
        """Its step in a run."""
        return order.study(run, self.name, self.inputs(run), self.variants(run))

    def make(self, step: Step) -> Write:
        """Measure; what is returned writes the table into a folder."""
        variants = [required.variant for required in step.requires if required.variant]
        table = self.table(self.measure(step.run, variants))

        def write(folder: Path) -> None:
            table.to_parquet(folder / self.file, index=False)

        return write

    def table(self, parts: Iterable[pd.DataFrame]) -> pd.DataFrame:
        """The parts as one table with the study's columns."""
        filled = [part for part in parts if len(part)]
        columns = list(self.columns)
        return pd.concat(filled, ignore_index=True)[columns] if filled else pd.DataFrame(columns=columns)

    @property
    def file(self) -> str:
        """The name of its result file."""
        return f"{self.name}.parquet"


def variants_of(run: Run, arms: Iterable[str]) -> list[Variant]:
    """The variants of these arms that the run has and whose training did not diverge."""
    return [variant for variant in run.variants() if variant.arm.name in arms and not order.arm(variant).divergence]


def moving_gates(run: Run) -> list[Variant]:
    """The variants, tuned or not, whose gate is not fixed at one value."""
    gates = {arm.name: gate_of(arm, run.settings) for arm in ARMS.values()}
    return variants_of(run, [name for name, gate in gates.items() if gate is not None and gate.gating != "fixed"])


def documents_read(run: Run) -> dict[str, Any]:
    """The inputs of a study that reads test documents."""
    return {"documents": run.settings.evaluation.documents}


def record_text(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str) -> GateTrace:
    """The gates over a text that is read alone, after the end-of-text token: position 0 of the trace is that token.

    Raises:
        ValueError: the model carries no gate.
    """
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return record_gates(model, torch.tensor([[tokenizer.bos_token_id or 0, *ids]], device=device_of(model)))


def intervals(
    frame: pd.DataFrame, by: Sequence[str], units: Sequence[str], columns: Sequence[str], reduce: Reduce = mean
) -> pd.DataFrame:
    """A measure of each group of rows with its 95 % bootstrap interval over units, such as documents.

    Rows of the same unit (of several seeds or layers) are averaged first.

    Args:
        by: columns that tell the groups apart.
        units: columns that tell the units of a group apart.
        columns: what `reduce` takes the sums of.

    Returns:
        One row a group, in order of appearance: `by`, `estimate`, `low`, `high`, and `n`, its number of units. The
        estimate is nan where one of the values is; the bounds are nan there, and where there is one unit alone.
    """
    rows = []
    for group, part in frame.groupby(list(by), sort=False):
        values = part.groupby(list(units), dropna=False)[list(columns)].mean().to_numpy(dtype=np.float64)
        if part[list(columns)].isna().to_numpy().any():  # which the mean has passed over
            values = np.full_like(values, np.nan)
        rows.append((*group, *interval(values, reduce)))
    return pd.DataFrame(rows, columns=[*by, "estimate", "low", "high", "n"])
