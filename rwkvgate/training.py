"""Optimisation on transformers' Trainer: pretraining of the base and fine-tuning of an arm.

Both run the same few lines; what differs is the rows they are given. Rows come in the order in which
they are used, so every arm of a seed sees the same tokens in the same order.
"""

from __future__ import annotations

import hashlib
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import LRScheduler
from transformers import (
    PreTrainedModel,
    TrainerCallback,
    TrainingArguments,
    get_cosine_schedule_with_warmup,
)

from rwkvgate.checkpointing import ResumableTrainer, Saver, prepare
from rwkvgate.files import digest
from rwkvgate.memory import GIB, check_memory, peak_bytes, training_memory
from rwkvgate.progress import Progress
from rwkvgate.rwkv6.loss import IGNORED
from rwkvgate.settings import Schedule, SettingsError

Rows = Sequence[Sequence[int]]

MOST_SKIPPED = 25
"""Steps in a row that float16 gradients may overflow; by then their scale is down by a factor of 2^25."""


@dataclass(frozen=True)
class TrainingLog:
    """What a run leaves: one record a logged step, and totals.

    `history` holds dictionaries with `step` and `loss` (training, mean since the last record) or
    `validation_loss`, all in nats a token. `predicted_bytes` is the memory that the step was expected to
    take, `peak_bytes` what it took on a CUDA device. Where several learning rates were tried, `rate` is the one kept
    and `tried` has each one's last validation loss, infinite where it diverged; the rest is of the one kept.
    """

    history: list[dict[str, float]]
    steps: int
    tokens: int
    seconds: float
    predicted_bytes: int = 0
    peak_bytes: int | None = None
    rate: float | None = None
    tried: dict[str, float] = field(default_factory=dict)

    @property
    def validation_loss(self) -> float:
        """The last validation loss, nats a token; infinite where none was taken."""
        losses = [record["validation_loss"] for record in self.history if "validation_loss" in record]
        return losses[-1] if losses else math.inf

    @property
    def tokens_per_second(self) -> float:
        """Real tokens (padding not counted) a second, validation included."""
        return self.tokens / self.seconds if self.seconds else math.nan


def pack_rows(documents: Rows, schedule: Schedule, separator: int, seed: int) -> list[list[int]]:
    """Rows of `schedule.length` tokens cut from the documents run together, enough for every step.

    Documents are shuffled anew for each pass and preceded by the separator.

    Raises:
        SettingsError: the steps would see a token more than twice.
    """
    rng = np.random.default_rng(seed)
    wanted = schedule.steps * schedule.batch_size
    available = sum(len(document) + 1 for document in documents)
    if wanted * schedule.length > 2 * available:
        raise SettingsError(
            f"{schedule.steps} steps of {schedule.batch_size} x {schedule.length} tokens need "
            f"{wanted * schedule.length:,} tokens, and the text has {available:,}: a token would be seen more "
            f"than twice, and the base would memorise. Lower pretraining.steps or raise corpus.natural_characters"
        )
    stream: list[int] = []
    while len(stream) < wanted * schedule.length:
        for i in rng.permutation(len(documents)):
            stream.append(separator)
            stream.extend(documents[i])
    length = schedule.length
    return [stream[i * length : (i + 1) * length] for i in range(wanted)]


def document_rows(documents: Rows, schedule: Schedule, separator: int, seed: int) -> list[list[int]]:
    """One row a document, between separators, cut at `schedule.length`, enough for every step.

    Each pass goes over the documents in a new order, drawn from the seed alone.

    Raises:
        SettingsError: there is no document.
    """
    if not documents:
        raise SettingsError("there is no document to train on")
    rng = np.random.default_rng(seed)
    wanted = schedule.steps * schedule.batch_size
    order: list[int] = []
    while len(order) < wanted:
        order.extend(rng.permutation(len(documents)).tolist())
    return [close_row(documents[i], schedule.length, separator) for i in order[:wanted]]


def close_row(document: Sequence[int], length: int, separator: int) -> list[int]:
    """A document between separators, cut at `length` tokens."""
    return [separator, *document, separator][:length]


