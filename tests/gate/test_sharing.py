"""Gates put on a hub of this machine and taken from it by name; and what stands in their folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from rwkvgate import GateAbout, GateConfig, load_gate, patch, save_gate, unpatch
from rwkvgate.gate import storage
from rwkvgate.gate.fingerprint import norm_parameters
from rwkvgate.gate.patch import gates_of, select_trainable
from rwkvgate.gate.validation import SettingsError
from tests.hub_server import Client, Hub

WRITES = {"token": "let-me-in"}


@pytest.fixture(scope="module")
def client(hub: Hub, online: Client) -> Client:
    """A process that reaches a hub which lets one token write."""
    hub.token = WRITES["token"]
    return online


@pytest.mark.parametrize("arm", ["enhanced", "conv-routing", "fixed-gate"])
def test_a_gate_goes_to_the_hub_in_one_commit_and_comes_back(arm: str, hub: Hub, client: Client) -> None:
    name = f"me/{arm}"
    pushed = client.ask(do="push", name=name, arm=arm, options=WRITES)
    assert pushed["address"].startswith(f"{hub.address}/{name}/commit/")
    (files,) = hub.repositories[name].values()
    assert sorted(files) == ["README.md", "gate.json", "gate.safetensors"]
    pulled = client.ask(do="pull", name=name, options={})
    assert pulled["logits"] == pushed["logits"]
    assert not any("let-me-in" in content.decode("latin-1") for content in files.values())


def test_a_name_without_owner_and_a_second_version(hub: Hub, client: Client) -> None:
    first = client.ask(do="push", name="twice", arm="enhanced", options=WRITES)
    second = client.ask(do="push", name="me/twice", arm="no-layer-norm", options=WRITES)
    assert len(hub.repositories["me/twice"]) == 2
    commit = first["address"].rpartition("/")[2]
    assert client.ask(do="pull", name="me/twice", options={"revision": commit})["logits"] == first["logits"]
    assert client.ask(do="pull", name="me/twice", options={})["logits"] == second["logits"]


def test_what_the_hub_refuses_is_said_and_nothing_is_committed(hub: Hub, client: Client) -> None:
    def said(**request: Any) -> str:
        answer = client.ask(**request)
        assert "error" in answer and "let-me-in" not in answer["message"], answer
        return f"{answer['error']}: {answer['message']}"

    assert "CheckpointError" in (found := said(do="push", name="me/closed", arm="enhanced", options={"token": "wrong"}))
    assert "give a token of an account that may write there" in found
    hub.broken.add("me/full")
    assert "no space left" in (found := said(do="push", name="me/full", arm="enhanced", options=WRITES))
    assert "Nothing was committed" in found and not hub.repositories["me/full"]
    assert 'must be "owner/name"' in said(do="push", name="a b/c", arm="enhanced", options=WRITES)
    asked = len(hub.asked)
    assert "not patched" in said(do="push", name="me/none", arm=None, options=WRITES)
    assert len(hub.asked) == asked
    assert "neither a folder here nor a repository" in said(do="pull", name="me/nowhere", options={})
    hub.publish("me/model", {})
    assert "holds no gate.json" in said(do="pull", name="me/model", options={})


def test_the_record_names_base_corpus_training_and_results(tiny_model: Any, tmp_path: Path) -> None:
    model = tiny_model("enhanced")
    model.config._name_or_path, model.config._commit_hash = "owner/base", "1" * 40
    about = GateAbout("stories | <b>of two</b> genres", {"steps": 440}, {"perplexity": 2.5341234}, "apache-2.0")
    folder = save_gate(model, tmp_path / "gate", about)
    record = json.loads((folder / storage.CONFIG).read_text())
    assert record["base"]["model"] == "owner/base" and record["base"]["revision"] == "1" * 40
    assert record["about"]["training"] == {"steps": 440}
    card = (folder / storage.CARD).read_text()
    header = yaml.safe_load(card.split("---")[1])
    assert header["base_model"] == "owner/base" and header["license"] == "apache-2.0"
    assert "&lt;b&gt;" in card and "<b>" not in card and "| perplexity | 2.53412 |" in card
    assert "`owner/base` at revision" in card


def test_a_place_on_this_machine_is_not_told(tiny_model: Any, tmp_path: Path) -> None:
    model = tiny_model("enhanced")
    model.config._name_or_path = str(tmp_path / "secret-base")
    folder = save_gate(model, tmp_path / "gate")
    assert not any("secret-base" in path.read_text("latin-1") for path in folder.iterdir())


def test_what_cannot_be_written_is_refused_before_a_file_is(tiny_model: Any, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        save_gate(tiny_model("enhanced"), tmp_path / "gate", GateAbout(training={"device": torch.device("cpu")}))
    assert not list(tmp_path.iterdir())


def test_another_base_is_refused_with_nothing_changed(tiny_model: Any, tokens: Any, tmp_path: Path) -> None:
    folder, ids = save_gate(tiny_model("enhanced"), tmp_path / "gate"), tokens(1, 5)
    other = tiny_model(seed=3)
    before = other(ids).logits
    with pytest.raises(SettingsError, match=r"is for another base: .* holds .* where its base has .* check=False"):
        load_gate(other, folder)
    assert torch.equal(other(ids).logits, before) and not gates_of(other)
    assert gates_of(load_gate(other, folder, check=False))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_same_base_in_another_type_is_taken(dtype: torch.dtype, tiny_model: Any, tmp_path: Path) -> None:
    folder = save_gate(tiny_model("enhanced"), tmp_path / "gate")
    assert gates_of(load_gate(tiny_model().to(dtype), folder))


def test_norms_trained_with_the_gate_come_and_go_with_it(tiny_model: Any, tokens: Any, tmp_path: Path) -> None:
    model, ids = tiny_model(dtype=torch.float32), tokens(2, 9)
    before = model(ids).logits
    patch(model, GateConfig.preset("enhanced"))
    select_trainable(model, "gate-and-norms")
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-1)
    model(ids, labels=ids).loss.backward()
    optimizer.step()
    trained = model(ids).logits
    alone = save_gate(model, tmp_path / "alone", with_norms=False)
    with pytest.raises(SettingsError, match="is for another base"):  # a gate without the norms it was trained with
        load_gate(tiny_model(dtype=torch.float32), alone)
    folder = save_gate(model, tmp_path / "gate")  # by default with norms that alone of the base are trained
    fresh = load_gate(tiny_model(dtype=torch.float32), folder)
    assert torch.equal(fresh(ids).logits, trained)
    assert torch.equal(unpatch(fresh)(ids).logits, before)
    record = json.loads((folder / storage.CONFIG).read_text()) | {"norms": False}
    (folder / storage.CONFIG).write_text(json.dumps(record | {"seal": storage._seal(record)}))
    with pytest.raises(SettingsError, match=r"not this gate's: base\."):
        load_gate(tiny_model(dtype=torch.float32), folder)


def test_the_norms_are_all_the_norms(tiny_model: Any) -> None:
    model = tiny_model("enhanced")
    own = [m for m in model.modules() if isinstance(m, (nn.LayerNorm, nn.GroupNorm))]
    assert len(norm_parameters(model)) == 2 * (len(own) - len(gates_of(model)))
