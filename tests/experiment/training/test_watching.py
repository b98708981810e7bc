"""Losses are sent to a service where the profile asks for one, and the missing package is named before any work."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import transformers.integrations

from rwkvgate.experiment import settings
from rwkvgate.experiment.open_run import open_run
from rwkvgate.experiment.settings import LAUNCH, resolve
from rwkvgate.experiment.training import train
from rwkvgate.experiment.training.watching import reporters
from rwkvgate.gate.validation import SettingsError
from tests.experiment.training.schedules import short_schedule


def test_by_default_no_service_is_told() -> None:
    assert resolve("cpu").training.report_to == "none" and reporters(short_schedule(), "a training") == []
    assert "report_to" in LAUNCH, "a finished arm is not trained again for it"


@pytest.mark.parametrize(("service", "package"), [("tensorboard", "tensorboard"), ("wandb", "wandb")])
def test_a_missing_package_is_named_before_any_work(
    service: str, package: str, monkeypatch: Any, tmp_path: Path
) -> None:
    monkeypatch.setattr(settings, "find_spec", lambda name: None)
    with pytest.raises(
        SettingsError, match=f"training.report_to is '{service}', which needs the package {package}: pip"
    ):
        open_run(profile="smoke", run_dir=str(tmp_path / "run"), training={"report_to": service})
    assert not (tmp_path / "run").exists()


def test_an_unknown_service_is_refused() -> None:
    with pytest.raises(SettingsError, match="report_to"):
        resolve("cpu", training={"report_to": "tensorbord"})


def test_tensorboard_gets_the_losses(monkeypatch: Any, tmp_path: Path, tiny_model: Any) -> None:
    sent: list[tuple[str, float, int]] = []

    class Writer:
        """A writer as TensorBoard's, in memory."""

        def __init__(self, log_dir: str) -> None:
            self.folder = log_dir
            folders.append(Path(log_dir))

        def add_scalar(self, name: str, value: float, step: int) -> None:
            sent.append((name, value, step))

        def add_text(self, *_: Any) -> None: ...
        def flush(self) -> None: ...
        def close(self) -> None: ...

    folders: list[Path] = []
    stub = ModuleType("torch.utils.tensorboard")
    stub.SummaryWriter = Writer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", stub)
    monkeypatch.setattr(transformers.integrations.integration_utils, "is_tensorboard_available", lambda: True)
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path))
    schedule = short_schedule(log_every=2, report_to="tensorboard")
    log = train(tiny_model(), [[1, 2, 3, 4, 5, 6, 7, 8]] * 8, schedule, label="fine-tuning x, seed 0", seed=0)
    assert [(step, pytest.approx(loss)) for name, loss, step in sent if name == "train/loss"] == [
        (record["step"], record["loss"]) for record in log.history
    ]
    assert [folder.parent for folder in folders] == [tmp_path / "fine-tuning-x-seed-0"]
