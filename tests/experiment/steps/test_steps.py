"""Steps of a run at profile smoke: made when needed, found again, redone when inputs change, whole or not at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from rwkvgate.experiment import order
from rwkvgate.experiment.open_run import open_run
from rwkvgate.experiment.run import Run
from rwkvgate.experiment.steps import arm as arm_step
from rwkvgate.experiment.steps import ensure_arm, ensure_base, ensure_texts
from rwkvgate.experiment.steps.arm import build_arm, load_arm
from rwkvgate.experiment.steps.base import read_log
from rwkvgate.experiment.training import checkpointing
from rwkvgate.gate.validation import SettingsError
from rwkvgate.rwkv6.files import read_json, write_json


def smoke(folder: Path, **parameters: Any) -> Run:
    """A run at profile smoke."""
    return open_run(profile="smoke", run_dir=str(folder), **parameters)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with base and one arm."""
    folder = tmp_path_factory.mktemp("run") / "smoke"
    ensure_arm(smoke(folder).variant("enhanced"))
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    return Path(shutil.copytree(made, tmp_path / "smoke"))


def times(folder: Path) -> dict[str, int]:
    """When each file was written."""
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_a_finished_step_is_not_made_again(folder: Path) -> None:
    before = times(folder)
    run = smoke(folder)
    ensure_texts(run), ensure_base(run), ensure_arm(run.variant("enhanced"))
    assert times(folder) == before


def test_a_changed_parameter_redoes_what_depends_on_it(folder: Path) -> None:
    base = times(folder / "base")
    run = smoke(folder, training={"steps": 6, "warmup_steps": 1})
    ensure_arm(run.variant("enhanced"))
    assert read_log(order.arm(run.variant("enhanced"))).steps == 6 and times(folder / "base") == base
    run = smoke(folder, corpus={"seed": 5})
    assert not order.corpus(run).is_finished and not order.base(run).is_finished


