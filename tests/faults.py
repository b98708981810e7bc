"""Damage every file of a finished smoke run in several ways and read the run: `make test-faults`.

    python tests/faults.py [MINUTES]

Each damage must be answered in words, or its step be made again with the reason printed, or change nothing that anyone
reads. A value that changes without a word, and a traceback of anything but an error of this project, end in status 1.
Damages beyond the MINUTES (default: 10) are counted as not tried.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import pickle
import random
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors.torch import load_file, save_file

from rwkvgate.experiment import order
from rwkvgate.experiment.compare import read_run
from rwkvgate.experiment.open_run import open_run
from rwkvgate.experiment.order import Step
from rwkvgate.experiment.records import KEPT, kept_difference
from rwkvgate.experiment.run import Run
from rwkvgate.experiment.steps import (
    ensure_arm,
    ensure_base,
    ensure_evaluation,
    ensure_probes,
    ensure_texts,
    ensure_times,
    making,
)
from rwkvgate.experiment.steps.base import read_log
from rwkvgate.experiment.studies.registry import ensure_studies
from rwkvgate.gate.patch import unpatch
from rwkvgate.gate.storage import load_gate
from rwkvgate.gate.validation import SettingsError
from rwkvgate.rwkv6.layouts import CheckpointError
from rwkvgate.workflow.report import NOTEBOOK, render_report
from rwkvgate.workflow.results import results_in_markdown

ROOT = Path(__file__).parents[1]
UNREAD = (".lock", ".locks", ".files.lock")
"""Empty files and their folder, which hold nothing but locks."""
WORDS, AGAIN, HARMLESS = "answered in words", "made again, and said", "nothing read is changed"
SILENT, ERROR, UNTRIED = "SILENT: other values", "TRACEBACK", "not tried"
Damage = Callable[[Path], object]


class MadeAgain(Exception):
    """Stands for the making of a step, which would take seconds each time."""


class ExecutedAgain(Exception):
    """Stands for the head of the run graph, which would execute a notebook again; holds the reason that it prints."""


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def remove(path: Path) -> None:
    path.unlink()


def flip(part: float) -> Damage:
    """Flips one bit at that part of the file."""

    def damage(path: Path) -> None:
        data = bytearray(path.read_bytes())
        if data:
            data[int(part * (len(data) - 1))] ^= 1
        path.write_bytes(bytes(data))

    return damage


def other_schema(path: Path) -> None:
    """A file of the same format, whole, that holds something else."""
    if path.suffix == ".parquet":
        pd.read_parquet(path).iloc[:-1].rename(columns={"value": "values"}).to_parquet(path, index=False)
    elif path.suffix == ".safetensors":
        tensors = load_file(str(path))
        save_file({name: tensor * 0 for name, tensor in tensors.items()}, str(path))
    elif path.suffix in (".json", ".ipynb"):
        value = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps(dict(list(value.items())[:-1]) if isinstance(value, dict) else value[:-1]))
    else:
        path.write_text("Something else.\n", encoding="utf-8")


def swapped(files: list[Path]) -> Damage:
    """Puts another file of the same name there, of another arm, seed or step; or else one of the same suffix."""

    def damage(path: Path) -> None:
        same = [one for one in files if one != path and one.suffix == path.suffix]
        named = [one for one in same if one.name == path.name]
        for other in (*named, *same):
            if other.read_bytes() != path.read_bytes():
                shutil.copyfile(other, path)
                return

    return damage


@contextlib.contextmanager
def nothing_made() -> Iterator[None]:
    """A block in which no step is made: what would make one raises `MadeAgain`."""

    def refuse(step: Step) -> Any:
        raise MadeAgain(str(step))

    makers = dict(making.MAKERS)
    making.MAKERS.update(dict.fromkeys(makers, refuse))
    try:
        yield
    finally:
        making.MAKERS.update(makers)


def values(folder: Path, scratch: Path) -> str:
    """A hash of everything that this project reads from a finished run; what is quickest to read comes first."""
    run = open_run(profile="smoke", run_dir=str(folder))
    for variant in run.variants():
        measured = [make(variant) for make in (order.evaluation, order.probes, order.times)]
        for step in (order.corpus(run), order.base(run), *measured):
            making.complete(step)  # where every reader below gets the step's folder from
    seen: list[Any] = [*ensure_studies(run).frames().values(), *vars(read_run(folder)).values()]
    seen += results_in_markdown(folder, [])
    if wrong := kept_difference(folder):
        raise SettingsError(wrong)  # as the run graph's head, which then renders the report again
    read = [path.read_bytes() if path.is_file() else None for path in (folder / NOTEBOOK, folder / "notebooks" / KEPT)]
    seen.append(_report(*read, folder, scratch))
    if reasons := [reason for reason in order.outdated_notebooks(run).values() if reason]:
        raise ExecutedAgain(reasons[0])
    texts = ensure_texts(run)
    seen.append([vars(document) for document in (*texts.corpus.train, *texts.corpus.test)])
    seen.append(sorted(texts.tokenizer.get_vocab().items()))
    for variant in run.variants():
        evaluation, probed = ensure_evaluation(variant), ensure_probes(variant)
        seen += [evaluation.documents, ensure_times(variant), evaluation.samples, probed.positions, probed.gains]
        if variant.arm.trained:
            seen.append(read_log(order.arm(variant)).frame())
    seen += [_weights(ensure_base(run)), *_models(run)]
    return hashlib.sha256(b"".join(map(_bytes, seen))).hexdigest()


@lru_cache
def _report(_notebook: bytes | None, _record: bytes | None, folder: Path, scratch: Path) -> bytes:
    """The report of a notebook and a record with this content, for rendering it takes seconds."""
    return render_report(folder / NOTEBOOK, scratch / "report.html").read_bytes()


def _models(run: Run) -> Iterator[bytes]:
    for variant in run.variants():
        yield _weights(model := ensure_arm(variant))
        if variant.adapter.exists():
            yield _weights(load_gate(unpatch(model), variant.adapter))


def _weights(model: Any) -> bytes:
    return b"".join(name.encode() + p.detach().numpy().tobytes() for name, p in model.named_parameters())


def _bytes(value: Any) -> bytes:
    if isinstance(value, pd.DataFrame):
        return pickle.dumps([*value.columns, *map(str, value.dtypes)]) + value.to_json(double_precision=15).encode()
    return value if isinstance(value, bytes) else repr(value).encode()


def outcome(folder: Path, scratch: Path, whole: str) -> tuple[str, str]:
    """What became of a damage, and the sentence or traceback that answered it."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed), nothing_made():
            found = values(folder, scratch)
    except ExecutedAgain as reason:
        return AGAIN, str(reason)
    except MadeAgain as step:
        said = [line for line in printed.getvalue().splitlines() if line.startswith(str(step)) or str(step) in line]
        return (AGAIN, said[-1]) if said else (SILENT, f"{step} is made again without a word")
    except (SettingsError, CheckpointError) as error:
        return WORDS, str(error)
    except Exception:
        return ERROR, traceback.format_exc()
    if found == whole:
        return HARMLESS, ""
    said = [line for line in printed.getvalue().splitlines() if "is missing and is written anew" in line]
    return (AGAIN, said[0]) if said else (SILENT, "other values")


