"""Training on transformers' Trainer: pretraining of the base and fine-tuning of an arm.

Both use the same function and differ in their rows. Rows come in the order in which they are used, so every arm of a
seed sees the same tokens in the same order.

Where several processes were launched together (`worker.py`), each calls `train` with the same arguments and reads its
share of every batch. The gradient is that of the whole batch, so the losses are one process's up to rounding.
"""

from __future__ import annotations

import hashlib
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LRScheduler
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    TrainerCallback,
    TrainingArguments,
    get_cosine_schedule_with_warmup,
)

from rwkvgate.experiment.progress import clock
from rwkvgate.experiment.settings import LAUNCH, Schedule, TrainingSettings, share_of
from rwkvgate.experiment.training import ranks
from rwkvgate.experiment.training.checkpointing import KEPT, ResumableTrainer, Saver, resume_point
from rwkvgate.experiment.training.duration import step_seconds, training_seconds
from rwkvgate.experiment.training.memory import GIB, TrainingMemory, count, peak_bytes, require_memory
from rwkvgate.experiment.training.rows import Rows, collate_for_loss
from rwkvgate.experiment.training.sharding import put, shard, whole
from rwkvgate.experiment.training.watching import Report, ScaleWatch, reporters
from rwkvgate.gate.validation import SettingsError
from rwkvgate.rwkv6.files import digest


@dataclass(frozen=True)
class TrainingLog:
    """The record of a training.

    Attributes:
        history: one dictionary for each logged step, with `step` and either `loss` (training, mean since the last
            record) or `validation_loss`, in nats per token.
        steps, tokens: of the whole training; padding is not counted.
        seconds: since the training was last started, at step `begun`.
        predicted_bytes: predicted peak of memory of one process, without the device's context.
        predicted_seconds: prediction of `seconds`; 0 where there is none, as for a sharded model.
        peak_bytes: measured peak of one process's tensors on a CUDA device; None elsewhere.
        rate: the learning rate that was kept, where several were tried; the rest is of that one.
        tried: last validation loss of each rate; infinite where it diverged.
        processes: how many trained together in the last start.
        sharded: whether the model was sharded over them.
        begun: the step at which the training was last resumed; 0 without an interruption.
    """

    history: list[dict[str, float]]
    steps: int
    tokens: int
    seconds: float
    predicted_bytes: int = 0
    predicted_seconds: float = 0.0
    peak_bytes: int | None = None
    rate: float | None = None
    tried: dict[str, float] = field(default_factory=dict)
    processes: int = 1
    sharded: bool = False
    begun: int = 0

    @property
    def validation_loss(self) -> float:
        """The last validation loss, nats per token; infinite where there is none."""
        losses = [record["validation_loss"] for record in self.history if "validation_loss" in record]
        return losses[-1] if losses else math.inf

    def frame(self) -> pd.DataFrame:
        """The losses as a tidy table: `step`, `text` ('training' or 'validation') and `loss`, nats per token."""
        kinds = {"loss": "training", "validation_loss": "validation"}
        rows = [(r["step"], text, r[key]) for r in self.history for key, text in kinds.items() if key in r]
        return pd.DataFrame(rows, columns=["step", "text", "loss"])

    @property
    def tokens_per_second(self) -> float:
        """Tokens per second since the last start, padding not counted, validation included."""
        done = self.tokens * (self.steps - self.begun) / self.steps if self.steps else 0.0
        return done / self.seconds if done and self.seconds else math.nan


