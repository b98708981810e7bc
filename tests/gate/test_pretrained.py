"""A patched model in transformers' own tools: saved whole, loaded by the Auto classes, trained by Trainer."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import Dataset
from transformers import AutoConfig, RwkvConfig, RwkvForCausalLM, Trainer, TrainingArguments

from rwkvgate import GateConfig, Rwkv6ForCausalLM, Rwkv6Model, patch, unpatch
from rwkvgate.gate.config import PRESETS
from rwkvgate.gate.patch import gate_config, gates_of, is_patched, select_trainable
from rwkvgate.rwkv6 import checkpoints
from rwkvgate.rwkv6.files import digest
from rwkvgate.rwkv6.layouts import CheckpointError

LOAD = """
{imports}
folder = {folder!r}
kinds = [type(AutoConfig.from_pretrained(folder)), type(AutoModelForCausalLM.from_pretrained(folder))]
model = AutoModel.from_pretrained(folder)
print([kind.__name__ for kind in kinds] + [type(model).__name__, sum("gated_shift" in x for x in model.state_dict())])
"""
OURS, THEIRS = "import rwkvgate", "from transformers import AutoConfig, AutoModel, AutoModelForCausalLM"


@pytest.mark.parametrize("imports", [(OURS, THEIRS), (THEIRS, OURS)])
def test_the_auto_classes_know_the_model_in_any_order_of_imports(
    imports: tuple[str, str], tiny_model: Any, tmp_path: Path
) -> None:
    tiny_model("enhanced", torch.float32).save_pretrained(tmp_path / "model")
    code = LOAD.format(imports="\n".join(imports), folder=str(tmp_path / "model"))
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.stdout.strip() == "['Rwkv6Config', 'Rwkv6ForCausalLM', 'Rwkv6Model', 12]", run.stderr


def test_the_import_brings_in_neither_torch_nor_transformers() -> None:
    code = "import sys, rwkvgate; print({'torch', 'transformers', 'pydantic'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


@pytest.mark.parametrize("arm", PRESETS)
def test_a_patched_model_comes_back_whole(arm: str, tiny_model: Any, tokens: Any, tmp_path: Path) -> None:
    model, ids = tiny_model(arm, torch.float32), tokens(2, 9)
    model.save_pretrained(tmp_path / "model")
    again = Rwkv6ForCausalLM.from_pretrained(tmp_path / "model")
    assert torch.equal(again(ids).logits, model(ids).logits) and gate_config(again) == gate_config(model)
    assert "gated_shift" not in again.config.to_dict() | model.config.to_dict()
    base = Rwkv6Model.from_pretrained(tmp_path / "model")
    assert torch.equal(base(ids).last_hidden_state, model.rwkv(ids).last_hidden_state)
    unpatch(again).save_pretrained(tmp_path / "base")
    assert not is_patched(Rwkv6ForCausalLM.from_pretrained(tmp_path / "base"))


def test_a_gate_stays_float32_in_a_half_precision_checkpoint(tiny_model: Any, tmp_path: Path) -> None:
    tiny_model("enhanced", torch.float32).to(torch.bfloat16).save_pretrained(tmp_path / "model", max_shard_size="20KB")
    again = Rwkv6ForCausalLM.from_pretrained(tmp_path / "model")
    assert again.dtype == again.head.weight.dtype == torch.bfloat16
    assert {p.dtype for gate in gates_of(again) for p in gate.parameters()} == {torch.float32}


def config(**changes: Any) -> Callable[[Path], Any]:
    """The gates' config in config.json changed; `...` takes a key away."""

    def damage(folder: Path) -> None:
        path = folder / "config.json"
        stated = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({key: value for key, value in stated.items() if value is not ...}))

    return damage


def sealed(**fields: Any) -> dict[str, Any]:
    """A gate's config as `save_pretrained` would write it."""
    return fields | {"seal": digest(fields)}


