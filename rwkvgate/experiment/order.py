"""The steps of a run, and the steps that each requires: the one place that states their order.

    corpus -> base -> arm -> evaluation and probes (one of each for every arm and seed) -> studies

`rwkvgate.experiment.steps` makes a step after the steps that it requires; the Snakefile turns the same requirements
into its graph of notebooks. Imports no torch, so that the run graph starts quickly.
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
"""The notebook that makes each step, by the step's name; `ABLATIONS` makes the studies."""
ABLATIONS = "04_ablations"

SCORES, PROBED = 4, 1
"""Versions of the evaluation and of the probes. A change in what they measure raises the version, so that finished ones
are made again."""


@dataclass(frozen=True)
class Step:
    """One step of a run, made or not.

    Attributes:
        run: the run of the step.
        name: of the step, such as 'base'; `rwkvgate.experiment.steps` registers the function that makes it.
        folder: of the outputs, and of the record of the inputs that they were made from.
        inputs: JSON values that the outputs depend on.
        requires: the steps that come before it.
        variant: the arm with its seed; None for a step that no single arm has.
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
        """Whether the folder's record has the hash of these inputs."""
        record = read_json(self.folder / RECORD)
        return isinstance(record, dict) and record.get("inputs") == self.digest

    @property
    def processes(self) -> int:
        """How many processes make it together: `training.processes` of a trained arm, and otherwise one."""
        trained = self.name == "arm" and self.variant is not None and self.variant.arm.trained
        return self.run.settings.training.processes if trained else 1

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints while a model is trained on exactly these inputs."""
        name = f"{self.variant.arm.name}.seed{self.variant.seed}" if self.variant else self.name
        return self.run.folder / "checkpoints" / name / self.digest

    @property
    def failure(self) -> Path:
        """The record of a training that diverged. It lies beside the folder, which exists only for a finished step."""
        return self.folder.with_name(f"{self.folder.name}.failed.json")

    @property
    def divergence(self) -> str:
        """The error with which training on these inputs diverged; "" if it did not, or was not tried."""
        failed = read_json(self.failure)
        return str(failed["error"]) if isinstance(failed, dict) and failed.get("inputs") == self.digest else ""

    @property
    def notebook(self) -> str:
        """The notebook that makes the step: its name in the run's `notebooks` folder, without the suffix."""
        name = NOTEBOOKS.get(self.name, ABLATIONS)
        if self.variant is None:
            return name
        if self.name == "arm" and not self.variant.arm.trained:
            return self.requires[-1].notebook  # no notebook trains it; the first reader makes it, on this base
        return f"{name}.{self.variant.arm.name}.seed{self.variant.seed}"


def corpus(run: Run) -> Step:
    """The step of the texts and their tokenizer."""
    return Step(run, "corpus", run.corpus, corpus_inputs(run.settings))


def base(run: Run) -> Step:
    """The step of the base model: pretrained on the natural text, or a given checkpoint."""
    given = isinstance(run.settings.model, CheckpointSettings)
    return Step(run, "base", run.base, base_inputs(run.settings), () if given else (corpus(run),))


def arm(variant: Variant) -> Step:
    """The step of an arm's weights."""
    run = variant.run
    return Step(run, "arm", variant.folder, variant.inputs, (corpus(run), base(run)), variant)


def evaluation(variant: Variant) -> Step:
    """The step of an arm's scores, times and samples on the test documents."""
    apart = {"arms", "seeds", "resamples", "longest", "probes", "studies"}
    measured = variant.run.settings.evaluation.model_dump(mode="json", exclude=apart)
    inputs = variant.inputs | {"evaluation": measured, "scores": SCORES}
    return Step(variant.run, "evaluation", variant.folder / "evaluation", inputs, (arm(variant),), variant)


def probes(variant: Variant) -> Step:
    """The step of an arm's measurements on long texts, in other domains and on probes of memory."""
    settings = variant.run.settings
    inputs = variant.inputs | {
        "documents": settings.evaluation.documents,
        "probes": settings.evaluation.probes,
        "measured": PROBED,
        "trained": settings.training.length,
    }
    return Step(variant.run, "probes", variant.folder / "probes", inputs, (arm(variant),), variant)


def study(run: Run, name: str, inputs: dict[str, Any], variants: Sequence[Variant] = ()) -> Step:
    """The step of a study over these arms and seeds, or, with none, over the base."""
    inputs = (
        inputs | {"arms": [variant.inputs for variant in variants]} if variants else base_inputs(run.settings) | inputs
    )
    requires = tuple(arm(variant) for variant in variants) or (base(run),)
    return Step(run, name, run.folder / name, inputs, requires)