def train(
    model: PreTrainedModel,
    rows: list[list[int]],
    schedule: Schedule,
    *,
    label: str,
    seed: int,
    validation: list[list[int]] | None = None,
    checkpoints: Path | None = None,
    labels: list[list[int]] | None = None,
) -> TrainingLog:
    """Train the model's trainable parameters, in place, on the rows in their order.

    Of `TrainingSettings`, `log_every`, `eval_every`, `learning_rates`, `sharded` and `report_to` apply; any other
    schedule logs 30 times, validates 6 times, has one learning rate and reports to no service. Several learning rates
    are tried from the same start on the same rows, and the model is left as the one with the lowest validation loss
    left it.

    Args:
        model: its parameters that require gradients are trained; it is left in evaluation mode.
        rows: token ids, `schedule.steps * schedule.batch_size` rows, used once each.
        label: names the training in printed lines.
        validation: rows whose mean loss is logged.
        checkpoints: a folder for training checkpoints, of this training alone: with other frozen weights, or other
            constants of a gate, give another. An interrupted training resumes from the last intact one there, with any
            number of processes. None keeps none.
        labels: for each row its scored tokens, with `IGNORED` in place of the others; None scores every token.

    Raises:
        FloatingPointError: training diverged: the loss became infinite or nan, or float16 gradients only overflow.
            With several learning rates, all of them diverged.
        SettingsError: nothing is trainable, the memory is too small, float16 is asked for without a GPU, or the
            processes cannot share the batch evenly.
        ValueError: several learning rates, and no validation rows to choose by.
    """
    if _is_half(model) and _device(model).type != "cuda":
        raise SettingsError("training in float16 needs a CUDA device; model.dtype float32 runs on this machine")
    if schedule.gradient_checkpointing:
        # transformers renames it between 5.15 and 5.23.
        getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
    # Before the model is sharded, for it is counted on a block of its own.
    memory = _predicted_memory(model, rows, schedule, label)
    job = _Job(model, rows, labels or rows, validation or [], seed, memory)
    rates = schedule.learning_rates if isinstance(schedule, TrainingSettings) else ()
    if not rates:
        return _train_once(job, schedule, label, checkpoints)
    if not validation:
        raise ValueError("several learning rates need validation rows to choose by")
    start = _trained_weights(model)
    best: tuple[TrainingLog, dict[str, Tensor]] | None = None
    tried: dict[str, float] = {}
    for rate in rates:
        _set_weights(model, start)
        one, name = schedule.model_copy(update={"learning_rate": rate}), f"{label}, rate {rate:g}"
        try:
            log = _train_once(job, one, name, checkpoints and checkpoints / f"rate{rate:g}")
        except FloatingPointError as error:
            _print(f"{name}: {error}")
            tried[f"{rate:g}"] = math.inf
            continue
        tried[f"{rate:g}"] = log.validation_loss
        if best is None or log.validation_loss < best[0].validation_loss:
            best = replace(log, rate=rate), _trained_weights(model)
    if best is None:
        raise FloatingPointError(f"every learning rate of {', '.join(tried)} diverged")
    _set_weights(model, best[1])
    model.eval()
    return replace(best[0], tried=tried)


@dataclass(frozen=True)
class _Job:
    """What the trainings of one call share, whatever their learning rate."""

    model: PreTrainedModel
    rows: Rows
    labels: Rows
    validation: Rows
    seed: int
    memory: TrainingMemory

    def examples(self) -> list[dict[str, Sequence[int]]]:
        """The rows as the Trainer takes them."""
        return [{"input_ids": row, "labels": scored} for row, scored in zip(self.rows, self.labels, strict=True)]


