"""A gate saved and loaded: the gate only, bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from rwkvgate import Rwkv6ForCausalLM, load_gate, patch, save_gate
from rwkvgate.gate import storage
from rwkvgate.gate.config import PRESETS
from rwkvgate.gate.patch import gate_config
from rwkvgate.gate.validation import SettingsError

GATED = list(PRESETS)


@pytest.mark.parametrize("arm", GATED)
def test_round_trip_bit_for_bit(arm: str, tiny_model: Any, tokens: Any, tmp_path: Path) -> None:
    model, base, ids = tiny_model(arm), tiny_model(), tokens(2, 9)
    save_gate(model, tmp_path / "gate")
    load_gate(base, tmp_path / "gate")
    assert torch.equal(base(ids).logits, model(ids).logits)


def test_the_adapter_holds_the_gate_only(tiny_model: Any, tmp_path: Path) -> None:
    model = tiny_model("enhanced")
    folder = save_gate(model, tmp_path / "gate")
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "gate.json", "gate.safetensors"]
    names = load_file(folder / "gate.safetensors")
    assert len(names) == 4 * model.config.num_hidden_layers
    assert all(".gated_shift." in name for name in names)


@pytest.mark.parametrize("arm", ["enhanced", "attention-gate", "conv-routing", "identity-start", "hierarchical"])
def test_a_gate_of_the_first_format_still_loads(arm: str, tiny_model: Any, tokens: Any, tmp_path: Path) -> None:
    # It names the gating function `gate`, its keys `key`, and has no hash.
    model, base, ids = tiny_model(arm), tiny_model(), tokens(2, 9)
    folder = save_gate(model, tmp_path / "gate")
    old = {name.replace(".gating.keys.", ".gate.key."): x for name, x in load_file(folder / storage.WEIGHTS).items()}
    save_file({name.replace(".gating.", ".gate."): x for name, x in old.items()}, folder / storage.WEIGHTS)
    record = json.loads((folder / storage.CONFIG).read_text()) | {"format": 1}
    del record["weights"], record["seal"]
    (folder / storage.CONFIG).write_text(json.dumps(record))
    assert torch.equal(load_gate(base, folder)(ids).logits, model(ids).logits)
    names = {name.replace(".gating.keys.", ".gate.key."): x for name, x in model.state_dict().items()}
    other = patch(tiny_model(seed=1), gate_config(model))
    other.load_state_dict({name.replace(".gating.", ".gate."): x for name, x in names.items()})
    assert torch.equal(other(ids).logits, model(ids).logits)


def test_another_width_is_refused(tiny_model: Any, tmp_path: Path) -> None:
    folder = save_gate(tiny_model("enhanced"), tmp_path / "gate")
    with pytest.raises(SettingsError, match="hidden_size 32; the model has 16"):
        load_gate(tiny_model(hidden_size=16), folder)


def test_patched_and_unpatched_models_are_refused(tiny_model: Any, tmp_path: Path) -> None:
    folder = save_gate(tiny_model("enhanced"), tmp_path / "gate")
    with pytest.raises(ValueError, match="patched already"):
        load_gate(tiny_model("fixed-gate"), folder)
    with pytest.raises(ValueError, match="not patched"):
        save_gate(tiny_model(), tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_failed_save_leaves_the_old_gate(tiny_model: Any, tmp_path: Path, monkeypatch: Any) -> None:
    folder = save_gate(tiny_model("enhanced"), tmp_path / "gate")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def fail(*_: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(storage, "save_file", fail)
    with pytest.raises(OSError, match="No space left"):
        save_gate(tiny_model("no-layer-norm"), folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["gate"]


def test_a_sealed_record_that_calls_itself_of_format_1_is_refused(tiny_model: Any, tmp_path: Path) -> None:
    path = save_gate(tiny_model("enhanced"), tmp_path / "gate") / "gate.json"
    path.write_text(path.read_text().replace('"format": 2', '"format": 1'))
    with pytest.raises(SettingsError, match="not those that were written"):
        load_gate(tiny_model(), path.parent)


def test_a_folder_may_be_named_from_within_it_and_from_home(
    tiny_model: Any, tokens: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    model = tiny_model("enhanced")
    folder = save_gate(model, "~/gate")
    assert folder == tmp_path / "gate"
    whole = tmp_path / "whole"
    whole.mkdir()
    monkeypatch.chdir(whole)
    model.save_pretrained(".")
    ids = tokens(1, 5)
    for name in (".", "./", Path()):
        assert torch.equal(Rwkv6ForCausalLM.from_pretrained(name)(ids).logits, model(ids).logits)
    monkeypatch.chdir(folder)
    for name in (".", "../gate", "~/gate"):
        assert torch.equal(load_gate(tiny_model(), name)(ids).logits, model(ids).logits)
    with pytest.raises(OSError, match="gate is or holds the current folder, and cannot be replaced"):
        save_gate(model, ".")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gate", "whole"]
