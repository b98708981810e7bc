"""The steps of a run, and the steps that each requires: the one place that states their order.

    corpus -> base -> arm -> evaluation, probes and times (one of each for every arm and seed) -> studies

`rwkvgate.experiment.steps` makes a step after the steps that it requires; the Snakefile turns the same requirements
into its graph of notebooks. Imports no torch, so that the run graph starts quickly.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, product
from pathlib import Path
from typing import Any

from rwkvgate.experiment.inputs import base_inputs, corpus_inputs
from rwkvgate.experiment.records import difference, kept_difference, read_sealed, unknown_files
from rwkvgate.experiment.run import RECORD, Run, Variant
from rwkvgate.experiment.settings import CheckpointSettings
from rwkvgate.gate.validation import SettingsError
from rwkvgate.rwkv6.files import digest, read_json, restore_folder

NOTEBOOKS = {
    "corpus": "01_setup",
    "base": "01_setup",
    "arm": "02_finetune",
    "evaluation": "03_evaluate",
    "probes": "03_evaluate",
}
"""The notebook that makes each step, by the step's name; `ABLATIONS`, which runs alone, makes the times and studies."""
ABLATIONS = "04_ablations"
VISUALIZATION, DRAWN = "05_gate_visualization", "enhanced, seed 0"
"""The notebook that draws a gate, and the arm whose gate it is."""
LOG = "training.json"
"""The log of a training. It holds times, so that no two trainings write the same; all other files are made alike."""

OTHER_INPUTS = "it was made from other inputs: settings, texts or versions"

SCORES, PROBED, TIMED = 5, 1, 1
"""Versions of the evaluation, of the probes and of the times. A change in what they measure raises the version, so that
finished ones are made again."""


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
        """Whether the folder holds what the step writes from these inputs, after the steps it requires."""
        return not self.fault

    @property
    def fault(self) -> str:
        """Why the step is not finished, in words; "" for a finished one."""
        restore_folder(self.folder)
        if not self.folder.is_dir():
            return "it is not made yet"
        if damage := self.damage:
            return damage
        record = self._record
        if record["step"] != self.name or record["inputs"] != self.digest:
            return OTHER_INPUTS
        for step in self.requires:
            if fault := step.fault:
                return f"{step} is to be made first: {fault}"
        if record["requires"] != self.sources:
            return f"it was made from another {' or '.join(dict.fromkeys(step.name for step in self.requires))}"
        return ""

    def verified(self) -> Path:
        """The folder of a finished step, for readers that must not make it.

        Raises:
            SettingsError: it is not finished.
        """
        if fault := self.fault:
            raise SettingsError(f"{self} in {self.folder} is not finished: {fault}; {self.run.command()} makes it")
        return self.folder

    @property
    def damage(self) -> str:
        """What differs between the folder and its record, in words; "" for an intact one, whatever its inputs."""
        if not self._record:
            record = read_json(self.folder / RECORD)
            is_early = isinstance(record, dict) and "files" not in record
            return f"{RECORD} {'of an earlier version holds no hashes' if is_early else 'is missing or damaged'}"
        if wrong := difference(self.folder, self._record["files"]):
            return wrong
        return f"{self._unknown[0]} is not the step's" if self._unknown else ""

    def refuse_unknown(self) -> None:
        """Refuse files that the step did not write: a library might read them, and making the step removes them.

        Raises:
            SettingsError: names the first of them.
        """
        if os.path.lexists(self.folder) and not self.folder.is_dir():
            raise SettingsError(f"{self.folder} is no folder, and {self} writes into one of that name. Move it away")
        if unknown := self._unknown:
            raise SettingsError(
                f"{unknown[0]} was not written by {self}, whose folder is the run's alone. Move it away"
            )

    @property
    def outputs(self) -> str:
        """The hash of what it wrote, by its record, but for times; "" where there is none."""
        files = self._record.get("files", {})
        return digest({name: mark for name, mark in files.items() if name != LOG}) if files else ""

    @property
    def sources(self) -> dict[str, str]:
        """The `outputs` of the steps that it requires, by their folders."""
        return {step.folder.relative_to(self.run.folder).as_posix(): step.outputs for step in self.requires}

    @property
    def _record(self) -> dict[str, Any]:
        record = read_sealed(self.folder / RECORD) or {}
        return record if {"step", "inputs", "requires", "files"} <= record.keys() else {}

    @property
    def _unknown(self) -> list[str]:
        """Files in the folder that are not the step's, by its record."""
        return unknown_files(self.folder, [*self._record["files"], RECORD]) if self._record else []

    @property
    def processes(self) -> int:
        """How many processes make it together: `training.processes` of a trained arm, and otherwise one."""
        trained = self.name == "arm" and self.variant is not None and self.variant.arm.trained
        return self.run.settings.training.processes if trained else 1

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints while a model is trained on exactly these inputs."""
        name = f"{self.variant.arm.name}.seed{self.variant.seed}" if self.variant else self.name
        return self.run.folder / "checkpoints" / name / self.trained_on

    @property
    def trained_on(self) -> str:
        """The hash of its inputs and of the files that it is made from."""
        return digest([self.digest, self.sources])

    @property
    def failure(self) -> Path:
        """The record of a training that diverged. It lies beside the folder, which exists only for a finished step."""
        return self.folder.with_name(f"{self.folder.name}.failed.json")

    @property
    def divergence(self) -> str:
        """The error with which training on these inputs diverged; "" if it did not, or was not tried."""
        failed = read_json(self.failure)
        tried = isinstance(failed, dict) and failed.get("inputs") == self.trained_on
        return str(failed["error"]) if tried else ""

    @property
    def notebook(self) -> str:
        """The notebook that makes the step: its name in the run's `notebooks` folder, without the suffix."""
        name = NOTEBOOKS.get(self.name, ABLATIONS)
        if self.variant is None or name == ABLATIONS:
            return name
        if self.name == "arm" and not self.variant.arm.trained:
            name = NOTEBOOKS["evaluation"]  # no notebook trains it; the first that reads it makes it
        return f"{name}.{self.variant.arm.name}.seed{self.variant.seed}"

    @property
    def notebooks_before(self) -> list[str]:
        """The notebooks that make what it requires, but for its own."""
        own = self.notebook
        found = [[step.notebook] if step.notebook != own else step.notebooks_before for step in self.requires]
        return list(dict.fromkeys(chain(*found)))


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
    """The step of an arm's scores and samples on the test documents."""
    names = {"documents", "new_tokens", "batch_size"}
    measured = variant.run.settings.evaluation.model_dump(mode="json", include=names)
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


