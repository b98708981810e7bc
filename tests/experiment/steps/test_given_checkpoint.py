"""A run on a checkpoint with the World vocabulary, as profile t4 does it, at a size for the CPU."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from rwkvgate import Rwkv6Config, Rwkv6ForCausalLM
from rwkvgate.experiment import order
from rwkvgate.experiment.lora import gate_size
from rwkvgate.experiment.open_run import open_run
from rwkvgate.experiment.run import Run
from rwkvgate.experiment.steps import ensure_arm, ensure_base, ensure_evaluation, ensure_texts
from rwkvgate.experiment.steps.base import read_log
from rwkvgate.gate.validation import SettingsError
from rwkvgate.rwkv6.files import read_json
from rwkvgate.rwkv6.tokenizer import Rwkv6Tokenizer

ARMS = ("base-tuned", "lora-tuned", "enhanced", "identity-start")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the hub would have it: config and weights, bfloat16."""
    folder = tmp_path_factory.mktemp("hub") / "checkpoint"
    torch.manual_seed(0)
    config = Rwkv6Config(hidden_size=32, num_hidden_layers=2, head_size=16, time_mix_rank=4, time_decay_rank=4)
    Rwkv6ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


def opened(folder: Path, checkpoint: Path, **changes: Any) -> Run:
    sections = {
        "model": {"checkpoint": str(checkpoint)} | changes.pop("model", {}),
        "training": {"scope": "gate-and-norms", "steps": 3, "warmup_steps": 1, "eval_every": 3}
        | changes.pop("training", {}),
        "evaluation": {"documents": 3, "new_tokens": 4, "timed_tokens": 3, "latency_repeats": 3},
    }
    return open_run(profile="smoke", run_dir=str(folder), **sections, **changes)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Run:
    return opened(tmp_path_factory.mktemp("run") / "out", checkpoint)


def test_the_base_is_the_checkpoint(run: Run, checkpoint: Path) -> None:
    base = ensure_base(run)
    wanted = Rwkv6ForCausalLM.from_pretrained(checkpoint).state_dict()
    assert all(torch.equal(x, wanted[name]) for name, x in base.state_dict().items())
    assert base.dtype == torch.float32
    assert read_json(run.base / "checkpoint.json")["checkpoint"] == str(checkpoint)
    assert read_json(run.folder / "manifest.json")["checkpoint"]["checkpoint"] == str(checkpoint)
    assert read_log(order.base(run)).steps == 0


def test_texts_are_in_the_world_vocabulary(run: Run) -> None:
    texts = ensure_texts(run)
    assert isinstance(texts.tokenizer, Rwkv6Tokenizer) and texts.tokenizer.bos_token_id == 0
    document = texts.corpus.test[0]
    assert texts.encode_text(document.text) == Rwkv6Tokenizer().encode_batch([document.text])[0]


@pytest.mark.parametrize("arm", ARMS)
def test_an_arm_trains_what_it_may(run: Run, arm: str) -> None:
    base, tuned = ensure_base(run), ensure_arm(run.variant(arm))
    frozen = dict(base.named_parameters())
    moved, added = set(), 0
    for name, parameter in tuned.named_parameters():
        plain = frozen.get(name.replace(".base_layer", ""))
        if plain is None:
            added += parameter.numel()
        elif not torch.equal(plain, parameter):
            moved.add(name)
    assert moved and all(".ln" in name or "pre_ln" in name or "ln_x" in name or "ln_out" in name for name in moved)
    size = gate_size(base)
    if arm == "lora-tuned":
        assert 0.8 * size < added < 1.25 * size
    else:
        assert added == {"base-tuned": 0, "enhanced": size}.get(arm, added)
    assert read_log(order.arm(run.variant(arm))).predicted_bytes > 0


def test_an_arm_is_scored(run: Run) -> None:
    evaluation = ensure_evaluation(run.variant("identity-start"))
    assert isinstance(evaluation.documents, pd.DataFrame) and len(evaluation.samples) == 3
    assert evaluation.documents["value"].notna().all()


def test_what_cannot_run_is_said_before_any_work(tmp_path: Path, checkpoint: Path) -> None:
    missing = opened(tmp_path / "a", tmp_path / "nothing")
    with pytest.raises(SettingsError, match=r"model\.checkpoint .*nothing.* cannot be loaded"):
        ensure_base(missing)
    assert not (tmp_path / "a" / "base").exists()
    if not torch.cuda.is_available():
        with pytest.raises(SettingsError, match="float16 needs a CUDA device"):
            opened(tmp_path / "b", checkpoint, model={"dtype": "float16"})
        assert not (tmp_path / "b").exists()
    with pytest.raises(SettingsError, match=r"model\.hidden_size cannot be set beside model\.checkpoint"):
        opened(tmp_path / "c", checkpoint, model={"hidden_size": 64})
    small = Rwkv6Config(vocab_size=40, hidden_size=32, num_hidden_layers=1, head_size=16)
    Rwkv6ForCausalLM(small).save_pretrained(tmp_path / "small")
    with pytest.raises(SettingsError, match="has 40 entries; the World vocabulary"):
        ensure_base(opened(tmp_path / "d", tmp_path / "small"))


@pytest.mark.parametrize("arm", ["base-tuned", "lora-tuned"])
def test_a_half_base_keeps_what_was_trained_in_float32(tmp_path: Path, checkpoint: Path, arm: str) -> None:
    run = opened(tmp_path / "run", checkpoint, model={"dtype": "bfloat16"})
    tuned = dict(ensure_arm(run.variant(arm)).named_parameters())
    saved = load_file(str(run.variant(arm).folder / "weights.safetensors"))
    assert saved and all(x.dtype == torch.float32 and torch.equal(tuned[name], x) for name, x in saved.items())
    assert tuned["rwkv.embeddings.weight"].dtype == torch.bfloat16


def test_a_folder_that_changed_is_refused(tmp_path: Path, checkpoint: Path) -> None:
    copy = Path(shutil.copytree(checkpoint, tmp_path / "copy"))
    run = opened(tmp_path / "run", copy)
    ensure_base(run)
    Rwkv6ForCausalLM(Rwkv6Config(hidden_size=32, num_hidden_layers=2, head_size=16)).save_pretrained(copy)
    with pytest.raises(SettingsError, match="files have changed"):
        ensure_base(run)
