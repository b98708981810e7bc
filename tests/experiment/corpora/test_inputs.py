"""The inputs of the corpus step: equal in equal environments, another hash for another text."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rwkvgate.experiment import order
from rwkvgate.experiment.corpora import natural
from rwkvgate.experiment.inputs import corpus_inputs
from rwkvgate.experiment.open_run import open_run
from rwkvgate.experiment.settings import resolve
from rwkvgate.experiment.steps import ensure_texts
from rwkvgate.rwkv6.files import digest, read_json

PRINT_HASH = """
import sys
from rwkvgate.experiment.inputs import corpus_inputs
from rwkvgate.experiment.settings import resolve
from rwkvgate.rwkv6.files import digest
print(digest(corpus_inputs(resolve(profile="cpu"))), {"torch", "datasets", "transformers"} & set(sys.modules))
"""


def test_every_process_of_an_environment_has_the_same_hash_and_imports_nothing_heavy() -> None:
    command = [sys.executable, "-c", PRINT_HASH]
    printed = {subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() for _ in range(2)}
    assert printed == {f"{digest(corpus_inputs(resolve(profile='cpu')))} set()"}


def test_another_version_of_one_package_that_is_read_is_another_text(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {profile: corpus_inputs(resolve(profile=profile)) for profile in ("smoke", "cpu")}
    installed = natural._version
    monkeypatch.setattr(natural, "_version", lambda name: "0.0.1" if name == "numpy" else installed(name))
    after = {profile: corpus_inputs(resolve(profile=profile)) for profile in ("smoke", "cpu")}
    assert digest(before["cpu"]) != digest(after["cpu"]) and after["cpu"]["packages"]["numpy"] == "0.0.1"
    assert before["smoke"] == after["smoke"]  # its text is Python's own


def write_texts(path: Path, word: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    paragraphs = (f"Paragraph {n} speaks of {n * n} {word}, and says it at some length. " * 14 for n in range(60))
    path.write_text("\n\n".join(paragraphs), encoding="utf-8")


@pytest.mark.parametrize("kind", ["file", "data set"])
def test_texts_are_made_again_when_a_local_file_changes(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "set"
    path = folder / "train.txt"
    write_texts(path, "things")
    hub = {"name": str(folder), "documents": 10}
    corpus: dict[str, Any] = {"source": str(path)} if kind == "file" else {"hub": [hub]}
    run = open_run(profile="smoke", run_dir=str(tmp_path / "run"), corpus=corpus)
    first = ensure_texts(run).corpus
    inputs = corpus_inputs(run.settings)
    assert order.corpus(run).is_finished and None not in inputs["files"].values()
    manifest = read_json(run.folder / "manifest.json")
    assert manifest["corpus"]["hashes"] == first.hashes and "python" in manifest["corpus"]["versions"]
    write_texts(path, "books")
    assert not order.corpus(run).is_finished
    second = ensure_texts(run).corpus
    assert second.hashes["train"] != first.hashes["train"]
    assert second.hashes["natural_train"] == first.hashes["natural_train"]
