"""Checkpoints by name, from a hub on this machine that speaks the download protocol of the real one.

What is loaded is compared with what was published, weight by weight; what is wrong must end in one clear
error and leave nothing that a later load would take.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.hub_server import COMMITS, Client, Hub
from tests.rwkv6.published import BIN, MESSAGES, SAFE, Payload, damage, same, shards, to_blink, to_fla


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


def test_a_second_load_asks_for_nothing_but_the_commit(hub: Hub, online: Client, weights: Any, pickled: Any) -> None:
    name = hub.publish("tiny/asked", {BIN: pickled(weights)})
    online.load(name)
    before = len(hub.asked)
    online.load(name)
    assert hub.asked[before:] == [f"/api/models/{name}/revision/main"]


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
    assert "offline, the hub was not asked" in said and str(offline.home) in said and "lacks files" in said
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
    assert f"downloading {name}" in online.refusal(name)
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
