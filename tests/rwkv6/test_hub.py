"""Checkpoints by name, from a hub on this machine that speaks the download protocol of the real one.

What is loaded is compared with what was published, weight by weight; what is wrong must end in one clear
error and leave nothing that a later load would take.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from rwkvgate import Rwkv6ForCausalLM, Rwkv6Model, save_gate
from rwkvgate.rwkv6.checkpoints import load_pth, loaded_commit
from rwkvgate.rwkv6.layouts import CheckpointError
from tests.hub_server import COMMITS, CONFIG, Client, Hub, serve_hub

BIN, SAFE = "pytorch_model.bin", "model.safetensors"


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    """A hub on a port of this machine."""
    with serve_hub() as served:
        yield served


@pytest.fixture(scope="module")
def online(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A process that reaches the hub."""
    client = Client(hub.address, tmp_path_factory.mktemp("home"))
    yield client
    client.close()


@pytest.fixture(scope="module")
def offline(hub: Hub, online: Client) -> Iterator[Client]:
    """A process with the same cache that must not ask the hub."""
    client = Client(hub.address, online.home, HF_HUB_OFFLINE="1")
    yield client
    client.close()


@pytest.fixture(scope="module")
def unplugged(online: Client) -> Iterator[Client]:
    """A process with the same cache and a hub that does not answer."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    client = Client(f"http://127.0.0.1:{port}", online.home)
    yield client
    client.close()


@pytest.fixture
def weights(tiny_model: Any) -> dict[str, torch.Tensor]:
    """A tiny network's weights in bfloat16, as the hub keeps them."""
    return {name: tensor.clone() for name, tensor in tiny_model(dtype=torch.bfloat16).state_dict().items()}


@pytest.fixture
def pickled(tmp_path: Path) -> Callable[[Any], bytes]:
    """The bytes that torch.save writes."""

    def write(value: Any) -> bytes:
        torch.save(value, tmp_path / "pickled")
        return (tmp_path / "pickled").read_bytes()

    return write


@pytest.fixture
def safe(tmp_path: Path) -> Callable[[dict[str, torch.Tensor]], bytes]:
    """The bytes of a safetensors file."""

    def write(value: dict[str, torch.Tensor]) -> bytes:
        save_file(value, tmp_path / "safe", metadata={"format": "pt"})
        return (tmp_path / "safe").read_bytes()

    return write


def shards(weights: dict[str, torch.Tensor], write: Any, stem: str, suffix: str) -> dict[str, Any]:
    """Two shards and their index."""
    names = sorted(weights)
    halves = {f"{stem}-0000{i + 1}-of-00002{suffix}": names[i::2] for i in range(2)}
    index = {"metadata": {}, "weight_map": {name: file for file, half in halves.items() for name in half}}
    files: dict[str, Any] = {file: write({name: weights[name] for name in half}) for file, half in halves.items()}
    return files | {f"{stem}{suffix}.index.json": index}


def same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], dtype: torch.dtype) -> bool:
    """Whether two networks have the same weights, once those wanted are of the dtype."""
    return found.keys() == wanted.keys() and all(torch.equal(found[name], x.to(dtype)) for name, x in wanted.items())


