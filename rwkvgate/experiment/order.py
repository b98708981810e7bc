"""The steps of a run and what each requires: their order is stated here and nowhere else.

    corpus -> base -> arm -> evaluation and probes (one of each for every arm and seed) -> studies

`rwkvgate.experiment.steps` makes a step after what it requires; the Snakefile turns the same requirements into the
graph of notebooks. Light enough for the run graph to import.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rwkvgate.experiment.inputs import base_inputs, corpus_inputs
from rwkvgate.experiment.run import RECORD, Run, Variant
from rwkvgate.experiment.settings import CheckpointSettings
from rwkvgate.rwkv6.files import digest, read_json

NOTEBOOKS = {
    "corpus": "01_setup",
    "base": "01_setup",
    "arm": "02_finetune",
    "evaluation": "03_evaluate",
    "probes": "03_evaluate",
}
"""The notebook that makes each kind of step; studies are made by `ABLATIONS`."""
ABLATIONS = "04_ablations"

SCORES, PROBED = 4, 1
"""Raised when an evaluation, or the probes, measure something new, so that finished ones are made again."""


@dataclass(frozen=True)
class Step:
    """One step of a run, whether it is made yet or not.

    Attributes:
        run: the run that it belongs to.
        name: what is made, such as 'base'; `rwkvgate.experiment.steps` has a function for each.
        folder: where its outputs lie, with a record of what they were made from.
        inputs: JSON values that the outputs depend on.
        requires: the steps that come before it.
        variant: the arm and seed, for a step of one.
    """

    run: Run
    name: str
    folder: Path
    inputs: dict[str, Any]
    requires: tuple[Step, ...] = ()
    variant: Variant | None = None

    def __str__(self) -> str:
        return f"{self.name} of {self.variant}" if self.variant else self.name

    @property
    def digest(self) -> str:
        """The hash of its inputs."""
        return digest(self.inputs)

    @property
    def is_finished(self) -> bool:
        """Whether its folder holds what these inputs give."""
        record = read_json(self.folder / RECORD)
        return isinstance(record, dict) and record.get("inputs") == self.digest

    @property
    def checkpoints(self) -> Path:
        """Where a training of these very inputs keeps its checkpoints while it runs."""
        name = f"{self.variant.arm.name}.seed{self.variant.seed}" if self.variant else self.name
        return self.run.folder / "checkpoints" / name / self.digest

    @property
    def failure(self) -> Path:
        """The record of a training that diverged; beside the folder, which appears only when the step is finished."""
        return self.folder.with_name(f"{self.folder.name}.failed.json")

    @property
    def divergence(self) -> str:
        """Why the training of these inputs diverged; "" where it did not, or was not tried."""
        failed = read_json(self.failure)
        return str(failed["error"]) if isinstance(failed, dict) and failed.get("inputs") == self.digest else ""

    @property
    def notebook(self) -> str:
        """The executed notebook that makes it: its name in the run's `notebooks` folder, without the suffix."""
        name = NOTEBOOKS.get(self.name, ABLATIONS)
        if self.variant is None:
            return name
        if self.name == "arm" and not self.variant.arm.trained:
            return self.requires[-1].notebook  # nothing is trained: it is made by whoever reads it
        return f"{name}.{self.variant.arm.name}.seed{self.variant.seed}"


def corpus(run: Run) -> Step:
    """The texts of a run and their tokenizer."""
    return Step(run, "corpus", run.corpus, corpus_inputs(run.settings))


def base(run: Run) -> Step:
    """The base model: pretrained on the natural text, or a checkpoint that is given."""
    given = isinstance(run.settings.model, CheckpointSettings)
    return Step(run, "base", run.base, base_inputs(run.settings), () if given else (corpus(run),))


def arm(variant: Variant) -> Step:
    """The weights of an arm and seed."""
    run = variant.run
    return Step(run, "arm", variant.folder, variant.inputs, (corpus(run), base(run)), variant)


def evaluation(variant: Variant) -> Step:
    """Scores, times and samples of an arm and seed on the test documents."""
    apart = {"arms", "seeds", "resamples", "longest", "probes", "studies"}
    measured = variant.run.settings.evaluation.model_dump(mode="json", exclude=apart)
    inputs = variant.inputs | {"evaluation": measured, "scores": SCORES}
    return Step(variant.run, "evaluation", variant.folder / "evaluation", inputs, (arm(variant),), variant)


def probes(variant: Variant) -> Step:
    """What an arm and seed does on long texts, in other domains and on probes of memory."""
    settings = variant.run.settings
    inputs = variant.inputs | {
        "documents": settings.evaluation.documents,
        "probes": settings.evaluation.probes,
        "measured": PROBED,
        "trained": settings.training.length,
    }
    return Step(variant.run, "probes", variant.folder / "probes", inputs, (arm(variant),), variant)


def study(run: Run, name: str, inputs: dict[str, Any], variants: Sequence[Variant] = ()) -> Step:
    """A study of a run that reads these arms and seeds, or the base alone."""
    inputs = (
        inputs | {"arms": [variant.inputs for variant in variants]} if variants else base_inputs(run.settings) | inputs
    )
    requires = tuple(arm(variant) for variant in variants) or (base(run),)
    return Step(run, name, run.folder / name, inputs, requires)