def finished(folder: Path) -> None:
    """A smoke run, made as `make reproduce` makes it."""
    command = [sys.executable, "-m", "snakemake", "--quiet", "all", "--cores", "2", "--nolock"]
    command += ["--config", "profile=smoke", f"run_dir={folder}"]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"the run to be damaged failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")


def main(minutes: float) -> int:
    """Make a run, damage it, print a table; returns 1 where a damage was not noticed."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        folder, scratch = Path(place, "run"), Path(place)
        finished(folder)
        files = [p for p in sorted(folder.rglob("*")) if p.is_file() and not {*p.parts} & {*UNREAD}]
        with nothing_made():
            whole = values(folder, scratch)
        damages: dict[str, Damage] = {
            "truncate": truncate,
            "empty": empty,
            "remove": remove,
            **{f"flip a bit at {part:.0%}": flip(part) for part in (0.0, 0.5, 1.0)},
            "another's file": swapped(files),
            "other content": other_schema,
        }
        cases = [(path, name) for path in files for name in damages]
        random.Random(0).shuffle(cases)  # where time runs out, all kinds are among what was tried
        print(f"{len(files)} files, {len(cases)} damages; the run took {time.monotonic() - began:.0f} s", flush=True)
        rows, failed = [], 0
        for path, name in cases:
            if time.monotonic() - began > 60 * minutes:
                rows.append((name, UNTRIED))
                continue
            content, status = path.read_bytes(), path.stat()
            damages[name](path)
            if path.exists() and path.read_bytes() == content:
                continue  # there is no such damage of this file
            result, text = outcome(folder, scratch, whole)
            path.write_bytes(content)
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
            rows.append((name, result))
            if result in (SILENT, ERROR):
                failed += 1
                print(f"{path.relative_to(folder)}, {name}: {result}\n{text}", flush=True)
            elif result == HARMLESS and path.exists():
                print(f"{path.relative_to(folder)}, {name}: {result}", flush=True)
        table = pd.DataFrame(rows, columns=["damage", "outcome"])
        print(pd.crosstab(table["damage"], table["outcome"], margins=True, margins_name="all").to_string())
        tried = sum(result != UNTRIED for _, result in rows)
        print(f"{failed} of the {tried} damages tried were not noticed; {time.monotonic() - began:.0f} s")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]) if sys.argv[1:] else 10.0))
