"""Training checkpoints: written now and then, sealed by hashes, and resumed from the last intact one.

A training checkpoint holds the trained parameters (not a frozen base), the optimiser, the schedule, the random states
and the position in the rows. So a resumed training ends as it would have without the interruption, bit for bit on a
CPU.

Several processes write what one would have written, except for the random states, which each process has its own of and
training does not draw from. So any number of processes resumes from a checkpoint, with the model sharded or not.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import EvalLoopOutput

from rwkvgate.experiment.budget import is_spent, spent
from rwkvgate.experiment.training import ranks
from rwkvgate.experiment.training.sharding import is_sharded, load_optimizer_state, optimizer_state, put, reshard, whole
from rwkvgate.rwkv6.files import file_hash, read_json, write_json
from rwkvgate.rwkv6.loss import IGNORED

SAVE_SECONDS = float(os.environ.get("RWKVGATE_SAVE_SECONDS", "20"))
"""Least seconds between two checkpoints; each comes with a logged loss."""
COST = 50
"""Least time between two checkpoints, over the time that the last one took: they take two per cent at most."""
WEIGHTS, SEAL = "trained.safetensors", "sealed.json"
OPTIMIZER, SCHEDULER = "optimizer.pt", "scheduler.pt"
"""The names that transformers gives them."""
KEPT = 2
"""Checkpoints kept: the last may be interrupted while it is written."""
WRITE_ERRORS = (OSError, RuntimeError, SafetensorError)
"""What the system, torch and safetensors raise where the disk is full."""


class ResumableTrainer(Trainer):
    """transformers' Trainer, whose checkpoints hold the trainable parameters only, and all of each."""

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the trained parameters; every process must call it, and the main one writes."""
        trained = {n: whole(p).cpu().contiguous() for n, p in self._own().items() if p.requires_grad}
        if self.args.should_save:
            folder = Path(output_dir or str(self.args.output_dir))
            folder.mkdir(parents=True, exist_ok=True)
            save_file(trained, str(folder / WEIGHTS))

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        try:
            super()._save_checkpoint(model, trial)
        except WRITE_ERRORS as error:
            # Several processes are in the middle of a collective operation, and none may continue alone.
            together = ranks.count() > 1
            _give_up(Path(str(self.args.output_dir)), self.state.global_step, error, stops=together)
            if together:
                raise

    def evaluation_loop(self, dataloader: Any, description: str, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """The loss over `eval_dataset`, the same number from any number of processes.

        transformers fills the last batch with rows from the beginning, so that all processes have as many, and counts
        them again.
        """
        if ranks.count() == 1:
            return super().evaluation_loop(dataloader, description, *args, **kwargs)
        self.model.eval()
        rows, size, total = list(self.eval_dataset), self.args.eval_batch_size, 0.0
        for start in range(0, len(rows), size):
            batch = rows[start : start + size]
            # As in one process: the mean over a batch's tokens, then over batches by their rows.
            total += self._shared_loss(batch) * len(batch)
        reshard(self.model)
        prefix = kwargs.get("metric_key_prefix", "eval")
        return EvalLoopOutput(None, None, {f"{prefix}_loss": total / len(rows)}, len(rows))

    @torch.no_grad()
    def _shared_loss(self, batch: list[dict[str, Any]]) -> float:
        """Loss of a batch, in nats per token, of which this process reads its share."""
        mine = batch[ranks.index() :: ranks.count()]
        inputs = self._prepare_inputs(self.data_collator(mine or batch[:1]))
        if not mine:
            # The forward pass of a sharded model waits for all processes.
            inputs["labels"].fill_(IGNORED)
        scored = self.accelerator.reduce(inputs["labels"][:, 1:].ne(IGNORED).sum(), "sum")
        model = self.model_wrapped if is_sharded(self.model) else self.model
        loss = model(**inputs, num_items_in_batch=scored).loss.detach()
        return float(self.accelerator.reduce(loss, "sum"))

    def _wrap_model(self, model: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
        if not is_sharded(self.model):
            return super()._wrap_model(model, *args, **kwargs)
        # accelerate would replicate the model itself, and leaves another module alone.
        return model if isinstance(model, _Sharded) else _Sharded(self.model, self.accelerator)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        own = self._own()
        for name, weight in load_file(str(Path(resume_from_checkpoint) / WEIGHTS)).items():
            put(own[name], weight)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not is_sharded(self.model):
            super()._save_optimizer_and_scheduler(output_dir)
            return
        state = optimizer_state(self.optimizer)
        if self.args.should_save:
            torch.save(state, Path(output_dir) / OPTIMIZER)
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or not is_sharded(self.model):
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        folder = Path(checkpoint)
        load_optimizer_state(self.optimizer, torch.load(folder / OPTIMIZER, map_location="cpu", weights_only=True))
        self.lr_scheduler.load_state_dict(torch.load(folder / SCHEDULER, weights_only=True))

    def _own(self) -> dict[str, nn.Parameter]:
        return dict(self.accelerator.unwrap_model(self.model).named_parameters())


class _Sharded(nn.Module):
    """A sharded model under accelerate's autocast, without its other wrappers."""

    def __init__(self, model: nn.Module, accelerator: Any) -> None:
        super().__init__()
        self.module, self.accelerator = model, accelerator

    def forward(self, **inputs: Any) -> Any:
        """The model's own output."""
        with self.accelerator.autocast():
            return self.module(**inputs)


