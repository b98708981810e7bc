"""Damaged, hostile and misplaced files of base checkpoints: one sentence, no fetch, and no memory that was not read."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import re
import resource
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

from rwkvgate import Rwkv6Config, Rwkv6ForCausalLM, Rwkv6State, Rwkv6Tokenizer, load_pth
from rwkvgate.rwkv6.configuration import NOT_TAKEN_OVER
from rwkvgate.rwkv6.layouts import CheckpointError
from rwkvgate.rwkv6.vocabulary import LARGEST_FILE
from tests.hub_server import CONFIG
from tests.rwkv6.published import BIN, SAFE, shards, to_blink, to_fla

INDEX, KEY = f"{SAFE}.index.json", "rwkv.blocks.1.attention.key.weight"
DEEP = "[" * 100_000


@pytest.fixture
def folder(weights: Any, tmp_path: Path) -> Path:
    """A complete checkpoint."""
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    save_file(weights, tmp_path / SAFE)
    return tmp_path


def refused(folder: Any, *said: str, **options: Any) -> None:
    with pytest.raises(CheckpointError) as error:
        Rwkv6ForCausalLM.from_pretrained(folder, **options)
    text = str(error.value)
    assert all(part in text for part in said) and "\n" not in text and len(text) < 800, text


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.uint8, torch.bool, torch.complex64])
def test_weights_that_are_no_floating_point_numbers(folder: Path, weights: Any, dtype: torch.dtype) -> None:
    save_file(weights | {KEY: torch.ones(32, 32, dtype=dtype)}, folder / SAFE)
    refused(folder, f"{KEY} in {folder}", f"is {dtype}", "dense float16, bfloat16, float32 or float64")


@pytest.mark.parametrize("value", [1e300, -1e39])
def test_float64_beyond_float32(folder: Path, weights: Any, value: float) -> None:
    save_file(weights | {KEY: torch.full((32, 32), value, dtype=torch.float64)}, folder / SAFE)
    for dtype in (None, torch.float32, torch.float64):
        refused(folder, "infinite or not numbers", KEY, **({} if dtype is None else {"dtype": dtype}))


@pytest.mark.parametrize("made", ["sparse", "meta", "list"])
def test_tensors_without_memory_of_their_own(weights: Any, tiny_config: Any, made: str) -> None:
    odd = {"sparse": weights[KEY].to_sparse(), "meta": weights[KEY].to("meta"), "list": [1.0]}[made]
    refused(None, KEY, "weights are dense", config=tiny_config(), state_dict=weights | {KEY: odd})


def grown(call: Callable[[], Any]) -> int:
    """KiB by which a fork's peak memory grows in a call that fails; that of this process may lie in an earlier test."""
    read, write = os.pipe()
    if not (child := os.fork()):
        try:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            with contextlib.suppress(CheckpointError):
                call()
            os.write(write, str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(write)
    with os.fdopen(read) as said:
        return int(said.read())


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_asks_for_more_than_it_holds(weights: Any, tmp_path: Path, legacy: bool) -> None:
    huge = torch.zeros(1).expand(2**18, 2**18)  # 256 GiB from four bytes
    path = tmp_path / "huge.pth"
    torch.save(to_blink(weights) | {"emb.weight": huge}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointError, match=r"tensors ask for more, such as emb\.weight of shape \(262144, 262144\)"):
        load_pth(path)
    assert grown(lambda: load_pth(path)) < 200 * 1024


def test_tied_weights_in_a_pickle_are_read(weights: Any, tmp_path: Path) -> None:
    path = tmp_path / "tied.pth"
    torch.save(to_blink(weights | {"head.weight": weights["rwkv.embeddings.weight"]}), path)
    assert load_pth(path).config.vocab_size == 37


@pytest.mark.parametrize("number", [3, 100_000_000, 10**17, 10**40])
def test_a_layer_number_is_no_number_of_layers(folder: Path, weights: Any, number: int) -> None:
    save_file(weights | {f"rwkv.blocks.{number + 1}.ln1.weight": torch.ones(32)}, folder / SAFE)
    refused(folder, "the numbers are 0, 1, 2" if number < 10**18 else "not known: rwkv.blocks.1000")


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", INDEX])
@pytest.mark.parametrize("text", ["", "{", "[]", DEEP, '{"a": ' * 50_000, "\0", '"\\ud800', "9" * 5000])
def test_damaged_json(folder: Path, weights: Any, safe: Any, name: str, text: str) -> None:
    if name == INDEX:
        (folder / SAFE).unlink()
    (folder / name).write_text(text, encoding="utf-8")
    refused(folder, str(folder / name))


def test_json_of_a_gigabyte_is_not_read(folder: Path) -> None:
    with (folder / "config.json").open("wb") as file:
        file.truncate(2**30)  # a sparse file
    refused(folder, "config.json has 1,073,741,824 bytes; at most 67,108,864 are read")


@pytest.mark.parametrize(
    "shard", ["../x.safetensors", "/etc/passwd", "a/b.safetensors", "..", "*", "a\0.safetensors", "x.bin", 7, None]
)
def test_an_index_that_leads_elsewhere(folder: Path, shard: Any) -> None:
    (folder / SAFE).unlink()
    (folder / INDEX).write_text(json.dumps({"weight_map": {KEY: shard}}))
    refused(folder, "is no index of shards: weight_map must name files beside it")


@pytest.mark.parametrize("fault", ["missing", "empty", "truncated", "folder", "loop", "twice"])
def test_damaged_shards(folder: Path, weights: Any, safe: Any, fault: str) -> None:
    (folder / SAFE).unlink()
    for name, content in shards(weights, safe, "model", ".safetensors").items():
        (folder / name).write_bytes(json.dumps(content).encode() if isinstance(content, dict) else content)
    shard = folder / "model-00001-of-00002.safetensors"
    content = shard.read_bytes()
    shard.unlink()
    if fault in ("empty", "truncated"):
        shard.write_bytes(content[: len(content) // 2 if fault == "truncated" else 0])
    elif fault == "folder":
        shard.mkdir()
    elif fault == "loop":
        shard.symlink_to(shard)
    elif fault == "twice":
        shard.write_bytes((folder / "model-00002-of-00002.safetensors").read_bytes())
    said = {"empty": "is damaged", "truncated": "is damaged", "twice": "two shards"}
    refused(folder, said.get(fault, f"does not hold: {shard.name}"))


@pytest.mark.parametrize("place", ["config.json", SAFE])
@pytest.mark.parametrize("found", ["folder", "loop", "fifo", "device"])
def test_what_is_no_file_is_not_opened(folder: Path, place: str, found: str) -> None:
    path = folder / place
    path.unlink()
    {
        "folder": path.mkdir,
        "loop": lambda: path.symlink_to(path),
        "fifo": lambda: os.mkfifo(path),
        "device": lambda: path.symlink_to("/dev/zero"),
    }[found]()
    refused(folder, "holds no config.json" if place == "config.json" else "holds no weights")


@pytest.mark.parametrize("path", ["~nobody-here/model", "./a\0b", "/a\0b", "/" + "x" * 5000, "loop"])
def test_paths_that_lead_nowhere(tmp_path: Path, path: str) -> None:
    if path == "loop":
        (tmp_path / path).symlink_to(tmp_path / path)
        path = str(tmp_path / path)
    with pytest.raises(CheckpointError, match="there is no folder") as error:
        Rwkv6ForCausalLM.from_pretrained(path)
    assert "\0" not in str(error.value)
    with pytest.raises(CheckpointError, match="there is no file"):
        load_pth(path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04",
        b"\x80\x02.",
        b"\x80\x02K\x01.",
        pickle.dumps({1: {2: 3}}, 2),
        b"\x80\x02" + b"(" * 10**6,
        b"\x80\x02]" + b"h\x00" * 9,
        b"text",
    ],
)
def test_pickles_of_anything(folder: Path, content: bytes) -> None:
    (folder / SAFE).unlink()
    (folder / BIN).write_bytes(content)
    refused(folder, str(folder / BIN))


NUMBERS: dict[str, list[Any]] = {
    "layer_norm_epsilon": [0.0, -1e-5, float("nan"), float("inf"), 1e30, True, "1e-5", None, 10**400],
    "vocab_size": [True, 0, -1, 10**30, 3.0, "37", None],
    "num_hidden_layers": [True, 0, 10**30],
    "head_size_divisor": [True, 0, 10**30, 1.5],
    "time_mix_rank": [True, 0, 10**30, 1.5],
    "intermediate_size": [True, -3, 10**30, float("nan")],
    "rescale_every": [True, 10**30, 0.5],
    "bos_token_id": [True, 10**30, "0"],
    "eos_token_id": [True, [0, 10**30], [True], "0", [0.5], []],
    "pad_token_id": [10**30, 1.5],
    "tie_word_embeddings": [1, "false", None],
    "use_cache": [0, "no"],
    "num_labels": [10**9, -1, "two"],
    "dtype": ["load", "int8", "nonsense", 7],
    "torch_dtype": ["load", "int8"],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in NUMBERS.items() for value in values])
def test_impossible_numbers_of_a_configuration(folder: Path, key: str, value: Any) -> None:
    with pytest.raises((ValueError, StrictDataclassError), match=re.escape(key.removeprefix("torch_"))):
        Rwkv6Config(**{key: value})
    if key != "num_labels" and value is not None:  # a file's null is an omission, and no key of ours is ignored
        (folder / "config.json").write_text(json.dumps(CONFIG | {key: value}))
        refused(folder, key.removeprefix("torch_"))


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2", "int8", "complex64"])
def test_a_type_that_no_weight_has_is_refused(folder: Path, name: str) -> None:
    for dtype in (name, getattr(torch, name)):
        for given in ({"dtype": dtype}, {"torch_dtype": dtype}, {"dtype": {"": dtype}}):
            with pytest.raises(ValueError, match=rf"dtype is .*{name}'?; it must be float16, bfloat16, .*, auto"):
                Rwkv6ForCausalLM.from_pretrained(folder, **given)
    assert Rwkv6ForCausalLM.from_pretrained(folder, dtype="auto").dtype.is_floating_point


@pytest.mark.parametrize("value", ["x", [0, "x"], 1.5, 10**30, {"a": 1}, True])
@pytest.mark.parametrize("key", ["eos_token_id", "bos_token_id", "pad_token_id"])
def test_ids_of_generation_that_are_none(folder: Path, key: str, value: Any) -> None:
    (folder / "generation_config.json").write_text(json.dumps({key: value}))
    refused(folder, str(folder / "generation_config.json"), "is no configuration of generation", key)


@pytest.mark.parametrize("key", ["num_beams", "max_length", "temperature"])
def test_a_number_of_generation_that_is_text(folder: Path, key: str) -> None:
    (folder / "generation_config.json").write_text(json.dumps({key: "x"}))
    refused(folder, "is no configuration of generation", f"{key} 'x'", "numbers are allowed")


@pytest.mark.parametrize("text", ["{", "[]", "null", DEEP, '{"a": ' * 50_000, "\0"])
def test_a_damaged_configuration_alone_is_refused_in_words(folder: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text(text)
    with pytest.raises(OSError, match=r"config\.json of .* is damaged|config\.json' is not a valid JSON file"):
        Rwkv6Config.from_pretrained(tmp_path / "other")
    with pytest.raises(OSError, match=r"config\.json of .* is damaged|config\.json' is not a valid JSON file"):
        Rwkv6ForCausalLM.from_pretrained(folder, config=tmp_path / "other")


@pytest.fixture
def unconnected(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The addresses that were asked for: none, or the test fails."""
    asked: list[Any] = []

    def refuse(*address: Any, **_: Any) -> Any:
        asked.append(address)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return asked


def test_a_configuration_fetches_nothing(folder: Path, tokens: Any, unconnected: list[Any]) -> None:
    remote = dict.fromkeys(NOT_TAKEN_OVER, "kernels-community/evil") | {
        "auto_map": {"AutoConfig": "evil/repo--code.Config", "AutoModelForCausalLM": "evil/repo--code.Model"},
        "tokenizer_class": "EvilTokenizer",
        "use_kernels": True,
        "_name_or_path": "evil/repo",
        "output_attentions": True,
    }
    (folder / "config.json").write_text(json.dumps(CONFIG | remote))
    (folder / "generation_config.json").write_text(json.dumps({"custom_generate": "evil/repo", "pad_token_id": 0}))
    for load in (Rwkv6ForCausalLM, AutoModelForCausalLM):
        model = load.from_pretrained(folder)
        assert type(model) is Rwkv6ForCausalLM
        assert "evil" not in json.dumps(model.config.to_dict() | model.config.__dict__, default=str).lower()
        model.generate(tokens(1, 3), max_new_tokens=1, do_sample=False)
    assert "evil" not in str(AutoConfig.from_pretrained(folder)._attn_implementation)
    assert not unconnected


@pytest.mark.parametrize("method", ["bitsandbytes", "torchao", "gptq", "fp8", "unknown"])
def test_a_quantized_checkpoint_is_refused(folder: Path, method: str, unconnected: list[Any]) -> None:
    (folder / "config.json").write_text(json.dumps(CONFIG | {"quantization_config": {"quant_method": method}}))
    refused(folder, "is quantized (quantization_config); load the weights that it was made from")
    assert not unconnected


@pytest.mark.parametrize("load", [Rwkv6ForCausalLM, AutoModelForCausalLM])
def test_flash_linear_attentions_epsilon_is_its_norms(folder: Path, weights: Any, load: Any) -> None:
    stated = {"model_type": "rwkv6", "head_size": 8, "norm_eps": 2e-5}
    (folder / "config.json").write_text(json.dumps(stated))
    save_file(to_fla(weights), folder / SAFE)
    assert load.from_pretrained(folder).config.group_norm_epsilon == 2e-5
    (folder / "config.json").write_text(json.dumps(stated | {"head_size_divisor": 8}))
    assert load.from_pretrained(folder).config.head_size_divisor == 8
    (folder / "config.json").write_text(json.dumps(stated))
    assert Rwkv6ForCausalLM.from_pretrained(folder, head_size_divisor=8).config.head_size_divisor == 8


def test_torchao_quantizes_while_loading(folder: Path, weights: Any, tokens: Any) -> None:
    quantization = pytest.importorskip("torchao.quantization", reason="torchao is not installed")
    from transformers import TorchAoConfig

    given = TorchAoConfig(quantization.Int8WeightOnlyConfig())
    plain = Rwkv6ForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model = Rwkv6ForCausalLM.from_pretrained(folder, dtype=torch.float32, quantization_config=given)
    assert type(model.rwkv.blocks[0].attention.key.weight.data) is not torch.Tensor
    ids = tokens(2, 9)
    assert (model(ids).logits - plain(ids).logits).abs().max() < 0.1 * plain(ids).logits.abs().max()
    save_file(weights | {KEY: weights[KEY] * float("nan")}, folder / SAFE)
    refused(folder, "infinite or not numbers", KEY, quantization_config=given)


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        ([[0, 37]], "input_ids hold 37; ids must be from 0 to 36"),
        ([[-1, 3]], "input_ids hold -1; ids must be from 0 to 36"),
        ([[1.0]], r"input_ids are torch.float32; they must be torch.int64"),
        ([[]], r"the input is \(1, 0\)"),
        ([], r"the input is"),
    ],
)
def test_ids_that_no_forward_takes(tiny_model: Any, ids: Any, said: str) -> None:
    given = torch.tensor(ids, dtype=None if ids and ids[0] else torch.long)
    with pytest.raises(ValueError, match=said):
        tiny_model()(given)
    with pytest.raises(ValueError, match=r"the input is \(0, 3\)"):
        tiny_model()(torch.zeros(0, 3, dtype=torch.long))


@pytest.mark.parametrize("ids", [[65536], [-1], 10**30, [1.5], ["a"], [None], [[1]]])
def test_ids_that_no_text_has(ids: Any) -> None:
    with pytest.raises(ValueError, match=r"0 to 65535"):
        Rwkv6Tokenizer()._decode(ids)


@pytest.mark.parametrize(
    "content", [b"", b"\0", b"1 'a' 1", DEEP.encode(), b"(" * LARGEST_FILE, b"\xff\xfe", b"1 __import__('os') 1"]
)
def test_damaged_vocabularies(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "vocabulary.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{path} is not the World vocabulary"):
        Rwkv6Tokenizer(path)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "\xff", DEEP, '{"extra_special_tokens": 3}', '{"added_tokens_decoder": [1]}', '{"bos_token": 3}'],
)
def test_damaged_settings_of_a_tokenizer(tmp_path: Path, text: str) -> None:
    Rwkv6Tokenizer().save_pretrained(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=rf"tokenizer_config.json of {tmp_path} is damaged|has one special token"):
        Rwkv6Tokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize("path", ["/dev/zero", "/proc/self/mem", "/", "/a\0b", "loop"])
def test_vocabularies_that_are_no_file(tmp_path: Path, path: str) -> None:
    if path == "loop":
        (tmp_path / path).symlink_to(tmp_path / path)
        path = str(tmp_path / path)
    with pytest.raises(ValueError, match=r"cannot be read|is not the World vocabulary"):
        Rwkv6Tokenizer(path)


@pytest.mark.parametrize(
    "content", [b"", b"text", {"x": torch.ones(1)}, {"0.wkv": torch.ones(1)}, {"7.wkv": torch.ones(1)}]
)
def test_states_that_are_none(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "state.safetensors"
    path.write_bytes(content) if isinstance(content, bytes) else save_file(content, path)
    with pytest.raises(ValueError, match=r"holds no state|cannot be read"):
        Rwkv6State.load(path)
