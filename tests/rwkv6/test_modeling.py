"""The network against equations written out in plain loops, and against itself cut up and padded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModelForCausalLM

from rwkvgate import GateConfig, Rwkv6Config, Rwkv6ForCausalLM, Rwkv6Model, Rwkv6State, patch
from tests.conftest import ROUNDING

ARMS = [None, "enhanced", "no-layer-norm", "fixed-gate"]
SINGLE = 3e-5
"""The same in float32: on the kernels of older processors the largest difference is 2.4e-5. float64 has `ROUNDING`."""
TOLERANCE = {torch.float64: ROUNDING, torch.float32: SINGLE}


def plain_forward(model: Rwkv6ForCausalLM, ids: list[int]) -> Tensor:
    """Logits of one sequence, token by token, from the published equations and the hub's names."""
    weights, config = dict(model.named_parameters()), model.config
    heads, size = config.num_attention_heads, config.head_size
    width = config.hidden_size
    layers = range(config.num_hidden_layers)
    att_shift, ffn_shift, gate_shift = ([torch.zeros(width, dtype=torch.float64) for _ in layers] for _ in range(3))
    states = [torch.zeros(heads, size, size, dtype=torch.float64) for _ in layers]
    rows = []

    def norm(x: Tensor, name: str, epsilon: float = 1e-5) -> Tensor:
        return F.layer_norm(x, (width,), weights[f"{name}.weight"], weights[f"{name}.bias"], epsilon)

    for token in ids:
        h = weights["rwkv.embeddings.weight"][token]
        for i in layers:
            block = f"rwkv.blocks.{i}"
            if i == 0:
                h = norm(h, f"{block}.pre_ln", config.layer_norm_epsilon)
            x = norm(h, f"{block}.ln1", config.layer_norm_epsilon)
            h = h + plain_attention(weights, f"{block}.attention", x, att_shift[i], states[i], model)
            att_shift[i] = x
            x = norm(h, f"{block}.ln2", config.layer_norm_epsilon)
            name = f"{block}.feed_forward"
            mixed = [x + (ffn_shift[i] - x) * weights[f"{name}.time_maa_{m}"].flatten() for m in "kr"]
            key = torch.relu(weights[f"{name}.key.weight"] @ mixed[0]) ** 2
            h = h + torch.sigmoid(weights[f"{name}.receptance.weight"] @ mixed[1]) * (
                weights[f"{name}.value.weight"] @ key
            )
            ffn_shift[i] = x
            gate = model.rwkv.blocks[i].gated_shift
            if gate is not None:
                g = gate.config.value
                if g is None:
                    g = torch.sigmoid(gate.gating.linear.weight @ h + gate.gating.linear.bias)
                before, gate_shift[i] = gate_shift[i], h
                h = h + g * before
                if gate.norm is not None:
                    h = norm(h, f"{block}.gated_shift.norm")
        rows.append(weights["head.weight"] @ norm(h, "rwkv.ln_out"))
    return torch.stack(rows)


def plain_attention(weights: Any, name: str, x: Tensor, before: Tensor, state: Tensor, model: Any) -> Tensor:
    """Time mixing of one token; `state` is updated in place."""
    config, delta = model.config, before - x
    heads, size = config.num_attention_heads, config.head_size

    def get(part: str) -> Tensor:
        return weights[f"{name}.{part}"]

    z = torch.tanh((x + delta * get("time_maa_x").flatten()) @ get("time_maa_w1")).view(5, -1)
    mixed = {}
    for slot, letter in enumerate("wkvrg"):
        share = get(f"time_maa_{letter}").flatten() + z[slot] @ get("time_maa_w2")[slot]
        mixed[letter] = x + delta * share
    r, k, v = (
        (get(f"{part}.weight") @ mixed[letter]).view(heads, size)
        for part, letter in (("receptance", "r"), ("key", "k"), ("value", "v"))
    )
    decay = get("time_decay").flatten() + torch.tanh(mixed["w"] @ get("time_decay_w1")) @ get("time_decay_w2")
    w, u = torch.exp(-torch.exp(decay)).view(heads, size), get("time_faaaa")
    out = []
    for head in range(heads):
        kv = torch.outer(k[head], v[head])
        read = r[head] @ (state[head] + u[head][:, None] * kv)
        state[head] = w[head][:, None] * state[head] + kv
        centred = read - read.mean()
        out.append(centred / torch.sqrt((centred**2).mean() + config.group_norm_epsilon))
    y = torch.cat(out) * get("ln_x.weight") + get("ln_x.bias")
    return get("output.weight") @ (y * F.silu(get("gate.weight") @ mixed["g"]))


