"""The annealed training: its branches, its schedule, and what a kill or a divergence leaves."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from rwkvgate.experiment.study import annealing
from rwkvgate.experiment.study.annealing import Curve, Score, branch_point, rate_at, train_annealed
from rwkvgate.rwkv6.configuration import Rwkv6Config
from rwkvgate.rwkv6.modeling import Rwkv6ForCausalLM

BUDGETS = (5, 10, 12)


def network(seed: int = 0) -> Rwkv6ForCausalLM:
    torch.manual_seed(seed)
    return Rwkv6ForCausalLM(Rwkv6Config(vocab_size=31, hidden_size=16, num_hidden_layers=2, head_size=8))


ROWS = torch.randint(1, 31, (12 * 2, 9), generator=torch.Generator().manual_seed(0)).tolist()


def total(model: nn.Module) -> float:
    return float(sum(p.detach().double().sum() for p in model.parameters()))


def trained(
    budgets: tuple[int, ...] = BUDGETS,
    checkpoint: Path | None = None,
    rate: float = 1e-2,
    model: nn.Module | None = None,
    score: Score = total,
    report: Callable[[int, int], None] | None = None,
) -> Curve:
    return train_annealed(
        model or network(),
        ROWS,
        budgets,
        score,
        rate=rate,
        batch_size=2,
        weight_decay=0.1,
        checkpoint=checkpoint,
        report=report,
    )


def test_a_branch_leaves_the_trunk_as_it_was() -> None:
    """The score of a budget is the same whichever smaller budgets are annealed on the way."""
    together = trained()
    assert list(together.scores) == list(BUDGETS)
    for budget in BUDGETS:
        assert trained((budget,)).scores[budget] == together.scores[budget]


def test_it_is_plain_training_at_the_same_rates() -> None:
    """An oracle: AdamW at the rates of the schedule, step by step."""
    model = network()
    matrix = [p for n, p in model.named_parameters() if n.endswith(".weight") and p.dim() == 2]
    decay = [p for n, p in model.named_parameters() if n.endswith(".time_decay")]
    other = [p for p in model.parameters() if not any(p is q for q in (*matrix, *decay))]
    groups = [
        {"params": matrix, "weight_decay": 0.1},
        {"params": decay, "weight_decay": 0.0},
        {"params": other, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.99), eps=1e-18)
    model.train()
    for step in range(10):
        for group, factor in zip(optimizer.param_groups, (1, 2, 1), strict=True):
            group["lr"] = 1e-2 * factor * rate_at(step, 10)
        ids = torch.tensor(ROWS[2 * step : 2 * step + 2])
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    assert trained((10,)).scores[10] == pytest.approx(total(model), abs=1e-3)


@pytest.mark.parametrize("killed_after", [1, 4, 5, 6, 9, 13])
def test_a_killed_training_goes_on_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_after: int
) -> None:
    monkeypatch.setattr(annealing, "SAVED_EVERY", -1.0)
    checkpoint, steps = tmp_path / "one.pt", 0

    def stop(done: int, total: int) -> None:
        nonlocal steps
        steps += 1
        if steps > killed_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(checkpoint=checkpoint, report=stop)
    assert trained(checkpoint=checkpoint, model=network(seed=1)) == trained()


@pytest.mark.parametrize("budget", [1, 2, 3])
def test_a_kill_in_the_scoring_repeats_no_training(tmp_path: Path, budget: int) -> None:
    """What was not yet due to be saved is saved before a network is scored, which may take long."""
    checkpoint, scored, steps = tmp_path / "one.pt", 0, 0

    def count(done: int, total: int) -> None:
        nonlocal steps
        steps += 1

    def killed(model: nn.Module) -> float:
        nonlocal scored
        scored += 1
        if scored == budget:
            raise KeyboardInterrupt
        return total(model)

    with pytest.raises(KeyboardInterrupt):
        trained(checkpoint=checkpoint, score=killed, report=count)
    assert trained(checkpoint=checkpoint, report=count) == trained()
    once = steps
    steps = 0
    checkpoint.unlink()
    trained(checkpoint=checkpoint, report=count)
    assert steps == once


def test_a_damaged_checkpoint_starts_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = tmp_path / "one.pt"
    checkpoint.write_bytes(b"nothing")
    assert trained(checkpoint=checkpoint) == trained()
    checkpoint.unlink()
    monkeypatch.setattr(annealing, "SAVED_EVERY", -1.0)
    trained(checkpoint=checkpoint)
    saved = torch.load(checkpoint, weights_only=True)
    saved["curve"]["unknown"] = 1  # found after sound weights: none of them is kept
    torch.save(saved, checkpoint)
    assert trained(checkpoint=checkpoint) == trained()
    assert capsys.readouterr().out.count("starts again") == 2


def test_a_full_disk_stops_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any) -> None:
        raise RuntimeError("unexpected pos 769792 vs 769684")

    monkeypatch.setattr(annealing, "SAVED_EVERY", -1.0)
    monkeypatch.setattr(torch, "save", full)
    assert trained(checkpoint=tmp_path / "one.pt") == trained()
    assert "one.pt was not written (unexpected pos" in capsys.readouterr().out


def test_divergence_is_a_result() -> None:
    model = network()
    with torch.no_grad():
        model.head.weight.fill_(float("nan"))
    curve = trained(model=model)
    assert curve.diverged == 1
    assert curve.scores == dict.fromkeys(BUDGETS)


def test_the_rate_falls_to_zero_in_the_last_fifth() -> None:
    rates = [rate_at(step, 1000) for step in range(1000)]
    assert branch_point(1000) == 800
    assert rates[annealing.WARMUP : 800] == [1.0] * (800 - annealing.WARMUP)
    assert all(a > b for a, b in itertools.pairwise(rates[800:]))
    assert 0 < rates[-1] < 0.01
