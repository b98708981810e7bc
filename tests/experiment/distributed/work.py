"""What each of two processes does in `test_training_together.py`: several trainings, one after another, in one launch.

    accelerate launch --config_file params/accelerate/ddp.yaml --num_processes 2 work.py FOLDER

The main process writes what each training left to FOLDER/<name>.json and FOLDER/<name>.safetensors. Imported by the
test, this module gives one process the same trainings.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from rwkvgate import GateConfig, Rwkv6Config, Rwkv6ForCausalLM, patch
from rwkvgate.experiment.settings import TrainingSettings
from rwkvgate.experiment.training import TrainingLog, checkpointing, collate, ranks, train
from rwkvgate.experiment.training.checkpointing import ResumableTrainer, Saver
from rwkvgate.experiment.training.loop import build_optimizer
from rwkvgate.experiment.training.sharding import shard, whole
from rwkvgate.gate.patch import select_trainable

SIZES = {
    "vocab_size": 37,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "head_size": 8,
    "time_mix_rank": 5,
    "time_decay_rank": 6,
}
SCHEDULE = TrainingSettings(
    steps=8,
    batch_size=4,
    length=24,
    learning_rate=1e-2,
    warmup_steps=2,
    weight_decay=0.1,
    gradient_checkpointing=False,
    scope="all",
    learning_rates=(),
    log_every=1,
    eval_every=4,
    processes=1,  # what is launched counts
    sharded=False,
)
STOP = 3
"""The step after which an interrupted training ends."""
RATES = (1e-3, 1e-2)


class Interrupted(Exception):
    """What stops a training in the middle."""


def rows(count: int) -> list[list[int]]:
    """Rows of very unequal lengths, so that a mean of means would be far from the mean."""
    return [[0, *[1 + (5 * i + k * k) % 35 for k in range(2 + (7 * i) % 21)]] for i in range(count)]


def new_model(dtype: torch.dtype = torch.float32, scope: Any = "all") -> Any:
    """A small gated network, the same in every process."""
    torch.manual_seed(0)
    model = patch(Rwkv6ForCausalLM(Rwkv6Config(**SIZES)).to(dtype), GateConfig.preset("enhanced"))
    select_trainable(model, scope)
    return model


def trained(model: Any, folder: Path | None = None, stop: bool = False, **changes: Any) -> TrainingLog | None:
    """A training, which may be interrupted after `STOP` steps: None then."""
    schedule = SCHEDULE.model_copy(update=changes)
    plain = Saver.on_save

    def on_save(self: Saver, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        plain(self, args, state, control, **kwargs)
        if stop and state.global_step == STOP:
            ranks.barrier()
            raise Interrupted

    Saver.on_save = on_save  # type: ignore[method-assign]
    count = schedule.steps * schedule.batch_size
    given = rows(count + 11)  # eleven rows to validate on, which batches of eight do not divide evenly
    try:
        return train(model, given[:count], schedule, label="test", seed=0, validation=given[count:], checkpoints=folder)
    except Interrupted:
        return None
    finally:
        Saver.on_save = plain  # type: ignore[method-assign]


def keep(folder: Path, name: str, model: Any, log: TrainingLog | None) -> None:
    """Write what a training left."""
    assert log is not None, name
    weights = {n: whole(p).float().contiguous() for n, p in model.named_parameters()}
    if ranks.is_main():
        save_file(weights, str(folder / f"{name}.safetensors"))
        told = {"history": log.history, "processes": log.processes, "sharded": log.sharded, "tried": log.tried}
        (folder / f"{name}.json").write_text(json.dumps(told))


def diverging(folder: Path, sharded: bool) -> str:
    """What is raised where the loss of one process alone is no number from the third step on."""
    plain = ResumableTrainer.compute_loss

    def compute_loss(self: Any, *args: Any, **kwargs: Any) -> Any:
        loss = plain(self, *args, **kwargs)
        return loss * float("nan") if ranks.index() == 1 and self.state.global_step >= 2 else loss

    ResumableTrainer.compute_loss = compute_loss
    try:
        trained(new_model(), sharded=sharded)
    except FloatingPointError as error:
        return str(error)
    finally:
        ResumableTrainer.compute_loss = plain
    return "nothing was raised"


def overflowing(folder: Path) -> None:
    """Two steps under a gradient scaler; in the first, a part of the gradient that one process holds is infinite."""
    model = new_model(torch.bfloat16, "gate-and-norms")
    shard(model)
    optimizer, _ = build_optimizer(model, SCHEDULE)
    optimizer.param_groups[0]["lr"] = 1e-2
    scaler, told = torch.amp.GradScaler(model.device.type, init_scale=1024.0), []
    for overflows in (True, False):
        before = {n: whole(p).clone() for n, p in model.named_parameters() if p.requires_grad}
        scaler.scale(model(**collate([{"input_ids": row} for row in rows(2)]), skip_logits=True).loss).backward()
        if overflows and ranks.index() == 1:
            parts = [p.grad.to_local() for p in model.parameters() if p.grad is not None]
            next(part for part in parts if part.numel()).fill_(float("inf"))
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        moved = [n for n, p in model.named_parameters() if n in before and not torch.equal(before[n], whole(p))]
        told.append([scaler.get_scale(), bool(moved)])
    (folder / f"overflowing.{ranks.index()}").write_text(json.dumps(told))


def main(folder: Path) -> None:
    """Every training, with the model whole in each process and spread over them."""
    from accelerate import PartialState

    PartialState(cpu=not torch.cuda.is_available())
    # The processes' clocks differ as far as they can: one would save after every step, the other never.
    checkpointing.SAVE_SECONDS = 0.0 if ranks.is_main() else 1e9
    for kind, sharded in (("whole", False), ("spread", True)):
        model = new_model()
        log = trained(model, sharded=sharded)
        keep(folder, f"plain-{kind}", model, log)
        trained(new_model(), folder / f"stopped-{kind}", stop=True, sharded=sharded)
        model = new_model()
        log = trained(model, folder / f"begun-by-one-{kind}", sharded=sharded)
        keep(folder, f"taken-up-{kind}", model, log)
        model = new_model(torch.bfloat16, "gate-and-norms")
        log = trained(model, sharded=sharded, gradient_checkpointing=True, steps=4)
        keep(folder, f"frozen-{kind}", model, log)
        (folder / f"diverging-{kind}.{ranks.index()}").write_text(diverging(folder, sharded))
    # What processes that share a model left is gone on from by processes that hold it whole.
    ranks.from_main(lambda: shutil.copytree(folder / "stopped-spread", folder / "stopped-copy") and None)
    model = new_model()
    keep(folder, "mixed", model, trained(model, folder / "stopped-copy"))
    model = new_model()
    keep(folder, "grid", model, trained(model, learning_rates=RATES, sharded=True))
    overflowing(folder)
    PartialState().destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