def _train_once(job: _Job, schedule: Schedule, label: str, checkpoints: Path | None) -> TrainingLog:
    """`train` with one learning rate."""
    model, rows, device = job.model, job.rows, _device(job.model)
    sharded = _is_sharded_by(schedule)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    if sharded:
        shard(model)
    owner = "" if checkpoints is None else _owner(job, schedule)
    resumed = None if checkpoints is None else ranks.from_main(lambda: resume_point(checkpoints, owner))
    begun = 0 if resumed is None else int(resumed.name.rpartition("-")[2])
    predicted = 0.0 if sharded else _predicted_seconds(job, schedule, begun, label)
    with tempfile.TemporaryDirectory(prefix="rwkvgate-") as scratch:
        callbacks: list[TrainerCallback] = [Report(label), *([Saver(owner)] if checkpoints else [])]
        callbacks += reporters(schedule, label)
        trainer = _trainer(job, schedule, label, str(checkpoints or scratch), callbacks)
        if resumed:
            _print(f"{label}: resumes from step {begun}")
        outcome = trainer.train(resume_from_checkpoint=str(resumed) if resumed else None)
    model.eval()
    log = TrainingLog(
        history=[record for entry in trainer.state.log_history if (record := _record(entry))],
        steps=schedule.steps,
        tokens=sum(map(len, rows)),
        seconds=float(outcome.metrics["train_runtime"]),
        predicted_bytes=job.memory.total,
        predicted_seconds=predicted,
        peak_bytes=peak_bytes(device),
        processes=ranks.count(),
        sharded=sharded,
        begun=begun,
    )
    if log.peak_bytes is not None:
        _print(f"{label}: took {log.peak_bytes / GIB:.2f} GiB, predicted {log.predicted_bytes / GIB:.2f}")
    if predicted:
        _print(f"{label}: took {clock(log.seconds)}, predicted {clock(predicted)}")
    return log


def _trainer(
    job: _Job, schedule: Schedule, label: str, folder: str, callbacks: list[TrainerCallback]
) -> ResumableTrainer:
    """transformers' Trainer with our optimiser and callbacks; it prints nothing and writes into `folder` alone."""
    log_every, eval_every = _intervals(schedule)
    arguments = TrainingArguments(
        output_dir=folder,
        max_steps=schedule.steps,
        per_device_train_batch_size=share_of(schedule.batch_size, ranks.count()),
        per_device_eval_batch_size=2 * schedule.batch_size,
        train_sampling_strategy="sequential",
        logging_steps=log_every,
        logging_nan_inf_filter=False,
        eval_strategy="steps" if job.validation else "no",
        eval_steps=eval_every if job.validation else None,
        prediction_loss_only=True,
        save_strategy="no",  # `Saver` asks by the clock
        save_total_limit=KEPT,
        report_to="none",  # `reporters` makes the callback, where one is asked for
        run_name=label,
        disable_tqdm=True,
        seed=job.seed,
        fp16=_is_half(job.model),
        use_cpu=ranks.count() > 1 and not torch.cuda.is_available(),  # transformers asks, or it sees one process
        max_grad_norm=1.0,
        # Every trainable parameter of every arm has a gradient at every step, and looking for others costs time.
        ddp_find_unused_parameters=False,
        dataloader_pin_memory=torch.cuda.is_available(),
    )
    if arguments.n_gpu > 1:
        # One process uses one GPU: torch's DataParallel would multiply the batch by the GPUs it sees.
        arguments._n_gpu = 1
    trainer = ResumableTrainer(
        model=job.model,
        args=arguments,
        data_collator=collate_for_loss,
        train_dataset=job.examples(),
        eval_dataset=[{"input_ids": row} for row in job.validation] or None,
        optimizers=build_optimizer(job.model, schedule),
        callbacks=callbacks,
    )
    trainer.add_callback(ScaleWatch(trainer.accelerator))
    trainer.remove_callback(PrinterCallback)
    return trainer


def build_optimizer(model: PreTrainedModel, schedule: Schedule) -> tuple[AdamW, LRScheduler]:
    """AdamW by BlinkDL's recipe over what is trainable, and a warm-up with a cosine decay to zero.

    Betas (0.9, 0.99), epsilon 1e-18, weight decay on weight matrices only, twice the learning rate for
    `time_decay`.

    Raises:
        SettingsError: nothing is trainable.
    """
    optimizer = AdamW(
        parameter_groups(model, schedule.learning_rate, schedule.weight_decay), betas=(0.9, 0.99), eps=1e-18, fused=True
    )
    return optimizer, get_cosine_schedule_with_warmup(optimizer, schedule.warmup_steps, schedule.steps)


