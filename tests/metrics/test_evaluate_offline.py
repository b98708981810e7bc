"""Every metric without a network, on the texts that models really give; and the page that documents them."""

from __future__ import annotations

import math
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import evaluate
import pytest

from rwkvgate.metrics.evaluate_modules import METRICS, metric

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
PAIRED = ("bleu", "rouge", "diversity")
TEXTS = {
    "empty": ("", "a fox ran home"),
    "one word": ("fox", "a fox ran home"),
    "zero-length reference": ("a fox", ""),
    "both empty": ("", ""),
    "white space": (" \n\t ", "a fox"),
    "Chinese": ("从前有一只狐狸。", "从前有一只猫。"),
    "Arabic": ("كان يا ما كان ثعلب", "كان هناك ثعلب"),
    "emoji": ("🦊🦊 👩‍👩‍👧 🏳️‍🌈", "🦊 a fox"),
    "emoji alone": ("🦊", "🦊"),
    "one character": ("a" * 5000, "a" * 4999),
    "one repeated word": ("的" * 400, "的" * 300),
    "controls": ("\x00\x07a\u200b\ufeff", "a\u202e"),
}


@pytest.fixture(autouse=True)
def unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: socket.socket, address: Any) -> None:
        raise AssertionError(f"a metric asked for the network: {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def metrics(model: Any, tokenizer: Any) -> dict[str, Any]:
    options = {"perplexity": {"model": model, "tokenizer": tokenizer, "buckets": [4]}}
    return {name: metric(name, **options.get(name, {})) for name in METRICS}


def test_a_fresh_process_loads_and_computes_without_a_network(tmp_path: Path) -> None:
    code = (
        "import socket\n"
        "def refuse(self, address): raise AssertionError(address)\n"
        "socket.socket.connect = socket.socket.connect_ex = refuse\n"
        "from rwkvgate.metrics.evaluate_modules import metric\n"
        "texts = {'predictions': ['a b c d'], 'references': ['a b c d']}\n"
        "for name in ('rouge', 'diversity'):\n"
        "    metric(name).compute(**texts)\n"
        "print(metric('bleu').compute(**texts)['bleu'])\n"
    )
    root = PAGE.parents[1]
    environment = {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(root), "PATH": "", "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd=root, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert float(done.stdout.split()[-1]) == pytest.approx(1)


@pytest.mark.parametrize("case", TEXTS)
def test_every_metric_takes_what_models_give(metrics: dict[str, Any], case: str) -> None:
    prediction, reference = TEXTS[case]
    results = {name: metrics[name].compute(predictions=[prediction], references=[reference]) for name in PAIRED}
    results["perplexity"] = metrics["perplexity"].compute(predictions=[prediction])
    assert math.isnan(results["perplexity"]["perplexity"]) == (not prediction)
    assert results["perplexity"]["bytes"] == len(prediction.encode())
    wordless = not re.search(r"[^\W_]", reference)
    for name, score in (("bleu", "bleu"), ("rouge", "rouge1"), ("rouge", "rougeLsum"), ("diversity", "length_ratio")):
        value = results[name][score]
        assert math.isnan(value) if wordless else 0 <= value < math.inf, (name, score, value)
        assert results[name]["empty_references"] == wordless
    if not prediction.strip() and not wordless:
        assert results["bleu"]["bleu"] == results["rouge"]["rougeL"] == results["diversity"]["length_ratio"] == 0


def test_scripts_without_spaces_are_distinguished(metrics: dict[str, Any]) -> None:
    same, other = ["从前有一只狐狸。"], ["猫在屋里睡觉。"]
    equal, different = (metrics["rouge"].compute(predictions=same, references=it)["rouge1"] for it in (same, other))
    assert equal == pytest.approx(1, abs=1e-5) and different < 0.999
    assert metric("bleu", tokenize="zh").compute(predictions=same, references=same)["bleu"] == pytest.approx(1)


def test_one_repeated_word_is_all_repetition(metrics: dict[str, Any]) -> None:
    results = metrics["diversity"].compute(predictions=["的" * 400], references=["的"])
    assert results["repetition4"] == pytest.approx(1 - 1 / 397) and results["distinct1"] == pytest.approx(1 / 400)
    assert results["length_ratio"] == 400


@pytest.mark.parametrize("name", PAIRED)
@pytest.mark.parametrize(("n", "m"), [(2, 1), (0, 1), (1, 0), (3, 5)])
def test_unequal_lists_are_refused_by_both_counts(metrics: dict[str, Any], name: str, n: int, m: int) -> None:
    with pytest.raises(ValueError, match=f"{n} predictions for {m} references; the counts must be equal"):
        metrics[name].compute(predictions=["a b c d"] * n, references=["a b c d"] * m)
    # What was refused is not in the next score.
    assert metrics[name].compute(predictions=["a b c d"], references=["a b c d"])["documents"] == 1


@pytest.mark.parametrize("name", [*PAIRED, "perplexity"])
def test_lists_of_anything_else_are_refused(metrics: dict[str, Any], name: str) -> None:
    others = {"references": ["a"]} if name in PAIRED else {}
    with pytest.raises(ValueError, match="predictions is one string; it must be a list of strings"):
        metrics[name].compute(predictions="a", **others)
    with pytest.raises(ValueError, match=r"predictions\[1\] holds None; it must be a string"):
        metrics[name].compute(predictions=["a", None], **({"references": ["a", "b"]} if others else {}))
    if others:
        with pytest.raises(ValueError, match="references is missing"):
            metrics[name].compute(predictions=["a"])


@pytest.mark.parametrize("name", [*PAIRED, "perplexity"])
def test_no_documents_give_nan(metrics: dict[str, Any], name: str) -> None:
    results = metrics[name].compute(predictions=[], **({"references": []} if name in PAIRED else {}))
    score = {"rouge": "rougeLsum", "diversity": "distinct1"}.get(name, name)
    assert math.isnan(results[score])


def test_all_together(metrics: dict[str, Any]) -> None:
    together = evaluate.combine(list(metrics.values()))
    for prediction, reference in TEXTS.values():
        together.add(prediction=prediction, reference=reference)
    results = together.compute()
    assert results["diversity_documents"] == len(TEXTS)
    assert all(math.isfinite(results[name]) for name in ("bleu", "rougeLsum", "distinct2", "perplexity"))


def test_the_pages_code_runs() -> None:
    namespace: dict[str, Any] = {}
    for code in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL):
        exec(compile(code, str(PAGE), "exec"), namespace)
