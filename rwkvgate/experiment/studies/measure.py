"""What a run measures once, over some arms together: cost against length, and what the gate knows of language."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import pandas as pd
import torch

from rwkvgate.experiment import order
from rwkvgate.experiment.analysis.coherence import entity_scores
from rwkvgate.experiment.arms import ARMS
from rwkvgate.experiment.corpora.documents import Document
from rwkvgate.experiment.corpora.punctuation import weak_document
from rwkvgate.experiment.inputs import gate_of
from rwkvgate.experiment.order import Step
from rwkvgate.experiment.run import Run, Variant
from rwkvgate.experiment.steps import Texts, ensure_arm, ensure_base, ensure_texts
from rwkvgate.experiment.steps.arm import build_arm
from rwkvgate.experiment.steps.making import Write, complete, makes
from rwkvgate.experiment.steps.probes import SHARE, natural_pieces
from rwkvgate.experiment.studies.linguistics import EFFECT_COLUMNS, GROUPS, group_effects, label_tokens
from rwkvgate.experiment.studies.perturbation import CHANGE_COLUMNS, Edit, edits, gate_changes
from rwkvgate.explore.traces import record_gates
from rwkvgate.gate.validation import SettingsError
from rwkvgate.metrics.cost import GRID_COLUMNS, ONE_PASS, SCALING_COLUMNS, WINDOWS, latency_grid, scaling
from rwkvgate.metrics.generation import continue_prompts

PERMUTATIONS = 400
READ = ("enhanced", "enhanced-untrained")
"""Arms whose gate is read at labelled tokens and around edits."""
REWRITTEN = ("base-tuned", "enhanced")
"""Arms that continue edited prompts, with their first seed."""
SHORTEST, FACTOR, SCALING_REPEATS = 256, 4, 3
"""Lengths of the scaling measurement: from the shortest up, each so many times the last."""
GRID_BATCHES, GRID_LENGTHS, GRID_REPEATS = (1, 4, 16), (128, 512), 5
UNEDITED = "unedited"
SATURATION_COLUMNS = ("arm", "seed", "layer", "saturated", "mean", "deviation")
REWRITTEN_COLUMNS = ("arm", "kind", "edit", "document", "entity_right", "entity_claims")


@dataclass(frozen=True)
class Studies:
    """The tables of all studies of a run; each is described where it is made."""

    scaling: pd.DataFrame
    grid: pd.DataFrame
    effects: pd.DataFrame
    changes: pd.DataFrame
    rewritten: pd.DataFrame
    saturation: pd.DataFrame

    def frames(self) -> dict[str, pd.DataFrame]:
        """The tables by name."""
        return {item.name: getattr(self, item.name) for item in fields(self)}


def ensure_studies(run: Run) -> Studies:
    """All studies, each made where that is not done yet."""
    return Studies(
        scaling=ensure_scaling(run),
        grid=ensure_grid(run),
        effects=ensure_effects(run),
        changes=ensure_changes(run),
        rewritten=ensure_rewritten(run),
        saturation=ensure_saturation(run),
    )


def no_studies() -> Studies:
    """Tables without a row, of a run that measures none."""
    columns: dict[str, tuple[str, ...]] = {
        "scaling": SCALING_COLUMNS,
        "grid": GRID_COLUMNS,
        "effects": ("arm", "seed", "text", *EFFECT_COLUMNS),
        "changes": ("arm", "seed", *CHANGE_COLUMNS),
        "rewritten": REWRITTEN_COLUMNS,
        "saturation": SATURATION_COLUMNS,
    }
    return Studies(**{name: pd.DataFrame(columns=list(found)) for name, found in columns.items()})


def ensure_scaling(run: Run) -> pd.DataFrame:
    """Time and memory of base and paper's gate against length, measured where that is not done yet.

    The gate is fresh: time does not depend on what it has learned.
    """

    def measure() -> pd.DataFrame:
        lengths = [SHORTEST]
        while lengths[-1] * FACTOR <= run.settings.evaluation.longest:
            lengths.append(lengths[-1] * FACTOR)
        print(f"timing texts of {lengths[0]:,} to {lengths[-1]:,} tokens", flush=True)
        models = {"base": ensure_base(run), "enhanced": build_arm(run.variant("enhanced")).eval()}
        return scaling(models, lengths, repeats=SCALING_REPEATS)

    return _ensure(run, "scaling", _scaling_inputs(run), (), measure)


def ensure_grid(run: Run) -> pd.DataFrame:
    """Prefill, decoding and memory of base and paper's gate over batch sizes and lengths; see `ensure_scaling`."""

    def measure() -> pd.DataFrame:
        print("timing batches of several sizes and lengths", flush=True)
        models = {"base": ensure_base(run), "enhanced": build_arm(run.variant("enhanced")).eval()}
        return latency_grid(models, GRID_BATCHES, GRID_LENGTHS, repeats=GRID_REPEATS)

    return _ensure(run, "grid", _scaling_inputs(run), (), measure)


