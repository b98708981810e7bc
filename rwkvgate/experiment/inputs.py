"""What the steps of a run depend on, as JSON values to be hashed; light enough for the run graph to import."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rwkvgate.experiment.arms import Arm
from rwkvgate.experiment.corpora.local import content_hash
from rwkvgate.experiment.corpora.natural import text_versions
from rwkvgate.experiment.settings import LAUNCH, Settings, place, place_or_name
from rwkvgate.gate.config import GateConfig


def gate_of(arm: Arm, settings: Settings) -> GateConfig | None:
    """The gate of an arm under the settings' changes; None for an arm without one.

    Raises:
        SettingsError: a change names no field of GateConfig, or is impossible for this arm.
    """
    if arm.gate is None:
        unknown = {name: value for name, value in settings.gate.items() if name not in GateConfig.model_fields}
        GateConfig.build(unknown, where="gate")
        return None
    return GateConfig.build(arm.gate.model_dump() | settings.gate, where=f"the gate of arm {arm.name!r}")


def corpus_inputs(settings: Settings) -> dict[str, Any]:
    """What texts and tokenizer depend on: settings, versions of what natural text is read from, content of files."""
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
    """What the base depends on."""
    return corpus_inputs(settings) | {"model": settings.model.model_dump(mode="json")}


def arm_inputs(settings: Settings, arm: Arm, seed: int) -> dict[str, Any]:
    """What a tuned arm's weights depend on."""
    gate = gate_of(arm, settings)
    inputs = base_inputs(settings) | {"arm": arm.name, "gate": gate and gate.model_dump(mode="json"), "seed": seed}
    # Without a grid the learning rate alone decides.
    left_out = LAUNCH | (set() if settings.training.learning_rates else {"learning_rates"})
    training = settings.training.model_dump(mode="json", exclude=left_out)
    return inputs | ({"training": training} if arm.trained else {})
