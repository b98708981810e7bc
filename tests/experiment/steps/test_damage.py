"""A finished step is used only as it was written: what was damaged is named and made again, to the same weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from rwkvgate.experiment import order
from rwkvgate.experiment.open_run import open_run
from rwkvgate.experiment.order import Step
from rwkvgate.experiment.records import write_sealed
from rwkvgate.experiment.run import RECORD, Run
from rwkvgate.experiment.steps import ensure_arm, ensure_base, ensure_evaluation, ensure_texts, ensure_times
from rwkvgate.experiment.steps.arm import WEIGHTS, load_arm
from rwkvgate.experiment.steps.base import new_base
from rwkvgate.experiment.steps.making import Work, complete
from rwkvgate.gate.validation import SettingsError
from rwkvgate.rwkv6.files import read_json, write_json

MODEL = {"pretraining": {"steps": 3}}
CORPUS = {"natural_characters": 20_000}
TRAINING = {"steps": 3, "warmup_steps": 1}
EVALUATION = {"documents": 2, "new_tokens": 2, "timed_tokens": 2, "latency_repeats": 3}
ARM = "arms/enhanced/seed0"


def opened(folder: Path) -> Run:
    """A run at profile smoke, shortened."""
    return open_run(
        profile="smoke", run_dir=str(folder), model=MODEL, corpus=CORPUS, training=TRAINING, evaluation=EVALUATION
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with two arms, one of them evaluated."""
    run = opened(tmp_path_factory.mktemp("run") / "smoke")
    ensure_evaluation(run.variant("enhanced"))
    ensure_times(run.variant("enhanced"))
    ensure_arm(run.variant("no-layer-norm"))
    return run.folder


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Run:
    """A copy of it, to be damaged."""
    return opened(Path(shutil.copytree(made, tmp_path / "smoke")))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def remove(path: Path) -> None:
    path.unlink()


def folder_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


def no_tensors(path: Path) -> None:
    save_file({}, str(path))


def half_the_tensors(path: Path) -> None:
    tensors = load_file(str(path))
    save_file({name: tensors[name] for name in sorted(tensors)[::2]}, str(path))


def not_a_number(path: Path) -> None:
    save_file({name: x * torch.nan for name, x in load_file(str(path)).items()}, str(path))


def another_dtype(path: Path) -> None:
    save_file({name: x.half() for name, x in load_file(str(path)).items()}, str(path))


def another_arm_s(path: Path) -> None:
    shutil.copyfile(path.parents[2] / "no-layer-norm" / "seed0" / path.name, path)


def swapped_folder(path: Path) -> None:
    shutil.rmtree(path.parent)
    shutil.copytree(path.parents[2] / "no-layer-norm" / "seed0", path.parent)


BYTES = (truncate, empty, flip, remove, folder_instead)
TENSORS = (no_tensors, half_the_tensors, not_a_number, another_dtype)
FILES = {
    f"{ARM}/{WEIGHTS}": (*BYTES, *TENSORS, another_arm_s, swapped_folder),
    f"{ARM}/training.json": (*BYTES, another_arm_s),
    f"{ARM}/{RECORD}": (*BYTES, another_arm_s),
    f"{ARM}/evaluation/documents.parquet": BYTES,
    f"{ARM}/times/latency.parquet": (flip,),
    f"{ARM}/evaluation/samples.json": BYTES,
    f"{ARM}/evaluation/{RECORD}": BYTES,
    "base/model.safetensors": (*BYTES, *TENSORS),
    "base/config.json": BYTES,
    "base/tokenizer.json": (flip,),
    f"base/{RECORD}": BYTES,
    "corpus/test.jsonl": BYTES,
    "corpus/tokenizer/tokenizer.json": BYTES,
    "corpus/tokenizer/tokenizer_config.json": (flip,),
    "corpus/corpus.json": (flip,),
}
OFTEN = {
    f"{ARM}/{WEIGHTS}": (*BYTES, another_arm_s, swapped_folder),
    f"{ARM}/training.json": (flip,),
    f"{ARM}/{RECORD}": (*BYTES, another_arm_s),
    f"{ARM}/evaluation/documents.parquet": (truncate,),
    f"{ARM}/times/latency.parquet": (flip,),
    f"{ARM}/evaluation/samples.json": (remove,),
    f"{ARM}/evaluation/{RECORD}": (flip,),
    "base/model.safetensors": (flip, remove),
    "base/config.json": (folder_instead,),
    "base/tokenizer.json": (flip,),
    f"base/{RECORD}": (truncate,),
    "corpus/test.jsonl": (truncate,),
    "corpus/tokenizer/tokenizer.json": (remove,),
    "corpus/tokenizer/tokenizer_config.json": (flip,),
    "corpus/corpus.json": (flip,),
}
"""Of these `make test` tries every damage on one file and one record, and one at least on every other file: one
function, `records.difference`, notices all of them, by kind, size and hash. `make test-slow` tries the others."""
CASES = [
    pytest.param(
        name,
        damage,
        id=f"{damage.__name__} {name}",
        marks=() if damage in OFTEN[name] else pytest.mark.slow,
    )
    for name, damages in FILES.items()
    for damage in damages
]


def weights(run: Run) -> dict[str, torch.Tensor]:
    return load_file(str(complete(order.arm(run.variant("enhanced"))) / WEIGHTS))