class Saver(TrainerCallback):
    """Asks for a checkpoint now and then and at the end, and seals each one when it is complete."""

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.last, self.began, self.interval = time.monotonic(), 0.0, SAVE_SECONDS

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Ask for a checkpoint where it is time, and at the last step."""
        # Only where the loss is logged too: its mean since the last record is not part of a checkpoint.
        due = state.global_step % args.logging_steps == 0
        # By one clock: processes that disagreed would wait for each other, one in a save and one in the next step.
        due = due and ranks.from_main(lambda: time.monotonic() - self.last >= self.interval or is_spent())
        if state.global_step >= state.max_steps or due:
            self.began = time.monotonic()
            control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Seal the checkpoint that was written, and stop there if the budget of time is spent.

        Raises:
            BudgetSpent: it is; the next training on the same inputs resumes from this checkpoint.
        """
        ranks.barrier()  # until every process has written its random state
        folder = Path(args.output_dir)
        if ranks.is_main() and (folder / f"checkpoint-{state.global_step}").is_dir():
            try:
                seal(folder / f"checkpoint-{state.global_step}", self.owner)
            except WRITE_ERRORS as error:
                _give_up(folder, state.global_step, error)
        self.last = time.monotonic()
        self.interval = max(SAVE_SECONDS, COST * (self.last - self.began)) if SAVE_SECONDS else 0.0
        if state.global_step < state.max_steps and ranks.from_main(
            lambda: is_spent() and is_sound(folder / f"checkpoint-{state.global_step}")
        ):
            done = f"{state.global_step} of {state.max_steps} steps"
            raise spent(f"training stops after {done}, which a checkpoint on this machine's disk keeps")


def resume_point(folder: Path, owner: str) -> Path | None:
    """The last intact checkpoint of this training, if there is one; newer ones are removed, with the reason printed.

    Args:
        folder: of the checkpoints, made if need be.
        owner: hash of everything that the training depends on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for path in _checkpoints(folder):
        if not is_sound(path):
            print(f"{path} is incomplete or damaged, and removed", flush=True)
        elif read_json(path / SEAL)["owner"] != owner:
            print(f"{path} is of another training (other rows, settings, weights or torch), and removed", flush=True)
        else:
            return path
        shutil.rmtree(path)
    return None


def seal(folder: Path, owner: str) -> None:
    """Write the hashes of a checkpoint's files and of its training; it is complete with that."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and path.name != SEAL)
    write_json(folder / SEAL, {"owner": owner, "files": {name: file_hash(folder / name) for name in names}})


def is_sound(folder: Path) -> bool:
    """Whether a checkpoint is sealed and its files have not changed since."""
    sealed = read_json(folder / SEAL)
    files = sealed.get("files") if isinstance(sealed, dict) else None
    if not isinstance(files, dict) or WEIGHTS not in files or "owner" not in sealed:
        return False
    return all((folder / name).is_file() and file_hash(folder / name) == mark for name, mark in files.items())


def _give_up(folder: Path, step: int, error: Exception, stops: bool = False) -> None:
    """Remove a checkpoint that a full disk cut off, and print where training resumes from, now or after a stop."""
    if not ranks.is_main():
        return
    shutil.rmtree(folder / f"checkpoint-{step}", ignore_errors=True)
    intact = [path for path in _checkpoints(folder) if is_sound(path)]
    start = f"step {_step(intact[0])}" if intact else "the beginning"
    free = shutil.disk_usage(folder).free / 2**20
    print(
        f"the checkpoint of step {step} could not be written to {folder}, where {free:,.1f} MiB are free ({error}). "
        f"Training {'stops, and resumes' if stops else 'continues; it would resume'} from {start}",
        flush=True,
    )


def _checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a folder, the last first."""
    return sorted(folder.glob("checkpoint-*"), key=_step, reverse=True)


def _step(path: Path) -> int:
    number = path.name.removeprefix("checkpoint-")
    return int(number) if number.isdecimal() else -1
