"""Every gate of the family: the layer against the oracle, and the list of behaviours that all of them share."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from rwkvgate import GateConfig, load_gate, patch, save_gate, unpatch
from rwkvgate.gate.layer import GatedShift
from rwkvgate.gate.patch import gates_of, select_trainable
from rwkvgate.metrics.cost import gate_cost, preset_table
from rwkvgate.rwkv6.token_shift import TokenShift
from tests.conftest import ROUNDING
from tests.gate.combinations import COMBINATIONS, PAIRS, SPREAD, plain_gate

SMALL = {"num_hidden_layers": 2, "hidden_size": 16, "head_size": 4}

every = pytest.mark.parametrize("config", COMBINATIONS.values(), ids=list(COMBINATIONS))
spread = pytest.mark.parametrize("config", SPREAD.values(), ids=list(SPREAD))
pairs = pytest.mark.parametrize("config", [GateConfig(**fields) for fields in PAIRS.values()], ids=list(PAIRS))
OFTEN = {"attention", "previous, hierarchical", "convolution, routing"}
"""Beside every shift with a sigmoid, what `make test` differentiates numerically; `make test-slow` takes all pairs."""
pairs_of_often = pytest.mark.parametrize(
    "config",
    [
        pytest.param(
            GateConfig(**fields),
            id=name,
            marks=() if name in OFTEN or name.endswith("sigmoid") else pytest.mark.slow,
        )
        for name, fields in PAIRS.items()
    ],
)


@pytest.fixture
def layer(scramble: Any) -> Callable[..., GatedShift]:
    """`layer(config, channels)`: a gate with every weight drawn at random, in float64."""

    def build(config: GateConfig, channels: int = 8) -> GatedShift:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return scramble(GatedShift(config, channels).double())

    return build


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers in float64."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@every
def test_the_layer_is_its_equations(config: GateConfig, layer: Any, relative_error: Any) -> None:
    gate, hidden = layer(config), draw(2, 13, 8)
    with torch.no_grad():
        found, carried = gate(hidden, TokenShift(None), None)
        for row in range(2):
            assert relative_error(found[row], plain_gate(gate, hidden[row])) < ROUNDING
    window, read = gate.config.window, found if config.shift == "recurrent" else hidden
    assert carried.shape == (2, gate.rows, 8) and torch.equal(carried[:, :window], read[:, 13 - window :])


@every
def test_whole_equals_parts_and_single_tokens(config: GateConfig, layer: Any, relative_error: Any) -> None:
    gate, hidden = layer(config), draw(2, 23, 8)
    with torch.no_grad():
        whole, last = gate(hidden, TokenShift(None), None)
        for sizes in ((9, 14), (1, 21, 1), (1,) * 23):
            carried, seen, parts = None, None, []
            for part in hidden.split(sizes, dim=1):
                tokens = TokenShift(None, seen)
                out, carried = gate(part, tokens, carried)
                seen = tokens.seen_after(part)
                parts.append(out)
            assert relative_error(torch.cat(parts, 1), whole) < ROUNDING
            assert relative_error(carried, last) < ROUNDING


@every
def test_padding_anywhere_gives_what_the_row_gives_alone(config: GateConfig, layer: Any, relative_error: Any) -> None:
    gate = layer(config)
    marks = ["......xxxxxxxxxxx", "xxxxxxxxx........", "xx...xxxx..x.xxxx", ".................", "xxxxxxxxxxxxxxxxx"]
    mask = torch.tensor([[mark == "x" for mark in row] for row in marks])
    hidden, before = draw(5, 17, 8), draw(5, 6, 8, seed=1)
    with torch.no_grad():
        started = TokenShift(mask[:, :6])
        _, carried = gate(before, started, None)  # rows of unequal pasts
        tokens = TokenShift(mask, started.seen_after(before))
        found, kept = gate(hidden, tokens, carried)
        for row in range(5):
            alone = torch.cat((before[row, mask[row, :6]], hidden[row, mask[row]]))
            past = int(mask[row, :6].sum())
            if not len(alone):
                assert not kept[row].any() and bool(found[row].isfinite().all())
                continue
            wanted, wanted_kept = gate(alone[None], TokenShift(None), None)
            if len(alone) > past:
                assert relative_error(found[row, mask[row]], wanted[0, past:]) < ROUNDING
            assert relative_error(kept[row], wanted_kept[0]) < ROUNDING


@pairs_of_often
def test_gradients_match_finite_differences(config: GateConfig, layer: Any) -> None:
    """Of all pairs the next test compares gradients with the oracle's."""
    gate = layer(config, 4)
    hidden, carried = draw(1, 6, 4).requires_grad_(), draw(1, gate.rows, 4, seed=1).requires_grad_()
    parameters = tuple(gate.parameters())
    tokens = TokenShift(None, torch.tensor([2]))

    def run(h: Tensor, c: Tensor, *_: Tensor) -> tuple[Tensor, Tensor]:
        return gate(h, tokens, c)

    assert torch.autograd.gradcheck(run, (hidden, carried, *parameters), atol=1e-6)


