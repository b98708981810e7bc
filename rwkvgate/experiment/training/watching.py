"""Callbacks that watch a training: lines of progress, divergence, and services that draw its losses."""

from __future__ import annotations

import math
import os
import re
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from rwkvgate.experiment.places import place
from rwkvgate.experiment.progress import Progress
from rwkvgate.experiment.settings import Schedule, TrainingSettings
from rwkvgate.experiment.training import ranks

MOST_SKIPPED = 25
"""Steps in a row that float16 gradients may overflow; by then their scale has fallen by a factor of 2^25."""


class Report(TrainerCallback):
    """Prints progress, and stops a training whose loss is infinite or nan.

    The logged loss is the mean over all processes, the same number on each, so all of them stop at the same step.
    """

    def __init__(self, label: str) -> None:
        self.progress = Progress(label)
        self.note = ""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Print progress, in the main process."""
        if ranks.is_main():
            self.progress(state.global_step, state.max_steps, self.note)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        """Stop where the loss of training or validation is not finite."""
        for key in ("loss", "eval_loss"):
            loss = (logs or {}).get(key)
            if loss is not None and not math.isfinite(float(loss)):
                raise FloatingPointError(f"the loss is {loss} at step {state.global_step}; lower the learning rate")
        if logs and "loss" in logs:
            self.note = f"loss {float(logs['loss']):.3f}"


class ScaleWatch(TrainerCallback):
    """Stops a float16 training whose gradients overflow at every step."""

    def __init__(self, accelerator: Any) -> None:
        self.accelerator = accelerator
        self.scale = 0.0
        self.skipped = 0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Count overflows in a row."""
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


def reporters(schedule: Schedule, label: str) -> list[TrainerCallback]:
    """transformers' callback for the service in `training.report_to`, in the main process; empty for none.

    W&B takes its project and mode from its own environment variables.

    Args:
        label: of the training: the name of its run at W&B, and of its folder for TensorBoard.
    """
    report_to = schedule.report_to if isinstance(schedule, TrainingSettings) and ranks.is_main() else "none"
    if report_to == "tensorboard":
        from torch.utils.tensorboard import SummaryWriter
        from transformers.integrations import TensorBoardCallback

        folder = Path(os.environ.get("TENSORBOARD_LOGGING_DIR") or place("outputs/tensorboard"))
        name = re.sub(r"[^\w.-]+", "-", label)
        return [TensorBoardCallback(SummaryWriter(str(folder / name / time.strftime("%Y%m%d-%H%M%S"))))]
    if report_to == "wandb":
        from transformers.integrations import WandbCallback

        return [WandbCallback()]
    return []