def parameter_groups(model: nn.Module, learning_rate: float, weight_decay: float) -> list[dict[str, Any]]:
    """The model's trainable parameters in the groups of `build_optimizer`.

    Raises:
        SettingsError: nothing is trainable.
    """
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            matrix = name.endswith(".weight") and parameter.dim() == 2
            rate = learning_rate * (2 if name.endswith(".time_decay") else 1)
            groups.setdefault((rate, weight_decay if matrix else 0.0), []).append(parameter)
    if not groups:
        raise SettingsError("nothing to train: the arm has no trainable parameter in this scope")
    return [{"params": params, "lr": rate, "weight_decay": decay} for (rate, decay), params in groups.items()]


def _intervals(schedule: Schedule) -> tuple[int, int]:
    """Steps between two logged losses, and between two validations."""
    if isinstance(schedule, TrainingSettings):
        return schedule.log_every, schedule.eval_every
    return max(1, schedule.steps // 30), max(1, schedule.steps // 6)


def _is_sharded_by(schedule: Schedule) -> bool:
    return isinstance(schedule, TrainingSettings) and schedule.sharded and ranks.count() > 1


def _is_half(model: PreTrainedModel) -> bool:
    return any(p.dtype == torch.float16 for p in model.parameters())


def _device(model: PreTrainedModel) -> torch.device:
    return torch.device("cuda") if torch.cuda.is_available() else next(model.parameters()).device


def _predicted_memory(model: PreTrainedModel, rows: Rows, schedule: Schedule, label: str) -> TrainingMemory:
    """The memory that one process needs, printed on a GPU, and refused where it is not available."""
    device, share = _device(model), share_of(schedule.batch_size, ranks.count())
    memory = count(model).memory(share, max(map(len, rows)), ranks.count(), _is_sharded_by(schedule))
    require_memory(memory, device)
    if device.type == "cuda":
        _print(f"{label}: about {memory}")
    return memory


def _predicted_seconds(job: _Job, schedule: Schedule, begun: int, label: str) -> float:
    """Seconds that the steps after `begun` take, printed; measured on this process's share of a batch."""
    share = share_of(schedule.batch_size, ranks.count())
    step = step_seconds(job.model, collate_for_loss(job.examples()[:share]))
    every = _intervals(schedule)[1]
    validations = schedule.steps // every - begun // every if job.validation else 0
    seconds = training_seconds(step, schedule.steps - begun, schedule.batch_size, len(job.validation), validations)
    _print(f"{label}: about {clock(seconds)} for {schedule.steps - begun} steps")
    return seconds


def _owner(job: _Job, schedule: Schedule) -> str:
    """Hash of what a training depends on: its start, its rows in their order, its schedule.

    Not of its processes, which change the rounding of sums and nothing else: one process resumes what two began.
    """
    total = hashlib.sha256()
    for name, parameter in job.model.named_parameters():
        if parameter.requires_grad:
            total.update(name.encode())
            total.update(whole(parameter).cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest(
        {"start": total.hexdigest(), "rows": job.rows, "validation": job.validation or None, "seed": job.seed}
        | ({} if job.labels is job.rows else {"labels": job.labels})
        | {"schedule": schedule.model_dump(mode="json", exclude=LAUNCH), "torch": torch.__version__}
    )


def _trained_weights(model: PreTrainedModel) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def _set_weights(model: PreTrainedModel, weights: Mapping[str, Tensor]) -> None:
    own = dict(model.named_parameters())
    for name, weight in weights.items():
        put(own[name], weight)


def _record(entry: Mapping[str, Any]) -> dict[str, float] | None:
    """One entry of the Trainer's history as a record of ours."""
    if "eval_loss" in entry:
        return {"step": int(entry["step"]), "validation_loss": float(entry["eval_loss"])}
    names = {"loss": "loss", "learning_rate": "learning_rate", "gradient_norm": "grad_norm"}
    if "loss" not in entry:
        return None
    return {"step": int(entry["step"])} | {name: float(entry[theirs]) for name, theirs in names.items()}


def _print(line: str) -> None:
    if ranks.is_main():
        print(line, flush=True)
