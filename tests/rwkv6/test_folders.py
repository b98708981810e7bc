"""Checkpoints from folders and BlinkDL's files: what they hold is taken whole, or refused in one sentence."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from rwkvgate import Rwkv6ForCausalLM, Rwkv6Model, load_pth, loaded_commit, save_gate
from rwkvgate.rwkv6.layouts import CheckpointError
from tests.hub_server import CONFIG
from tests.rwkv6.published import BIN, MESSAGES, SAFE, Payload, damage, same, to_blink, to_fla


def test_damaged_files_in_a_folder_are_refused(weights: Any, safe: Any, pickled: Any, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    for file, content in {SAFE: safe(weights), BIN: pickled(weights)}.items():
        path = tmp_path / file
        for size in (0, 7, len(content) // 2, len(content) - 1):
            path.write_bytes(content[:size])
            with pytest.raises(CheckpointError, match=re.escape(str(path))):
                Rwkv6ForCausalLM.from_pretrained(tmp_path)
        path.unlink()


@pytest.mark.parametrize("file", [BIN, SAFE])
def test_changing_what_was_loaded_leaves_the_file_alone(
    weights: Any, safe: Any, pickled: Any, tmp_path: Path, file: str
) -> None:
    # Weights of the file's own type stay mapped from it.
    content = (pickled if file == BIN else safe)(weights)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / file).write_bytes(content)
    model = Rwkv6ForCausalLM.from_pretrained(tmp_path)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert (tmp_path / file).read_bytes() == content


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("{", "config.json is damaged"),
        ("[]", "holds a list; it must be a JSON object"),
        (json.dumps(CONFIG | {"model_type": "llama"}), "is of model_type 'llama'; 'rwkv6' is read"),
        (json.dumps(CONFIG | {"hidden_size": "wide"}), "it states hidden_size wide (32)"),
        (json.dumps(CONFIG | {"layer_norm_epsilon": "small"}), "cannot be read"),
        (json.dumps(CONFIG | {"head_size": 4}), "it states head_size 4 (8)"),
        (None, "holds no config.json"),
    ],
)
def test_bad_configurations_are_refused(weights: Any, tmp_path: Path, config: str | None, said: str) -> None:
    save_file(weights, tmp_path / SAFE)
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    with pytest.raises(CheckpointError, match=re.escape(said)):
        Rwkv6ForCausalLM.from_pretrained(tmp_path)


def test_paths_that_are_no_folder_are_refused(weights: Any, tmp_path: Path) -> None:
    for path in (tmp_path / "none", str(tmp_path / "none"), "./none", "~/none/at/all"):
        with pytest.raises(CheckpointError, match="there is no folder"):
            Rwkv6ForCausalLM.from_pretrained(path)
    save_file(weights, tmp_path / SAFE)
    with pytest.raises(CheckpointError, match="is a file; give a folder"):
        Rwkv6ForCausalLM.from_pretrained(tmp_path / SAFE)
    with pytest.raises(ValueError, match="give a folder or a name on the hub"):
        Rwkv6ForCausalLM.from_pretrained(None)


@pytest.mark.parametrize(
    ("option", "value"), [("use_safetensors", "yes"), ("config", 5), ("config", {"hidden_size": 8})]
)
def test_options_of_another_type_are_refused(tiny_model: Any, tmp_path: Path, option: str, value: object) -> None:
    tiny_model().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"{option} is .*; it must be"):
        Rwkv6ForCausalLM.from_pretrained(tmp_path, **{option: value})


@pytest.mark.parametrize("shards", [False, True])
def test_what_was_saved_last_is_loaded(tiny_model: Any, tmp_path: Path, shards: bool) -> None:
    sizes = ({}, {"max_shard_size": "10KB"})
    model = tiny_model()
    model.save_pretrained(tmp_path, **sizes[not shards])
    with torch.no_grad():
        model.head.weight.add_(1)
    model.save_pretrained(tmp_path, **sizes[shards])
    assert torch.equal(Rwkv6ForCausalLM.from_pretrained(tmp_path).head.weight, model.head.weight)


@pytest.mark.parametrize("place", ["model", "new/model"])
def test_a_model_on_a_full_disk_is_not_half_written(
    tiny_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    tiny_model().save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "notes.txt").write_text("mine")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def full(tensors: Any, path: str, **_: Any) -> None:
        Path(path).write_bytes(b"half")
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("transformers.modeling_utils.safe_save_file", full)
    message = f"No space left on device: files could not be written to {tmp_path / place}, where .* MiB are free"
    with pytest.raises(OSError, match=message):
        tiny_model(seed=1).save_pretrained(tmp_path / place, max_shard_size="10KB")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert not (tmp_path / "new" / "model").exists()


def test_a_model_is_not_saved_to_a_file(tiny_model: Any, tmp_path: Path) -> None:
    (tmp_path / "model").write_text("mine")
    with pytest.raises(NotADirectoryError, match="model is a file; it must be a folder"):
        tiny_model().save_pretrained(tmp_path / "model")


@pytest.mark.parametrize("option", ["ignore_mismatched_sizes", "variant", "gguf_file"])
def test_options_that_would_leave_weights_at_random_are_refused(tmp_path: Path, option: str) -> None:
    with pytest.raises(ValueError, match=f"{option} cannot be used here"):
        Rwkv6ForCausalLM.from_pretrained(tmp_path, **{option: "fp16"})


def test_a_folder_with_a_gate_says_what_to_do(tiny_model: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="load_gate"):
        Rwkv6ForCausalLM.from_pretrained(save_gate(tiny_model("enhanced"), tmp_path / "gate"))


def test_options_of_the_configuration_are_taken(tiny_model: Any, tmp_path: Path) -> None:
    tiny_model(dtype=torch.float32).save_pretrained(tmp_path)
    model, report = Rwkv6ForCausalLM.from_pretrained(
        tmp_path, use_cache=False, head_size_divisor=1, output_loading_info=True
    )
    assert model.config.use_cache is False and model.config.group_norm_epsilon == model.config.layer_norm_epsilon
    assert not report["missing_keys"] and loaded_commit(model) is None
    other = tiny_model(vocab_size=40).config
    with pytest.raises(CheckpointError, match="the config given has vocab_size 40"):
        Rwkv6ForCausalLM.from_pretrained(tmp_path, config=other)
    with pytest.raises(CheckpointError, match="not those of an RWKV-6 of its sizes"):
        Rwkv6ForCausalLM.from_pretrained(tmp_path, num_hidden_layers=2)


def test_a_state_dictionary_in_memory_is_checked_as_well(tiny_model: Any) -> None:
    model = tiny_model(dtype=torch.float32)
    weights = dict(model.state_dict())
    again = Rwkv6ForCausalLM.from_pretrained(None, config=model.config, state_dict=to_blink(weights))
    assert same(dict(again.state_dict()), weights, torch.float32)
    del weights["head.weight"]
    with pytest.raises(CheckpointError, match=r"the state dictionary given are not .* missing: head\.weight"):
        Rwkv6ForCausalLM.from_pretrained(None, config=model.config, state_dict=weights)


def test_what_the_headless_network_saves_loads_again(tiny_model: Any, tmp_path: Path) -> None:
    body = tiny_model(dtype=torch.float32).rwkv
    body.save_pretrained(tmp_path)
    assert same(dict(Rwkv6Model.from_pretrained(tmp_path).state_dict()), dict(body.state_dict()), torch.float32)
    with pytest.raises(CheckpointError, match=r"missing: head\.weight"):
        Rwkv6ForCausalLM.from_pretrained(tmp_path)


@pytest.mark.parametrize("dtype", [None, torch.float32, "float16"])
def test_a_pth_file_loads(weights: Any, tokens: Any, tmp_path: Path, dtype: Any) -> None:
    path = tmp_path / "RWKV-x060-tiny.pth"
    torch.save(to_blink(weights), path)
    model = load_pth(path, dtype=dtype)
    kept = torch.bfloat16 if dtype is None else getattr(torch, str(dtype).removeprefix("torch."))
    assert same(dict(model.state_dict()), weights, kept) and not model.training
    assert model.config.num_attention_heads == 4 and model.config.time_decay_rank == 6
    model.save_pretrained(tmp_path / "again")
    assert same(dict(Rwkv6ForCausalLM.from_pretrained(tmp_path / "again").state_dict()), weights, kept)


@pytest.mark.parametrize("kind", ["missing", "unknown", "shape", "headless", "gate", "values", "anchor", "foreign"])
def test_a_pth_file_of_half_a_network_is_refused(weights: Any, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "half.pth"
    torch.save(to_blink(damage(kind, weights)), path)
    said = MESSAGES[kind]
    if kind == "gate":
        said = "holds a gate (blocks.0.gated_shift.gate.weight)"
    with pytest.raises(CheckpointError, match=re.escape(said)) as error:
        load_pth(path)
    assert str(path) in str(error.value)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_pth_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no file"):
        load_pth(tmp_path / "none.pth")
    path = tmp_path / "code.pth"
    for protocol, said in {2: "refused without running it", 4: "Nothing of it was run"}.items():
        path.write_bytes(pickle.dumps(Payload(tmp_path / "ran"), protocol))
        with pytest.raises(CheckpointError, match=said):
            load_pth(path)
    assert not (tmp_path / "ran").exists()


def test_flash_linear_attention_mixes_alike(tiny_model: Any, tokens: Any, relative_error: Any, tmp_path: Path) -> None:
    # The five mixes as that library's layer computes them, from its own tensors.
    model = tiny_model()
    theirs = to_fla(dict(model.state_dict()))
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    save_file(theirs, tmp_path / SAFE)
    again = Rwkv6ForCausalLM.from_pretrained(tmp_path)
    attention = again.rwkv.blocks[1].attention
    x = torch.randn(2, 7, 32, dtype=torch.float64)
    delta = torch.nn.functional.pad(x, (0, 0, 1, -1)) - x
    tensor = {name.removeprefix("model.layers.1.attn."): value for name, value in theirs.items()}
    low = torch.tanh((x + delta * tensor["x_proj.0.mu"]) @ tensor["x_proj.0.linear.weight"].t()).unflatten(-1, (5, -1))
    share = torch.einsum("btnr,hnr->btnh", low, tensor["x_proj.2.weight"].view(32, 5, -1)) + tensor["x_bias"]
    r, w, k, v, g = (x.unsqueeze(-2) + delta.unsqueeze(-2) * share).unbind(-2)
    for found, wanted in zip(attention._mixes(x, delta), (w, k, v, r, g), strict=True):
        assert relative_error(found, wanted) < 1e-12
    decay = torch.tanh(w @ tensor["w_proj.linear.lora.0.weight"].t()) @ tensor["w_proj.linear.lora.2.weight"].t()
    wanted = decay + tensor["w_proj.linear.lora.2.bias"]
    ours = attention.time_decay + torch.tanh(w @ attention.time_decay_w1) @ attention.time_decay_w2
    assert relative_error(ours, wanted) < 1e-12
    assert torch.equal(again(tokens(2, 9)).logits, model(tokens(2, 9)).logits)
