"""Training that survives: checkpoints sealed by hashes, and the way back from the last sound one.

A checkpoint holds what is trained (not a frozen base), the optimiser, the schedule, the random states and the position
in the rows, so that a resumed run ends as it would have without the interruption, bit for bit on a CPU.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import Trainer, TrainerCallback

from rwkvgate.files import read_json, write_json

SAVE_SECONDS = float(os.environ.get("RWKVGATE_SAVE_SECONDS", "20"))
"""Between two checkpoints, at least; each comes with a logged loss."""
COST = 50
"""And at least so many times what the last one took: checkpoints stay at two per cent of the time."""
WEIGHTS, SEAL, OWNER = "trained.safetensors", "sealed.json", "training.json"
KEPT = 2
"""Checkpoints that stay: the last may be cut off in the writing."""


class ResumableTrainer(Trainer):
    """transformers' Trainer, whose checkpoints hold the trainable parameters alone."""

    def _save(self, output_dir: str | None = None, state_dict: Mapping[str, Any] | None = None) -> None:
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        trained = {n: p.detach().cpu().contiguous() for n, p in self._own().items() if p.requires_grad}
        save_file(trained, str(folder / WEIGHTS))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        own = self._own()
        with torch.no_grad():
            for name, weight in load_file(str(Path(resume_from_checkpoint) / WEIGHTS)).items():
                own[name].copy_(weight)

    def _own(self) -> dict[str, torch.nn.Parameter]:
        return dict(self.accelerator.unwrap_model(self.model).named_parameters())


class Saver(TrainerCallback):
    """Asks for a checkpoint now and then and at the end, and seals each one that is whole."""

    def __init__(self) -> None:
        self.last, self.began, self.interval = time.monotonic(), 0.0, SAVE_SECONDS

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """After a step: is it time?"""
        # Only where the loss is logged too: its mean since the last record is not part of a checkpoint.
        due = time.monotonic() - self.last >= self.interval and state.global_step % args.logging_steps == 0
        if state.global_step >= state.max_steps or due:
            self.began = time.monotonic()
            control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """After a checkpoint was written."""
        folder = Path(args.output_dir)
        seal(folder / f"checkpoint-{state.global_step}")
        for path in sorted(folder.glob("checkpoint-*"), key=_step)[:-KEPT]:
            shutil.rmtree(path)
        self.last = time.monotonic()
        self.interval = max(SAVE_SECONDS, COST * (self.last - self.began)) if SAVE_SECONDS else 0.0


def prepare(folder: Path, owner: str) -> Path | None:
    """The checkpoint to go on from, if there is one of this training; others, and broken ones, are removed and said.

    Args:
        folder: of the checkpoints, made if need be.
        owner: hash of everything that the training depends on.
    """
    if (read_json(folder / OWNER) or {}).get("owner") != owner:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / OWNER, {"owner": owner})
        return None
    for path in sorted(folder.glob("checkpoint-*"), key=_step, reverse=True):
        if is_sound(path):
            return path
        print(f"{path.name} is not whole; the one before it is used", flush=True)
        shutil.rmtree(path)
    return None


def seal(folder: Path) -> None:
    """Write the hashes of a checkpoint's files, last and whole."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and path.name != SEAL)
    write_json(folder / SEAL, {name: _hash(folder / name) for name in names})


def is_sound(folder: Path) -> bool:
    """Whether a checkpoint was sealed, and its files are what they were then."""
    sealed = read_json(folder / SEAL)
    if not isinstance(sealed, dict) or WEIGHTS not in sealed:
        return False
    return all((folder / name).is_file() and _hash(folder / name) == mark for name, mark in sealed.items())


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _step(path: Path) -> int:
    number = path.name.removeprefix("checkpoint-")
    return int(number) if number.isdecimal() else -1