@pairs
def test_gradients_are_those_of_the_equations(config: GateConfig, layer: Any, relative_error: Any) -> None:
    gate, hidden, slope = layer(config), draw(1, 9, 8).requires_grad_(), draw(9, 8, seed=1)
    found = torch.autograd.grad(
        (gate(hidden, TokenShift(None), None)[0][0] * slope).sum(), [hidden, *gate.parameters()]
    )
    wanted = torch.autograd.grad((plain_gate(gate, hidden[0]) * slope).sum(), [hidden, *gate.parameters()])
    assert all(relative_error(*pair) < 1e-11 for pair in zip(found, wanted, strict=True))


@spread
def test_a_model_reads_whole_or_token_by_token(
    config: GateConfig, tiny_model: Any, tokens: Any, relative_error: Any
) -> None:
    model, ids = tiny_model(config, **SMALL), tokens(2, 9)
    with torch.no_grad():
        whole = model(ids, use_cache=True)
        state, logits = None, []
        for token in ids.split(1, dim=1):
            out = model(token, past_key_values=state, use_cache=True)
            state = out.past_key_values
            logits.append(out.logits)
    assert relative_error(torch.cat(logits, 1), whole.logits) < 1e-10
    cost = gate_cost(config, 16, 4)
    assert all(layer.gate[0].numel() == cost.state for layer in state.layers)
    assert state.seen.tolist() == [9, 9]


@spread
def test_left_padding_and_beams(config: GateConfig, tiny_model: Any, tokens: Any) -> None:
    """By two beams, whose states are reordered too; greedily test_generate.py does it with the presets."""
    model, options = tiny_model(config, **SMALL), {"max_new_tokens": 4, "eos_token_id": None, "pad_token_id": 0}
    options |= {"num_beams": 2, "do_sample": False}
    rows = [tokens(1, n, seed=n) for n in (6, 2)]
    ids = torch.cat([nn.functional.pad(row, (6 - row.shape[1], 0)) for row in rows])
    found = model.generate(ids, attention_mask=(ids != 0).long(), **options)
    for i, row in enumerate(rows):
        plain = model.generate(row, attention_mask=torch.ones_like(row), use_cache=False, **options)
        assert torch.equal(found[i, 6:], plain[0, row.shape[1] :])


def starts_as_base(config: GateConfig) -> bool:
    """Whether a freshly patched network gives the base's results, bit for bit."""
    adds_nothing = config.layer_scale == 0 or config.value == 0 or config.first_tap == 0
    return config.norm == "none" and adds_nothing and (config.gating != "routing" or config.layer_scale == 0)


@spread
def test_it_is_put_on_trained_saved_loaded_and_taken_off(
    config: GateConfig, tiny_model: Any, tokens: Any, tmp_path: Any
) -> None:
    model, ids = tiny_model(dtype=torch.float32, **SMALL), tokens(2, 9)
    before, names = model(ids).logits, list(model.state_dict())
    patch(model, config)
    assert torch.equal(model(ids).logits, before) == starts_as_base(config)
    added = {name for name, _ in model.named_parameters()} - set(names)
    assert all(any(part in name for part in (".gating.", ".gate_")) or ".norm." in name for name in added)
    chosen = select_trainable(model, "gate-and-norms")
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(2):  # behind a factor of 0 a gate learns from the second step
        model(ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, weights[name])}
    assert added <= set(chosen) and changed == set(chosen)
    save_gate(model, tmp_path / "gate", with_norms=False)  # the base below keeps the norms that were trained
    trained = model(ids).logits
    base = {name: p for name, p in model.named_parameters() if name not in added}
    unpatch(model)
    assert list(model.state_dict()) == names
    load_gate(model, tmp_path / "gate")
    assert torch.equal(model(ids).logits, trained)
    with torch.no_grad():
        for name, parameter in base.items():
            parameter.copy_(weights[name])
    assert torch.equal(unpatch(model)(ids).logits, before)


