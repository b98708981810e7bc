"""Gated models copied, pickled, cast, moved and kept: what a user does with any other model."""

from __future__ import annotations

import copy
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import RwkvConfig, RwkvForCausalLM

from rwkvgate import GateConfig, Rwkv6ForCausalLM, load_gate, patch, save_gate, unpatch
from rwkvgate.gate.fingerprint import probe_base
from rwkvgate.gate.patch import gates_of, is_patched, select_trainable
from rwkvgate.gate.validation import SettingsError
from rwkvgate.rwkv6.token_shift import TokenShift


def rwkv4(config: GateConfig | None = None) -> RwkvForCausalLM:
    """transformers' RWKV-4 of two layers."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 37, "hidden_size": 16, "num_hidden_layers": 2, "rescale_every": 0}
    model = RwkvForCausalLM(RwkvConfig(**sizes)).eval()
    return model if config is None else patch(model, config)


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
@pytest.mark.parametrize("family", ["rwkv6", "rwkv4"])
def test_a_copy_has_gates_of_its_own(how: str, family: str, tiny_model: Any, tokens: Any) -> None:
    model, ids = (tiny_model("conv-routing") if family == "rwkv6" else rwkv4(GateConfig())), tokens(1, 6)
    before = model(ids).logits
    if how == "deepcopy":
        twin = copy.deepcopy(model)
    else:
        torch.save(model, buffer := io.BytesIO())
        twin = torch.load(io.BytesIO(buffer.getvalue()), weights_only=False)
    with torch.no_grad():
        for gate in gates_of(model):
            for parameter in gate.parameters():
                parameter.zero_()
    assert torch.equal(twin(ids).logits, before) and not torch.equal(model(ids).logits, before)
    with torch.no_grad():
        for gate in gates_of(twin):
            for parameter in gate.parameters():
                parameter.zero_()
    assert torch.equal(twin(ids).logits, model(ids).logits)
    unpatch(twin)
    assert is_patched(model) and not is_patched(twin)
    assert torch.equal(unpatch(model)(ids).logits, twin(ids).logits)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_gate_stays_float32_when_the_model_is_cast(dtype: torch.dtype, tiny_model: Any, tokens: Any) -> None:
    model = patch(tiny_model(dtype=torch.float32), GateConfig.preset("conv-routing"))
    weights = {name: p.clone() for name, p in gates_of(model)[0].named_parameters()}
    model.to(dtype)
    assert model.head.weight.dtype == dtype
    assert all(torch.equal(p, weights[name]) for name, p in gates_of(model)[0].named_parameters())
    assert bool(model(tokens(2, 6)).logits.isfinite().all())
    model.double()
    assert {p.dtype for p in model.parameters()} == {torch.float64}


def test_weights_that_are_not_in_memory_are_refused(tiny_config: Any, tiny_model: Any, tmp_path: Path) -> None:
    folder = save_gate(tiny_model("enhanced"), tmp_path / "gate")
    with torch.device("meta"):
        model = Rwkv6ForCausalLM(tiny_config())
    for call in (lambda: patch(model, GateConfig()), lambda: load_gate(model, folder)):
        with pytest.raises(ValueError, match="not in memory"):
            call()
    assert not is_patched(model)


def test_a_state_keeps_no_more_than_itself(tiny_model: Any, tokens: Any) -> None:
    for arm in ("enhanced", "conv-routing", "hierarchical"):
        with torch.no_grad():
            state = tiny_model(arm)(tokens(1, 300), use_cache=True).past_key_values
        for layer in state.layers:
            kept = (layer.gate, layer.attention_shift, layer.feed_forward_shift)
            assert all(x.untyped_storage().nbytes() == x.numel() * x.element_size() for x in kept)


def test_a_shift_moves_with_its_mask_and_count() -> None:
    shift = TokenShift(torch.tensor([[True, False]]), torch.tensor([3]))
    assert shift.to("cpu", non_blocking=True) is shift
    moved = shift.to("meta")
    assert moved.mask.is_meta and moved.seen.is_meta
    assert TokenShift(None).to("meta").mask is None


def test_every_weight_of_a_deep_base_is_looked_at(tiny_model: Any, tmp_path: Path) -> None:
    sizes = {"num_hidden_layers": 24, "hidden_size": 8, "head_size": 4}
    model = tiny_model("enhanced", **sizes)
    assert set(probe_base(model)) == {name for name, _ in unpatch(copy.deepcopy(model)).rwkv.named_parameters()}
    folder = save_gate(model, tmp_path / "gate")
    for part in ("blocks.13.ln1.weight", "blocks.23.attention.output.weight"):
        other = tiny_model(**sizes)
        with torch.no_grad():
            other.rwkv.get_parameter(part).add_(0.1)
        with pytest.raises(SettingsError, match=part):
            load_gate(other, folder)


def test_a_gate_fits_the_model_with_and_without_its_head(tiny_model: Any, tokens: Any, tmp_path: Path) -> None:
    whole, ids = tiny_model("enhanced"), tokens(1, 5)
    wanted = whole.rwkv(ids).last_hidden_state
    for source, target in ((whole, tiny_model().rwkv), (whole.rwkv, tiny_model())):
        save_gate(source, tmp_path / "gate", with_norms=True)
        loaded = load_gate(target, tmp_path / "gate")
        assert torch.equal(loaded.base_model(ids).last_hidden_state, wanted)


def test_norms_follow_the_model_when_the_gate_comes_off(tiny_model: Any, tokens: Any, tmp_path: Path) -> None:
    model = patch(tiny_model(dtype=torch.float32), GateConfig())
    with torch.no_grad():
        model.rwkv.ln_out.weight.mul_(2)
    folder = save_gate(model, tmp_path / "gate", with_norms=True)
    loaded = load_gate(tiny_model(dtype=torch.float32), folder).double()
    again = save_gate(loaded, tmp_path / "again")  # its norms came with it, and go with it
    assert (again / "gate.safetensors").stat().st_size >= (folder / "gate.safetensors").stat().st_size
    unpatch(loaded)
    assert {p.dtype for p in loaded.parameters()} == {torch.float64}
    torch.testing.assert_close(
        loaded(tokens(1, 4)).logits, tiny_model(dtype=torch.float32).double()(tokens(1, 4)).logits
    )


def test_a_folder_of_something_else_is_left_alone(tiny_model: Any, tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path / "model")
    before = sorted(path.name for path in (tmp_path / "model").iterdir())
    with pytest.raises(SettingsError, match="holds something other than a gate"):
        save_gate(tiny_model("enhanced"), tmp_path / "model")
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == before
    (tmp_path / "empty").mkdir()
    assert save_gate(tiny_model("enhanced"), tmp_path / "empty").is_dir()


def test_other_adapters_beside_the_gate_are_said(tiny_model: Any, tmp_path: Path) -> None:
    from rwkvgate.experiment.lora import add_lora

    model = add_lora(patch(tiny_model(dtype=torch.float32), GateConfig()), parameters=20_000)
    with pytest.raises(ValueError, match=r"carries other adapters too, such as .*lora_"):
        save_gate(model, tmp_path / "gate")
    assert not list(tmp_path.iterdir())


def test_a_misspelt_option_is_refused(tiny_model: Any, tmp_path: Path) -> None:
    folder = save_gate(tiny_model("enhanced"), tmp_path / "gate")
    with pytest.raises(TypeError, match="unknown option 'revison'; allowed are check, revision"):
        load_gate(tiny_model(), folder, revison="main")


@pytest.mark.parametrize(
    "arm", ["enhanced-recurrent", "conv-routing", "attention-gate", "hierarchical", "ungated-shift", "learned-shift"]
)
def test_gradient_checkpointing_changes_nothing(arm: str, tiny_model: Any, tokens: Any) -> None:
    model, ids = tiny_model(arm).train(), tokens(2, 9)
    select_trainable(model, "all")

    def gradients() -> dict[str, torch.Tensor]:
        model.zero_grad()
        model(ids, labels=ids).loss.backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    plain = gradients()
    model.gradient_checkpointing_enable()
    again = gradients()
    assert plain.keys() == again.keys() and all(torch.equal(plain[name], again[name]) for name in plain)


def test_lora_over_all_linear_layers_takes_a_gate_along(tiny_model: Any, tokens: Any) -> None:
    import peft

    for arm in ("enhanced", "per-head", "hierarchical"):
        model = tiny_model(arm, torch.float32)
        before = model(tokens(1, 4)).logits
        adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules="all-linear", r=2))
        assert torch.equal(adapted(tokens(1, 4)).logits, before)


def test_lora_on_the_names_of_the_base_leaves_the_gate_alone(tiny_model: Any, tokens: Any) -> None:
    import peft

    targets = ["receptance", "key", "value", "gate", "output"]
    for arm in ("enhanced", "attention-gate", "conv-routing", "hierarchical", "learned-shift", "low-rank"):
        model = tiny_model(arm, torch.float32)
        before = model(tokens(1, 4)).logits
        adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=targets, r=2))
        assert torch.equal(adapted(tokens(1, 4)).logits, before)
        adapters = [name for name, _ in adapted.named_parameters() if ".lora_" in name]
        assert len(adapters) == 2 * 8 * model.config.num_hidden_layers
        assert not [name for name in adapters if "gated_shift" in name]
