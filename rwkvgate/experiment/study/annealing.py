"""One training that gives the annealed loss at many budgets: a trunk at a constant rate, and a branch for each budget.

The trunk trains at a constant learning rate after a warm-up. For a budget of n steps a branch leaves the trunk at 80 %
of n and anneals the rate to zero, as 1 - sqrt, over the remaining steps (arXiv 2405.18392). So the losses at all
budgets cost one training of the largest and a fifth of the others, and a network's loss is known as a function of its
compute: its control of equal seconds, or FLOPs, is a point of another network's curve.
"""

from __future__ import annotations

import copy
import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rwkvgate.experiment.training.loop import parameter_groups
from rwkvgate.experiment.training.rows import Rows
from rwkvgate.rwkv6.files import write_file

ANNEALED = 0.2
"""The share of a budget in which its learning rate falls to zero."""
WARMUP = 40
"""Steps of linear warm-up."""
SAVED_EVERY = 45.0
"""Seconds between two checkpoints: what a kill can lose."""
LOGGED_EVERY = 10
"""Steps between two records of the trunk's training loss."""
Score = Callable[[nn.Module], Any]
"""What is recorded of an annealed network: a JSON value."""


@dataclass
class Curve:
    """What one training gave.

    Attributes:
        scores: by budget in steps, what `score` gave of the annealed network; None where training had diverged.
        losses: training loss of the trunk, nats per token, mean of each `LOGGED_EVERY` steps.
        diverged: the step at which the loss or the gradients' norm was no finite number; None where none was.
    """

    scores: dict[int, Any] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    diverged: int | None = None


def branch_point(budget: int) -> int:
    """The step at which a budget's branch leaves the trunk.

    Example:
        >>> branch_point(150)
        120
    """
    return max(0, budget - max(1, round(ANNEALED * budget)))


def rate_at(step: int, budget: int | None) -> float:
    """The learning rate of step 0, 1, ... as a share of the constant one: on the trunk, or in a budget's branch.

    Example:
        >>> rate_at(0, None), rate_at(WARMUP, None), rate_at(100, budget=150), rate_at(150, budget=150)
        (0.025, 1.0, 1.0, 0.0)
    """
    warm = min(1.0, (step + 1) / WARMUP)
    if budget is None or step < branch_point(budget):
        return warm
    done = (step - branch_point(budget)) / (budget - branch_point(budget))
    return warm * (1 - math.sqrt(done))


def train_annealed(
    model: nn.Module,
    rows: Rows,
    budgets: Sequence[int],
    score: Score,
    *,
    rate: float,
    batch_size: int,
    weight_decay: float,
    labels: Rows | None = None,
    checkpoint: Path | None = None,
    report: Callable[[int, int], None] | None = None,
) -> Curve:
    """Train the model's trainable parameters on the rows in their order, with a branch for each budget.

    Args:
        rows: token ids, `batch_size` of one length for each step of the largest budget.
        budgets: in steps, each at least 2; or 0, for a network that is scored as it is.
        labels: scored tokens of each row, with -100 in place of the others; None scores every token.
        checkpoint: a file that the training saves itself to and resumes from; who keeps the curve removes it. One of
            another training must not lie there.
        report: called with the steps done and all steps, branches included.

    Returns:
        The curve. A training that diverges ends there: the budgets that are not reached have score None.
    """
    run = Trainer(model, rows, labels or rows, batch_size, rate, weight_decay)
    plan = _plan(budgets)
    position, saved = run.resume(checkpoint), time.monotonic()
    total = sum(end - begin for _, begin, end in plan)
    for part, (budget, begin, end) in enumerate(plan):
        if part < position.part:  # finished before the training was interrupted
            continue
        step = begin if position.step is None else position.step
        if budget is not None and position.trunk is None:
            position.trunk = run.state()
        while step < end and position.curve.diverged is None:
            loss = run.step(step, budget)
            step += 1
            if not math.isfinite(loss):
                position.curve.diverged = step
            elif budget is None:
                position.curve.losses.append(loss)
            if report is not None:
                report(sum(e - b for _, b, e in plan[:part]) + step - begin, total)
            if checkpoint is not None and time.monotonic() - saved > SAVED_EVERY:
                position.part, position.step = part, step
                run.save(checkpoint, position)
                saved = time.monotonic()
        if budget is not None:
            if checkpoint is not None:  # scoring may take as long as what a kill may lose
                position.part, position.step = part, step
                run.save(checkpoint, position)
            position.curve.scores[budget] = None if position.curve.diverged else score(model.eval())
            assert position.trunk is not None
            run.restore(position.trunk)
            position.trunk = None
        position.part, position.step = part + 1, None
    curve = position.curve
    curve.losses = [sum(part) / len(part) for part in _chunks(curve.losses, LOGGED_EVERY)]
    return curve


