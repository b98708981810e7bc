"""Base and gated networks under torch.compile and torch.export: one graph, and the numbers of the plain call."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.export import Dim, export
from torch.utils._pytree import tree_leaves

from tests.gate.combinations import PAIRS, SITES

GATES = {"base": None, "conv-routing": "conv-routing"} | {
    name: {**fields, "site": SITES[i % len(SITES)], "norm": ("layer", "none")[i % 2]}
    for i, (name, fields) in enumerate(PAIRS.items())
    if name.startswith("previous") or name.endswith(("sigmoid", "attention"))
}
"""No gate, a preset, every gating and every shift."""
OFTEN = {
    "base": ("padded", "step", "continued"),  # its prompt: `test_positions_to_keep_compile`
    "conv-routing": ("prompt", "continued"),
    "recurrent, sigmoid": ("step", "continued"),
}
"""What `make test` compiles, and the calls that it traces of each; `make test-slow` traces every call of all."""
EVERY = ("prompt", "padded", "step", "continued")
slow = pytest.mark.slow
TRACED = [
    *(pytest.param(name, names, id=name) for name, names in OFTEN.items()),
    *(pytest.param(name, EVERY, id=f"{name}, every call", marks=slow) for name in GATES),
]


@pytest.fixture
def build(tiny_model: Any) -> Any:
    """`build(name)`: a network of two blocks with the gate of that name in `GATES`."""
    from rwkvgate import GateConfig

    def network(name: str, **changes: Any) -> Any:
        gate = GATES[name]
        gate = GateConfig(**gate) if isinstance(gate, dict) else gate
        return tiny_model(gate, **{"num_hidden_layers": 2} | changes)

    return network


@pytest.fixture
def calls(tokens: Any) -> Any:
    """`calls(model)`: the arguments of a prompt, of a padded prompt, of a step and of a padded continuation."""

    def arguments(model: Any) -> dict[str, dict[str, Any]]:
        ids, mask = tokens(2, 19), torch.ones(2, 19, dtype=torch.long)
        mask[0, :4] = 0
        state = model(ids, use_cache=True).past_key_values.detach()
        return {
            "prompt": {"input_ids": ids},
            "padded": {"input_ids": ids, "attention_mask": mask},
            "step": {"input_ids": ids[:, :1], "past_key_values": state},
            "continued": {"input_ids": ids, "attention_mask": mask, "past_key_values": state},
        }

    return arguments


def numbers(output: Any) -> list[torch.Tensor]:
    """Every tensor of an output, the state's too."""
    return [x for x in tree_leaves(output) if isinstance(x, torch.Tensor)]


@pytest.fixture
def alike(relative_error: Any) -> Any:
    """`alike(found, wanted)`: whether two outputs have the same tensors, to rounding."""

    def compare(found: Any, wanted: Any, most: float = 1e-12) -> bool:
        pairs = zip(numbers(found), numbers(wanted), strict=True)
        return all(relative_error(x, y) <= most for x, y in pairs)

    return compare


@pytest.mark.parametrize(("name", "traced"), TRACED)
def test_compiled_without_graph_breaks(build: Any, calls: Any, alike: Any, name: str, traced: tuple[str, ...]) -> None:
    model = build(name)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        arguments = calls(model)
        for call in traced:
            found, wanted = (network(**arguments[call], use_cache=True) for network in (compiled, model))
            assert alike(found, wanted), call


def test_positions_to_keep_compile(build: Any, calls: Any, alike: Any) -> None:
    model = build("base", num_hidden_layers=1)
    given = calls(model)["prompt"] | {"logits_to_keep": torch.tensor([3, -1])}
    torch._dynamo.reset()
    with torch.no_grad():
        assert alike(torch.compile(model, fullgraph=True, backend="eager")(**given), model(**given))
        assert alike(export(model, (), given).module()(**given), model(**given))


@pytest.mark.parametrize(
    ("name", "exported"),
    [
        pytest.param("base", ("step",), id="base, step"),
        pytest.param("base", ("continued",), id="base, continued", marks=slow),
        pytest.param("conv-routing", ("continued", "step"), id="conv-routing"),
        *(
            pytest.param(name, ("continued", "step"), id=name, marks=slow)
            for name in ("previous, hierarchical", "attention", "recurrent, sigmoid")
        ),
    ],
)
def test_exported_with_state_gradients_and_another_batch(
    build: Any, calls: Any, alike: Any, name: str, exported: tuple[str, ...]
) -> None:
    model = build(name)
    arguments = calls(model)
    for call in exported:
        given = arguments[call] | {"use_cache": True}
        batch = {key: {0: Dim.DYNAMIC} if isinstance(x, torch.Tensor) else None for key, x in given.items()}
        layers = [
            [None if x is None else {0: Dim.DYNAMIC} for x in vars(layer).values()]
            for layer in given["past_key_values"].layers
        ]
        batch["past_key_values"] = [layers, {0: Dim.DYNAMIC}]
        program = export(model, (), given, dynamic_shapes=batch).module()  # with gradients on
        more = {key: torch.cat((x, x[:1])) if isinstance(x, torch.Tensor) else x for key, x in given.items()}
        more["past_key_values"] = given["past_key_values"].select([0, 1, 0])
        for one in (given, more):
            found, wanted = program(**one), model(**one)
            assert alike(found, wanted), call
        weights = list(model.rwkv.blocks.parameters())
        slopes = (torch.autograd.grad(x.logits.square().sum(), weights, allow_unused=True) for x in (found, wanted))
        assert alike(*slopes, most=1e-9)


@pytest.mark.parametrize(
    ("name", "checkpointing"),
    [
        ("conv-routing", True),
        *(
            pytest.param(name, kept, marks=slow)
            for name in OFTEN
            for kept in (False, True)
            if (name, kept) != ("conv-routing", True)
        ),
    ],
)
def test_training_compiles(build: Any, calls: Any, alike: Any, name: str, checkpointing: bool) -> None:
    model = build(name, tie_word_embeddings=name == "base").train()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    given = calls(model)["padded"]
    labels = given["input_ids"].masked_fill(given["attention_mask"] == 0, -100)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    found, wanted = (network(**given, labels=labels) for network in (compiled, model))
    assert found.logits is None and alike(found, wanted)
    slopes = [torch.autograd.grad(x.loss, list(model.parameters())) for x in (found, wanted)]
    assert alike(*slopes, most=1e-9)


def test_inductor_agrees(build: Any, calls: Any, alike: Any) -> None:
    model = build("conv-routing", num_hidden_layers=1)
    given = calls(model)["step"] | {"use_cache": True}
    torch._dynamo.reset()
    # No pool of compiling processes, and the instructions that the processor names are not tried with torch's headers.
    cheap = torch._inductor.config.patch({"compile_threads": 1, "cpp.vec_isa_ok": True})
    try:
        with torch.no_grad(), cheap:
            found = torch.compile(model, fullgraph=True)(**given)
    except torch._inductor.exc.InvalidCxxCompiler as error:
        pytest.skip(f"inductor needs a C++ compiler: {error}")
    with torch.no_grad():
        assert alike(found, model(**given))
