"""What each step of a run depends on, as JSON values to be hashed; light enough for the run graph to import."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rwkvgate.experiment.arms import ARMS, Arm, find_arm
from rwkvgate.experiment.corpora.local import content_hash
from rwkvgate.experiment.corpora.natural import text_versions
from rwkvgate.experiment.settings import LAUNCH, Settings, place, place_or_name
from rwkvgate.gate.config import GateConfig

SCALING_MODES = ("windows", "one pass")
"""How texts are read where time and memory are measured against length; see `evaluation.cost`."""


SCORES, PROBED = 3, 1
"""Raised when an evaluation, or the probes, measure something new, so that finished ones are made again."""


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


def arms_and_seeds(settings: Settings) -> list[tuple[str, int]]:
    """Every arm and seed of a full run, in the order of `ARMS`; an arm that is not trained has one seed.

    Raises:
        SettingsError: one of the settings' arms is unknown.
    """
    wanted = {find_arm(name).name for name in settings.evaluation.arms}
    arms = [arm for arm in ARMS.values() if arm.name in wanted]
    return [(arm.name, seed) for arm in arms for seed in range(settings.evaluation.seeds if arm.trained else 1)]


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


def arm_inputs(settings: Settings, arm: str, seed: int) -> dict[str, Any]:
    """What a tuned arm's weights depend on."""
    found = find_arm(arm)
    gate = gate_of(found, settings)
    inputs = base_inputs(settings) | {"arm": arm, "gate": gate and gate.model_dump(mode="json"), "seed": seed}
    # Without a grid the rate alone says it all.
    left_out = LAUNCH | (set() if settings.training.learning_rates else {"learning_rates"})
    training = settings.training.model_dump(mode="json", exclude=left_out)
    return inputs | ({"training": training} if found.trained else {})


def evaluation_inputs(settings: Settings, arm: str, seed: int) -> dict[str, Any]:
    """What an arm's scores depend on."""
    apart = {"arms", "seeds", "resamples", "longest", "probes", "studies"}
    measured = settings.evaluation.model_dump(mode="json", exclude=apart)
    return arm_inputs(settings, arm, seed) | {"evaluation": measured, "scores": SCORES}


def probe_inputs(settings: Settings, arm: str, seed: int) -> dict[str, Any]:
    """What an arm's long-range probes and scores on other domains depend on."""
    evaluation = settings.evaluation
    return arm_inputs(settings, arm, seed) | {
        "documents": evaluation.documents,
        "probes": evaluation.probes,
        "measured": PROBED,
        "trained": settings.training.length,
    }


def scaling_inputs(settings: Settings) -> dict[str, Any]:
    """What time and memory against length depend on."""
    gate = gate_of(find_arm("enhanced"), settings)
    return base_inputs(settings) | {
        "gate": gate and gate.model_dump(mode="json"),
        "longest": settings.evaluation.longest,
        "modes": SCALING_MODES,
    }