def times(variant: Variant) -> Step:
    """The step of an arm's times, each beside the base's."""
    names = {"latency_tokens", "latency_repeats", "timed_tokens"}
    timed = variant.run.settings.evaluation.model_dump(mode="json", include=names)
    inputs = variant.inputs | {"evaluation": timed, "timed": TIMED}
    return Step(variant.run, "times", variant.folder / "times", inputs, (arm(variant),), variant)


def study(run: Run, name: str, inputs: dict[str, Any], variants: Sequence[Variant] = ()) -> Step:
    """The step of a study over these arms and seeds, or, with none, over the base."""
    inputs = (
        inputs | {"arms": [variant.inputs for variant in variants]} if variants else base_inputs(run.settings) | inputs
    )
    requires = tuple(arm(variant) for variant in variants) or (base(run),)
    return Step(run, name, run.folder / name, inputs, requires)


def outdated_notebooks(run: Run) -> dict[str, str]:
    """The executed notebooks of what is damaged, gone or from another base, and all after them.

    Those of other inputs are not among them: the run graph compares inputs itself.

    Returns:
        By notebook why, in words; "" for one that only comes after another.

    Raises:
        SettingsError: a step's folder holds files that are not the step's.
    """
    notebooks = run.folder / "notebooks"
    executed = {path.stem for path in notebooks.glob("*.ipynb")}
    steps, studied = [corpus(run), base(run)], run.settings.evaluation.studies
    variants = [variant for variant in run.variants() if not arm(variant).divergence]
    for variant in variants:
        steps += [arm(variant), evaluation(variant), *([probes(variant)] if studied else []), times(variant)]
    found: dict[str, list[str]] = {}

    def add(notebook: str, *reasons: str) -> None:
        found.setdefault(notebook, []).extend(reasons)

    for step in steps:
        step.refuse_unknown()
        if (fault := step.fault) and not fault.endswith(OTHER_INPUTS):
            is_first = all(required.is_finished for required in step.requires)
            if is_first or step.notebook != ABLATIONS:  # which comes after everything, or lacked this arm
                add(step.notebook, *([f"{step} in {step.folder}: {fault}"] if is_first else []))
            if (step.name, str(step.variant)) == ("arm", DRAWN):
                add(VISUALIZATION)
    made = {step.folder for step in steps}
    for folder in sorted(path.parent for path in run.folder.glob(f"*/{RECORD}")):
        if folder not in made and (damage := Step(run, folder.name, folder, {}).damage):
            add(ABLATIONS, f"{folder}: {damage}")
    kept = [(variant.folder.parent, arm(variant).notebook) for variant in variants]
    for folder, notebook in (*kept, *product((run.results, run.figures), (ABLATIONS, VISUALIZATION))):
        if damage := kept_difference(folder):
            add(notebook, f"{folder}: {damage}")
    for name in executed if kept_difference(notebooks) else ():
        if damage := kept_difference(notebooks, f"{name}.ipynb"):
            add(name, f"{notebooks}: {damage}")
            for later in _notebooks_after(name, executed):
                add(later)
    if DRAWN not in map(str, variants):  # of an earlier run with other arms
        found.pop(VISUALIZATION, None)
    outdated = {name: "; ".join(dict.fromkeys(reasons)) for name, reasons in found.items() if name in executed}
    return {ABLATIONS: ""} | outdated if outdated else {}


def _notebooks_after(name: str, executed: set[str]) -> set[str]:
    """The executed notebooks that read what another makes, but for that of the ablations, which reads everything."""
    if name == NOTEBOOKS["base"]:
        return executed
    own = f"{NOTEBOOKS['arm']}."
    return {f"{NOTEBOOKS['evaluation']}.{name.removeprefix(own)}", VISUALIZATION} if name.startswith(own) else set()