@pytest.mark.parametrize(("name", "damage"), CASES)
def test_damage_is_named_once_and_made_good(
    made: Path, run: Run, name: str, damage: Callable[[Path], None], capsys: Any
) -> None:
    sound = weights(opened(made))
    damage(run.folder / name)
    evaluated = ensure_evaluation(run.variant("enhanced"))
    ensure_texts(run), ensure_base(run), ensure_times(run.variant("enhanced"))
    lines = [line for line in capsys.readouterr().out.splitlines() if "is made again" in line]
    assert lines and len(lines) == len(set(lines))
    named = Path(name).name if damage is not swapped_folder else "other inputs"
    if damage is another_arm_s and name.endswith(RECORD):
        named = "written"  # what that record says
    assert str((run.folder / name).parent.name) in lines[0] and named in lines[0], lines
    found = weights(run)
    assert found.keys() == sound.keys() and all(torch.equal(found[key], x) for key, x in sound.items())
    again = ensure_evaluation(run.variant("enhanced"))
    assert again.documents.equals(evaluated.documents) and "made again" not in capsys.readouterr().out
    before = ensure_evaluation(opened(made).variant("enhanced"))
    assert before.documents.equals(again.documents) and before.samples == again.samples


def test_a_damaged_base_is_made_again_and_what_was_made_from_it_stays(run: Run, capsys: Any) -> None:
    before = (run.folder / ARM / WEIGHTS).stat().st_mtime_ns
    flip(run.base / "model.safetensors")
    ensure_evaluation(run.variant("enhanced"))
    said = capsys.readouterr().out
    assert said.count("is made again") == 1 and "base in" in said and "model.safetensors" in said
    assert (run.folder / ARM / WEIGHTS).stat().st_mtime_ns == before


def test_arms_of_another_base_are_made_again(run: Run, capsys: Any) -> None:
    """As after a base that was damaged here is pretrained again on a machine that rounds otherwise."""
    sizes, tokenizer = run.settings.model, ensure_texts(run).tokenizer
    shutil.copy(run.base / "training.json", run.folder / "log")

    def write(folder: Path) -> None:
        new_base(sizes, tokenizer, seed=5).save_pretrained(folder)  # type: ignore[arg-type]
        shutil.move(run.folder / "log", folder / "training.json")

    Work(order.base(run)).write(write)
    assert "another corpus or base" in order.arm(run.variant("enhanced")).fault
    with pytest.raises(SettingsError, match="is not finished"):
        load_arm(run.variant("enhanced"))
    ensure_arm(run.variant("enhanced"))
    assert "made from another corpus or base" in capsys.readouterr().out


def test_a_record_of_an_earlier_version_vouches_for_nothing(run: Run, capsys: Any) -> None:
    path = run.folder / ARM / RECORD
    record = read_json(path)
    write_json(path, {name: record[name] for name in ("step", "inputs", "seconds", "finished")})
    ensure_arm(run.variant("enhanced"))
    assert "of an earlier version holds no hashes" in capsys.readouterr().out


def test_a_sealed_record_of_something_else_is_no_step_s(run: Run, capsys: Any) -> None:
    write_sealed(run.folder / ARM / RECORD, {"files": {}})
    ensure_arm(run.variant("enhanced"))
    assert "is made again" in capsys.readouterr().out


def test_other_inputs_are_said(run: Run, capsys: Any) -> None:
    changed = open_run(
        profile="smoke", run_dir=str(run.folder), model=MODEL, corpus=CORPUS, training=TRAINING | {"steps": 4}
    )
    ensure_arm(changed.variant("enhanced"))
    assert "arm of enhanced, seed 0" in (said := capsys.readouterr().out) and "made from other inputs" in said


@pytest.mark.parametrize("name", ["base/adapter_config.json", "corpus/tokenizer/added_tokens.json", f"{ARM}/notes.txt"])
def test_a_file_that_is_not_the_step_s_is_neither_read_nor_removed(run: Run, name: str) -> None:
    (run.folder / name).write_text("{}")
    (run.folder / name).with_name(".hidden").write_text("whatever")
    with pytest.raises(SettingsError, match=rf"{name} was not written by .*Move it away"):
        ensure_arm(run.variant("enhanced"))
    (run.folder / name).unlink()
    ensure_arm(run.variant("enhanced"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (no_tensors, "are missing"),
        (half_the_tensors, "are missing"),
        (not_a_number, "holds values that are no numbers"),
        (another_dtype, "is float16 .* and not float32"),
        (another_arm_s, "missing"),
        (lambda path: save_file({**load_file(str(path)), "more": torch.ones(1)}, str(path)), "more is unknown"),
        (lambda path: save_file({k: x[None] for k, x in load_file(str(path)).items()}, str(path)), r"\(1, .* and not"),
        (truncate, "cannot be read"),
    ],
)
def test_weights_are_loaded_strictly_whatever_the_record_says(
    run: Run, damage: Callable[[Path], None], message: str
) -> None:
    folder = run.folder / ARM
    damage(folder / WEIGHTS)
    vouched(order.arm(run.variant("enhanced")))
    with pytest.raises(SettingsError, match=rf"weights.safetensors (does not hold .*)?{message}"):
        ensure_arm(run.variant("enhanced"))


def vouched(step: Step) -> None:
    """Write the record of what is in the folder now, as a step that wrote it would."""
    from rwkvgate.experiment.records import marks

    record = read_json(step.folder / RECORD)
    record.pop("seal")
    write_sealed(step.folder / RECORD, record | {"files": marks(step.folder, record["files"])})
    assert step.is_finished


def test_every_file_of_a_step_is_in_its_record(made: Path) -> None:
    for path in made.rglob(RECORD):
        files = set(json.loads(path.read_text())["files"])
        present = {p.relative_to(path.parent).as_posix() for p in path.parent.rglob("*") if p.is_file()}
        assert files == {name for name in present if not name.startswith(("evaluation/", "times/"))} - {RECORD}
