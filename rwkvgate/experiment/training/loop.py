"""Optimisation on transformers' Trainer: pretraining of the base and fine-tuning of an arm.

Both run the same few lines; what differs is the rows they are given. Rows come in the order in which
they are used, so every arm of a seed sees the same tokens in the same order.

Where several processes were launched together (`worker.py`), each calls `train` with the same arguments and takes its
share of every batch. The gradient is that of the whole batch, so the losses are one process's but for rounding.
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
from torch import Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import LRScheduler
from transformers import PreTrainedModel, TrainerCallback, TrainingArguments, get_cosine_schedule_with_warmup

from rwkvgate.experiment.progress import clock
from rwkvgate.experiment.settings import LAUNCH, Schedule
from rwkvgate.experiment.training import ranks
from rwkvgate.experiment.training.checkpointing import ResumableTrainer, Saver, prepare
from rwkvgate.experiment.training.duration import step_seconds, training_seconds
from rwkvgate.experiment.training.memory import GIB, TrainingMemory, check_memory, count, peak_bytes, what_fits
from rwkvgate.experiment.training.rows import Rows, collate_for_loss
from rwkvgate.experiment.training.sharding import put, shard, whole
from rwkvgate.experiment.training.watching import Report, ScaleWatch
from rwkvgate.gate.validation import SettingsError, share_of
from rwkvgate.rwkv6.files import digest


@dataclass(frozen=True)
class TrainingLog:
    """What a run leaves: one record a logged step, and totals.

    `history` holds dictionaries with `step` and `loss` (training, mean since the last record) or
    `validation_loss`, all in nats a token. `predicted_bytes` is the memory that the step was expected to
    take, `peak_bytes` what it took on a CUDA device; `predicted_seconds` (0: not predicted, as where the model is
    spread) stands beside `seconds`, both since the training was last started, at step `begun`. Where several learning
    rates were tried, `rate` is the one kept and `tried` has each one's last validation loss, infinite where it
    diverged; the rest is of the one kept.
    `processes` is how many trained together, at the end where it was resumed by another number, and `sharded` whether
    the model was spread over them; the bytes are one process's.
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
        """The last validation loss, nats a token; infinite where none was taken."""
        losses = [record["validation_loss"] for record in self.history if "validation_loss" in record]
        return losses[-1] if losses else math.inf

    def frame(self) -> pd.DataFrame:
        """The losses as a tidy table: `step`, `text` ('training' or 'validation') and `loss`, nats per token."""
        kinds = {"loss": "training", "validation_loss": "validation"}
        rows = [(r["step"], text, r[key]) for r in self.history for key, text in kinds.items() if key in r]
        return pd.DataFrame(rows, columns=["step", "text", "loss"])

    @property
    def tokens_per_second(self) -> float:
        """Real tokens (padding not counted) a second since the last start, validation included."""
        done = self.tokens * (self.steps - self.begun) / self.steps if self.steps else 0.0
        return done / self.seconds if done and self.seconds else math.nan


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


def _arguments(
    folder: str, schedule: Schedule, *, seed: int, half: bool, log_every: int, eval_every: int | None
) -> TrainingArguments:
    """What transformers' Trainer is told; it writes nothing but into `folder`."""
    arguments = TrainingArguments(
        output_dir=folder,
        max_steps=schedule.steps,
        per_device_train_batch_size=share_of(schedule.batch_size, ranks.count()),
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
        use_cpu=ranks.count() > 1 and not torch.cuda.is_available(),  # transformers asks, or it sees one process
        max_grad_norm=1.0,
        # Every trainable parameter of every arm has a gradient at every step, and looking for others costs time.
        ddp_find_unused_parameters=False,
        dataloader_pin_memory=torch.cuda.is_available(),
    )
    if arguments.n_gpu > 1:
        # One process uses one GPU: torch's DataParallel would multiply the batch by the GPUs it sees.
        arguments._n_gpu = 1
    return arguments


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
    sharded: bool = False,
) -> TrainingLog:
    """Train the model's trainable parameters, in place, on the rows in their order.

    Args:
        model: its parameters that require gradients are trained; it is left in evaluation mode.
        rows: token ids, `schedule.steps * schedule.batch_size` rows, used once each.
        validation: rows whose mean loss is logged every `eval_every` steps and at the end.
        label: what the progress lines call the run.
        checkpoints: a folder to keep checkpoints in, of this training alone: with other frozen weights, or other fixed
            numbers of a gate, take another. A training that was interrupted goes on from the last sound one there,
            whatever the number of its processes was. None keeps none.
        sharded: spread the model over the processes of the launch, and leave it so: `sharding.whole` gives its
            parameters. One process takes no notice.

    Raises:
        FloatingPointError: the loss became infinite or no number, or float16 gradients do nothing but overflow.
        SettingsError: nothing is trainable, the memory is too small, float16 is asked for without a GPU, or the
            processes cannot share the batch evenly.
    """
    device = next(model.parameters()).device if not torch.cuda.is_available() else torch.device("cuda")
    half, sharded = any(p.dtype == torch.float16 for p in model.parameters()), sharded and ranks.count() > 1
    if half and device.type != "cuda":
        raise SettingsError("training in float16 needs a CUDA device; model.dtype float32 runs on this machine")
    if schedule.gradient_checkpointing:
        # transformers renames it between 5.15 and 5.23.
        getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
    predicted = _room(model, rows, schedule, label, device, sharded)
    if sharded:
        shard(model)
    owner = None if checkpoints is None else _owner(model, rows, schedule, seed, validation)
    start = None if checkpoints is None else ranks.from_main(lambda: prepare(checkpoints, str(owner)))
    done = 0 if start is None else int(start.name.rpartition("-")[2])
    due = 0.0 if sharded else _due(model, rows, schedule, len(validation or ()), eval_every, done, label)
    with tempfile.TemporaryDirectory(prefix="rwkvgate-") as scratch:
        folder, evaluated = str(checkpoints or scratch), eval_every if validation else None
        arguments = _arguments(folder, schedule, seed=seed, half=half, log_every=log_every, eval_every=evaluated)
        callbacks = [Report(label), ScaleWatch(), *([Saver(str(owner))] if checkpoints else [])]
        trainer = _trainer(model, arguments, rows, validation, schedule, callbacks)
        if start:
            _say(f"{label}: goes on from step {done}")
        outcome = trainer.train(resume_from_checkpoint=str(start) if start else None)
        history = list(trainer.state.log_history)
    model.eval()
    log = TrainingLog(
        history=[record for entry in history if (record := _record(entry))],
        steps=schedule.steps,
        tokens=sum(map(len, rows)),
        seconds=float(outcome.metrics["train_runtime"]),
        predicted_bytes=predicted.total,
        predicted_seconds=due,
        peak_bytes=peak_bytes(device),
        processes=ranks.count(),
        sharded=sharded,
        begun=done,
    )
    _took(label, log)
    return log