@spread
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_finite(config: GateConfig, dtype: torch.dtype, tiny_model: Any, tokens: Any) -> None:
    model = patch(tiny_model(dtype=dtype, **SMALL), config)
    assert {p.dtype for gate in gates_of(model) for p in gate.parameters()} <= {torch.float32}
    assert bool(model(tokens(2, 20)).logits.isfinite().all())


@spread
def test_autocast_stays_close(config: GateConfig, tiny_model: Any, tokens: Any) -> None:
    wide = patch(tiny_model(dtype=torch.float32, **SMALL), config)
    out = wide(tokens(2, 20), labels=tokens(2, 20))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = wide(tokens(2, 20), labels=tokens(2, 20))
    assert abs((half.loss - out.loss).item()) < 0.1


@every
def test_cost_is_what_the_config_predicts(config: GateConfig) -> None:
    channels, tokens = 16, 23
    gate = GatedShift(config, channels)
    cost = gate_cost(config, channels, tokens=tokens)
    assert sum(p.numel() for p in gate.parameters()) == cost.parameters
    hidden = torch.randn(1, tokens, channels)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        _, carried = gate(hidden, TokenShift(None), None)
    assert counter.get_total_flops() == cost.flops
    assert carried[0].numel() == cost.state


@spread
def test_values_are_recorded_in_place(config: GateConfig, tiny_model: Any, tokens: Any) -> None:
    from rwkvgate.explore.traces import record_gates

    model, row = tiny_model(config, torch.float32, **SMALL), tokens(1, 5)
    alone = record_gates(model, row).values
    assert alone.shape == (2 * (1 + (config.site == "mixers")), 1, 5, 16)
    assert bool(((alone >= 0) & (alone <= 1)).all())
    padded = nn.functional.pad(row, (3, 0))
    found = record_gates(model, padded, (padded != 0).long()).values
    torch.testing.assert_close(found[:, :, 3:], alone, atol=2e-3, rtol=0)


def test_the_spread_meets_every_site_and_surrounding() -> None:
    assert {(c.site, c.norm, c.layer_scale) for c in SPREAD.values()} >= {
        (site, norm, scale)
        for site in ("output", "time-mixing", "channel-mixing", "mixers")
        for norm, scale in (("layer", None), ("none", None), ("none", 0.0), ("layer", 0.5))
    }


def test_position_features_stay_bounded_and_distinct(layer: Any) -> None:
    gate = layer(COMBINATIONS["positioned, fixed, bare"])
    hidden = torch.ones(1, 1, 8, dtype=torch.float64)
    seen = [0, 1, 10, 100, 1_000, 100_000, 10**9]
    with torch.no_grad():
        carried = torch.ones(1, 3, 8, dtype=torch.float64)
        outs = [gate(hidden, TokenShift(None, torch.tensor([n])), carried)[0] for n in seen]
    steps = [float((a - b).abs().max()) for a, b in pairwise(outs)]
    assert min(steps[:4]) > 1e-3 and steps[-1] < 0.1  # told apart where texts are, nearly constant far beyond
    assert all(bool(out.isfinite().all()) for out in outs)


def test_a_convolution_starts_plain() -> None:
    kinds = {p: GateConfig(shift="convolution", taps=4, first_tap=1.0, position=p, norm="none") for p in (True, False)}
    torch.manual_seed(0)
    plain = GatedShift(kinds[False], 8)
    torch.manual_seed(0)
    aware, previous = GatedShift(kinds[True], 8), GatedShift(GateConfig(norm="none"), 8)
    previous.load_state_dict({name: x for name, x in plain.state_dict().items() if "gate_shift" not in name})
    aware.load_state_dict(plain.state_dict(), strict=False)
    hidden = torch.randn(2, 40, 8)
    outs = [gate(hidden, TokenShift(None, torch.tensor([7, 9000])), None)[0] for gate in (plain, aware, previous)]
    assert torch.equal(outs[0], outs[1]) and torch.equal(outs[0], outs[2])


def test_the_page_says_what_the_gates_cost() -> None:
    page = (Path(__file__).parents[2] / "docs" / "gates.md").read_text(encoding="utf-8")
    assert preset_table(channels=2048, heads=32, layers=24, tokens=1024) in page
