"""The command `rwkvgate`, and the library where no extra is installed."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module, metadata
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest

from rwkvgate import GateConfig, Rwkv6Config, Rwkv6ForCausalLM, Rwkv6Tokenizer, patch, save_gate, unpatch
from rwkvgate.__main__ import COMMANDS, main
from rwkvgate.experiment.environment import requirements

WITHOUT_EXTRAS = """
import sys
from importlib import import_module
from pkgutil import iter_modules
for name in {absent}:
    sys.modules[name] = None
import rwkvgate
for part in ("rwkv6", "gate", "metrics", "explore"):
    for module in iter_modules(import_module(f"rwkvgate.{{part}}").__path__):
        if module.name not in ("evaluate_modules", "compiled", "loops", "products", "views", "widget"):
            import_module(f"rwkvgate.{{part}}.{{module.name}}")
for module in ("metrics.evaluate_modules", "explore.views", "rwkv6.loops", "experiment"):
    try:
        import_module(f"rwkvgate.{{module}}")
    except ImportError as error:
        print(error)
"""


def run(monkeypatch: Any, *words: str) -> int | None:
    """The command's exit code; a sentence that it ends with raises `SystemExit`."""
    monkeypatch.setattr(sys, "argv", ["rwkvgate", *words])
    return main()


def test_the_library_needs_no_extra(monkeypatch: Any) -> None:
    def absent(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", absent)  # pyproject.toml is read
    light = {requirement.name for requirement in requirements()} | {
        "packaging",
        "filelock",
    }  # torch's and transformers'
    extras = {requirement.name for requirement in requirements("notebooks", "study", "dev")} - light
    assert {"seaborn", "datasets", "anywidget"} <= extras
    code = WITHOUT_EXTRAS.format(absent=sorted(name.replace("-", "_") for name in extras))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    modules, views, loops, experiment = done.stdout.splitlines()
    assert modules == 'datasets is not installed; the extra `metrics` brings it: pip install "rwkvgate[metrics]"'
    assert views == 'matplotlib is not installed; the extra `explorer` brings it: pip install "rwkvgate[explorer]"'
    assert loops == 'numba is not installed; the extra `fast` brings it: pip install "rwkvgate[fast]"'
    assert experiment.startswith("rwkvgate.experiment needs accelerate, datasets, ")


def test_every_command_has_a_module_with_a_main() -> None:
    assert all(callable(import_module(module).main) for module, _ in COMMANDS.values())


def test_a_command_gets_its_arguments(monkeypatch: Any, capsys: Any) -> None:
    for name in COMMANDS:
        with pytest.raises(SystemExit) as ended:
            run(monkeypatch, name, "--help")
        assert ended.value.code == 0 and "usage: " in capsys.readouterr().out
    with pytest.raises(SystemExit, match="nowhere holds no"):
        run(monkeypatch, "compare", "nowhere", "nowhere")


def test_an_unknown_command_names_the_known_ones(monkeypatch: Any, capsys: Any) -> None:
    with pytest.raises(SystemExit, match="2"):
        run(monkeypatch, "nonsense")
    words = capsys.readouterr().err
    assert all(name in words for name in COMMANDS)


def test_a_missing_extra_is_one_sentence(monkeypatch: Any) -> None:
    def absent(name: str) -> Any:
        raise ModuleNotFoundError("it needs the extra `experiment`")

    monkeypatch.setattr("rwkvgate.__main__.import_module", absent)
    with pytest.raises(SystemExit, match="it needs the extra `experiment`"):
        run(monkeypatch, "compare", "a", "b")


def test_a_model_is_exported_whole_or_with_a_gate_beside_it(monkeypatch: Any, tmp_path: Path, capsys: Any) -> None:
    tokenizer = Rwkv6Tokenizer()
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "head_size": 16}
    model = patch(Rwkv6ForCausalLM(Rwkv6Config(vocab_size=len(tokenizer), **sizes)), GateConfig.preset("enhanced"))
    for folder in ("whole", "base"):
        tokenizer.save_pretrained(tmp_path / folder)
    model.save_pretrained(tmp_path / "whole")
    save_gate(model, tmp_path / "gate")
    unpatch(model).save_pretrained(tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    for words in (("whole", "a.html"), ("base", "b.html", "--gate", "gate", "--text", "a fox")):
        assert run(monkeypatch, "export", *words) is None
        assert capsys.readouterr().out.endswith(f"{words[1]}\n") and "<!DOCTYPE html>" in Path(words[1]).read_text()
    with pytest.raises(SystemExit, match="no gate"):
        run(monkeypatch, "export", "base", "c.html")
    assert not Path("c.html").exists()
