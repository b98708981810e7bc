"""The model of an arm: the base with the arm's gate, fine-tuned if the arm is a trained one.

Notebook 02 calls `tuning_rows`, `validation_rows` and `arm_files` one by one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from rwkvgate.experiment import order
from rwkvgate.experiment.order import Step
from rwkvgate.experiment.run import Run, Variant
from rwkvgate.experiment.steps.base import LOG, ensure_base
from rwkvgate.experiment.steps.kept import kept, read_model
from rwkvgate.experiment.steps.making import Write, complete, makes
from rwkvgate.experiment.steps.texts import Texts, ensure_texts
from rwkvgate.experiment.training import TrainingLog, close_row, document_rows, train
from rwkvgate.experiment.training.sharding import whole
from rwkvgate.gate.patch import gates_of, patch, select_trainable
from rwkvgate.gate.validation import SettingsError
from rwkvgate.rwkv6.files import write_json
from rwkvgate.rwkv6.modeling import Rwkv6ForCausalLM

WEIGHTS = "weights.safetensors"
VALIDATION_DOCUMENTS = 64
"""Documents for the validation loss during training; the whole split would take longer and show no more."""


def ensure_arm(variant: Variant) -> Rwkv6ForCausalLM:
    """The model of an arm in evaluation mode; fine-tunes it first if the arm is trained and not finished.

    Raises:
        FloatingPointError: its training diverged, now or earlier.
        RuntimeError: one of the `training.processes` failed; the next call resumes from their checkpoint.
    """
    if not kept(variant.run):
        complete(order.arm(variant))
    return load_arm(variant)


def build_arm(variant: Variant) -> Rwkv6ForCausalLM:
    """The base with the arm's untrained gate. The seed initialises the gate, so arms with the same gate start alike."""
    model = ensure_base(variant.run)
    torch.manual_seed(variant.seed)
    if variant.arm.lora:
        from rwkvgate.experiment.lora import add_lora  # peft takes seconds to import, and only one arm needs it

        return add_lora(model)
    return model if variant.gate is None else patch(model, variant.gate)


def tuning_rows(run: Run, texts: Texts, seed: int) -> list[list[int]]:
    """The training rows, in order; the same for every arm of this seed."""
    return document_rows(texts.encode(texts.corpus.train), run.settings.training, texts.tokenizer.bos_token_id, seed)


def validation_rows(run: Run, texts: Texts) -> list[list[int]]:
    """The rows for the validation loss during training."""
    documents = texts.encode(texts.corpus.validation[:VALIDATION_DOCUMENTS])
    return [close_row(document, run.settings.training.length, texts.tokenizer.bos_token_id) for document in documents]


def arm_files(model: Rwkv6ForCausalLM, log: TrainingLog) -> Write:
    """The function that writes an arm: its gate and all trained parameters in one file, and the training log."""
    kept = kept_names(model, trained=log.steps > 0)
    weights = {name: whole(p).cpu() for name, p in model.named_parameters() if name in kept}

    def write(folder: Path) -> None:
        save_file(weights, str(folder / WEIGHTS))
        write_json(folder / LOG, asdict(log))

    return write


def kept_names(model: Rwkv6ForCausalLM, trained: bool) -> set[str]:
    """The parameters that an arm's file holds: its gate's, and all that were trained, those that require gradients."""
    # By name, because sharding a model over processes replaces its parameters.
    gate = {id(p) for one in gates_of(model) for p in one.parameters()}
    return {name for name, p in model.named_parameters() if id(p) in gate or (p.requires_grad and trained)}


@makes("arm")
def _make_arm(step: Step) -> Write:
    assert step.variant is not None
    variant, model = step.variant, build_arm(step.variant)
    if not variant.arm.trained:
        return arm_files(model, TrainingLog(history=[], steps=0, tokens=0, seconds=0.0))
    texts, schedule = ensure_texts(step.run), step.run.settings.training
    select_trainable(model, schedule.scope)
    log = train(
        model,
        tuning_rows(step.run, texts, variant.seed),
        schedule,
        label=f"fine-tuning {variant}",
        seed=variant.seed,
        validation=validation_rows(step.run, texts),
        checkpoints=step.checkpoints,
    )
    return arm_files(model, log)


def load_arm(variant: Variant) -> Rwkv6ForCausalLM:
    """The model of a finished arm and seed, or of one that the run keeps, in evaluation mode.

    Raises:
        SettingsError: the arm is not finished, or its file does not hold exactly its weights; or it is not kept.
    """
    if kept(variant.run):
        if not variant.arm.trained:
            return build_arm(variant).requires_grad_(False).eval()
        folder = kept(variant.run, variant.arm.name if variant.seed == 0 else str(variant))
        assert folder is not None
        return read_model(folder)
    path = order.arm(variant).verified() / WEIGHTS
    model = build_arm(variant)
    if variant.arm.trained:
        select_trainable(model, variant.run.settings.training.scope)  # makes them float32, as they were trained
    try:
        weights = load_file(str(path))
    except (OSError, SafetensorError) as error:
        raise SettingsError(f"{path} cannot be read ({error}). Remove {path.parent} and run again") from None
    own = dict(model.named_parameters())
    if wrong := _wrong_weights(weights, {name: own[name] for name in kept_names(model, variant.arm.trained)}):
        advice = f"Remove {path.parent} and run again"
        raise SettingsError(f"{path} does not hold the weights of {variant}: {wrong}. {advice}")
    model.load_state_dict(weights, strict=False)  # the others are the frozen base's
    return model.requires_grad_(False).eval()


def _wrong_weights(given: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor]) -> str:
    """The first difference between a file's tensors and a model's parameters, in words; "" where there is none."""
    for names, state in ((own.keys() - given.keys(), "missing"), (given.keys() - own.keys(), "unknown")):
        if names:
            return f"{', '.join(sorted(names)[:3])} {'is' if len(names) == 1 else 'are'} {state}"
    for name, x in given.items():
        if (x.shape, x.dtype) != (own[name].shape, own[name].dtype):
            both = (f"{str(one.dtype).removeprefix('torch.')} {tuple(one.shape)}" for one in (x, own[name]))
            return f"{name} is {' and not '.join(both)}"
        if not bool(x.isfinite().all()):
            return f"{name} holds values that are no numbers"
    return ""
