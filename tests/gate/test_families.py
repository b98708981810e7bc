"""Gates on models of other families: the same behaviours, as far as each family's own code allows them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import RwkvConfig, RwkvForCausalLM

from rwkvgate import GateConfig, load_gate, patch, save_gate, unpatch
from rwkvgate.explore.traces import record_gates
from rwkvgate.gate.families import FAMILIES
from rwkvgate.gate.patch import gates_of, select_trainable
from rwkvgate.gate.validation import SettingsError
from tests.gate.combinations import PAIRS

PAGE = Path(__file__).parents[2] / "docs" / "families.md"
pairs = pytest.mark.parametrize("config", [GateConfig(**fields) for fields in PAIRS.values()], ids=list(PAIRS))


@pytest.fixture
def rwkv4(scramble: Any) -> Callable[..., RwkvForCausalLM]:
    """`rwkv4(config=None, **changes)`: transformers' RWKV-4 of two layers, scrambled, gated where a config is given."""

    def build(config: GateConfig | None = None, **changes: Any) -> RwkvForCausalLM:
        sizes = {"vocab_size": 37, "hidden_size": 16, "num_hidden_layers": 2, "rescale_every": 0}
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = scramble(RwkvForCausalLM(RwkvConfig(**sizes | changes)).eval())
            if config is not None:
                for gate in gates_of(patch(model, config)):
                    scramble(gate, 1)
        return model

    return build


@pairs
def test_rwkv4_reads_whole_in_parts_and_token_by_token(config: GateConfig, rwkv4: Any, tokens: Any) -> None:
    model, ids = rwkv4(config), tokens(1, 11)  # its own single-token step is wrong for more than one sequence
    with torch.no_grad():
        whole = model(ids, use_cache=False).logits
        for sizes in ((4, 7), (1, 10), (1,) * 11):
            state, logits = None, []
            for part in ids.split(sizes, dim=1):
                out = model(part, state=state, use_cache=True)
                state = out.state
                logits.append(out.logits)
            torch.testing.assert_close(torch.cat(logits, dim=1), whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("arm", ["enhanced", "enhanced-recurrent", "conv-routing", "attention-gate", "hierarchical"])
def test_rwkv4_generates_what_a_plain_loop_does(arm: str, rwkv4: Any, tokens: Any) -> None:
    model, ids = rwkv4(GateConfig.preset(arm)), tokens(1, 5)
    found = model.generate(ids, max_new_tokens=7, do_sample=False, eos_token_id=None, pad_token_id=0)
    with torch.no_grad():
        for _ in range(7):
            ids = torch.cat((ids, model(ids, use_cache=False).logits[:, -1:].argmax(-1)), dim=1)
    assert torch.equal(found, ids)


@pairs
def test_rwkv4_is_gated_trained_saved_loaded_and_restored(
    config: GateConfig, rwkv4: Any, tokens: Any, tmp_path: Path
) -> None:
    model, ids = rwkv4(), tokens(1, 9)
    before, names = model(ids).logits, list(model.state_dict())
    patch(model, config)
    chosen = select_trainable(model, "gate-and-norms")
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model.train()(ids, labels=ids).loss.backward()
    optimizer.step()
    model.eval()
    assert {name for name, p in model.named_parameters() if not torch.equal(p, weights[name])} <= set(chosen)
    save_gate(model, tmp_path / "gate", with_norms=True)
    trained = model(ids).logits
    unpatch(model)
    assert list(model.state_dict()) == names
    fresh = load_gate(rwkv4(), tmp_path / "gate")
    assert torch.equal(fresh(ids).logits, trained)
    assert torch.equal(unpatch(fresh)(ids).logits, before)
    assert not any(block._forward_hooks or block._forward_pre_hooks for block in fresh.rwkv.blocks)


def test_rwkv4_gates_are_traced(rwkv4: Any, tokens: Any) -> None:
    model, ids = rwkv4(GateConfig()), tokens(2, 6)
    trace = record_gates(model, ids)
    assert trace.values.shape == (2, 2, 6, 16) and bool(((trace.values >= 0) & (trace.values <= 1)).all())


def test_rwkv4_refuses_what_would_go_wrong(rwkv4: Any, tokens: Any, tiny_model: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"rescale_every is 6.*rescale_every=0"):
        patch(rwkv4(rescale_every=6), GateConfig())
    with pytest.raises(SettingsError, match="site is 'mixers'; on a rwkv4 model it must be output"):
        patch(rwkv4(), GateConfig.preset("ungated-shift"))
    model, ids = rwkv4(GateConfig()), tokens(1, 4)
    state = model(ids, use_cache=True).state
    with pytest.raises(ValueError, match="carries nothing of the gates: it is a copy"):
        model(ids, state=[x.clone() for x in state], use_cache=True)
    with pytest.raises(ValueError, match="from an unpatched model"):
        model(ids, state=rwkv4()(ids, use_cache=True).state, use_cache=True)
    save_gate(model, tmp_path / "gate")
    with pytest.raises(SettingsError, match="for family 'rwkv4'; the model has 'rwkv6'"):
        load_gate(tiny_model(), tmp_path / "gate")


class FlaBlock(nn.Module):
    """A block with the signature of flash-linear-attention's RWKV-7, whose own kernels need a GPU: h + tanh(h W)."""

    def __init__(self, index: int) -> None:
        super().__init__()
        self.layer_idx, self.mixer = index, nn.Linear(8, 8)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool = False,
        output_attentions: bool = False,
        v_first: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
    ) -> tuple[Any, ...]:
        if past_key_values is not None and past_key_values.layers[self.layer_idx].state is None:
            past_key_values.layers[self.layer_idx].state = {}
        return hidden_states + torch.tanh(self.mixer(hidden_states)), None, past_key_values, v_first