def weights(change: Callable[[dict[str, Tensor]], Any]) -> Callable[[Path], Any]:
    """The tensors changed in place."""

    def damage(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return damage


FIRST = "rwkv.blocks.0.gated_shift.gating.linear.weight"
DAMAGED = {
    "no config": (config(gated_shift=...), r"holds a gate .* and a plain RWKV-6 would drop it"),
    "a config of text": (config(gated_shift="sigmoid"), "gated_shift in the .* is 'sigmoid'; it must be an object"),
    "a config nested": (config(gated_shift={"taps": [[1]]}), "'taps' of gated_shift .* must be one value"),
    "an unknown gating": (config(gated_shift={"gating": "tanh"}), "gating is 'tanh'"),
    "another gate": (config(gated_shift=sealed(gating="fixed", value=0.5)), "are not this gate's"),
    "other settings of the same shapes": (
        config(gated_shift={"shift": "offset", "offset": 2}),
        "its seal does not fit",
    ),
    "the defaults": (config(gated_shift={}), "its seal does not fit"),
    "a gate missing": (
        weights(lambda x: x.pop(FIRST)),
        "are not this gate's: blocks.0.gated_shift.gating.linear.weight",
    ),
    "all gates missing": (
        weights(lambda x: [x.pop(name) for name in list(x) if "gated_shift" in name]),
        "are not this gate's",
    ),
    "whole numbers": (weights(lambda x: x.update({FIRST: x[FIRST].int()})), "as torch.int32"),
    "not numbers": (weights(lambda x: x[FIRST].fill_(torch.nan)), "values that are no numbers"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_checkpoint_is_refused(name: str, tiny_model: Any, tmp_path: Path) -> None:
    damage, message = DAMAGED[name]
    tiny_model("enhanced", torch.float32).save_pretrained(tmp_path / "model")
    damage(tmp_path / "model")
    with pytest.raises(CheckpointError, match=message):
        Rwkv6ForCausalLM.from_pretrained(tmp_path / "model")


def test_a_checkpoint_is_never_loaded_without_its_gates(
    tiny_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_model("fixed-gate").save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match=r"the config holds gated_shift: it is a patched model's"):
        Rwkv6ForCausalLM(AutoConfig.from_pretrained(tmp_path / "model"))
    monkeypatch.setattr(checkpoints, "attach_gates", None)
    with pytest.raises(CheckpointError, match=r"holds a patched model; import rwkvgate\.gate\.pretrained"):
        Rwkv6ForCausalLM.from_pretrained(tmp_path / "model")


@pytest.mark.parametrize(
    ("target", "message"),
    [(None, "without a gate, and the weights hold one"), ("low-rank", "another gate than that of the weights")],
)
def test_weights_of_another_gate_are_refused_where_names_may_differ(
    target: str | None, message: str, tiny_model: Any
) -> None:
    model = tiny_model(target)
    with pytest.raises(RuntimeError, match=message):
        model.load_state_dict(tiny_model("enhanced").state_dict(), strict=False)
    with pytest.raises(RuntimeError, match="has a gate, and the weights hold none"):
        tiny_model("enhanced").load_state_dict(tiny_model().state_dict(), strict=False)


class Rows(Dataset[dict[str, Tensor]]):
    """Rows of random tokens, which are their own labels."""

    def __init__(self) -> None:
        self.rows = torch.randint(1, 37, (8, 6), generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        return {"input_ids": self.rows[row], "labels": self.rows[row]}


def trained(model: Any, folder: Path, resume: Path | None = None, **options: Any) -> Any:
    """The model after four steps of a stock Trainer, which saves after each two."""
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=4,
        per_device_train_batch_size=2,
        save_steps=2,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        **({"learning_rate": 1e-2} | options),
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=Rows(), eval_dataset=Rows())
    trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    return trainer.model


def rwkv4() -> RwkvForCausalLM:
    """transformers' RWKV-4 of two layers, patched."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 37, "hidden_size": 16, "num_hidden_layers": 2, "rescale_every": 0}
    return patch(RwkvForCausalLM(RwkvConfig(**sizes)), GateConfig())


@pytest.mark.parametrize(("family", "scope"), [("rwkv6", "all"), ("rwkv6", "gate-and-norms"), ("rwkv4", "all")])
def test_a_trainer_saves_and_resumes_to_the_bit(family: str, scope: Any, tiny_model: Any, tmp_path: Path) -> None:
    def build() -> Any:
        model = rwkv4() if family == "rwkv4" else tiny_model("conv-routing", torch.float32)
        select_trainable(model, scope)
        return model

    whole = trained(build(), tmp_path / "whole").state_dict()
    start = build().state_dict()
    assert any("gated_shift" in name and not torch.equal(x, start[name]) for name, x in whole.items())
    resumed = trained(build(), tmp_path / "resumed", tmp_path / "whole" / "checkpoint-2").state_dict()
    assert all(torch.equal(x, resumed[name]) for name, x in whole.items())


def test_the_best_checkpoint_comes_back_with_its_gates(tiny_model: Any, tmp_path: Path) -> None:
    options = {"eval_strategy": "steps", "eval_steps": 2, "load_best_model_at_end": True, "learning_rate": 10.0}
    model = tiny_model("enhanced", torch.float32)
    last = trained(model, tmp_path / "run", **options)
    state = json.loads((tmp_path / "run" / "checkpoint-4" / "trainer_state.json").read_text())
    best = Rwkv6ForCausalLM.from_pretrained(state["best_model_checkpoint"]).state_dict()
    assert all(torch.equal(x, best[name]) for name, x in last.state_dict().items())


def test_another_familys_folder_is_loaded_without_gates_only_with_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rwkv4().save_pretrained(tmp_path / "model")
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    try:
        assert not is_patched(RwkvForCausalLM.from_pretrained(tmp_path / "model"))
    finally:
        logger.removeHandler(caplog.handler)
    assert "UNEXPECTED" in caplog.text and "gated_shift" in caplog.text