def collate(rows: Sequence[Mapping[str, Sequence[int]]]) -> dict[str, Tensor]:
    """Rows padded on the right to the longest: `input_ids` and `labels`, both (batch, time).

    No attention mask: what stands to the right of a token cannot reach it, and padding is not scored.
    """
    longest = max(len(row["input_ids"]) for row in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    labels = torch.full((len(rows), longest), IGNORED)
    for i, row in enumerate(rows):
        tokens = torch.tensor(row["input_ids"])
        ids[i, : len(tokens)] = tokens
        labels[i, : len(tokens)] = tokens
    return {"input_ids": ids, "labels": labels}


def _collate_for_loss(rows: Sequence[Mapping[str, Sequence[int]]]) -> dict[str, Any]:
    # Validation too needs the loss alone; its logits would be the largest thing in memory.
    return {**collate(rows), "skip_logits": True}


def build_optimizer(model: PreTrainedModel, schedule: Schedule) -> tuple[AdamW, LRScheduler]:
    """AdamW by BlinkDL's recipe over what is trainable, and a warm-up with a cosine decay to zero.

    Betas (0.9, 0.99), epsilon 1e-18, weight decay on weight matrices only, twice the learning rate for
    `time_decay`.
    """
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            matrix = name.endswith(".weight") and parameter.dim() == 2
            rate = schedule.learning_rate * (2 if name.endswith(".time_decay") else 1)
            groups.setdefault((rate, schedule.weight_decay if matrix else 0.0), []).append(parameter)
    if not groups:
        raise SettingsError("nothing to train: the arm has no trainable parameter in this scope")
    optimizer = AdamW(
        [{"params": params, "lr": rate, "weight_decay": decay} for (rate, decay), params in groups.items()],
        betas=(0.9, 0.99),
        eps=1e-18,
        fused=True,
    )
    return optimizer, get_cosine_schedule_with_warmup(optimizer, schedule.warmup_steps, schedule.steps)


class _Report(TrainerCallback):
    """Prints progress, and stops a run whose loss is no number any more."""

    def __init__(self, label: str) -> None:
        self.progress = Progress(label)
        self.note = ""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.progress(state.global_step, state.max_steps, self.note)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        loss = (logs or {}).get("loss")
        if loss is None:
            return
        if not math.isfinite(float(loss)):
            raise FloatingPointError(f"the loss is {loss} at step {state.global_step}; lower the learning rate")
        self.note = f"loss {float(loss):.3f}"


class _ScaleWatch(TrainerCallback):
    """Stops a float16 run whose gradients overflow step after step, and logs their scale."""

    def __init__(self) -> None:
        self.accelerator: Any = None
        self.scale = 0.0
        self.skipped = 0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        scaler = getattr(self.accelerator, "scaler", None)
        if scaler is None:
            return
        # By the scale, which falls at every overflow: a fused optimiser skips the step inside, unseen by accelerate.
        scale = float(scaler.get_scale())
        self.skipped = self.skipped + 1 if scale < self.scale else 0
        self.scale = scale
        if self.skipped >= MOST_SKIPPED:
            raise FloatingPointError(
                f"gradients overflowed float16 in {self.skipped} steps in a row, the last of them step "
                f"{state.global_step}, down to a scale of {scale:g}: nothing is learned any more. "
                "Lower the learning rate, or train in float32"
            )


def _arguments(
    folder: str, schedule: Schedule, *, seed: int, half: bool, log_every: int, eval_every: int | None
) -> TrainingArguments:
    """What transformers' Trainer is told; it writes nothing but into `folder`."""
    return TrainingArguments(
        output_dir=folder,
        max_steps=schedule.steps,
        per_device_train_batch_size=schedule.batch_size,
        per_device_eval_batch_size=2 * schedule.batch_size,
        train_sampling_strategy="sequential",
        logging_steps=log_every,
        logging_nan_inf_filter=False,
        eval_strategy="steps" if eval_every else "no",
        eval_steps=eval_every,
        prediction_loss_only=True,
        save_strategy="no",  # `Saver` asks by the clock, and removes old ones
        report_to="none",
        disable_tqdm=True,
        seed=seed,
        fp16=half,
        max_grad_norm=1.0,
        dataloader_pin_memory=torch.cuda.is_available(),
    )


def train(
    model: PreTrainedModel,
    rows: list[list[int]],
    schedule: Schedule,
    *,
    label: str,
    seed: int,
    validation: list[list[int]] | None = None,
    log_every: int = 10,
    eval_every: int | None = None,
    checkpoints: Path | None = None,
) -> TrainingLog:
    """Train the model's trainable parameters, in place, on the rows in their order.

    Args:
        model: its parameters that require gradients are trained; it is left in evaluation mode.
        rows: token ids, `schedule.steps * schedule.batch_size` rows, used once each.
        validation: rows whose mean loss is logged every `eval_every` steps and at the end.
        label: what the progress lines call the run.
        checkpoints: a folder to keep checkpoints in; a training that was interrupted goes on from the last sound one
            there. None keeps none.

    Raises:
        FloatingPointError: the loss became infinite or no number, or float16 gradients do nothing but overflow.
        SettingsError: nothing is trainable, the memory is too small, or float16 is asked for without a GPU.
    """
    device = next(model.parameters()).device if not torch.cuda.is_available() else torch.device("cuda")
    half = any(p.dtype == torch.float16 for p in model.parameters())
    if half and device.type != "cuda":
        raise SettingsError("training in float16 needs a CUDA device; model.dtype float32 runs on this machine")
    if schedule.gradient_checkpointing:
        # transformers renames it between 5.15 and 5.23.
        getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
    predicted = training_memory(model, schedule.batch_size, max(map(len, rows)))
    check_memory(predicted, device, "Set training.gradient_checkpointing, or halve training.batch_size or length.")
    if device.type == "cuda":
        print(f"{label}: about {predicted}", flush=True)
        torch.cuda.reset_peak_memory_stats(device)
    watch = _ScaleWatch()
    start = None if checkpoints is None else prepare(checkpoints, _owner(model, rows, schedule, seed, validation))
    with tempfile.TemporaryDirectory(prefix="rwkvgate-") as scratch:
        evaluated = eval_every if validation else None
        folder = str(checkpoints or scratch)
        arguments = _arguments(folder, schedule, seed=seed, half=half, log_every=log_every, eval_every=evaluated)
        trainer = ResumableTrainer(
            model=model,
            args=arguments,
            data_collator=_collate_for_loss,
            train_dataset=[{"input_ids": row} for row in rows],
            eval_dataset=[{"input_ids": row} for row in validation] if validation else None,
            optimizers=build_optimizer(model, schedule),
            callbacks=[_Report(label), watch, *([Saver()] if checkpoints else [])],
        )
        watch.accelerator = trainer.accelerator
        quiet = next(c for c in trainer.callback_handler.callbacks if type(c).__name__ == "PrinterCallback")
        trainer.remove_callback(quiet)
        if start is not None:
            print(f"{label}: goes on from step {start.name.rpartition('-')[2]}", flush=True)
        outcome = trainer.train(resume_from_checkpoint=None if start is None else str(start))
        history = list(trainer.state.log_history)
    model.eval()
    peak = peak_bytes(device)
    if peak is not None:
        print(f"{label}: took {peak / GIB:.2f} GiB, predicted {predicted.total / GIB:.2f}", flush=True)
    return TrainingLog(
        history=[record for entry in history if (record := _record(entry))],
        steps=schedule.steps,
        tokens=sum(map(len, rows)),
        seconds=float(outcome.metrics["train_runtime"]),
        predicted_bytes=predicted.total,
        peak_bytes=peak,
    )


def _owner(model: PreTrainedModel, rows: Rows, schedule: Schedule, seed: int, validation: Rows | None) -> str:
    """Hash of what a training depends on: its start, its rows in their order, its schedule."""
    total = hashlib.sha256()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            total.update(name.encode())
            total.update(parameter.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest(
        {"start": total.hexdigest(), "rows": rows, "validation": validation, "seed": seed}
        | {"schedule": schedule.model_dump(mode="json"), "torch": torch.__version__}
    )


def train_best(
    model: PreTrainedModel,
    rows: list[list[int]],
    schedule: Schedule,
    rates: Sequence[float],
    *,
    label: str,
    validation: list[list[int]],
    checkpoints: Path | None = None,
    **options: Any,
) -> TrainingLog:
    """Train with each learning rate from the same start, and leave the model as the best on validation left it.

    Every rate sees the same rows in the same order. Arguments as in `train`.

    Raises:
        FloatingPointError: every rate diverged.
        ValueError: there is no validation row to choose by.
    """
    if not validation:
        raise ValueError("several learning rates need validation rows to choose by")
    start = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    best: tuple[TrainingLog, dict[str, Tensor]] | None = None
    tried: dict[str, float] = {}
    for rate in rates:
        _put(model, start)
        plan, said = schedule.model_copy(update={"learning_rate": rate}), f"{label}, rate {rate:g}"
        try:
            kept_in = None if checkpoints is None else checkpoints / f"rate{rate:g}"
            log = train(model, rows, plan, label=said, validation=validation, checkpoints=kept_in, **options)
        except FloatingPointError as error:
            print(f"{said}: {error}", flush=True)
            tried[f"{rate:g}"] = math.inf
            continue
        tried[f"{rate:g}"] = log.validation_loss
        if best is None or log.validation_loss < best[0].validation_loss:
            kept = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
            best = replace(log, rate=rate), kept
    if best is None:
        raise FloatingPointError(f"every learning rate of {', '.join(tried)} diverged")
    _put(model, best[1])
    model.eval()
    return replace(best[0], tried=tried)


def _put(model: PreTrainedModel, weights: Mapping[str, Tensor]) -> None:
    own = dict(model.named_parameters())
    with torch.no_grad():
        for name, weight in weights.items():
            own[name].copy_(weight)


def _record(entry: Mapping[str, Any]) -> dict[str, float] | None:
    if "eval_loss" in entry:
        return {"step": int(entry["step"]), "validation_loss": float(entry["eval_loss"])}
    if "loss" in entry:
        return {
            "step": int(entry["step"]),
            "loss": float(entry["loss"]),
            "learning_rate": float(entry["learning_rate"]),
            "gradient_norm": float(entry["grad_norm"]),
        }
    return None