class FlaModel(nn.Module):
    """A stack of them."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(hidden_size=8, num_heads=2)
        self.layers = nn.ModuleList(FlaBlock(i) for i in range(2))

    @property
    def base_model(self) -> FlaModel:
        return self

    def forward(self, hidden: Tensor, mask: Tensor | None = None, cache: Any = None, **options: Any) -> Tensor:
        for layer in self.layers:
            hidden, *_ = layer(
                hidden, attention_mask=mask, past_key_values=cache, use_cache=cache is not None, **options
            )
        return hidden


def fla_cache() -> Any:
    """A cache with a dictionary a layer, as that library's."""
    return SimpleNamespace(layers=[SimpleNamespace(state=None) for _ in range(2)])


@pytest.fixture
def fla(monkeypatch: Any, scramble: Any) -> FlaModel:
    """The stand-in, recognised as that library's."""
    monkeypatch.setattr(FlaModel, "__module__", "fla.models.rwkv7.modeling_rwkv7")
    torch.manual_seed(0)
    return scramble(FlaModel().double())


@pairs
def test_fla_blocks_and_caches_carry_gates(config: GateConfig, fla: Any) -> None:
    hidden = torch.randn(2, 9, 8, dtype=torch.float64)
    plain = fla(hidden)
    patch(fla, config)
    with torch.no_grad():
        whole = fla(hidden)
        cache, parts = fla_cache(), []
        for part in hidden.split((4, 1, 4), dim=1):
            parts.append(fla(part, cache=cache))
        torch.testing.assert_close(torch.cat(parts, dim=1), whole)
        kept, seen = cache.layers[1].state["gated_shift"]
        assert kept.shape == (2, gates_of(fla)[0].rows, 8) and seen.tolist() == [9, 9]
        mask = torch.tensor([[0] * 3 + [1] * 6, [1] * 9])
        torch.testing.assert_close(fla(hidden, mask)[:1, 3:], fla(hidden[:1, 3:]))
    assert torch.equal(unpatch(fla)(hidden), plain)


def test_fla_goes_on_from_a_cache_whatever_use_cache_says(fla: Any) -> None:
    patch(fla, GateConfig.preset("hierarchical", segment=4))
    hidden, cache = torch.randn(1, 9, 8, dtype=torch.float64), fla_cache()
    with torch.no_grad():
        whole = fla(hidden)
        fla(hidden[:, :5], cache=cache)
        for layer in fla.layers:
            layer.register_forward_pre_hook(lambda _, a, kw: (a, kw | {"use_cache": False}), with_kwargs=True)
        torch.testing.assert_close(fla(hidden[:, 5:], cache=cache), whole[:, 5:])


def test_fla_refuses_a_cache_without_the_gates_part(fla: Any) -> None:
    hidden, cache = torch.randn(1, 4, 8, dtype=torch.float64), fla_cache()
    for layer in cache.layers:
        layer.state = {"recurrent_state": torch.zeros(1)}
    with pytest.raises(ValueError, match="it is from an unpatched model"):
        patch(fla, GateConfig())(hidden, cache=cache)
    with pytest.raises(ValueError, match="carries a gate of 1 rows, but the model's has 4"):
        cache = fla_cache()
        fla(hidden, cache=cache)
        patch(unpatch(fla), GateConfig.preset("conv-routing"))(hidden, cache=cache)


def test_fla_refuses_documents_packed_into_a_row(fla: Any) -> None:
    patch(fla, GateConfig())
    with pytest.raises(ValueError, match="cu_seqlens packs documents"):
        fla(torch.randn(1, 4, 8, dtype=torch.float64), cu_seqlens=torch.tensor([0, 2, 4]))


def test_the_page_for_an_outside_model_runs() -> None:
    known = list(FAMILIES)
    try:
        namespace: dict[str, Any] = {}
        for code in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL):
            exec(compile(code, str(PAGE), "exec"), namespace)
        assert "mamba" in [family.name for family in FAMILIES]
    finally:
        FAMILIES[:] = known


def test_an_unknown_model_is_told_how_to_be_gated() -> None:
    with pytest.raises(TypeError, match=r"is a Linear; it must be .*write a HookedFamily.*docs/families\.md"):
        patch(nn.Linear(2, 2), GateConfig())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="flash-linear-attention runs on a GPU only")
@pytest.mark.parametrize("version", [6, 7])
@pytest.mark.parametrize("arm", ["enhanced", "enhanced-recurrent", "conv-routing", "attention-gate", "hierarchical"])
def test_fla_on_a_gpu(version: int, arm: str) -> None:
    pytest.importorskip("fla")
    from fla.models import RWKV6Config, RWKV6ForCausalLM, RWKV7Config, RWKV7ForCausalLM

    sizes = {"vocab_size": 64, "hidden_size": 128, "num_hidden_layers": 2}
    if version == 6:
        extra = {"num_heads": 2, "expand_k": 1.0, "expand_v": 1.0}
        model = RWKV6ForCausalLM(RWKV6Config(**sizes, **extra))
    else:
        model = RWKV7ForCausalLM(RWKV7Config(**sizes, head_dim=64))
    model = model.cuda().bfloat16().eval()
    ids = torch.randint(1, 64, (2, 48), device="cuda")
    with torch.no_grad():
        before = model(ids).logits
        patch(model, GateConfig.preset(arm))
        whole = model(ids).logits
        first = model(ids[:, :32], use_cache=True)
        rest = model(ids[:, 32:], past_key_values=first.past_key_values, use_cache=True).logits
        torch.testing.assert_close(rest, whole[:, 32:], rtol=0.05, atol=0.05)
        assert torch.equal(unpatch(model)(ids).logits, before)
