"""Train one arm and seed in several processes, into the run folder, as notebook 02 does in one.

    accelerate launch --config_file params/accelerate/ddp.yaml --num_processes 2 \
        -m rwkvgate.experiment.training.worker --profile gpu --arm enhanced --settings '{training: {steps: 500}}'

Afterwards the notebook finds the arm finished. With `training.processes` above 1 it runs this command itself. Options
are the notebooks' parameters; `--settings` holds overrides of the profile's sections, as YAML. accelerate sets the
number of processes, whatever `training.processes` is; with fsdp.yaml the model is sharded.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
import yaml

from rwkvgate.experiment import order
from rwkvgate.experiment.open_run import open_run
from rwkvgate.experiment.parameters import Loader
from rwkvgate.experiment.processes import end_with_parent
from rwkvgate.experiment.run import Run
from rwkvgate.experiment.settings import SECTIONS, ModelSettings, resolve, share_of
from rwkvgate.experiment.steps.making import complete
from rwkvgate.experiment.training import ranks
from rwkvgate.gate.validation import SettingsError, shown

COLLECTIVE_TIMEOUT = timedelta(hours=4)
"""How long processes wait for each other, as while the main one reads texts or downloads a base. If one dies, the
launcher notices at once and stops the others."""
FSDP_VARIABLE = "ACCELERATE_USE_FSDP"
"""accelerate sets it where its configuration is FSDP's."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status is 0, 1 where training diverged, 2 where settings are refused."""
    given = _parser().parse_args(arguments)
    # accelerate and transformers must not see it: they would shard the model their own way, not `training.sharding`'s.
    sharded = os.environ.pop(FSDP_VARIABLE, "").lower() == "true"
    from accelerate import PartialState

    state = PartialState(cpu=not torch.cuda.is_available(), timeout=COLLECTIVE_TIMEOUT)
    try:
        parameters = _parameters(given, sharded)
        run = Run(resolve(**parameters))
        _check_base(run)
        ranks.from_main(lambda: open_run(arm=given.arm, seed=given.seed, **parameters) and None)
        complete(order.arm(run.variant(given.arm, given.seed)))
    except (SettingsError, FloatingPointError) as error:
        if ranks.is_main():
            print(error, file=sys.stderr, flush=True)
        return 2 if isinstance(error, SettingsError) else 1
    finally:
        state.destroy_process_group()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rwkvgate.experiment.training.worker", description="Train one arm in several processes."
    )
    parser.add_argument("--profile", default="auto", help="a file of params/, or auto")
    parser.add_argument("--run-dir", default="", help="the run folder; default outputs/<profile>")
    parser.add_argument("--arm", default="enhanced")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--settings", default="{}", help="overrides of the profile, as YAML: {training: {...}}")
    return parser


def _parameters(given: argparse.Namespace, sharded: bool) -> dict[str, Any]:
    """The arguments of `resolve`, with the launch's own number of processes.

    Raises:
        SettingsError: `--settings` is no mapping of sections.
    """
    try:
        sections = yaml.load(given.settings, Loader=Loader)
    except yaml.YAMLError as error:
        raise SettingsError(f"--settings is not valid YAML: {error}") from None
    unknown = [name for name in sections if name not in SECTIONS] if isinstance(sections, dict) else [sections]
    if unknown:
        raise SettingsError(f"--settings holds {shown(unknown[0])}; it must be a mapping of {', '.join(SECTIONS)}")
    training = sections.get("training") or {}
    if not isinstance(training, dict):
        raise SettingsError(f"--settings holds training {shown(training)}; it must be a mapping")
    processes = ranks.count()
    sharded = (sharded or bool(training.get("sharded"))) and processes > 1
    sections["training"] = training | {"processes": processes, "sharded": sharded}
    return sections | {"profile": given.profile, "run_dir": given.run_dir}


def _check_base(run: Run) -> None:
    """Refuse a batch of the pretraining that the processes cannot share, where the base is not made yet.

    Raises:
        SettingsError: names what is allowed.
    """
    model = run.settings.model
    if isinstance(model, ModelSettings) and not order.base(run).is_finished:
        share_of(model.pretraining.batch_size, ranks.count(), "model.pretraining.batch_size")


if __name__ == "__main__":
    # Ctrl-C and the launcher's end stop it at once: files on disk are complete, and a process that went on would be in
    # the next run's way.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    end_with_parent()
    sys.exit(main())
