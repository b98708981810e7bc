"""The network: against the equations in plain loops, and against itself cut up in every way."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModelForCausalLM

from rwkvgate import Rwkv6Config, Rwkv6ForCausalLM, Rwkv6State
from rwkvgate.gate.config import ARMS
from rwkvgate.rwkv6.modeling import Rwkv6Model
from rwkvgate.rwkv6.state import LayerState

GATED = [None, *(name for name, arm in ARMS.items() if arm.gate)]
PATCHED = pytest.mark.parametrize("arm", GATED)
FIELDS = ("attention_shift", "wkv", "feed_forward_shift", "gate")

ROUNDING = {torch.float64: 1e-11, torch.float32: 2e-4}
"""Largest difference allowed, relative to the largest magnitude of what is compared; the scrambled
weights make activations, and with them float32's rounding, larger than a trained network's."""


def assert_states_close(found: Rwkv6State, wanted: Rwkv6State, tolerance: float, relative_error: Callable) -> None:
    for ours, theirs in zip(found.layers, wanted.layers, strict=True):
        for name in FIELDS:
            x, y = getattr(ours, name), getattr(theirs, name)
            assert (x is None) == (y is None), name
            assert x is None or relative_error(x, y) <= tolerance, name


def flat(state: Rwkv6State) -> list[Tensor]:
    return [x for layer in state.layers for name in FIELDS if (x := getattr(layer, name)) is not None]


# --- the equations ---------------------------------------------------------------------------------


def reference_logits(weights: dict[str, Tensor], config: Rwkv6Config, ids: list[int]) -> Tensor:
    """The network's equations, token by token for one sequence, from weights under the hub's names."""

    def layer_norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean()
        return centred / (centred.square().mean() + 1e-5).sqrt() * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def time_mixing(x: Tensor, previous: Tensor, state: Tensor, at: str) -> tuple[Tensor, Tensor]:
        p = {name.removeprefix(at): value for name, value in weights.items() if name.startswith(at)}
        delta = previous - x
        z = torch.tanh((x + delta * p["time_maa_x"][0, 0]) @ p["time_maa_w1"]).view(5, -1)
        mixed = {
            q: x + delta * (p[f"time_maa_{q}"][0, 0] + z[i] @ p["time_maa_w2"][i]) for i, q in enumerate("wkvrg")
        }
        r, k, v = (p[f"{name}.weight"] @ mixed[name[0]] for name in ("receptance", "key", "value"))
        gate = p["gate.weight"] @ mixed["g"]
        d = p["time_decay"][0, 0] + torch.tanh(mixed["w"] @ p["time_decay_w1"]) @ p["time_decay_w2"]
        w = torch.exp(-torch.exp(d))
        size, outs, left = config.head_size, [], []
        for h in range(len(r) // size):
            part = slice(h * size, (h + 1) * size)
            written = torch.outer(k[part], v[part])
            y = r[part] @ (state[h] + p["time_faaaa"][h][:, None] * written)
            left.append(w[part][:, None] * state[h] + written)
            y = y - y.mean()
            outs.append(y / (y.square().mean() + 1e-5 * config.head_size_divisor**2).sqrt())
        y = torch.cat(outs) * p["ln_x.weight"] + p["ln_x.bias"]
        return p["output.weight"] @ (y * gate * torch.sigmoid(gate)), torch.stack(left)

    def channel_mixing(x: Tensor, previous: Tensor, at: str) -> Tensor:
        p = {name.removeprefix(at): value for name, value in weights.items() if name.startswith(at)}
        xk, xr = (x + (previous - x) * p[f"time_maa_{q}"][0, 0] for q in "kr")
        key = torch.relu(p["key.weight"] @ xk) ** 2
        return torch.sigmoid(p["receptance.weight"] @ xr) * (p["value.weight"] @ key)

    layers, width = config.num_hidden_layers, config.hidden_size
    size = config.head_size
    zeros = [torch.zeros(width, dtype=torch.float64) for _ in range(layers)]
    shifts, others = list(zeros), list(zeros)
    heads = config.attention_hidden_size // size
    states = [torch.zeros(heads, size, size, dtype=torch.float64) for _ in range(layers)]
    logits = []
    for token in ids:
        x = layer_norm(weights["rwkv.embeddings.weight"][token], "rwkv.blocks.0.pre_ln")
        for i in range(layers):
            at = f"rwkv.blocks.{i}"
            normed = layer_norm(x, f"{at}.ln1")
            added, states[i] = time_mixing(normed, shifts[i], states[i], f"{at}.attention.")
            shifts[i], x = normed, x + added
            normed = layer_norm(x, f"{at}.ln2")
            x = x + channel_mixing(normed, others[i], f"{at}.feed_forward.")
            others[i] = normed
        logits.append(weights["head.weight"] @ layer_norm(x, "rwkv.ln_out"))
    return torch.stack(logits)


@pytest.mark.parametrize("changes", [{}, {"attention_hidden_size": 48, "intermediate_size": 20}], ids=["", "odd sizes"])
def test_logits_match_the_equations_in_plain_loops(
    tiny_model: Any, tokens: Any, relative_error: Callable, changes: dict[str, int]
) -> None:
    model, ids = tiny_model(**changes), tokens(2, 23)
    found = model(ids).logits
    weights = {name: x.detach() for name, x in model.state_dict().items()}
    for row in range(2):
        wanted = reference_logits(weights, model.config, ids[row].tolist())
        assert relative_error(found[row], wanted) <= ROUNDING[torch.float64]


# --- names, sizes and the start --------------------------------------------------------------------


def hub_shapes(config: Rwkv6Config) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the hub checkpoint's tensors at these sizes."""
    C, A, F_, V = config.hidden_size, config.attention_hidden_size, config.intermediate_size, config.vocab_size
    mix, decay = config.time_mix_rank, config.time_decay_rank
    block: dict[str, tuple[int, ...]] = {f"{n}.{p}": (C,) for n in ("ln1", "ln2") for p in ("weight", "bias")}
    block |= {f"attention.time_maa_{q}": (1, 1, C) for q in "xwkvrg"}
    block |= {"attention.time_maa_w1": (C, 5 * mix), "attention.time_maa_w2": (5, mix, C)}
    block |= {"attention.time_decay": (1, 1, A), "attention.time_decay_w1": (C, decay)}
    block |= {"attention.time_decay_w2": (decay, A), "attention.time_faaaa": (A // config.head_size, config.head_size)}
    block |= {f"attention.{n}.weight": (A, C) for n in ("receptance", "key", "value", "gate")}
    block |= {"attention.output.weight": (C, A), "attention.ln_x.weight": (A,), "attention.ln_x.bias": (A,)}
    block |= {"feed_forward.time_maa_k": (1, 1, C), "feed_forward.time_maa_r": (1, 1, C)}
    block |= {"feed_forward.key.weight": (F_, C), "feed_forward.receptance.weight": (C, C)}
    block |= {"feed_forward.value.weight": (C, F_)}
    shapes: dict[str, tuple[int, ...]] = {"rwkv.embeddings.weight": (V, C), "head.weight": (V, C)}
    shapes |= {f"rwkv.{n}.{p}": (C,) for n in ("blocks.0.pre_ln", "ln_out") for p in ("weight", "bias")}
    for i in range(config.num_hidden_layers):
        shapes |= {f"rwkv.blocks.{i}.{name}": shape for name, shape in block.items()}
    return shapes


HUB_1B6 = {
    "attention_hidden_size": 2048,
    "head_size": 64,
    "head_size_divisor": 8,
    "hidden_size": 2048,
    "intermediate_size": None,
    "layer_norm_epsilon": 1e-5,
    "num_attention_heads": 64,
    "num_hidden_layers": 24,
    "rescale_every": 6,
    "vocab_size": 65536,
}
"""The keys of the published 1.6 B network's config, wrong head count included."""


def test_names_and_shapes_are_the_hub_checkpoints(tiny_model: Any) -> None:
    model = tiny_model()
    assert {name: tuple(x.shape) for name, x in model.state_dict().items()} == hub_shapes(model.config)


def test_the_published_network_has_its_published_size() -> None:
    config = Rwkv6Config(**HUB_1B6)
    assert (config.intermediate_size, config.num_attention_heads) == (7168, 32)
    assert (config.time_mix_rank, config.time_decay_rank) == (32, 64)
    with torch.device("meta"):
        weights = Rwkv6ForCausalLM(config).state_dict()
    assert {name: tuple(x.shape) for name, x in weights.items()} == hub_shapes(config)
    assert len(weights) == 678
    assert weights["rwkv.blocks.7.attention.time_maa_w1"].shape == (2048, 160)
    assert sum(x.numel() for x in weights.values()) == pytest.approx(1.60e9, rel=0.005)


def test_ranks_of_the_widest_networks_are_doubled() -> None:
    config = Rwkv6Config(hidden_size=4096)
    assert (config.time_mix_rank, config.time_decay_rank, config.intermediate_size) == (64, 128, 14336)


def is_orthogonal(matrix: Tensor, gain: float) -> bool:
    matrix = matrix.double() / gain
    square = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    return torch.allclose(square, torch.eye(len(square), dtype=torch.float64), atol=1e-5)


@pytest.mark.parametrize(("layers", "vocabulary"), [(3, 37), (1, 20)])
def test_a_new_network_starts_by_the_published_recipe(tiny_config: Any, layers: int, vocabulary: int) -> None:
    model = Rwkv6ForCausalLM(tiny_config(num_hidden_layers=layers, vocab_size=vocabulary))
    weights = {name: x.detach() for name, x in model.state_dict().items()}
    C = model.config.hidden_size
    n = [float(i) for i in range(C)]
    gain = 0.5 * math.sqrt(vocabulary / C) if vocabulary > C else 0.5
    assert is_orthogonal(weights["head.weight"], gain)
    emb = weights["rwkv.embeddings.weight"]
    assert 0.5e-4 < float(emb.abs().max()) <= 1e-4
    for l in range(layers):
        r0 = l / (layers - 1) if layers > 1 else 0.0
        r1 = 1 - l / layers
        formulas = {f"attention.time_maa_{q}": [1 - (i / C) ** r1 for i in n] for q in "xwk"}
        formulas["attention.time_maa_v"] = [1 - ((i / C) ** r1 + 0.3 * r0) for i in n]
        formulas |= {f"attention.time_maa_{q}": [1 - (i / C) ** (0.5 * r1) for i in n] for q in "rg"}
        formulas["attention.time_decay"] = [-6 + 5 * (i / (C - 1)) ** (0.7 + 1.3 * r0) for i in n]
        formulas["attention.time_faaaa"] = [r0 * (1 - i / (C - 1)) + 0.1 * ((i + 1) % 3 - 1) for i in n]
        formulas |= {f"feed_forward.time_maa_{q}": [1 - (i / C) ** (r1**3) for i in n] for q in "kr"}
        formulas["attention.ln_x.weight"] = [((1 + l) / layers) ** 0.7] * C
        here = {name.removeprefix(f"rwkv.blocks.{l}."): x for name, x in weights.items() if f"blocks.{l}." in name}
        for name, values in formulas.items():
            torch.testing.assert_close(here[name].flatten(), torch.tensor(values), rtol=1e-5, atol=1e-6, msg=name)
        zero = ("attention.time_maa_w1", "attention.time_decay_w1", "attention.output.weight")
        for name in (*zero, "feed_forward.value.weight", "feed_forward.receptance.weight"):
            assert not here[name].any(), name
        for name in ("attention.time_maa_w2", "attention.time_decay_w2"):
            assert 0.005 < float(here[name].abs().max()) <= 0.01, name
        gains = {"receptance": 1.0, "value": 1.0, "key": 0.1, "gate": 0.1}
        assert all(is_orthogonal(here[f"attention.{name}.weight"], gain) for name, gain in gains.items())
        assert is_orthogonal(here["feed_forward.key.weight"], 1.0)
        for name, x in here.items():
            if name.startswith("ln") or "pre_ln" in name or name == "attention.ln_x.bias":
                assert torch.equal(x, torch.full_like(x, float(name.endswith("weight")))), name


def test_every_block_starts_as_the_identity(tiny_config: Any, tokens: Any) -> None:
    model, ids = Rwkv6ForCausalLM(tiny_config()).eval(), tokens(1, 9)
    first = model.rwkv.blocks[0].pre_ln(model.rwkv.embeddings(ids))
    assert torch.equal(model(ids).logits, model.head(model.rwkv.ln_out(first)))


# --- whole, split, one at a time -------------------------------------------------------------------


@PATCHED
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("cuts", [[20], [1], [16, 32], list(range(1, 37))], ids=["halves", "1", "chunks", "each"])
def test_whole_equals_parts_with_carried_state(
    tiny_model: Any, tokens: Any, relative_error: Callable, arm: str | None, dtype: torch.dtype, cuts: list[int]
) -> None:
    model, ids = tiny_model(arm, dtype), tokens(2, 37)
    whole, state, parts = model(ids, use_cache=True), None, []
    for piece in ids.tensor_split(cuts, dim=1):
        out = model(piece, past_key_values=state, use_cache=True)
        state = out.past_key_values
        parts.append(out.logits)
    assert relative_error(torch.cat(parts, dim=1), whole.logits) <= ROUNDING[dtype]
    assert_states_close(state, whole.past_key_values, ROUNDING[dtype], relative_error)


@PATCHED
def test_the_state_given_is_not_changed(tiny_model: Any, tokens: Any, arm: str | None) -> None:
    model = tiny_model(arm)
    state = model(tokens(2, 9), use_cache=True).past_key_values
    before = [x.clone() for x in flat(state)]
    first = model(tokens(2, 7, 1), past_key_values=state, use_cache=True).logits
    model(tokens(2, 1, 2), past_key_values=state, use_cache=True)
    assert all(torch.equal(x, y) for x, y in zip(flat(state), before, strict=True))
    assert torch.equal(model(tokens(2, 7, 1), past_key_values=state).logits, first)


@PATCHED
def test_gradients_flow_through_the_carried_state(
    tiny_model: Any, tokens: Any, relative_error: Callable, arm: str | None
) -> None:
    model, ids = tiny_model(arm).train(), tokens(2, 12)
    weights = list(model.parameters())

    def gradients(logits: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(logits[:, -3:].square().sum(), weights)

    whole = gradients(model(ids).logits)
    state = model(ids[:, :7], use_cache=True).past_key_values
    split = gradients(model(ids[:, 7:], past_key_values=state).logits)
    for found, wanted in zip(split, whole, strict=True):
        assert relative_error(found, wanted) <= 1e-9
    cut = gradients(model(ids[:, 7:], past_key_values=state.detach()).logits)
    assert any(relative_error(found, wanted) > 1e-3 for found, wanted in zip(cut, whole, strict=True))


def test_a_long_sequence_is_read_without_growing(tiny_model: Any) -> None:
    model = tiny_model(dtype=torch.float32, num_hidden_layers=1, hidden_size=16)
    ids = torch.randint(1, 37, (1, 100_000), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        out = model(ids, logits_to_keep=5, use_cache=True)
        tail = model(ids[:, -2000:], logits_to_keep=5)
    assert bool(out.logits.isfinite().all())
    assert sum(x.numel() for x in flat(out.past_key_values)) == 2 * 16 + 16 * 8
    assert tail.logits.shape == out.logits.shape


# --- padding ---------------------------------------------------------------------------------------


def padded(ids: Tensor, pattern: str) -> tuple[Tensor, Tensor]:
    """Tokens laid out by a pattern of x (the next token) and . (padding), with the mask."""
    mask = torch.tensor([[mark == "x" for mark in pattern]])
    laid = torch.zeros(1, len(pattern), dtype=torch.long)
    laid[mask] = ids[0, : int(mask.sum())]
    return laid, mask.long()


PATTERNS = {
    "left": "........xxxxxxxxxxxxxxxx",
    "right": "xxxxxxxxx...............",
    "middle": "xxxxx......xxx.....xxxxx",
    "all ends": "..x.xxxx.xxx...xxxxxx...",
    "first only": "x.......................",
    "last only": ".......................x",
    "none": "xxxxxxxxxxxxxxxxxxxxxxxx",
}


@PATCHED
@pytest.mark.parametrize("carried", [False, True], ids=["fresh", "carried"])
def test_padded_rows_equal_the_rows_alone(
    tiny_model: Any, tokens: Any, relative_error: Callable, arm: str | None, carried: bool
) -> None:
    model, ids = tiny_model(arm), tokens(1, 24, 3)
    states = [
        model(tokens(1, 5, i), use_cache=True).past_key_values if carried else None for i in range(len(PATTERNS))
    ]
    rows, masks = (torch.cat(x) for x in zip(*(padded(ids, p) for p in PATTERNS.values()), strict=True))
    together = model(
        rows,
        attention_mask=masks,
        past_key_values=Rwkv6State.concatenate(states) if carried else None,
        use_cache=True,
    )
    for i, name in enumerate(PATTERNS):
        real = masks[i].bool()
        alone = model(ids[:, : int(real.sum())], past_key_values=states[i], use_cache=True)
        assert relative_error(together.logits[i][real], alone.logits[0]) <= ROUNDING[torch.float64], name
        ours = together.past_key_values.select([i])
        assert_states_close(ours, alone.past_key_values, ROUNDING[torch.float64], relative_error)


@PATCHED
def test_what_stands_at_padding_does_not_matter(tiny_model: Any, tokens: Any, arm: str | None) -> None:
    model, (ids, mask) = tiny_model(arm), padded(tokens(1, 24), PATTERNS["all ends"])
    other = torch.where(mask.bool(), ids, 5)
    found, wanted = (model(x, attention_mask=mask, use_cache=True) for x in (other, ids))
    assert torch.equal(found.logits[mask.bool()], wanted.logits[mask.bool()])
    assert all(map(torch.equal, flat(found.past_key_values), flat(wanted.past_key_values)))


@PATCHED
def test_a_longer_mask_is_read_from_its_end(
    tiny_model: Any, tokens: Any, relative_error: Callable, arm: str | None
) -> None:
    model, ids = tiny_model(arm), tokens(2, 12)
    mask = torch.ones(2, 12, dtype=torch.long)
    mask[0, :6], mask[1, 7:9] = 0, 0
    whole = model(ids, attention_mask=mask, use_cache=True)
    state = model(ids[:, :4], attention_mask=mask[:, :4], use_cache=True).past_key_values
    rest = model(ids[:, 4:], attention_mask=mask, past_key_values=state, use_cache=True)
    real = mask[:, 4:].bool()
    assert relative_error(rest.logits[real], whole.logits[:, 4:][real]) <= ROUNDING[torch.float64]
    assert_states_close(rest.past_key_values, whole.past_key_values, ROUNDING[torch.float64], relative_error)


@PATCHED
def test_a_row_of_padding_alone_keeps_its_state(tiny_model: Any, tokens: Any, arm: str | None) -> None:
    model, ids = tiny_model(arm), tokens(2, 6)
    mask = torch.ones(2, 6, dtype=torch.long)
    mask[1] = 0
    state = model(tokens(2, 5, 1), use_cache=True).past_key_values
    out = model(ids, attention_mask=mask, past_key_values=state, use_cache=True)
    assert bool(out.logits.isfinite().all())
    assert all(map(torch.equal, flat(out.past_key_values.select([1])), flat(state.select([1]))))
    fresh = model(ids, attention_mask=mask, use_cache=True).past_key_values.select([1])
    assert not any(bool(x.any()) for x in flat(fresh))


def test_a_mask_of_ones_is_no_mask(tiny_model: Any, tokens: Any) -> None:
    model, ids = tiny_model(), tokens(2, 9)
    assert torch.equal(model(ids, attention_mask=torch.ones_like(ids)).logits, model(ids).logits)


# --- outputs ---------------------------------------------------------------------------------------


def test_the_loss_is_the_cross_entropy_of_the_next_token(tiny_model: Any, tokens: Any) -> None:
    model, ids = tiny_model(dtype=torch.float32), tokens(2, 15)
    labels = ids.clone()
    labels[0, :6] = -100
    out = model(ids, labels=labels)
    targets = labels[:, 1:]
    logs = torch.log_softmax(out.logits[:, :-1].float(), dim=-1)
    scored = [(b, t) for b in range(2) for t in range(14) if targets[b, t] != -100]
    wanted = -sum(float(logs[b, t, targets[b, t]]) for b, t in scored) / len(scored)
    assert float(out.loss) == pytest.approx(wanted, rel=1e-5)


def test_logits_to_keep(tiny_model: Any, tokens: Any) -> None:
    model, ids = tiny_model(), tokens(2, 9)
    whole = model(ids).logits
    torch.testing.assert_close(model(ids, logits_to_keep=2).logits, whole[:, -2:])
    torch.testing.assert_close(model(ids, logits_to_keep=torch.tensor([0, 5])).logits, whole[:, [0, 5]])


def test_hidden_states_and_tuples(tiny_model: Any, tokens: Any) -> None:
    model, ids = tiny_model(), tokens(2, 9)
    out = model(ids, output_hidden_states=True, use_cache=False)
    assert len(out.hidden_states) == model.config.num_hidden_layers + 1
    assert torch.equal(out.hidden_states[0], model.rwkv.embeddings(ids))
    assert torch.equal(model.head(out.hidden_states[-1]), out.logits)
    assert out.past_key_values is None
    (logits,) = model(ids, use_cache=False, return_dict=False)
    assert torch.equal(logits, out.logits)


def test_a_state_is_returned_where_asked_for_and_not_in_training(tiny_model: Any, tokens: Any) -> None:
    model, ids = tiny_model(), tokens(1, 4)
    assert model(ids).past_key_values is not None
    assert model.train()(ids).past_key_values is None
    assert model(ids, use_cache=True).past_key_values is not None


def test_embeddings_stand_in_for_ids(tiny_model: Any, tokens: Any) -> None:
    model, ids = tiny_model(), tokens(2, 9)
    assert torch.equal(model(inputs_embeds=model.rwkv.embeddings(ids)).logits, model(ids).logits)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@PATCHED
def test_half_precision_is_near_and_keeps_the_state_in_float32(
    tiny_model: Any, tokens: Any, dtype: torch.dtype, arm: str | None
) -> None:
    ids = tokens(2, 30)
    model, exact = tiny_model(arm, dtype), tiny_model(arm)
    out = model(ids, use_cache=True)
    assert out.logits.dtype == dtype and bool(out.logits.isfinite().all())
    assert all(layer.wkv.dtype == torch.float32 for layer in out.past_key_values.layers)
    agreement = F.cosine_similarity(out.logits.double().flatten(), exact(ids).logits.flatten(), dim=0)
    assert agreement > 0.99


@PATCHED
def test_autocast_runs_forward_and_backward(tiny_model: Any, tokens: Any, arm: str | None) -> None:
    model, ids = tiny_model(arm, torch.float32), tokens(2, 30)
    with torch.autocast("cpu", torch.bfloat16):
        out = model(ids, labels=ids, use_cache=True)
    out.loss.backward()
    assert all(layer.wkv.dtype == torch.float32 for layer in out.past_key_values.layers)
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())


# --- files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("loader", [Rwkv6ForCausalLM, AutoModelForCausalLM], ids=["class", "auto"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_saving_and_loading_is_exact(
    tiny_model: Any, tokens: Any, tmp_path: Any, loader: Any, dtype: torch.dtype
) -> None:
    model, ids = tiny_model(dtype=dtype, num_hidden_layers=2), tokens(2, 9)
    model.save_pretrained(tmp_path)
    again = loader.from_pretrained(tmp_path, dtype="auto").eval()
    assert type(again) is Rwkv6ForCausalLM and not again.training
    assert again.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(x, again.state_dict()[name]) for name, x in model.state_dict().items())
    assert again.config.to_dict() | {"_name_or_path": ""} == model.config.to_dict() | {"_name_or_path": ""}
    assert torch.equal(again(ids).logits, model(ids).logits)


def test_weights_load_by_name_from_a_plain_state_dict(tiny_model: Any, tmp_path: Any) -> None:
    # The hub's checkpoint is one pickled dictionary of tensors.
    model = tiny_model(dtype=torch.float32)
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    again = Rwkv6ForCausalLM.from_pretrained(tmp_path)
    assert all(torch.equal(x, again.state_dict()[name]) for name, x in model.state_dict().items())


def test_tied_embeddings(tiny_config: Any, tokens: Any, tmp_path: Any) -> None:
    model = Rwkv6ForCausalLM(tiny_config(tie_word_embeddings=True)).eval()
    assert model.head.weight is model.rwkv.embeddings.weight
    model.save_pretrained(tmp_path)
    again = Rwkv6ForCausalLM.from_pretrained(tmp_path).eval()
    assert again.head.weight is again.rwkv.embeddings.weight
    assert torch.equal(again(tokens(1, 5)).logits, model(tokens(1, 5)).logits)


def test_the_model_can_be_copied(tiny_model: Any, tokens: Any) -> None:
    model = tiny_model("enhanced")
    assert torch.equal(copy.deepcopy(model)(tokens(1, 5)).logits, model(tokens(1, 5)).logits)


# --- errors ----------------------------------------------------------------------------------------


def refuses(model: Any, *parts: str, **inputs: Any) -> None:
    with pytest.raises(ValueError) as error:
        model(**inputs)
    assert all(part in str(error.value) for part in parts), str(error.value)


def test_inputs_that_cannot_be_are_refused(tiny_model: Any, tokens: Any) -> None:
    model, ids = tiny_model(), tokens(2, 4)
    embeds = model.rwkv.embeddings(ids)
    refuses(model, "either input_ids or inputs_embeds")
    refuses(model, "either input_ids or inputs_embeds", input_ids=ids, inputs_embeds=embeds)
    refuses(model, "(2, 0)", "at least one token", input_ids=ids[:, :0])
    refuses(model, "(4,)", "(batch, time)", input_ids=ids[0])
    refuses(model, "(2, 0, 32)", inputs_embeds=embeds[:, :0])
    for shape in ((2, 3), (1, 4), (8,), (2, 1, 4)):
        refuses(model, str(shape), "(2, 4)", input_ids=ids, attention_mask=torch.ones(shape))


def test_states_that_do_not_fit_are_refused(tiny_model: Any, tokens: Any) -> None:
    model, patched, ids = tiny_model(), tiny_model("enhanced"), tokens(2, 4)
    state, gated = (m(ids, use_cache=True).past_key_values for m in (model, patched))
    refuses(model, "list", "Rwkv6State", input_ids=ids, past_key_values=[state])
    refuses(model, "3 layers of 1", "3 layers of 2", input_ids=ids, past_key_values=state.select([0]))
    refuses(model, "2 layers of 2", "3 layers", input_ids=ids, past_key_values=Rwkv6State(state.layers[:2]))
    refuses(model, "layer 0", "carries a gate", "has none", input_ids=ids, past_key_values=gated)
    refuses(patched, "layer 0", "carries no gate", "has one", input_ids=ids, past_key_values=state)
    refuses(model, "0 layers", "3 layers", input_ids=ids, past_key_values=Rwkv6State([]))


@pytest.mark.parametrize("key", ["vocab_size", "hidden_size", "num_hidden_layers", "head_size", "head_size_divisor"])
def test_sizes_below_one_are_refused(tiny_config: Any, key: str) -> None:
    with pytest.raises(Exception, match=rf"{key} is 0; it must be at least 1"):
        tiny_config(**{key: 0})


@pytest.mark.parametrize(
    "key", ["attention_hidden_size", "intermediate_size", "time_mix_rank", "time_decay_rank"]
)
def test_optional_sizes_below_one_are_refused(tiny_config: Any, key: str) -> None:
    with pytest.raises(Exception, match=rf"{key} is -8; it must be at least 1"):
        tiny_config(**{key: -8})


def test_heads_that_do_not_divide_are_refused(tiny_config: Any) -> None:
    with pytest.raises(Exception, match="attention_hidden_size is 30; it must be a multiple of head_size, 8"):
        tiny_config(hidden_size=30)


def test_the_bare_model_gives_hidden_states(tiny_model: Any, tokens: Any) -> None:
    model = tiny_model()
    bare: Rwkv6Model = model.rwkv
    out = bare(tokens(1, 6), use_cache=True)
    assert torch.equal(model.head(out.last_hidden_state), model(tokens(1, 6)).logits)
    assert isinstance(out.past_key_values.layers[0], LayerState)