def to_blink(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights by BlinkDL's names."""
    short = {"rwkv.": "", "embeddings": "emb", "attention": "att", "feed_forward": "ffn", "pre_ln": "ln0"}
    made = {}
    for name, tensor in weights.items():
        for long, brief in short.items():
            name = name.replace(long, brief)
        made[name] = tensor
    return made


def to_fla(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights by flash-linear-attention's names and in its shapes."""
    plain = {"receptance": "r_proj.linear", "key": "k_proj.linear", "value": "v_proj.linear", "gate": "g_proj.linear"}
    made = {
        "model.embeddings.weight": weights["rwkv.embeddings.weight"],
        "model.norm.weight": weights["rwkv.ln_out.weight"],
        "model.norm.bias": weights["rwkv.ln_out.bias"],
        "lm_head.weight": weights["head.weight"],
    }
    for layer in range(3):
        ours, theirs = f"rwkv.blocks.{layer}.", f"model.layers.{layer}."
        for norm, name in {"pre_ln": "pre_norm", "ln1": "attn_norm", "ln2": "ffn_norm"}.items():
            for kind in ("weight", "bias"):
                if (tensor := weights.get(f"{ours}{norm}.{kind}")) is not None:
                    made[f"{theirs}{name}.{kind}"] = tensor
        att = {name.removeprefix(f"{ours}attention."): x for name, x in weights.items() if f"{ours}attention." in name}
        ffn = {name.removeprefix(f"{ours}feed_forward."): x for name, x in weights.items() if f"{ours}feed" in name}
        w, k, v, r, g = att["time_maa_w1"].t().chunk(5)
        second_w, second_k, second_v, second_r, second_g = att["time_maa_w2"]
        made |= {f"{theirs}attn.{name}.weight": att[f"{long}.weight"] for long, name in plain.items()} | {
            f"{theirs}attn.x_proj.0.mu": att["time_maa_x"].flatten(),
            f"{theirs}attn.x_proj.0.linear.weight": torch.cat([r, w, k, v, g]),
            f"{theirs}attn.x_proj.2.weight": torch.cat([second_r, second_w, second_k, second_v, second_g]).t(),
            f"{theirs}attn.x_bias": torch.stack([att[f"time_maa_{mix}"].flatten() for mix in "rwkvg"]),
            f"{theirs}attn.w_proj.linear.lora.0.weight": att["time_decay_w1"].t(),
            f"{theirs}attn.w_proj.linear.lora.2.weight": att["time_decay_w2"].t(),
            f"{theirs}attn.w_proj.linear.lora.2.bias": att["time_decay"].flatten(),
            f"{theirs}attn.bonus": att["time_faaaa"],
            f"{theirs}attn.g_norm.weight": att["ln_x.weight"],
            f"{theirs}attn.g_norm.bias": att["ln_x.bias"],
            f"{theirs}attn.o_proj.weight": att["output.weight"],
            f"{theirs}ffn.key.mu": ffn["time_maa_k"].flatten(),
            f"{theirs}ffn.key.linear.weight": ffn["key.weight"],
            f"{theirs}ffn.receptance.mu": ffn["time_maa_r"].flatten(),
            f"{theirs}ffn.receptance.linear.weight": ffn["receptance.weight"],
            f"{theirs}ffn.value.weight": ffn["value.weight"],
        }
    return {name: tensor.contiguous() for name, tensor in made.items()}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", None])
def test_a_pickle_of_tensors_loads_by_name(
    hub: Hub, online: Client, weights: Any, pickled: Any, dtype: str | None
) -> None:
    name = hub.publish("tiny/pickled", {BIN: pickled(weights), "generation_config.json": {"pad_token_id": 5}})
    found = online.load(name, **({"dtype": dtype} if dtype else {}))
    kept = getattr(torch, dtype or "bfloat16")
    assert same(found["weights"], weights, kept) and found["dtypes"] == [str(kept)]
    assert found["commit"] == COMMITS[0] and found["name"] == [name, name]
    assert (found["heads"], found["inner"], found["pad"]) == (4, 96, 5)
    assert found["finite"] and not found["training"]
    assert found["config"] == {"auto_map": None, "_commit_hash": None}  # neither belongs into a file that is saved


@pytest.mark.parametrize("layout", ["whole", "sharded"])
@pytest.mark.parametrize("kind", ["safetensors", "pickle"])
@pytest.mark.parametrize("device_map", ["cpu", "auto"])
def test_every_form_of_file_loads(
    hub: Hub, online: Client, weights: Any, pickled: Any, safe: Any, layout: str, kind: str, device_map: str
) -> None:
    write, whole = (safe, SAFE) if kind == "safetensors" else (pickled, BIN)
    stem, suffix = Path(whole).stem, Path(whole).suffix
    files = {whole: write(weights)} if layout == "whole" else shards(weights, write, stem, suffix)
    found = online.load(hub.publish(f"tiny/{kind}-{layout}", files), device_map=device_map, dtype="float32")
    assert same(found["weights"], weights, torch.float32)


def test_remote_code_is_neither_run_nor_downloaded(hub: Hub, online: Client, weights: Any, pickled: Any) -> None:
    name = hub.publish("tiny/code", {BIN: pickled(weights)})
    for options in ({}, {"trust_remote_code": True}):
        for kind in ("Rwkv6ForCausalLM", "AutoModelForCausalLM"):
            found = online.load(name, kind, dtype="float16", **options)
            assert found["class"] == "rwkvgate.rwkv6.modeling.Rwkv6ForCausalLM" and not found["config"]["auto_map"]
            assert same(found["weights"], weights, torch.float16) and found["commit"] == COMMITS[0]
    assert not [path for path in hub.asked if path.endswith(".py")]


def test_the_headless_network_is_taken_out_of_the_whole(hub: Hub, online: Client, weights: Any, safe: Any) -> None:
    found = online.load(hub.publish("tiny/headless", {SAFE: safe(weights)}), "Rwkv6Model")
    body = {name.removeprefix("rwkv."): x for name, x in weights.items() if name != "head.weight"}
    assert same(found["weights"], body, torch.bfloat16)


def test_a_revision_is_what_was_asked_for(hub: Hub, online: Client, weights: Any, safe: Any) -> None:
    name = hub.publish("tiny/history", {SAFE: safe(weights)})
    newer = weights | {"head.weight": weights["head.weight"] + 1}
    hub.publish(name, {SAFE: safe(newer)}, COMMITS[1])
    for revision, wanted in {"main": newer, COMMITS[1]: newer, COMMITS[0]: weights, "1111111": weights}.items():
        found = online.load(name, revision=revision)
        assert same(found["weights"], wanted, torch.bfloat16), revision
        assert found["commit"] == COMMITS[wanted is newer]


def test_the_papers_model_is_of_one_commit(hub: Hub, online: Client, weights: Any, pickled: Any) -> None:
    commit = "91af9d6" + "0" * 33
    name = hub.publish("RWKV/v6-Finch-1B6-HF", {BIN: pickled(weights)}, commit)
    newer = weights | {"head.weight": weights["head.weight"] + 1}
    hub.publish(name, {BIN: pickled(newer)}, COMMITS[1])
    assert online.load(name)["commit"] == commit
    assert online.load(name, revision="main")["commit"] == COMMITS[1]


@pytest.mark.parametrize("layout", [to_blink, to_fla])
@pytest.mark.parametrize("kind", ["Rwkv6ForCausalLM", "AutoModelForCausalLM"])
def test_other_layouts_load_by_name(hub: Hub, online: Client, weights: Any, safe: Any, layout: Any, kind: str) -> None:
    stated = {"model_type": "rwkv6", "hidden_size": 32, "num_hidden_layers": 3, "vocab_size": 37, "num_heads": 4}
    stated |= {"norm_eps": 1e-5, "proj_low_rank_dim": 5, "gate_low_rank_dim": 6, "expand_k": 1, "expand_v": 1}
    if kind == "AutoModelForCausalLM":
        # That class makes the configuration before any weight is read, so it must state the size of a head.
        stated["head_size"] = 8
    name = hub.publish(f"tiny/{layout.__name__}-{kind}", {"config.json": stated, SAFE: safe(layout(weights))})
    found = online.load(name, kind)
    assert same(found["weights"], weights, torch.bfloat16) and found["finite"]
    assert (found["heads"], found["inner"]) == (4, 96)


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


def test_a_second_load_asks_for_nothing_but_the_commit(hub: Hub, online: Client, weights: Any, pickled: Any) -> None:
    name = hub.publish("tiny/asked", {BIN: pickled(weights)})
    online.load(name)
    before = len(hub.asked)
    online.load(name)
    assert hub.asked[before:] == [f"/{name}/resolve/main/config.json"]


def test_what_is_cached_loads_without_a_network(
    hub: Hub, online: Client, offline: Client, unplugged: Client, weights: Any, pickled: Any, safe: Any
) -> None:
    files = {"pickled": {BIN: pickled(weights)}, "sharded": shards(weights, safe, "model", ".safetensors")}
    for kind, content in files.items():
        name = hub.publish(f"tiny/kept-{kind}", content)
        online.load(name)
        before = len(hub.asked)
        for client in (offline, unplugged):
            found = client.load(name, dtype="float32")
            assert same(found["weights"], weights, torch.float32) and found["commit"] == COMMITS[0]
        assert len(hub.asked) == before
    assert same(online.load(name, local_files_only=True)["weights"], weights, torch.bfloat16)


def test_without_network_or_cache_the_message_says_which(
    hub: Hub, online: Client, offline: Client, unplugged: Client, weights: Any, safe: Any
) -> None:
    name = hub.publish("tiny/never-loaded", {SAFE: safe(weights)})
    said = offline.refusal(name)
    assert "offline, the hub was not asked" in said and str(offline.home) in said and "holds no config.json" in said
    assert "offline, the hub was not asked" in online.refusal(name, local_files_only=True)
    for options in ({}, {"revision": "2222222"}):
        said = unplugged.refusal(name, **options)
        assert "http://127.0.0.1" in said and "cannot be reached" in said


def test_what_the_hub_refuses_is_said_in_a_sentence(hub: Hub, online: Client, weights: Any, safe: Any) -> None:
    name = hub.publish("tiny/here", {SAFE: safe(weights)})
    assert "neither a folder here nor a repository on the hub" in online.refusal("tiny/nowhere")
    assert "neither a folder here nor a repository on the hub" in online.refusal("not a name")
    assert "has no revision '3333333333333333333333333333333333333333'" in online.refusal(name, revision="3" * 40)
    assert "has no revision 'gone'" in online.refusal(name, revision="gone")
    assert "has no commit 3333333" in online.refusal(name, revision="3333333")
    hub.private.add(hub.publish("tiny/private", {SAFE: safe(weights)}))
    assert "give a token" in online.refusal("tiny/private")
    del hub.repositories["tiny/here"][COMMITS[0]][SAFE]
    hub.publish("tiny/empty", {})
    assert "holds no weights: none of model.safetensors, " in online.refusal("tiny/empty")


@pytest.mark.parametrize("file", [BIN, SAFE, "config.json"])
def test_a_broken_download_keeps_nothing_and_can_be_repeated(
    hub: Hub, online: Client, weights: Any, pickled: Any, safe: Any, file: str
) -> None:
    name = hub.publish(f"tiny/broken-{file}", {SAFE: safe(weights)} if file == SAFE else {BIN: pickled(weights)})
    cache = online.home / "hub" / f"models--{name.replace('/', '--')}"
    addresses = {f"/{name}/resolve/{revision}/{file}" for revision in ("main", COMMITS[0])}
    hub.broken |= addresses
    assert f"reading {file} of {name}" in online.refusal(name)
    assert not list(cache.glob(f"snapshots/*/{file}")) and not list(cache.glob("blobs/*.incomplete"))
    assert "error" in online.load(name, local_files_only=True)
    hub.broken -= addresses
    assert same(online.load(name)["weights"], weights, torch.bfloat16)


@pytest.mark.parametrize("kind", ["safetensors", "pickle"])
def test_a_missing_shard_is_named(hub: Hub, online: Client, weights: Any, pickled: Any, safe: Any, kind: str) -> None:
    stem, suffix, write = (
        ("model", ".safetensors", safe) if kind == "safetensors" else ("pytorch_model", ".bin", pickled)
    )
    files = shards(weights, write, stem, suffix)
    lost = f"{stem}-00002-of-00002{suffix}"
    name = hub.publish(f"tiny/lost-{kind}", {file: content for file, content in files.items() if file != lost})
    said = online.refusal(name)
    assert f"{stem}{suffix}.index.json names shards that" in said and lost in said


def test_an_index_cannot_lead_out_of_its_folder(hub: Hub, online: Client, weights: Any, safe: Any) -> None:
    files = shards(weights, safe, "model", ".safetensors")
    for number, target in enumerate(("../../secret.safetensors", "/etc/passwd", 3, None)):
        index = {"weight_map": {"head.weight": target}}
        name = hub.publish(f"tiny/index-{number}", files | {"model.safetensors.index.json": index})
        assert "weight_map must name files beside it" in online.refusal(name)


class Payload:
    """Pickles as a call."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_a_pickle_with_code_is_refused_and_not_run(
    hub: Hub, online: Client, weights: Any, pickled: Any, tmp_path: Path
) -> None:
    trace = tmp_path / "ran"
    loaded = weights | {"head.weight": Payload(trace)}
    for number, content in enumerate((pickled(loaded), pickle.dumps(Payload(trace), protocol=2))):
        name = hub.publish(f"tiny/payload-{number}", {BIN: content})
        for options in ({}, {"weights_only": False}, {"trust_remote_code": True}):
            said = online.refusal(name, **options)
            assert "refused without running it" in said and BIN in said and "posix.mkdir" in said
    assert not trace.exists()


def damage(kind: str, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights, spoilt."""
    name = "rwkv.blocks.1.attention.time_faaaa"
    changed = dict(weights)
    if kind == "missing":
        del changed[name]
    elif kind == "unknown":
        changed["rwkv.blocks.1.attention.time_first"] = torch.zeros(3)
    elif kind == "shape":
        changed[name] = weights[name].flatten()
    elif kind == "headless":
        del changed["head.weight"]
    elif kind == "gate":
        changed["rwkv.blocks.0.gated_shift.gate.weight"] = torch.zeros(3)
    elif kind == "values":
        changed[name] = weights[name] * float("nan")
    elif kind == "anchor":
        del changed["rwkv.blocks.0.attention.time_maa_w2"]
    elif kind == "layer":
        changed = {key: x for key, x in weights.items() if ".blocks.2." not in key}
    elif kind == "vocabulary":
        changed["rwkv.embeddings.weight"] = weights["rwkv.embeddings.weight"][:20].clone()
    elif kind == "foreign":
        changed = {f"transformer.{key}": x for key, x in weights.items()}
    return changed


MESSAGES = {
    "missing": "missing: rwkv.blocks.1.attention.time_faaaa",
    "unknown": "not known: rwkv.blocks.1.attention.time_first",
    "shape": "of another shape: rwkv.blocks.1.attention.time_faaaa (32,), wanted (4, 8)",
    "headless": "missing: head.weight",
    "gate": "holds a gate (rwkv.blocks.0.gated_shift.gate.weight)",
    "values": "infinite or not numbers: rwkv.blocks.1.attention.time_faaaa (torch.bfloat16)",
    "anchor": "no whole RWKV-6: it lacks rwkv.blocks.0.attention.time_maa_w2",
    "layer": "it states num_hidden_layers 3 (2)",
    "vocabulary": "it states vocab_size 37 (20)",
    "foreign": "none of rwkv.embeddings.weight, emb.weight and model.embeddings.weight",
}


@pytest.mark.parametrize("kind", MESSAGES)
@pytest.mark.parametrize("file", [BIN, SAFE])
def test_a_half_network_is_refused(
    hub: Hub, online: Client, weights: Any, pickled: Any, safe: Any, kind: str, file: str
) -> None:
    write = pickled if file == BIN else safe
    name = hub.publish(f"tiny/{kind}-{Path(file).stem}", {file: write(damage(kind, weights))})
    said = online.refusal(name)
    assert MESSAGES[kind] in said and file in said and name in said


def test_values_that_the_dtype_cannot_hold_are_refused(hub: Hub, online: Client, weights: Any, safe: Any) -> None:
    weights["rwkv.blocks.0.attention.key.weight"][0, 0] = 1e6
    name = hub.publish("tiny/large", {SAFE: safe(weights)})
    assert "rwkv.blocks.0.attention.key.weight (torch.float16)" in online.refusal(name, dtype="float16")
    assert same(online.load(name)["weights"], weights, torch.bfloat16)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "pytorch_model.bin is damaged"),
        (b"nothing", "pytorch_model.bin is damaged"),
        ({"model": {}}, "holds dict; a dictionary of tensors by name is read"),
        ([1, 2], "holds list; a dictionary of tensors by name is read"),
    ],
)
def test_files_that_are_no_weights_are_refused(hub: Hub, online: Client, pickled: Any, content: Any, said: str) -> None:
    name = hub.publish(
        f"tiny/junk-{len(str(content))}", {BIN: content if isinstance(content, bytes) else pickled(content)}
    )
    assert said in online.refusal(name)


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


