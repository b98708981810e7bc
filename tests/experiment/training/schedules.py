"""A training of a few steps, as several tests have it."""

from __future__ import annotations

from typing import Any

from rwkvgate.experiment.settings import TrainingSettings


def short_schedule(**changes: Any) -> TrainingSettings:
    """A schedule of four steps with two rows of eight tokens, but for the changes."""
    plain: dict[str, Any] = {"steps": 4, "batch_size": 2, "length": 8, "gradient_checkpointing": False}
    plain |= {"learning_rate": 1e-2, "warmup_steps": 1, "weight_decay": 0.1, "scope": "all", "learning_rates": ()}
    plain |= {"log_every": 10, "eval_every": 10, "processes": 1, "sharded": False}
    return TrainingSettings(**(plain | changes))
