"""The inputs of the steps, as JSON values to hash. Imports no torch, so that the run graph starts quickly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rwkvgate.experiment.arms import Arm
from rwkvgate.experiment.corpora.local import content_hash
from rwkvgate.experiment.corpora.natural import text_versions
from rwkvgate.experiment.places import place, place_or_name
from rwkvgate.experiment.settings import LAUNCH, Settings
from rwkvgate.gate.config import GateConfig


def gate_of(arm: Arm, settings: Settings) -> GateConfig | None:
    """The gate of an arm with the changes in `settings.gate`; None for an arm without a gate.

    Raises:
        SettingsError: a change is to an unknown field of GateConfig, or this arm's gate cannot have it.
    """
    if arm.gate is None:
        unknown = {name: value for name, value in settings.gate.items() if name not in GateConfig.model_fields}
        GateConfig.build(unknown, where="gate")
        return None
    return GateConfig.build(arm.gate.model_dump() | settings.gate, where=f"the gate of arm {arm.name!r}")


def corpus_inputs(settings: Settings) -> dict[str, Any]:
    """Inputs of texts and tokenizer: settings, versions of the packages with natural text, content of local files."""
    corpus = settings.corpus
    versions = text_versions(corpus.natural_characters)
    places = {} if corpus.source == "stories" else {corpus.source: place(corpus.source)}
    places |= {one.name: Path(place_or_name(one.name)) for one in corpus.hub if place(one.name).is_dir()}
    inputs: dict[str, Any] = {
        "corpus": corpus.model_dump(mode="json"),
        "vocabulary": settings.model.vocabulary,
        "python": versions.pop("python"),
    }
    inputs |= {"packages": versions} if versions else {}
    return inputs | ({"files": {name: content_hash(path) for name, path in places.items()}} if places else {})


def base_inputs(settings: Settings) -> dict[str, Any]:
    """Inputs of the base: those of the texts, and the model's settings."""
    return corpus_inputs(settings) | {"model": settings.model.model_dump(mode="json")}


def arm_inputs(settings: Settings, arm: Arm, seed: int) -> dict[str, Any]:
    """Inputs of an arm's weights: those of the base, the gate, the seed and, if the arm is trained, the training."""
    gate = gate_of(arm, settings)
    inputs = base_inputs(settings) | {"arm": arm.name, "gate": gate and gate.model_dump(mode="json"), "seed": seed}
    # An empty grid has no effect, so it stays out of the hash.
    left_out = LAUNCH | (set() if settings.training.learning_rates else {"learning_rates"})
    training = settings.training.model_dump(mode="json", exclude=left_out)
    return inputs | ({"training": training} if arm.trained else {})
