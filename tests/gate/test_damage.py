"""Gate folders damaged in every way, and models no gate fits: refused by name, and nothing changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rwkvgate import GateConfig, load_gate, patch, save_gate
from rwkvgate.gate import storage
from rwkvgate.gate.patch import gates_of
from rwkvgate.gate.validation import SettingsError
from rwkvgate.rwkv6.files import file_hash
from rwkvgate.rwkv6.layouts import CheckpointError

Damage = Callable[[Path], Any]
FIRST = "blocks.0.gated_shift.gating.linear.weight"


def record(**changes: Any) -> Damage:
    """The JSON with keys changed, and sealed again; `...` takes a key away."""

    def damage(folder: Path) -> None:
        path = folder / storage.CONFIG
        changed = json.loads(path.read_text()) | changes
        changed = {key: value for key, value in changed.items() if value is not ...}
        path.write_text(json.dumps(changed | {"seal": changes.get("seal", storage._seal(changed))}))

    return damage


def weights(change: Callable[[dict[str, Tensor]], Any]) -> Damage:
    """The tensors changed in place, and the record of their file with them."""

    def damage(folder: Path) -> None:
        path = folder / storage.WEIGHTS
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path)
        record(weights={"size": path.stat().st_size, "sha256": file_hash(path)})(folder)

    return damage


def text(content: str | bytes) -> Damage:
    """The JSON replaced."""
    data = content if isinstance(content, bytes) else content.encode()
    return lambda folder: (folder / storage.CONFIG).write_bytes(data)


def as_of(dtype: torch.dtype) -> Damage:
    """A weight of another type."""
    return weights(lambda x: x.update({FIRST: x[FIRST].to(dtype)}))


def flip_a_bit(folder: Path) -> None:
    path = folder / storage.WEIGHTS
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def replace_by_folder(folder: Path) -> None:
    (folder / storage.WEIGHTS).unlink()
    (folder / storage.WEIGHTS).mkdir()


DAMAGED = {
    "gate missing": (record(gate=...), "lacks gate"),
    "no format": (record(format=...), "format None"),
    "gate null": (record(gate=None), "gate.json"),
    "gate a list": (record(gate=[1]), "gate.json"),
    "unknown key": (record(gate={"gatng": "sigmoid"}), "did you mean 'gating'"),
    "width a string": (record(hidden_size="32"), "hidden_size is '32'; it must be a whole number"),
    "another width": (record(hidden_size=64), "hidden_size 64; the model has 32"),
    "another depth": (record(num_hidden_layers=5), "num_hidden_layers 5; the model has 3"),
    "unknown gating": (record(gate={"gating": "tanh"}), "gating is 'tanh'"),
    "later format": (record(format=99), "of format 99; a newer rwkvgate wrote it; this version reads formats 1 to 2"),
    "format true": (record(format=True), "of format True; this version"),
    "half a record": (text("{"), "damaged"),
    "a list": (text("[1]"), "holds a list; it must be a JSON object"),
    "nested too deep": (text("[" * 100_000), "damaged"),
    "NUL": (text("\0" * 9), "damaged"),
    "a number without end": (text(f'{{"format": {"9" * 9999}}}'), "damaged"),
    "a gate nested": (record(gate={"taps": [[[1]]]}), "is an object or a list; it must be one value"),
    "a family without end": (record(family="x" * 9999), "xxx…; the model has"),
    "norms of text": (record(norms="false"), "norms is 'false'; it must be true or false"),
    "NUL in a name": (record(family="rwkv6\0"), r"family 'rwkv6\x00'; the model has 'rwkv6'"),
    "10^8 layers": (record(num_hidden_layers=10**8), "num_hidden_layers 100000000; the model has 3"),
    "a rank of gigabytes": (record(gate={"gating": "low-rank", "rank": 8192}), "not this gate's"),
    "no hash": (record(weights=...), "lacks weights"),
    "a hash of text": (record(weights="abc"), "weights is 'abc'; it must be an object"),
    "another hash": (record(weights={"size": 3, "sha256": "abc"}), "gate.json records 3 of 'abc'"),
    "a flipped bit": (flip_a_bit, "is damaged: it has"),
    "whole numbers": (as_of(torch.int32), f"holds {FIRST} as torch.int32; a gate's weights are one of float16"),
    "truth values": (as_of(torch.bool), f"holds {FIRST} as torch.bool"),
    "complex": (as_of(torch.complex64), f"holds {FIRST} as torch.complex64"),
    "beyond float32": (
        weights(lambda x: x.update({FIRST: x[FIRST].double() + 1e300})),
        f"holds {FIRST} with values of up to 1e+300, too large for torch.float32",
    ),
    "another epsilon": (
        lambda f: (f / storage.CONFIG).write_text((f / storage.CONFIG).read_text().replace("1e-05", "1e-01")),
        "its entries are not those that were written",
    ),
    "no seal": (record(seal=1), "seal is 1; it must be a string"),
    "probe empty": (record(base={"probe": {}}), "base.probe is no table of numbers"),
    "probe without end": (record(base={"probe": {"embeddings.weight": 10**400}}), "base.probe is no table of numbers"),
    "no record": (lambda f: (f / storage.CONFIG).unlink(), "holds no gate.json"),
    "no weights": (lambda f: (f / storage.WEIGHTS).unlink(), "holds no gate.safetensors"),
    "foreign JSON": (text('{"peft_type": "LORA"}'), "format None"),
    "a number": (text("1"), "holds a int; it must be a JSON object"),
    "not UTF-8": (text(b"\xff\xfe{"), "damaged"),
    "empty weights": (lambda f: (f / storage.WEIGHTS).write_bytes(b""), "damaged"),
    "text for weights": (lambda f: (f / storage.WEIGHTS).write_text("these are no weights"), "damaged"),
    "a folder for weights": (replace_by_folder, "gate.safetensors"),
    "another gate": (record(gate=GateConfig.preset("fixed-gate").model_dump()), "not this gate's"),
    "base a list": (record(base=[1]), "base is [1]; it must be an object"),
    "probe of text": (record(base={"probe": {"embeddings.weight": "x"}}), "base.probe is no table of numbers"),
    "no numbers": (
        weights(lambda x: x.update({FIRST: torch.full((32, 32), torch.nan)})),
        "values that are no numbers",
    ),
    "extra tensor": (weights(lambda x: x.update(extra=torch.zeros(1))), "not this gate's: extra"),
    "missing tensor": (weights(lambda x: x.pop(FIRST)), f"not this gate's: {FIRST}"),
    "wrong shape": (weights(lambda x: x.update({FIRST: torch.zeros(32, 31)})), f"not this gate's: {FIRST}"),
}


def refused(base: Any, ids: Tensor, folder: Path, message: str) -> None:
    logits, before = base(ids).logits, {name: x.clone() for name, x in base.state_dict().items()}
    with pytest.raises(SettingsError) as error:
        load_gate(base, folder)
    assert message in str(error.value)
    after = base.state_dict()
    assert list(after) == list(before) and all(torch.equal(x, before[name]) for name, x in after.items())
    assert torch.equal(base(ids).logits, logits)


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_folder_is_refused(name: str, tiny_model: Any, tokens: Any, tmp_path: Path) -> None:
    damage, message = DAMAGED[name]
    folder = save_gate(tiny_model("enhanced", torch.float32), tmp_path / "gate")
    damage(folder)
    refused(tiny_model(dtype=torch.float32), tokens(1, 5), folder, message)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.05, 0.5, 0.9, 0.9999])
def test_weights_cut_anywhere_are_refused(share: float, tiny_model: Any, tokens: Any, tmp_path: Path) -> None:
    folder = save_gate(tiny_model("enhanced"), tmp_path / "gate")
    content = (folder / storage.WEIGHTS).read_bytes()
    (folder / storage.WEIGHTS).write_bytes(content[: int(share * len(content))])
    refused(tiny_model(), tokens(1, 5), folder, "damaged")


def test_what_is_no_folder_is_refused(tiny_model: Any, tokens: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "empty").mkdir()
    refused(tiny_model(), tokens(1, 5), tmp_path / "empty", "holds no gate.json")
    for path, message in ((tmp_path / "file", "is a file"), (tmp_path / "nowhere", "there is no folder")):
        with pytest.raises(CheckpointError, match=message):
            load_gate(tiny_model(), path)


def test_models_of_other_kinds_are_refused(tiny_model: Any, tmp_path: Path) -> None:
    folder = save_gate(tiny_model("enhanced"), tmp_path / "gate")
    with pytest.raises(TypeError, match="is a Linear; it must be a Rwkv6Model or Rwkv6ForCausalLM"):
        load_gate(nn.Linear(2, 2), folder)


def test_a_gate_fits_a_base_of_another_type(tiny_model: Any, tokens: Any, tmp_path: Path) -> None:
    folder = save_gate(tiny_model("enhanced", torch.float32), tmp_path / "gate")
    wanted = [x for gate in gates_of(tiny_model("enhanced", torch.float32)) for x in gate.parameters()]
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        model = load_gate(tiny_model(dtype=torch.float32).to(dtype), folder)
        found = [x for gate in gates_of(model) for x in gate.parameters()]
        assert all(torch.equal(x.float(), y) for x, y in zip(found, wanted, strict=True))
        assert bool(model(tokens(1, 5)).logits.isfinite().all())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0, -1.0])
def test_an_epsilon_must_be_a_positive_number(value: float) -> None:
    with pytest.raises(SettingsError, match="norm_epsilon"):
        GateConfig.preset("enhanced", norm_epsilon=value)


def test_a_fixed_gate_without_a_value_is_refused() -> None:
    with pytest.raises(SettingsError, match="value is missing; gating 'fixed' needs it"):
        GateConfig.build({"gating": "fixed"})
    with pytest.raises(SettingsError, match="value"):
        GateConfig.build({"gating": "fixed", "value": float("nan")})


def test_the_first_real_token_sees_no_token_before_it(tiny_model: Any, tokens: Any) -> None:
    # With h_{-1} = 0 a gate of 1 and a gate of 0 differ in nothing at the first real token.
    ids, mask = tokens(2, 6), torch.ones(2, 6, dtype=torch.long)
    mask[1, :3] = 0
    open_, shut = (patch(tiny_model(), GateConfig.preset("no-layer-norm", gating="fixed", value=v)) for v in (1.0, 0.0))
    found, wanted = open_(ids, attention_mask=mask).logits, shut(ids, attention_mask=mask).logits
    assert torch.equal(found[0, 0], wanted[0, 0]) and torch.equal(found[1, 3], wanted[1, 3])
    assert not torch.allclose(found[0, 1], wanted[0, 1])
    torch.testing.assert_close(shut(ids).logits, tiny_model()(ids).logits)
