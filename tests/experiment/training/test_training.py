"""Rows, padding and optimisation: what is trained on, in which order, and what is refused."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rwkvgate.experiment.arms import ARMS
from rwkvgate.experiment.lora import add_lora
from rwkvgate.experiment.settings import Schedule
from rwkvgate.experiment.training import IGNORED, collate, document_rows, loop, pack_rows, train
from rwkvgate.experiment.training.loop import build_optimizer
from rwkvgate.experiment.training.watching import MOST_SKIPPED, Report, ScaleWatch
from rwkvgate.gate.patch import select_trainable
from rwkvgate.gate.validation import SettingsError
from tests.experiment.training.schedules import short_schedule


def test_packed_rows_are_cut_from_every_document_in_turn() -> None:
    documents = [[i] * 9 for i in range(1, 9)]
    rows = pack_rows(documents, short_schedule(), separator=0, seed=0)
    assert len(rows) == 8 and {len(row) for row in rows} == {8}
    assert (
        rows
        == pack_rows(documents, short_schedule(), separator=0, seed=0)
        != pack_rows(documents, short_schedule(), 0, seed=1)
    )


def test_no_token_is_seen_more_than_twice() -> None:
    documents = [[5] * 15, [6] * 15]
    stream = [token for row in pack_rows(documents, short_schedule(), separator=0, seed=0) for token in row]
    assert stream.count(5) <= 30 and stream.count(6) <= 30
    with pytest.raises(SettingsError, match="would be seen more than twice"):
        pack_rows(documents, short_schedule(steps=5), separator=0, seed=0)


def test_document_rows_have_the_same_order_for_every_arm() -> None:
    documents = [[i] * i for i in range(1, 6)]
    rows = document_rows(documents, short_schedule(), separator=0, seed=3)
    assert (
        rows
        == document_rows(documents, short_schedule(), separator=0, seed=3)
        != document_rows(documents, short_schedule(), 0, 4)
    )
    assert sorted(max(row) for row in rows[:5]) == [1, 2, 3, 4, 5]
    assert all(row[0] == 0 and row[-1] == 0 and len(row) <= 8 for row in rows)
    with pytest.raises(SettingsError, match="no document"):
        document_rows([], short_schedule(), separator=0, seed=0)


def test_an_empty_document_is_a_row_of_two_separators() -> None:
    assert document_rows([[]], short_schedule(), separator=0, seed=0)[0] == [0, 0]


def test_padding_is_not_scored_and_changes_no_loss(tiny_model: Any) -> None:
    model, rows = tiny_model(), [[0, 3, 4, 5, 6, 0], [0, 7, 0]]
    batch = collate([{"input_ids": row} for row in rows])
    assert (batch["labels"] == IGNORED).sum() == 3
    together = model(**batch).loss.item() * 7
    alone = [model(**collate([{"input_ids": row}])).loss.item() * (len(row) - 1) for row in rows]
    assert together == pytest.approx(sum(alone), rel=1e-6)


def test_the_optimizer_follows_the_recipe(tiny_model: Any) -> None:
    model = tiny_model("enhanced")
    optimizer, _ = build_optimizer(model, short_schedule())
    names = {id(p): name for name, p in model.named_parameters()}
    seen = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            seen[names[id(parameter)]] = (group["initial_lr"], group["weight_decay"])
    assert seen["rwkv.blocks.0.attention.time_decay"] == (2e-2, 0.0)
    assert seen["rwkv.blocks.0.attention.key.weight"] == (1e-2, 0.1)
    assert seen["rwkv.blocks.0.ln1.weight"] == (1e-2, 0.0)
    assert seen["rwkv.blocks.0.attention.time_maa_w1"] == (1e-2, 0.0)
    assert len(seen) == len(names)


def test_training_lowers_the_loss_and_logs_it(tiny_model: Any, capsys: Any) -> None:
    model, plan = tiny_model(dtype=torch.float32), short_schedule(steps=30, warmup_steps=2, eval_every=15)
    rows = document_rows([[1, 2, 3, 4, 5, 6]], plan, separator=0, seed=0)
    log = train(model, rows, plan, label="a run", seed=0, validation=rows[:4])
    losses = [record["loss"] for record in log.history if "loss" in record]
    checked = [record for record in log.history if "validation_loss" in record]
    assert losses[-1] < 0.5 * losses[0] and len(losses) == 3 and [r["step"] for r in checked] == [15, 30]
    assert log.tokens == sum(map(len, rows)) and log.tokens_per_second > 0 and not model.training
    assert "a run: 30 of 30" in capsys.readouterr().out


def test_a_schedule_without_intervals_logs_thirty_times_and_validates_six(tiny_model: Any) -> None:
    plan = short_schedule(steps=60)
    rows = document_rows([[1, 2, 3]], plan, separator=0, seed=0)
    schedule = Schedule(**{name: getattr(plan, name) for name in Schedule.model_fields})
    log = train(tiny_model(dtype=torch.float32), rows, schedule, label="plain", seed=0, validation=rows[:2])
    assert [r["step"] for r in log.history if "loss" in r] == list(range(2, 61, 2))
    assert [r["step"] for r in log.history if "validation_loss" in r] == list(range(10, 61, 10))


def test_the_same_seed_gives_the_same_weights(tiny_model: Any) -> None:
    plan = short_schedule()
    rows = document_rows([[1, 2, 3], [4, 5, 6, 7]], plan, separator=0, seed=0)
    models = [tiny_model("enhanced", torch.float32) for _ in range(2)]
    for model in models:
        train(model, rows, plan, label="twin", seed=0)
    assert all(torch.equal(a, b) for a, b in zip(*(m.parameters() for m in models), strict=True))


def test_a_diverging_run_stops_and_says_so(tiny_model: Any) -> None:
    model, plan = tiny_model(dtype=torch.float32), short_schedule(log_every=1)
    with torch.no_grad():
        model.head.weight.fill_(float("nan"))
    rows = document_rows([[1, 2, 3]], plan, separator=0, seed=0)
    with pytest.raises(FloatingPointError, match="the loss is nan at step"):
        train(model, rows, plan, label="doomed", seed=0)


@pytest.mark.parametrize("arm", [name for name, arm in ARMS.items() if arm.trained])
def test_every_trainable_parameter_of_every_arm_has_a_gradient(tiny_model: Any, arm: str) -> None:
    # Several processes rely on it: DDP waits for the gradient of each, or must search at every step for those without.
    model = tiny_model(None if ARMS[arm].gate is None else arm, torch.float32)
    if ARMS[arm].lora:
        add_lora(model)
    select_trainable(model, "all")
    model.train()
    model(**collate([{"input_ids": row} for row in ([0, 3, 4, 5, 0], [0, 7])])).loss.backward()
    assert not [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]


def test_nothing_to_train_is_refused(tiny_model: Any) -> None:
    with pytest.raises(SettingsError, match="nothing to train"):
        build_optimizer(tiny_model().requires_grad_(False), short_schedule())


def test_gradients_that_only_overflow_stop_the_run() -> None:
    class Scaler:
        scale = 2.0**40

        def get_scale(self) -> float:
            return self.scale

    scaler, state = Scaler(), SimpleNamespace(global_step=7)
    watch = ScaleWatch(SimpleNamespace(scaler=scaler))
    for _ in range(3 * MOST_SKIPPED):  # now and then an overflow is how the scale finds its place
        scaler.scale *= 2 if scaler.scale < 2.0**30 else 0.5
        watch.on_step_end(None, state, None)
    with pytest.raises(FloatingPointError, match=r"overflowed float16 in 25 steps in a row.*step 7"):
        for _ in range(MOST_SKIPPED + 1):
            scaler.scale /= 2
            watch.on_step_end(None, state, None)
    ScaleWatch(SimpleNamespace(scaler=None)).on_step_end(None, state, None)


def test_float16_without_a_gpu_is_refused(tiny_model: Any) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(SettingsError, match="float16 needs a CUDA device"):
        train(tiny_model(dtype=torch.float16), [[1, 2, 3]] * 8, short_schedule(), label="x", seed=0)


GRID: dict[str, Any] = {"label": "grid", "seed": 0}


def grid_schedule(*rates: float, **changes: Any) -> Schedule:
    """A short schedule that tries these learning rates."""
    return short_schedule(learning_rates=rates, log_every=2, eval_every=2, **changes)


def grid_rows() -> tuple[list[list[int]], list[list[int]]]:
    """Rows to train on, and to choose by."""
    rows = [[0, *[1 + (i + k) % 9 for k in range(7)]] for i in range(8)]
    return rows, rows[:3]


def test_the_best_rate_is_kept_as_it_would_be_alone(tiny_model: Any) -> None:
    rows, held_out = grid_rows()
    alone = {}
    for rate in (1e-4, 3e-2, 3e-3):
        model = tiny_model("enhanced", torch.float32)
        log = train(model, rows, grid_schedule(learning_rate=rate), validation=held_out, **GRID)
        alone[rate] = log.validation_loss, model
    model = tiny_model("enhanced", torch.float32)
    log = train(model, rows, grid_schedule(1e-4, 3e-2, 3e-3), validation=held_out, **GRID)
    best = min(alone, key=lambda rate: alone[rate][0])
    assert log.rate == best and log.validation_loss == alone[best][0]
    assert log.tried == {f"{rate:g}": loss for rate, (loss, _) in alone.items()}
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), alone[best][1].parameters(), strict=True))


def test_a_rate_that_diverges_loses_and_all_that_do_are_an_error(tiny_model: Any, monkeypatch: Any) -> None:
    rows, held_out = grid_rows()
    plain = loop._train_once

    def diverge(job: Any, schedule: Any, *others: Any) -> Any:
        if schedule.learning_rate > 1e-2:
            raise FloatingPointError("the loss is nan at step 2")
        return plain(job, schedule, *others)

    monkeypatch.setattr(loop, "_train_once", diverge)
    model = tiny_model(None, torch.float32)
    log = train(model, rows, grid_schedule(0.5, 1e-3), validation=held_out, **GRID)
    assert log.rate == 1e-3 and log.tried["0.5"] == float("inf")
    with pytest.raises(FloatingPointError, match=r"every learning rate of 0.5, 0.7 diverged"):
        train(model, rows, grid_schedule(0.5, 0.7), validation=held_out, **GRID)
    with pytest.raises(ValueError, match="validation rows"):
        train(model, rows, grid_schedule(1e-3, 1e-2), validation=[], **GRID)


@pytest.mark.parametrize("key", ["loss", "eval_loss"])
def test_a_loss_that_is_no_number_stops_the_run_in_training_and_in_validation(key: str) -> None:
    state = SimpleNamespace(global_step=5)
    with pytest.raises(FloatingPointError, match="the loss is nan at step 5"):
        Report("test").on_log(None, state, None, logs={key: math.nan})
    Report("test").on_log(None, state, None, logs={key: 1.0})