def _took(label: str, log: TrainingLog) -> None:
    """Say what was predicted, and what it was."""
    if log.peak_bytes is not None:
        _say(f"{label}: took {log.peak_bytes / GIB:.2f} GiB, predicted {log.predicted_bytes / GIB:.2f}")
    if log.predicted_seconds:
        _say(f"{label}: took {clock(log.seconds)}, predicted {clock(log.predicted_seconds)}")


def _trainer(
    model: PreTrainedModel,
    arguments: TrainingArguments,
    rows: Rows,
    validation: Rows | None,
    schedule: Schedule,
    callbacks: list[TrainerCallback],
) -> ResumableTrainer:
    """transformers' Trainer with our optimiser and callbacks, and without its own printing."""
    trainer = ResumableTrainer(
        model=model,
        args=arguments,
        data_collator=collate_for_loss,
        train_dataset=[{"input_ids": row} for row in rows],
        eval_dataset=[{"input_ids": row} for row in validation] if validation else None,
        optimizers=build_optimizer(model, schedule),
        callbacks=callbacks,
    )
    for watch in callbacks:
        if isinstance(watch, ScaleWatch):
            watch.accelerator = trainer.accelerator
    quiet = next(c for c in trainer.callback_handler.callbacks if type(c).__name__ == "PrinterCallback")
    trainer.remove_callback(quiet)
    return trainer


def _room(
    model: PreTrainedModel, rows: Rows, schedule: Schedule, label: str, device: torch.device, sharded: bool
) -> TrainingMemory:
    """The memory that one process will take, said on a GPU, and refused where it is not there."""
    processes = ranks.count()
    batch = share_of(schedule.batch_size, processes)
    counted, length = count(model), max(map(len, rows))
    predicted = counted.memory(batch, length, processes, sharded)
    check_memory(predicted, device, lambda room: what_fits(counted, batch, length, room, processes, sharded))
    if device.type == "cuda":
        _say(f"{label}: about {predicted}")
        torch.cuda.reset_peak_memory_stats(device)
    return predicted


def _due(
    model: PreTrainedModel,
    rows: Rows,
    schedule: Schedule,
    validation_rows: int,
    eval_every: int | None,
    done: int,
    label: str,
) -> float:
    """Seconds that the steps after `done` will take, said; from one pass over this process's share of a batch."""
    share = share_of(schedule.batch_size, ranks.count())
    step = step_seconds(model, collate_for_loss([{"input_ids": row} for row in rows[:share]]))
    validations = schedule.steps // eval_every - done // eval_every if eval_every and validation_rows else 0
    due = training_seconds(step, schedule.steps - done, schedule.batch_size, validation_rows, validations)
    _say(f"{label}: about {clock(due)} for {schedule.steps - done} steps")
    return due


def _say(line: str) -> None:
    if ranks.is_main():
        print(line, flush=True)


def _owner(model: PreTrainedModel, rows: Rows, schedule: Schedule, seed: int, validation: Rows | None) -> str:
    """Hash of what a training depends on: its start, its rows in their order, its schedule.

    Not on its processes, which change the rounding of a sum and nothing else: a training begun by two goes on with one.
    """
    total = hashlib.sha256()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            total.update(name.encode())
            total.update(whole(parameter).cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest(
        {"start": total.hexdigest(), "rows": rows, "validation": validation, "seed": seed}
        | {"schedule": schedule.model_dump(mode="json", exclude=LAUNCH), "torch": torch.__version__}
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
            _say(f"{said}: {error}")
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
            put(own[name], weight)


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
