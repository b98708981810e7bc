"""A run's time before it is run: every operation counted, every step predicted, profile t4 under three hours."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants

from rwkvgate.experiment import order, plan
from rwkvgate.experiment.corpora.tokenizer import train_tokenizer
from rwkvgate.experiment.forecast import forecast
from rwkvgate.experiment.plan import DECODE, PROBE_KINDS, READ, SHAPES, TRAIN, Call, calls, notebook_steps, predicted
from rwkvgate.experiment.run import Run
from rwkvgate.experiment.settings import resolve
from rwkvgate.experiment.studies.registry import STUDIES
from rwkvgate.gate.config import GateConfig
from rwkvgate.gate.validation import SettingsError
from rwkvgate.metrics.long_range import probes
from rwkvgate.metrics.roofline import T4
from rwkvgate.rwkv6.configuration import Rwkv6Config
from rwkvgate.rwkv6.files import write_text
from rwkvgate.rwkv6.modeling import Rwkv6ForCausalLM

SIZES = (("vocab_size", 64), ("hidden_size", 128), ("num_hidden_layers", 3), ("head_size", 64))
LATENT = replace(T4, half=1e30, single=1e30, bytes=1e30, launch=1.0)
"""A device whose seconds are launches."""


def seconds(call: Call, **changes: Any) -> float:
    """Of a small network."""
    given: dict[str, Any] = {"sizes": SIZES, "half": True, "gate": GateConfig(), "device": T4} | changes
    return plan._seconds(call, **given)


def test_profile_t4_takes_less_than_three_hours_of_a_t4() -> None:
    frame = plan.plan(Run(resolve("t4")), T4).set_index("part")["seconds"]
    assert frame.sum() < 3 * 3600
    assert frame.idxmax() == "arm" and set(frame.index) >= {"base", "evaluation", "probes", *(s.name for s in STUDIES)}


def test_what_costs_more_counts_more() -> None:
    train = Call(TRAIN, 8, 64)
    assert seconds(train._replace(checkpointed=True)) > seconds(train) > 2 * seconds(Call(READ, 8, 64), gate=None)
    assert seconds(train._replace(everything=True), half=False) > seconds(train, half=False)
    assert seconds(train) > seconds(train, gate=None), "the gate"
    assert seconds(Call(DECODE)) < seconds(Call(READ, 1, 64))


def test_elementwise_traffic_is_counted() -> None:
    products = replace(T4, bytes=1e30, launch=0.0)
    call = Call(TRAIN, 8, 384, checkpointed=True)
    paper = plan._sizes(Rwkv6Config(**SHAPES["RWKV/v6-Finch-1B6-HF"]))
    assert seconds(call, sizes=paper) > 1.5 * seconds(call, sizes=paper, device=products)


def test_a_decoded_token_launches_about_as_often_as_the_network_on_this_machine() -> None:
    sizes = dict(SIZES)
    model = Rwkv6ForCausalLM(Rwkv6Config(**sizes)).eval()
    ids = torch.ones(1, 1, dtype=torch.long)
    with torch.inference_mode():
        past = model(ids, use_cache=True).past_key_values
        with plan_roofline() as count:
            model(ids, past_key_values=past, use_cache=True)
    assert seconds(Call(DECODE), half=False, gate=None, device=LATENT) == pytest.approx(count.launches, rel=0.15)


def plan_roofline() -> Any:
    """A counter of launches."""
    from rwkvgate.metrics.roofline import Roofline

    return Roofline(LATENT)


def test_kinds_of_probes_are_no_more_than_planned() -> None:
    tokenizer = train_tokenizer(["some words and other words about words"] * 20, 300)
    assert len(list(probes(tokenizer, list(range(50)), [64], 8))) <= PROBE_KINDS * 8


def test_each_notebook_s_steps() -> None:
    run = Run(resolve("smoke"))
    names = {name: Counter(step.name for step in notebook_steps(run, name)) for name in order.NOTEBOOKS.values()}
    assert names["01_setup"] == {"corpus": 1, "base": 1}
    assert names["02_finetune"] == {"corpus": 1, "base": 1, "arm": 1}
    assert names["03_evaluate"] == {"corpus": 1, "base": 1, "arm": 2, "evaluation": 2, "probes": 2, "times": 1}
    everything = Counter(step.name for step in notebook_steps(run, order.ABLATIONS))
    of_arms = dict.fromkeys(("arm", "evaluation", "probes", "times"), 6)
    assert everything == {"corpus": 1, "base": 1} | of_arms | {s.name: 1 for s in STUDIES}
    assert notebook_steps(run, order.VISUALIZATION, "fixed-gate", 1)[-1].folder == run.variant("fixed-gate", 1).folder


def test_every_step_but_the_texts_asks_something_of_the_model() -> None:
    for step in notebook_steps(Run(resolve("smoke")), order.ABLATIONS):
        assert bool(calls(step)) == (step.name != "corpus")
        assert all(count > 0 for count in calls(step).values())


def test_more_work_takes_longer() -> None:
    def of(name: str, **changes: Any) -> float:
        run = Run(resolve("smoke", **changes))
        return sum(predicted(step, T4) for step in notebook_steps(run, order.ABLATIONS) if step.name == name)

    assert of("arm", training={"steps": 24}) > 1.5 * of("arm")
    assert of("arm", training={"learning_rates": [1e-3, 2e-3]}) == pytest.approx(2 * of("arm"))
    assert of("arm", evaluation={"seeds": 2}) == pytest.approx(2 * of("arm"))
    assert of("evaluation", evaluation={"new_tokens": 64}) > of("evaluation")
    assert of("probes", evaluation={"studies": False}) == 0


def test_sizes_that_nobody_knows_are_refused_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(resolve("t4", model={"checkpoint": "somebody/else"}))
    with pytest.raises(SettingsError, match=rf"somebody/else.*{next(iter(SHAPES))}"):
        plan.plan(run, T4)
    said = forecast(run, "01_setup")
    assert "for an unknown time (the sizes of 'somebody/else'" in said and "downloads somebody/else, the first" in said
    cached = tmp_path / "models--somebody--else" / "snapshots" / "abc"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    write_text(cached / "config.json", "{}")  # as after a download that was killed
    assert "downloads somebody/else, the first" in forecast(run, "01_setup")
    write_text(cached / "model.safetensors", "")
    assert "downloads the first" in forecast(run, "01_setup")