def ensure_effects(run: Run) -> pd.DataFrame:
    """The paper's gate at clause boundaries, sentence starts and mentions, tuned and not, where that is not done yet.

    The gate before training is the control: a random function of the hidden state tells tokens apart too. `text` is
    'stories', whose labels the generator knows, or 'natural', where punctuation is a weak label.
    """
    read = _of_run(run, READ)

    def measure() -> pd.DataFrame:
        texts, frames = ensure_texts(run), [pd.DataFrame(columns=["arm", "seed", "text", *EFFECT_COLUMNS])]
        count = run.settings.evaluation.documents
        pieces = natural_pieces(texts.corpus.natural_validation, max(2, count // SHARE))
        sources = {
            "stories": texts.corpus.test[:count],
            "natural": [weak_document(piece, "natural", "") for piece in pieces],
        }
        for variant in read:
            print(f"reading the gate at clause boundaries and mentions, {variant}", flush=True)
            model = ensure_arm(variant)
            for kind, documents in sources.items():
                labelled = label_tokens(model, texts.tokenizer, documents)
                found = [
                    group_effects(labelled, group, match=match, permutations=PERMUTATIONS)
                    for group, match in GROUPS.items()
                    if labelled.frame[group].any()
                ]
                frames.append(pd.concat(found).assign(arm=variant.arm.name, seed=variant.seed, text=kind))
        return pd.concat([frame for frame in frames if len(frame)] or frames, ignore_index=True)

    return _ensure(run, "effects", _language_inputs(run), read, measure)


def ensure_changes(run: Run) -> pd.DataFrame:
    """How far edits of punctuation and names move gates: `perturbation.gate_changes`, by arm and seed."""
    read = _of_run(run, READ)

    def measure() -> pd.DataFrame:
        texts, frames = ensure_texts(run), [pd.DataFrame(columns=["arm", "seed", *CHANGE_COLUMNS])]
        edited = _edited(run, texts)
        for variant in read:
            print(f"reading the gate around edits, {variant}", flush=True)
            found = gate_changes(ensure_arm(variant), texts.tokenizer, edited)
            frames.append(found.assign(arm=variant.arm.name, seed=variant.seed))
        return pd.concat([frame for frame in frames if len(frame)] or frames, ignore_index=True)

    return _ensure(run, "changes", _language_inputs(run), read, measure)


def ensure_rewritten(run: Run) -> pd.DataFrame:
    """How continuations of edited prompts keep to who owns what, beside those of the prompts as they were.

    Columns `REWRITTEN_COLUMNS`: `kind` of edit; `edit` is 'edited', 'neutral' or `UNEDITED`. A continuation is held
    against the prompt that it was given.
    """
    read = [variant for variant in _of_run(run, REWRITTEN) if variant.seed == 0]

    def measure() -> pd.DataFrame:
        texts, frames = ensure_texts(run), [pd.DataFrame(columns=list(REWRITTEN_COLUMNS))]
        edited = _edited(run, texts)
        for variant in read:
            print(f"continuing edited prompts, {variant}", flush=True)
            model = ensure_arm(variant)
            frames.append(_continued(run, texts, model, edited).assign(arm=variant.arm.name))
        return pd.concat([frame for frame in frames if len(frame)] or frames, ignore_index=True)

    inputs = _language_inputs(run) | {"new_tokens": run.settings.evaluation.new_tokens}
    return _ensure(run, "rewritten", inputs, read, measure)


def ensure_saturation(run: Run) -> pd.DataFrame:
    """How far every gate that can move is saturated, over test documents: `SATURATION_COLUMNS`.

    `saturated` is the share of channels within 0.05 of 0 or 1; `mean` and `deviation` are, over tokens, of the mean
    over channels.
    """
    gates = {arm.name: gate_of(arm, run.settings) for arm in ARMS.values()}
    moving = tuple(name for name, gate in gates.items() if gate is not None and gate.gating != "fixed")
    read = _of_run(run, moving)

    def measure() -> pd.DataFrame:
        texts, rows = ensure_texts(run), []
        documents = texts.corpus.test[: max(2, run.settings.evaluation.documents // SHARE)]
        for variant in read:
            model = ensure_arm(variant)
            traces = [record_gates(model, ids) for ids in _rows_of(texts, documents, model)]
            for layer in range(len(traces[0].values)):
                shares = torch.cat([trace.saturation()[layer] for trace in traces])
                means = torch.cat([trace.token_means()[layer] for trace in traces])
                rows.append(
                    (
                        variant.arm.name,
                        variant.seed,
                        layer + 1,
                        float(shares.mean()),
                        float(means.mean()),
                        float(means.std()),
                    )
                )
        return pd.DataFrame(rows, columns=list(SATURATION_COLUMNS))

    return _ensure(run, "saturation", _language_inputs(run), read, measure)


def _of_run(run: Run, arms: tuple[str, ...]) -> list[Variant]:
    """Those of the arms that the run has, with their seeds, where training did not diverge."""
    return [v for v in run.variants() if v.arm.name in arms and not order.arm(v).divergence]


def _language_inputs(run: Run) -> dict[str, Any]:
    return {"documents": run.settings.evaluation.documents}


def _scaling_inputs(run: Run) -> dict[str, Any]:
    """What time and memory against length depend on, besides the base."""
    gate = run.variant("enhanced").gate
    longest = run.settings.evaluation.longest
    return {"gate": gate and gate.model_dump(mode="json"), "longest": longest, "modes": [WINDOWS, ONE_PASS]}


def _ensure(
    run: Run, name: str, inputs: dict[str, Any], read: Sequence[Variant], measure: Callable[[], pd.DataFrame]
) -> pd.DataFrame:
    """The table of a study, measured where it is not there yet.

    Raises:
        SettingsError: its file is missing or damaged.
    """
    step = order.study(run, name, inputs, read)

    @makes(name)
    def _(step: Step) -> Write:
        frame = measure()
        return lambda folder: frame.to_parquet(folder / f"{name}.parquet", index=False)

    complete(step)
    try:
        return pd.read_parquet(step.folder / f"{name}.parquet")
    except (OSError, ValueError) as error:
        raise SettingsError(f"{step.folder} cannot be read ({error}). Remove it and run {run.command()}") from None


def _edited(run: Run, texts: Texts) -> list[tuple[Document, list[Edit]]]:
    """Test documents with one edit of each kind in their prompts."""
    documents = texts.corpus.test[: max(2, run.settings.evaluation.documents // SHARE)]
    return [
        (document, edits(document, len(texts.prompt(document, run.settings)[0]), seed=number))
        for number, document in enumerate(documents)
    ]


def _rows_of(texts: Texts, documents: list[Document], model: Any) -> list[torch.Tensor]:
    """Each document's ids after the prefix, (1, time), on the model's device."""
    device = next(model.parameters()).device
    separator = texts.tokenizer.bos_token_id
    return [torch.tensor([[separator, *ids]], device=device) for ids in texts.encode(documents)]


def _continued(run: Run, texts: Texts, model: Any, edited: list[tuple[Document, list[Edit]]]) -> pd.DataFrame:
    rows, prompts, domains = [], [], []
    for number, (document, made) in enumerate(edited):
        prompt, rest = texts.prompt(document, run.settings)
        versions = [(UNEDITED, UNEDITED, prompt)]
        for edit in made:
            versions += [
                (edit.kind, name, text.removesuffix(rest))
                for name, text in (("edited", edit.edited), ("neutral", edit.neutral))
            ]
        for kind, name, text in versions:
            rows.append((kind, name, number))
            prompts.append(text)
            domains.append(document.domain)
    settings = run.settings.evaluation
    written = continue_prompts(
        model, texts.tokenizer, prompts, new_tokens=settings.new_tokens, batch_size=settings.batch_size
    )
    scored = entity_scores(domains, prompts, written)
    frame = pd.DataFrame(rows, columns=["kind", "edit", "document"])
    return frame.assign(entity_right=scored["entity_right"], entity_claims=scored["entity_claims"])