@pytest.mark.parametrize("changes", [{}, {"attention_hidden_size": 48, "head_size": 8, "layer_norm_epsilon": 0.1}])
@pytest.mark.parametrize("arm", ARMS)
def test_matches_the_equations(
    tiny_model: Any, tokens: Any, relative_error: Callable, arm: str | None, changes: dict[str, Any]
) -> None:
    model, ids = tiny_model(arm, **changes), tokens(1, 21)
    with torch.no_grad():
        wanted = plain_forward(model, ids[0].tolist())
        assert relative_error(model(ids).logits[0], wanted) < 1e-10


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_whole_equals_parts_and_single_tokens(
    tiny_model: Any, tokens: Any, relative_error: Callable, arm: str | None, dtype: torch.dtype
) -> None:
    model, ids = tiny_model(arm, dtype), tokens(2, 37)
    with torch.no_grad():
        whole = model(ids, use_cache=True)
        for sizes in ((20, 17), (1, 36), (36, 1), (1,) * 37):
            state, logits = None, []
            for part in ids.split(sizes, dim=1):
                out = model(part, past_key_values=state, use_cache=True)
                state = out.past_key_values
                logits.append(out.logits)
            assert relative_error(torch.cat(logits, 1), whole.logits) < TOLERANCE[dtype]
            for here, there in zip(state.layers, whole.past_key_values.layers, strict=True):
                assert relative_error(here.wkv, there.wkv) < TOLERANCE[dtype]
                assert relative_error(here.attention_shift, there.attention_shift) < TOLERANCE[dtype]
                assert (here.gate is None) == (arm is None)


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("side", ["left", "right", "both"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_padded_rows_give_what_they_give_alone(
    tiny_model: Any, tokens: Any, relative_error: Callable, arm: str | None, side: str, dtype: torch.dtype
) -> None:
    model, lengths = tiny_model(arm, dtype), (19, 7, 1)
    longest = max(lengths) + (2 if side == "both" else 0)
    ids, mask = torch.zeros(3, longest, dtype=torch.long), torch.zeros(3, longest, dtype=torch.long)
    rows = [tokens(1, length, seed=length) for length in lengths]
    starts = [{"left": longest - n, "right": 0, "both": 1}[side] for n in lengths]
    for i, (row, start) in enumerate(zip(rows, starts, strict=True)):
        ids[i, start : start + row.shape[1]] = row
        mask[i, start : start + row.shape[1]] = 1
    with torch.no_grad():
        together = model(ids, attention_mask=mask, use_cache=True)
        following = model(tokens(3, 3, seed=9), past_key_values=together.past_key_values)
        for i, (row, start) in enumerate(zip(rows, starts, strict=True)):
            alone = model(row, use_cache=True)
            found = together.logits[i : i + 1, start : start + row.shape[1]]
            assert relative_error(found, alone.logits) < TOLERANCE[dtype]
            after = model(tokens(3, 3, seed=9)[i : i + 1], past_key_values=alone.past_key_values)
            assert relative_error(following.logits[i : i + 1], after.logits) < TOLERANCE[dtype]


@pytest.mark.parametrize("arm", [None, "enhanced"])
def test_a_padded_continuation_leaves_a_state_alone(
    tiny_model: Any, tokens: Any, relative_error: Callable, arm: str | None
) -> None:
    model, start = tiny_model(arm), tokens(2, 6)
    mask = torch.tensor([[0, 0, 0], [0, 1, 1]])
    with torch.no_grad():
        state = model(start, use_cache=True).past_key_values
        out = model(tokens(2, 3, seed=3), attention_mask=mask, past_key_values=state, use_cache=True)
        for kept, before in zip(out.past_key_values.layers, state.layers, strict=True):
            assert torch.equal(kept.wkv[0], before.wkv[0])
            assert torch.equal(kept.attention_shift[0], before.attention_shift[0])
        alone = model(tokens(2, 3, seed=3)[1:, 1:], past_key_values=state.select([1]))
    assert relative_error(out.logits[1:, 1:], alone.logits) < ROUNDING


def test_a_forward_pass_does_not_change_its_state(tiny_model: Any, tokens: Any) -> None:
    model = tiny_model("enhanced")
    with torch.no_grad():
        state = model(tokens(2, 5), use_cache=True).past_key_values
        before = [layer.wkv.clone() for layer in state.layers]
        first = model(tokens(2, 4, seed=1), past_key_values=state).logits
        assert all(torch.equal(layer.wkv, kept) for layer, kept in zip(state.layers, before, strict=True))
        assert torch.equal(model(tokens(2, 4, seed=1), past_key_values=state).logits, first)


@pytest.mark.parametrize("arm", [None, "enhanced"])
def test_gradients_flow_through_the_state(
    tiny_model: Any, tokens: Any, relative_error: Callable, arm: str | None
) -> None:
    model, ids = tiny_model(arm).train(), tokens(2, 12)

    def gradients(sizes: tuple[int, ...]) -> dict[str, Tensor]:
        model.zero_grad()
        state, total = None, torch.zeros((), dtype=torch.float64)
        for part in ids.split(sizes, dim=1):
            out = model(part, past_key_values=state, use_cache=True)
            state, total = out.past_key_values, total + out.logits.square().sum()
        total.backward()
        return {name: p.grad.clone() for name, p in model.named_parameters()}

    whole, parts = gradients((12,)), gradients((5, 7))
    assert all(relative_error(parts[name], whole[name]) < 1e-9 for name in whole)
    assert whole["rwkv.blocks.0.attention.time_decay"].abs().max() > 0


def test_a_long_sequence_equals_its_parts(tiny_model: Any, tokens: Any, relative_error: Callable) -> None:
    model, ids = tiny_model("enhanced", torch.float32, num_hidden_layers=1), tokens(1, 20_000)
    with torch.inference_mode():
        whole = model(ids, use_cache=True, logits_to_keep=1)
        state = None
        for part in ids.split(6_666, dim=1):
            out = model(part, past_key_values=state, use_cache=True, logits_to_keep=1)
            state = out.past_key_values
    assert torch.isfinite(whole.logits).all()
    assert relative_error(out.logits, whole.logits) < SINGLE


def test_loss_is_the_shifted_cross_entropy(tiny_model: Any, tokens: Any) -> None:
    model, ids = tiny_model(), tokens(2, 9)
    labels = ids.clone()
    labels[0, 4:] = -100
    out = model(ids, labels=labels)
    wanted = F.cross_entropy(out.logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=-100)
    assert out.loss.item() == pytest.approx(wanted.item(), rel=1e-6)


def test_logits_to_keep_and_hidden_states(tiny_model: Any, tokens: Any, relative_error: Callable) -> None:
    model, ids = tiny_model(), tokens(2, 9)
    full = model(ids, output_hidden_states=True)
    assert relative_error(model(ids, logits_to_keep=2).logits, full.logits[:, -2:]) < ROUNDING
    assert len(full.hidden_states) == model.config.num_hidden_layers + 1
    assert torch.equal(model.head(full.hidden_states[-1]), full.logits)


def test_saved_and_loaded_bit_for_bit(tiny_model: Any, tokens: Any, tmp_path: Any) -> None:
    model, ids = tiny_model(dtype=torch.float32), tokens(2, 9)
    model.save_pretrained(tmp_path)
    for loaded in (Rwkv6ForCausalLM.from_pretrained(tmp_path), AutoModelForCausalLM.from_pretrained(tmp_path)):
        assert isinstance(loaded, Rwkv6ForCausalLM)
        assert torch.equal(loaded.eval()(ids).logits, model(ids).logits)
        assert loaded.config.hidden_size == model.config.hidden_size


def test_the_1b6_checkpoints_names_and_shapes() -> None:
    config = Rwkv6Config(hidden_size=2048, num_hidden_layers=24, num_attention_heads=64)
    assert (config.num_attention_heads, config.intermediate_size) == (32, 7168)
    with torch.device("meta"):
        model = Rwkv6ForCausalLM(config)
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    assert len(shapes) == 678 == len(model.state_dict())
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(1.60e9, rel=0.005)
    block = "rwkv.blocks.23."
    expected = {
        "rwkv.embeddings.weight": (65536, 2048),
        "rwkv.blocks.0.pre_ln.weight": (2048,),
        "rwkv.ln_out.bias": (2048,),
        "head.weight": (65536, 2048),
        block + "ln2.bias": (2048,),
        block + "attention.time_maa_g": (1, 1, 2048),
        block + "attention.time_maa_w1": (2048, 160),
        block + "attention.time_maa_w2": (5, 32, 2048),
        block + "attention.time_decay": (1, 1, 2048),
        block + "attention.time_decay_w1": (2048, 64),
        block + "attention.time_decay_w2": (64, 2048),
        block + "attention.time_faaaa": (32, 64),
        block + "attention.output.weight": (2048, 2048),
        block + "attention.ln_x.weight": (2048,),
        block + "feed_forward.key.weight": (7168, 2048),
        block + "feed_forward.receptance.weight": (2048, 2048),
        block + "feed_forward.value.weight": (2048, 7168),
        block + "feed_forward.time_maa_r": (1, 1, 2048),
    }
    assert {name: shapes[name] for name in expected} == expected


def test_initialisation_follows_the_recipe(tiny_config: Any) -> None:
    config = tiny_config()
    model, layers, width = Rwkv6ForCausalLM(config), config.num_hidden_layers, config.hidden_size
    n = torch.arange(width, dtype=torch.float32)
    for i, block in enumerate(model.rwkv.blocks):
        r0, r1, a = i / (layers - 1), 1 - i / layers, n / width
        att, ffn = block.attention, block.feed_forward
        recipe = {
            att.time_maa_x: 1 - a**r1,
            att.time_maa_v: 1 - (a**r1 + 0.3 * r0),
            att.time_maa_g: 1 - a ** (0.5 * r1),
            att.time_decay: -6 + 5 * (n / (width - 1)) ** (0.7 + 1.3 * r0),
            att.time_faaaa: r0 * (1 - n / (width - 1)) + 0.1 * ((n + 1) % 3 - 1),
            att.ln_x.weight: torch.full((width,), ((1 + i) / layers) ** 0.7),
            ffn.time_maa_k: 1 - a ** (r1**3),
        }
        for parameter, wanted in recipe.items():
            torch.testing.assert_close(parameter.detach().flatten(), wanted)
        for zero in (att.output.weight, ffn.value.weight, ffn.receptance.weight, att.time_maa_w1, att.time_decay_w1):
            assert not zero.any()
        assert 0 < att.time_maa_w2.abs().max() <= 0.01
        torch.testing.assert_close(att.key.weight @ att.key.weight.T, 0.01 * torch.eye(width), atol=1e-5, rtol=0)
        torch.testing.assert_close(att.value.weight @ att.value.weight.T, torch.eye(width), atol=1e-5, rtol=0)
    assert model.rwkv.embeddings.weight.abs().max() <= 1e-4
    gain = 0.5 * (config.vocab_size / width) ** 0.5
    torch.testing.assert_close(model.head.weight.T @ model.head.weight, gain**2 * torch.eye(width), atol=1e-5, rtol=0)


def test_one_layer_runs(tiny_model: Any, tokens: Any) -> None:
    assert torch.isfinite(tiny_model(num_hidden_layers=1)(tokens(1, 3)).logits).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_finite_and_near(tiny_model: Any, tokens: Any, dtype: torch.dtype) -> None:
    model, ids = tiny_model("enhanced", torch.float32), tokens(2, 20)
    wanted = model(ids).logits
    for block in model.rwkv.blocks:
        gate = block.gated_shift
        block.gated_shift = None
        block.to(dtype)
        block.gated_shift = gate
    model.rwkv.embeddings.to(dtype), model.rwkv.ln_out.to(dtype), model.head.to(dtype)
    found = model(ids, use_cache=True)
    assert found.past_key_values.layers[0].wkv.dtype == torch.float32
    assert (found.logits.float() - wanted).abs().max() < 0.3 * wanted.abs().max()


def test_bad_input_is_refused(tiny_model: Any, tokens: Any) -> None:
    model, gated, ids = tiny_model(), tiny_model("enhanced"), tokens(2, 4)
    state = model(ids, use_cache=True).past_key_values
    cases: list[tuple[str, dict[str, Any]]] = [
        ("at least one token", {"input_ids": ids[:, :0]}),
        ("either input_ids or inputs_embeds", {}),
        (r"attention_mask is \(2, 3\)", {"input_ids": ids, "attention_mask": torch.ones(2, 3)}),
        (r"attention_mask is \(1, 4\)", {"input_ids": ids, "attention_mask": torch.ones(1, 4)}),
        ("past_key_values is a tuple", {"input_ids": ids, "past_key_values": ()}),
        ("3 layers of 2 sequences", {"input_ids": ids[:1], "past_key_values": state}),
        ("the call needs 3 layers", {"input_ids": ids, "past_key_values": Rwkv6State(state.layers[:2])}),
    ]
    for message, arguments in cases:
        with pytest.raises(ValueError, match=message):
            model(**arguments)
    with pytest.raises(ValueError, match="carries no gate, but the model has a gate of 1 row"):
        gated(ids, past_key_values=state)
    with pytest.raises(ValueError, match="carries a gate of 1 row, but the model has no gate"):
        model(ids, past_key_values=gated(ids, use_cache=True).past_key_values)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"head_size": 7}, "multiple of head_size, 7"), ({"num_hidden_layers": 0}, "must be at least 1")],
)
def test_impossible_sizes_are_refused(tiny_config: Any, changes: dict[str, int], message: str) -> None:
    with pytest.raises(Exception, match=message):
        tiny_config(**changes)


def test_the_bare_model_can_be_patched(tiny_config: Any, tokens: Any) -> None:
    model = patch(Rwkv6Model(tiny_config()).eval(), GateConfig.preset("enhanced"))
    assert torch.isfinite(model(tokens(1, 5)).last_hidden_state).all()