def _plan(budgets: Sequence[int]) -> list[tuple[int | None, int, int]]:
    """Parts of the training in order: (budget or None for the trunk, first step, end)."""
    plan: list[tuple[int | None, int, int]] = []
    trunk = 0
    for budget in sorted(budgets):
        plan += [(None, trunk, branch_point(budget)), (budget, branch_point(budget), budget)]
        trunk = branch_point(budget)
    return plan


def _chunks(values: Sequence[float], size: int) -> list[Sequence[float]]:
    return [values[i : i + size] for i in range(0, len(values), size)]


@dataclass
class _Position:
    """Where a training is: the part of its plan, the next step (None: the part's first), the trunk during a branch."""

    part: int = 0
    step: int | None = None
    trunk: dict[str, Any] | None = None
    curve: Curve = field(default_factory=Curve)


class Trainer:
    """A model with its optimiser and its rows."""

    def __init__(
        self, model: nn.Module, rows: Rows, labels: Rows, batch_size: int, rate: float, weight_decay: float
    ) -> None:
        self.model, self.rate, self.batch_size = model, rate, batch_size
        self.rows, self.labels = torch.tensor(rows), torch.tensor(labels)
        self.parameters: list[Tensor] = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            parameter_groups(model, rate, weight_decay), betas=(0.9, 0.99), eps=1e-18, fused=True
        )
        self.rates = [group["lr"] for group in self.optimizer.param_groups]

    def step(self, step: int, budget: int | None) -> float:
        """One step; the loss before it, or nan where the gradients' norm is no finite number."""
        batch = slice(step * self.batch_size, (step + 1) * self.batch_size)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * rate_at(step, budget)
        self.model.train()
        loss = self.model(input_ids=self.rows[batch], labels=self.labels[batch], use_cache=False).loss
        self.optimizer.zero_grad()
        loss.backward()
        norm = float(nn.utils.clip_grad_norm_(self.parameters, 1.0))
        if not math.isfinite(norm):
            return math.nan
        self.optimizer.step()
        return float(loss.detach())

    def state(self) -> dict[str, Any]:
        """A copy of weights and optimiser."""
        return copy.deepcopy({"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()})

    def restore(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])

    def save(self, path: Path, position: _Position) -> None:
        """Write the checkpoint; where that fails, as on a full disk, training goes on without."""
        content = self.state() | {"part": position.part, "step": position.step, "trunk": position.trunk}
        try:
            with write_file(path) as fresh:
                torch.save(content | {"curve": vars(position.curve)}, fresh)
        except (OSError, RuntimeError) as error:  # torch words a full disk as it likes
            free = shutil.disk_usage(path.parent).free / 2**20
            problem = str(error).splitlines()[0][:80]
            print(f"{path} was not written ({problem}; {free:,.1f} MiB are free there): a kill loses more", flush=True)

    def resume(self, path: Path | None) -> _Position:
        """The position that was saved, with the training put there; the start where there is none."""
        if path is None or not path.exists():
            return _Position()
        start = self.state()
        try:
            saved = torch.load(path, map_location="cpu", weights_only=True)
            position = _Position(saved["part"], saved["step"], saved["trunk"], Curve(**saved["curve"]))
            self.restore(saved)
            return position
        except Exception as error:  # a damaged archive raises anything
            print(f"{path} is damaged ({str(error).splitlines()[0][:80]}): this training starts again", flush=True)
            self.restore(start)
            return _Position()