def test_other_settings_neither_use_nor_lose_an_interrupted_training(folder: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(checkpointing, "SAVE_SECONDS", 0.0)
    plain = checkpointing.Saver.on_save

    def stop(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        plain(self, args, state, control, **kwargs)
        if state.global_step == 6:
            raise KeyboardInterrupt

    def interrupted(**gate: Any) -> list[Path]:
        """Checkpoints after a training of a gate without parameters that was stopped."""
        with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(checkpointing.Saver, "on_save", stop)
            run = smoke(folder, arm="fixed-gate", gate=gate, training={"log_every": 1})
            ensure_arm(run.variant("fixed-gate"))
        return list((folder / "checkpoints").rglob("checkpoint-6"))

    assert len(interrupted(value=1.0)) == 1 and len(interrupted(value=0.5)) == 2
    run = smoke(folder, arm="fixed-gate", gate={"value": 0.5}, training={"log_every": 1})
    ensure_arm(run.variant("fixed-gate"))
    assert read_log(order.arm(run.variant("fixed-gate"))).begun == 6
    assert len(list((folder / "checkpoints").rglob("checkpoint-*"))) == 2, "those of the other are gone"


def test_what_diverged_with_other_settings_is_forgotten(folder: Path) -> None:
    run = smoke(folder)
    failure = order.arm(run.variant("fixed-gate")).failure
    write_json(failure, {"inputs": "another's", "error": "the loss is nan"})
    ensure_arm(run.variant("fixed-gate"))
    assert not failure.exists()


def test_a_step_says_what_it_was_made_with(folder: Path) -> None:
    run = smoke(folder)
    ensure_arm(run.variant("enhanced", 3))
    manifest = json.loads((folder / "manifest.json").read_text())
    record = manifest["steps"]["arms/enhanced/seed3"]
    made = {"step", "profile", "inputs", "seconds", "finished", "commit", "environment", "requires", "files", "seal"}
    assert set(record) == made and set(record["files"]) == {"training.json", "weights.safetensors"}
    assert 3 in manifest["seeds"] and set(manifest["corpus"]["hashes"]) >= {"train", "test"}


def test_what_a_step_depends_on(folder: Path) -> None:
    plain, longer = smoke(folder), smoke(folder, evaluation={"new_tokens": 5})
    assert plain.variant("enhanced").inputs == longer.variant("enhanced").inputs
    assert plain.variant("enhanced").inputs != plain.variant("enhanced", 1).inputs
    more = smoke(folder, evaluation={"seeds": 4})
    scores = [order.evaluation(run.variant("base")).digest for run in (plain, longer, more)]
    assert scores[0] == scores[2] != scores[1]
    assert len(more.variants()) == 2 + 4 * 4


def test_untrained_and_tuned_start_from_the_same_gate(folder: Path) -> None:
    run = smoke(folder)
    untrained = ensure_arm(run.variant("enhanced-untrained"))
    start = build_arm(run.variant("enhanced"))
    assert all(torch.equal(a, b) for a, b in zip(untrained.parameters(), start.parameters(), strict=True))
    other = build_arm(run.variant("enhanced", 1))
    gates = [m.rwkv.blocks[0].gated_shift.gating.linear.weight for m in (start, other)]
    assert not torch.equal(*gates)


def test_a_failed_step_leaves_nothing_and_loses_nothing(folder: Path, monkeypatch: Any) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("No space left on device")

    before = {path for path in folder.rglob("*") if "arms" in path.parts or "base" in path.parts}
    monkeypatch.setattr(arm_step, "save_file", fail)
    with pytest.raises(OSError, match=r"No space left on device: arm could .* MiB are free\. Make room and run again"):
        ensure_arm(smoke(folder, training={"steps": 3, "warmup_steps": 1}).variant("enhanced"))
    assert {path for path in folder.rglob("*") if "arms" in path.parts or "base" in path.parts} == before
    monkeypatch.undo()
    load_arm(smoke(folder).variant("enhanced"))


def test_a_run_of_another_profile_is_refused(folder: Path) -> None:
    before = times(folder)
    with pytest.raises(SettingsError, match="holds a run of profile 'smoke'; this one is 'cpu'"):
        open_run(profile="cpu", run_dir=str(folder))
    assert times(folder) == before


def test_a_folder_that_is_no_run_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(SettingsError, match=r"holds thesis.txt and no manifest.json"):
        smoke(tmp_path)
    with pytest.raises(SettingsError, match="is a file; it must be a folder"):
        smoke(tmp_path / "thesis.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"arm": "enhanse"}, "did you mean 'enhanced'"),
        ({"gate": {"gatng": "fixed"}}, "did you mean 'gating'"),
        ({"arm": "base", "gate": {"gatng": "fixed"}}, "did you mean 'gating'"),
        ({"gate": {"gating": "fixed"}}, "value is missing; gating 'fixed' needs it"),
    ],
)
def test_bad_parameters_leave_no_folder(parameters: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=message):
        smoke(tmp_path / "run", **parameters)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda p: p.write_bytes(b""), "empty"),
        (lambda p: p.write_bytes(b"caf\xe9 " * 50), "UTF-8"),
        (lambda p: p.write_text("One short text.\n\n" * 4), "holds 4 documents; at least 10"),
        (lambda p: p.write_text("\n\n".join(f"Short text {i}." for i in range(30))), "prompt"),
    ],
)
def test_bad_corpora_are_named_and_leave_nothing(write: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    write(path)
    run = smoke(tmp_path / "run", corpus={"source": str(path)})
    with pytest.raises(SettingsError, match=message):
        ensure_base(run)
    assert sorted(p.name for p in run.folder.glob("[!.]*")) == ["environment.txt", "manifest.json"]


def test_a_local_corpus_is_tuned_on(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    sentences = [
        f"Line {i} speaks of żółw number {j} and of the {i * j} stones near the sea."
        for i in range(40)
        for j in range(9)
    ]
    path.write_text("\n\n".join(" ".join(sentences[i : i + 9]) for i in range(0, len(sentences), 9)), encoding="utf-8")
    run = smoke(tmp_path / "run", corpus={"source": str(path)})
    texts = ensure_texts(run)
    assert {document.domain for document in texts.corpus.test} == {"local"}
    ensure_arm(run.variant("fixed-gate"))
    assert read_json(run.variant("fixed-gate").folder / "step.json")["step"] == "arm"


def test_a_step_requires_what_it_reads(folder: Path) -> None:
    run = smoke(folder)
    variant = run.variant("enhanced")
    assert [step.name for step in order.evaluation(variant).requires] == ["arm"]
    assert [step.name for step in order.arm(variant).requires] == ["corpus", "base"]
    assert order.arm(variant).notebook == "02_finetune.enhanced.seed0"
    for make in (order.arm, order.evaluation):  # no notebook trains it, so that which measures it makes it
        assert make(run.variant("base")).notebook == "03_evaluate.base.seed0"
        assert make(run.variant("base")).notebooks_before == ["01_setup"]


@pytest.mark.parametrize("seed", [-1, 1.0, True, "0"])
def test_a_seed_is_a_whole_number(seed: Any, folder: Path) -> None:
    with pytest.raises(SettingsError, match=r"seed is .*; it must be a whole number from 0 to"):
        smoke(folder).variant("enhanced", seed)
