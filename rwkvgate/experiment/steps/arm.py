"""The model of an arm: the base with the arm's gate, fine-tuned if the arm is a trained one.

Notebook 02 calls `tuning_rows`, `validation_rows` and `arm_files` one by one.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from rwkvgate.experiment import order
from rwkvgate.experiment.order import Step
from rwkvgate.experiment.run import Run, Variant
from rwkvgate.experiment.steps.base import LOG, ensure_base
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
    # By name, because sharding a model over processes replaces its parameters.
    gate = {id(p) for one in gates_of(model) for p in one.parameters()}
    kept = {name for name, p in model.named_parameters() if id(p) in gate or (p.requires_grad and log.steps)}
    weights = {name: whole(p).cpu() for name, p in model.named_parameters() if name in kept}

    def write(folder: Path) -> None:
        save_file(weights, str(folder / WEIGHTS))
        write_json(folder / LOG, asdict(log))

    return write


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
    """The model of a finished arm and seed, in evaluation mode.

    Raises:
        SettingsError: the weights are missing, damaged, or those of another model.
    """
    model = build_arm(variant)
    path = variant.folder / WEIGHTS
    try:
        weights = load_file(str(path))
    except (OSError, SafetensorError) as error:
        raise SettingsError(f"{path} cannot be read ({error}). Remove {path.parent} and run again") from None
    own = dict(model.named_parameters())
    wrong = [name for name, x in weights.items() if name not in own or own[name].shape != x.shape]
    if wrong:
        raise SettingsError(f"{path} holds weights of another model: {', '.join(wrong[:3])}. Remove {path.parent}")
    for name, x in weights.items():
        own[name].data = own[name].data.to(x.dtype)  # parameters trained in float32 stay so on a half-precision base
    model.load_state_dict(weights, strict=False)
    return model.requires_grad_(False).eval()
