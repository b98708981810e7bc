"""The arithmetic of a profile, before it is run: what it counts is there, and it adds up."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from rwkvgate.corpora.tokenizer import train_tokenizer
from rwkvgate.evaluation.long_range import probes
from rwkvgate.gate.config import GateConfig
from rwkvgate.gate.patch import patch
from rwkvgate.planning import KINDS, LAUNCHES, SHAPES, T4, _parameters, plan, shape_of, show, works
from rwkvgate.rwkv6.configuration import Rwkv6Config
from rwkvgate.rwkv6.modeling import Rwkv6ForCausalLM
from rwkvgate.settings import SettingsError, resolve

VIEWS = {"view", "_unsafe_view", "t", "transpose", "unsqueeze", "expand", "select", "slice", "split", "squeeze"} | {
    "detach",
    "alias",
    "permute",
    "unbind",
    "chunk",
    "as_strided",
}
"""Operations that give a tensor another shape and launch nothing."""


class Launched(TorchDispatchMode):
    """Counts operations that compute."""

    count = 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += operation._schema.name.split("::")[1] not in VIEWS
        return operation(*args, **(kwargs or {}))


def launched(layers: int) -> int:
    """Operations of one decoded token."""
    model = Rwkv6ForCausalLM(Rwkv6Config(vocab_size=64, hidden_size=128, num_hidden_layers=layers)).eval()
    patch(model, GateConfig())
    ids = torch.ones(1, 5, dtype=torch.long)
    with torch.no_grad():
        state = model(ids, use_cache=True).past_key_values
        with Launched() as seen:
            model(ids[:, :1], past_key_values=state)
    return seen.count


def test_launches_of_a_decoded_token_are_as_counted() -> None:
    assert launched(4) - launched(2) == 2 * LAUNCHES


def test_kinds_of_probes_are_no_more_than_planned() -> None:
    tokenizer = train_tokenizer(["some words and other words about words"] * 20, 300)
    count = 8
    assert len(list(probes(tokenizer, list(range(50)), [64], count))) <= KINDS * count


def test_parameters_are_those_of_the_network() -> None:
    shape = Rwkv6Config(vocab_size=512, hidden_size=256, num_hidden_layers=3)
    with torch.device("meta"):
        own = Rwkv6ForCausalLM(shape).num_parameters()
    assert 0.98 * own < _parameters(shape) <= own


def test_the_papers_setting_takes_less_than_three_hours_of_a_t4() -> None:
    frame = plan(resolve(profile="t4")).set_index("part")["minutes"]
    assert frame["all"] == pytest.approx(frame.drop("all").sum())
    assert frame["all"] < 180
    assert frame.drop("all").idxmax() == "training"


def test_more_work_takes_longer() -> None:
    def minutes(**changes: Any) -> float:
        return float(plan(resolve(profile="t4", **changes))["minutes"].iloc[-1])

    usual = minutes()
    assert minutes(evaluation={"seeds": 4}) > usual
    assert minutes(training={"learning_rates": [1e-3, 2e-3]}) > usual
    assert minutes(training={"gradient_checkpointing": False}) < usual
    assert minutes(training={"scope": "all"}) > usual
    assert minutes(evaluation={"studies": False}) < usual


@pytest.mark.parametrize("profile", ["smoke", "cpu", "gpu"])
def test_every_profile_has_a_plan(profile: str) -> None:
    settings = resolve(profile=profile)
    assert shape_of(settings).hidden_size == settings.model.hidden_size  # type: ignore[union-attr]
    assert all(work.read + work.trained + work.steps + work.loads > 0 for work in works(settings))
    assert show(plan(settings, T4)).count("\n") == len(works(settings)) + 2


def test_sizes_that_nobody_knows_are_refused() -> None:
    settings = resolve(profile="t4", model={"checkpoint": "somebody/else"})
    with pytest.raises(SettingsError, match=rf"somebody/else.*{next(iter(SHAPES))}"):
        plan(settings)