def test_verify_compares_and_says_so(hub: Hub, online: Client, unplugged: Client, tiny_model: Any, safe: Any) -> None:
    model = tiny_model(dtype=torch.float32)
    name = hub.publish("tiny/verified", {SAFE: safe(dict(model.state_dict()))})
    prompt = torch.tensor([[3, 1, 4]])
    logits = model(prompt).logits[0, -1].detach().topk(3)
    golden = {
        "tensors": len(model.state_dict()),
        "prompt": prompt[0].tolist(),
        "logits": {int(i): float(x) for i, x in zip(logits.indices, logits.values, strict=True)},
        "continuation": model.generate(prompt, max_new_tokens=4, do_sample=False)[0, 3:].tolist(),
    }
    arguments = ["--model", name]
    found = online.ask(do="verify", arguments=arguments, golden=golden)
    assert found["code"] == 0 and COMMITS[0] in found["said"] and "DIFFERS" not in found["said"], found
    for key, wrong in {
        "tensors": 7,
        "logits": {token: value + 0.1 for token, value in golden["logits"].items()},
        "continuation": [1, 1, 1, 1],
    }.items():
        found = online.ask(do="verify", arguments=arguments, golden=golden | {key: wrong})
        assert found["code"] == 1 and "DIFFERS" in found["said"], key
    found = online.ask(do="verify", arguments=["--model", "tiny/nowhere"], golden=golden)
    assert found["code"] == 1 and "neither a folder here" in found["said"]
    found = unplugged.ask(do="verify", arguments=["--model", "tiny/not-cached"], golden=golden)
    assert found["code"] == 2 and "cannot be reached" in found["said"] and "Traceback" not in found["said"]
