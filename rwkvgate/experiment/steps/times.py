"""How long one arm and seed takes beside the base: a forward pass, and a generation."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import torch

from rwkvgate.experiment import order
from rwkvgate.experiment.order import Step
from rwkvgate.experiment.run import Variant
from rwkvgate.experiment.steps.arm import ensure_arm
from rwkvgate.experiment.steps.base import ensure_base
from rwkvgate.experiment.steps.making import Write, makes, read_frame
from rwkvgate.experiment.steps.texts import Texts, ensure_texts
from rwkvgate.metrics.latency import forward_time, generation_time

LATENCY = "latency.parquet"


def ensure_times(variant: Variant) -> pd.DataFrame:
    """The times of an arm and seed, measured in turn with the base's where that is not done yet.

    Nothing else should run on the machine then.

    Returns:
        The columns of `rwkvgate.metrics.latency`.

    Raises:
        FloatingPointError: the arm's training diverged.
    """
    return read_frame(order.times(variant), LATENCY)


@makes("times")
def _time(step: Step) -> Write:
    assert step.variant is not None
    run, arm, seed = step.run, step.variant.arm.name, step.variant.seed
    settings, texts = run.settings.evaluation, ensure_texts(run)
    models = {"base": ensure_base(run)} | ({} if arm == "base" else {arm: ensure_arm(step.variant)})
    ids = _test_ids(texts, settings.latency_tokens)
    print(f"timing {step.variant} beside the base", flush=True)
    forward = forward_time(models, ids, repeats=settings.forward_repeats, seed=seed)
    repeats = settings.generation_repeats
    generation = generation_time(models, ids, tokens=settings.timed_tokens, repeats=repeats, seed=seed)
    both = pd.concat([forward, generation])
    own = both[both["arm"] == arm].reset_index(drop=True)

    def write(folder: Path) -> None:
        own.to_parquet(folder / LATENCY, index=False)

    return write


def _test_ids(texts: Texts, tokens: int) -> torch.Tensor:
    """The first tokens of the test documents run together, (1, tokens), repeated where they are too few."""
    stream: list[int] = []
    for document in texts.corpus.test:
        stream += texts.encode_text(document.text)
        if len(stream) >= tokens:
            break
    repeated = stream * (tokens // max(len(stream), 1) + 1)
    return torch.tensor([repeated[:tokens]])
