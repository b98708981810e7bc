"""The kernel engine: its readings are those of the library, long answers come in parts, and refusals are sentences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from rwkvgate.explore import kernel
from rwkvgate.explore.effects import generated
from rwkvgate.explore.gated_text import read_text
from rwkvgate.explore.interventions import Clamp, clamp_gate
from rwkvgate.explore.kernel import KernelEngine
from rwkvgate.explore.live import finished, read_live
from rwkvgate.explore.traces import record_gates
from rwkvgate.gate.patch import gates_of

TEXT = "Once upon a time, in a distant land"
CLOSED = {"layer": 2, "channels": [3], "tokens": [1, 2], "value": 0.25}


def asked(engine: KernelEngine, method: str, **message: Any) -> Any:
    """A whole answer: the last message, its buffers, and the tokens and counts of all parts."""
    reply, buffers = engine.handle({"id": 1, "method": method, **message})
    parts = [reply]
    while not reply["done"]:
        reply, buffers = engine.handle({"id": 1, "method": "more"})
        parts.append(reply)
    return reply, buffers, parts


@pytest.mark.parametrize("window", [4, 512])
@pytest.mark.parametrize(
    "arm",
    ["enhanced", "no-layer-norm", "fixed-gate", "low-rank", "conv-routing", "ungated-shift", "enhanced-recurrent"],
)
def test_a_reading_is_that_of_the_library(arm: str, window: int, reader: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("rwkvgate.explore.live.WINDOW", window)
    model, tokenizer = reader(arm)
    expected, reading = read_text(model, tokenizer, TEXT), finished(read_live(model, tokenizer, TEXT))
    assert reading.tokens == expected.tokens and reading.left == 0 and reading.gates is not None
    np.testing.assert_allclose(reading.means, expected.measure("mean"), atol=1e-5)
    np.testing.assert_allclose(reading.gates.float(), expected.values.float(), atol=1e-3)  # both rounded to float16
    np.testing.assert_allclose(reading.surprisal[1:], expected.losses[1:], atol=1e-5)
    assert reading.surprisal[:1].isnan() and (reading.let_in >= 0).all()
    logits = model(torch.tensor([[0, *tokenizer(TEXT)["input_ids"]]])).logits[0, 1:]
    torch.testing.assert_close(reading.top_p, logits.softmax(-1).topk(10).values, atol=1e-5, rtol=1e-4)
    assert all(gate.override is None and gate.observer is None for gate in gates_of(model))


def test_what_the_gate_lets_in_is_its_part_of_the_state(reader: Any) -> None:
    model, tokenizer = reader()
    hidden: list[Any] = []
    hook = gates_of(model)[0].register_forward_hook(lambda module, inputs, output: hidden.append(inputs[0][0]))
    reading = finished(read_live(model, tokenizer, TEXT, [Clamp(1, 0.5)]))
    hook.remove()
    states = hidden[0].norm(dim=-1)
    torch.testing.assert_close(reading.let_in[0], 0.5 * states[:-1] / states[1:], atol=1e-5, rtol=1e-4)


def test_a_recurrent_gate_lets_in_its_own_results(reader: Any, monkeypatch: Any) -> None:
    model, tokenizer = reader("enhanced-recurrent")
    hidden: list[Any] = []
    hook = gates_of(model)[0].register_forward_hook(
        lambda module, inputs, output: hidden.append((inputs[0][0], output[0][0]))
    )
    whole = finished(read_live(model, tokenizer, TEXT, [Clamp(1, 0.5)]))
    hook.remove()
    states, results = (each.norm(dim=-1) for each in hidden[0])
    torch.testing.assert_close(whole.let_in[0], 0.5 * results[:-1] / states[1:], atol=1e-5, rtol=1e-4)
    monkeypatch.setattr("rwkvgate.explore.live.WINDOW", 4)
    torch.testing.assert_close(finished(read_live(model, tokenizer, TEXT, [Clamp(1, 0.5)])).let_in, whole.let_in)


def test_a_clamp_counts_the_tokens_of_the_text(reader: Any) -> None:
    model, tokenizer = reader()
    engine = KernelEngine({"arm": model}, tokenizer)
    reply, buffers, _ = asked(engine, "read", arm="arm", text=TEXT, interventions=[CLOSED, {"layer": 2, "scale": 2.0}])
    count = len(reply["reading"]["pieces"])
    gates = np.frombuffer(buffers[5], np.float16).reshape(2, count, 16)
    free = record_gates(model, torch.tensor([[0, *tokenizer(TEXT)["input_ids"]]])).values[:, 0, 1:].float().numpy()
    np.testing.assert_allclose(gates[0], free[0], atol=1e-3)
    np.testing.assert_allclose(gates[1, 1:3, 3], 0.5, atol=1e-3)
    np.testing.assert_allclose(gates[1, 3:], 2 * free[1, 3:], atol=2e-3)
    assert reply["reading"]["interventions"][0] == CLOSED and len(reply["reading"]["likeliest"]) <= 10 * count


def test_the_gates_of_another_text_replace_those_of_this_one(reader: Any, monkeypatch: Any) -> None:
    model, tokenizer = reader()
    engine, other = KernelEngine({"arm": model}, tokenizer), "A fox ran"
    replaced = {"layer": 2, "tokens": None, "channels": None, "replace": other}
    reply, buffers, _ = asked(engine, "read", arm="arm", text=TEXT, interventions=[replaced])
    count = len(reply["reading"]["pieces"])
    gates = np.frombuffer(buffers[5], np.float16).reshape(2, count, 16).astype(float)
    ids = [torch.tensor([[0, *tokenizer(text)["input_ids"]]]) for text in (other, TEXT)]
    of, own = (record_gates(model, each).values[:, 0, 1:] for each in ids)
    length = of.shape[1]
    np.testing.assert_allclose(gates[1], of[1].float().numpy()[np.arange(count) % length], atol=1e-3)
    np.testing.assert_allclose(gates[0], own[0].float(), atol=1e-3)
    one = replaced | {"layer": None, "tokens": [3], "channels": [5]}
    buffers = asked(engine, "read", arm="arm", text=TEXT, interventions=[one])[1]
    gates = np.frombuffer(buffers[5], np.float16).reshape(2, count, 16).astype(float)
    np.testing.assert_allclose(gates[:, 3, 5], of[:, 3 % length, 5].float(), atol=1e-3)
    np.testing.assert_allclose(gates[0, :, 4], own[0, :, 4].float(), atol=1e-3)
    # A text replaced by itself is as it is, its continuation too as far as it was recorded.
    free, same = (
        asked(engine, "continue", arm="arm", text=TEXT, tokens=1, interventions=changes)[0]["tokens"]
        for changes in ([], [replaced | {"layer": None, "replace": TEXT}])
    )
    assert free == same
    for change, words in (({"replace": ""}, "the other text is empty"), ({"value": 0}, "exactly one of value, scale")):
        reply = asked(engine, "read", arm="arm", text=TEXT, interventions=[replaced | change])[0]
        assert words in reply["error"]
    monkeypatch.setattr(kernel, "VALUES_LIMIT", 4 * 2 * 16 * 5)
    assert "over 5 tokens" in asked(engine, "read", arm="arm", text=TEXT, interventions=[replaced])[0]["error"]
    two = KernelEngine({"arm": reader("ungated-shift")[0]}, tokenizer)
    assert "has two gates" in asked(two, "read", arm="arm", text=TEXT, interventions=[replaced])[0]["error"]


def test_long_answers_come_in_parts_and_stop(reader: Any, monkeypatch: Any) -> None:
    model, tokenizer = reader()
    engine = KernelEngine({"arm": model}, tokenizer)
    monkeypatch.setattr(kernel, "PART", 0)
    monkeypatch.setattr("rwkvgate.explore.live.WINDOW", 4)
    reply, _, parts = asked(engine, "read", arm="arm", text=TEXT)
    assert [part["read"] for part in parts[:-1]] == [*range(4, len(reply["reading"]["pieces"]) + 1, 4)]
    monkeypatch.setattr("rwkvgate.explore.live.LONGEST", 3)
    reply, *_ = asked(engine, "read", arm="arm", text=TEXT)
    assert len(reply["reading"]["pieces"]) == 3 and reply["reading"]["left"] > 0
    engine.handle({"id": 7, "method": "read", "arm": "arm", "text": TEXT})
    engine.handle({"id": 8, "method": "stop", "asked": [7, 3]})
    assert engine.handle({"id": 7, "method": "more"})[0] == {"id": 7, "done": True, "error": "stopped"}
    assert all(gate.override is None and gate.observer is None for gate in gates_of(model))


def test_a_continuation_is_that_of_the_library(reader: Any, monkeypatch: Any) -> None:
    model, tokenizer = reader()
    engine = KernelEngine({"arm": model}, tokenizer)
    monkeypatch.setattr(kernel, "PART", 0)
    for options in ({}, {"temperature": 1.0, "seed": 3}):
        *_, parts = asked(
            engine, "continue", arm="arm", text="Once", tokens=6, interventions=[{"layer": 1, "value": 0.2}], **options
        )
        tokens = [token for part in parts for token in part["tokens"]]
        expected = list(generated(model, tokenizer, "Once", clamps=[Clamp(1, 0.2)], new_tokens=6, **options))
        assert [(token["id"], token["p"]) for token in tokens] == expected and len(tokens) == 6
        written = [tokenizer.decode([token["id"] for token in tokens[:n]], skip_special_tokens=True) for n in range(7)]
        complete = [text for text in written if not text.endswith("\ufffd")]  # characters, to their last byte
        assert "".join(token["text"] for token in tokens) == complete[-1]
        assert all(0 < token["p"] <= 1 for token in tokens)


def test_what_the_front_end_is_told_of_the_arms(reader: Any) -> None:
    model, tokenizer = reader("ungated-shift")
    loaded: list[str] = []
    arms = {"two": model, "plain": reader(None)[0], "enhanced-untrained": lambda: loaded.append("") or reader()[0]}
    engine = KernelEngine(arms, tokenizer, TEXT)
    about = engine.about()
    assert about["untrained"] == "enhanced-untrained" and about["text"] == TEXT and not loaded
    two, plain, later = about["arms"]
    assert two["gate"]["labels"] == ["1 time", "1 channel", "2 time", "2 channel"] and two["gate"]["channels"] == 16
    assert plain["gate"] is None and "Arms with one: enhanced" in plain["note"] and later["later"]
    reply, _ = engine.handle({"id": 1, "method": "arm", "arm": "enhanced-untrained"})
    assert reply["arm"]["gate"]["layers"] == 2 and "later" not in reply["arm"]
    reading = asked(engine, "read", arm="plain", text=TEXT)[0]["reading"]
    assert reading["layers"] == 0 and len(reading["pieces"]) > 3
    about = KernelEngine(arms, tokenizer, TEXT, notes={"two": "Two gates."}, beside="plain").about()
    assert about["arms"][0]["note"] == "Two gates." and about["beside"] == "plain"
    assert about["token"] == len(reading["pieces"]) - 1
    with pytest.raises(ValueError, match="beside is 'none'; allowed are 'two', 'plain'"):
        KernelEngine(arms, tokenizer, TEXT, beside="none")


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ({"method": "read", "arm": "none", "text": ""}, "arm is 'none'; allowed are 'arm'"),
        ({"method": "read", "arm": "arm", "text": "x" * 200_001}, "at most 200,000 are read"),
        ({"method": "read", "arm": "arm", "text": "a\ud800"}, "half of a surrogate pair"),
        ({"method": "read", "arm": "arm", "text": 3}, "the text is of type int"),
        ({"method": "read", "arm": "arm", "text": "a", "interventions": [{"layer": 9, "value": 0}]}, "layers 1 to 2"),
        ({"method": "read", "arm": "arm", "text": "a", "interventions": [{"layer": 1, "value": 2}]}, "must be 0 to 1"),
        ({"method": "read", "arm": "broken", "text": "a"}, "ZeroDivisionError"),
        ({"method": "continue", "arm": "arm", "text": "a", "tokens": 0}, "allowed are 1 to 1000"),
        ({"method": "continue", "arm": "arm", "text": "a", "temperature": -1}, "temperature is -1"),
        ({"method": "dance"}, "method is 'dance'"),
        ({"method": "more", "id": 99}, "stopped"),
        ({"method": "read", "id": None}, "id is None"),
    ],
)
def test_refusals_are_sentences(message: Any, words: str, reader: Any) -> None:
    model, tokenizer = reader()
    engine = KernelEngine({"arm": model, "broken": lambda: 1 / 0}, tokenizer)
    reply, buffers = engine.handle({"id": 5, **message})
    assert words in reply["error"] and reply["done"] and not buffers
    assert asked(engine, "read", arm="arm", text="")[0]["reading"]["pieces"] == []


def test_cards_are_made_in_parts_once_and_go_on_where_they_were_stopped(reader: Any, monkeypatch: Any) -> None:
    model, tokenizer = reader()
    documents = ["Once upon a time", "", "a fox </script>"]
    arms = {"arm": model, "plain": reader(None)[0], "untrained": lambda: reader()[0]}
    engine = KernelEngine(arms, tokenizer, TEXT, documents=documents)
    assert engine.about()["cards"] == list(arms) and KernelEngine(arms, tokenizer).about()["cards"] == []
    monkeypatch.setattr(kernel, "PART", 0)
    assert engine.handle({"id": 7, "method": "cards", "arm": "arm"})[0]["read"] == 1
    engine.handle({"id": 8, "method": "stop", "asked": [7]})
    reply, buffers, parts = asked(engine, "cards", arm="arm")
    assert [part.get("read") for part in parts] == [2, 3, 1, 2, 3, None] and not buffers
    assert reply["cards"]["documents"] == 3 and len(reply["cards"]["untrained"]["mean"][1]) == 16
    assert len(asked(engine, "cards", arm="arm")[2]) == 1
    assert "carries no gate" in asked(engine, "cards", arm="plain")[0]["error"]
    monkeypatch.setattr(kernel, "PATIENCE", -1)
    slow = asked(KernelEngine({"arm": model}, tokenizer, TEXT, documents=documents), "cards", arm="arm")[0]["cards"]
    assert (slow["documents"], slow["of"], slow["untrained"]) == (1, 3, None)
    with pytest.raises(ValueError, match="half of a surrogate pair"):
        KernelEngine(arms, tokenizer, TEXT, documents=["a\ud800"])


def test_readings_of_two_engines_do_not_mix(reader: Any, monkeypatch: Any) -> None:
    model, tokenizer = reader()
    monkeypatch.setattr(kernel, "PART", 0)
    one, two = KernelEngine({"arm": model}, tokenizer), KernelEngine({"arm": model}, tokenizer)
    one.handle({"id": 1, "method": "read", "arm": "arm", "text": TEXT, "interventions": [{"value": 0}]})
    buffers = asked(two, "read", arm="arm", text=TEXT)[1]
    assert np.frombuffer(buffers[0], np.float32).min() > 0  # the other's clamp is not seen between its parts
    with clamp_gate(model, value=0.0):
        assert not finished(read_live(model, tokenizer, TEXT)).means.any()
