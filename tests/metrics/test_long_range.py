"""Probes: the pair differs only in what was planted, a model with a memory gains and one without does not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from rwkvgate.metrics.long_range import DEPTHS, PAIRS, PROBE_COLUMNS, SHORTEST, Probe, probe_gains, probes, word_ids

TEXT = list(range(5, 37)) * 40


class Copier(nn.Module):
    """Expects whatever followed the same two tokens before; without a memory, what its own table predicts."""

    def __init__(self, vocabulary: int, remembers: bool) -> None:
        super().__init__()
        self.vocabulary, self.remembers = vocabulary, remembers
        self.table = nn.Parameter(torch.randn(vocabulary, vocabulary, generator=torch.Generator().manual_seed(0)))

    def forward(self, input_ids: Any, past_key_values: Any = None, *, logits_to_keep: Any, **_: Any) -> SimpleNamespace:
        ids = input_ids
        read = ids if past_key_values is None else torch.cat((past_key_values, ids), dim=1)
        logits = self.table[ids].clone()
        if self.remembers:
            for row, sequence in enumerate(read.tolist()):
                for place in range(ids.shape[1]):
                    at = len(sequence) - ids.shape[1] + place
                    before = [i for i in range(1, at) if sequence[i - 1 : i + 1] == sequence[at - 1 : at + 1]]
                    if before:
                        logits[row, place, sequence[before[-1] + 1]] += 20
        return SimpleNamespace(logits=logits[:, logits_to_keep], past_key_values=read)


@pytest.fixture(scope="module")
def drawn(tokenizer: Any) -> list[Probe]:
    return list(probes(tokenizer, TEXT, [64, 96], count=2, seed=1))


def test_pairs_differ_in_what_was_planted_alone(drawn: list[Probe]) -> None:
    assert {probe.name for probe in drawn} == {"copying", "forgetting", "recall", "passkey"}
    for probe in drawn:
        planted, blank, asked = np.array(probe.planted), np.array(probe.blank), np.array(probe.asked)
        assert len(planted) == len(blank) and (planted[asked] == blank[asked]).all() and asked.min() > 0
        different = np.flatnonzero(planted != blank)
        assert len(different) > 0 and different.max() < asked.min()
    assert {len(p.planted) for p in drawn if p.name in ("recall", "passkey")} == {64, 96}
    assert all(len(p.asked) == PAIRS for p in drawn if p.name == "recall")


def test_a_longer_list_of_lengths_begins_the_same(tokenizer: Any, drawn: list[Probe]) -> None:
    first = repr(drawn[: len(drawn) // 2])  # in words, for a depth may be nan
    assert repr(list(probes(tokenizer, TEXT, [64], count=2, seed=1))) == first
    assert repr(list(probes(tokenizer, TEXT, [64], count=2, seed=2))) != first


@pytest.mark.parametrize("window", [7, 64, 1024])
def test_a_model_that_remembers_gains_and_one_that_does_not_gains_nothing(drawn: list[Probe], window: int) -> None:
    memory = probe_gains(Copier(257, True), drawn, batch_size=3, window=window)
    assert list(memory.columns) == list(PROBE_COLUMNS) and len(memory) == len(drawn)
    copies = memory[memory["probe"] == "copying"]
    assert (copies["gain"] > 3).all() and (copies["accuracy"] > 0.9).all() and (copies["blank_accuracy"] < 0.3).all()
    without = probe_gains(Copier(257, False), drawn, batch_size=3, window=window)
    assert without["gain"].abs().max() < 1e-5
    assert (without["accuracy"] == without["blank_accuracy"]).all()


def test_equals_the_whole_text_at_once_whatever_batch_and_window(tiny_model: Any, drawn: list[Probe]) -> None:
    model = tiny_model("enhanced", vocab_size=257)
    windowed = probe_gains(model, drawn, batch_size=5, window=17)
    for number in (0, 3, len(drawn) - 1):
        probe, losses = drawn[number], []
        for text in (probe.planted, probe.blank):
            with torch.no_grad():
                logits = model(torch.tensor([[0, *text[:-1]]])).logits[0].log_softmax(-1)
            losses.append(float(-logits[list(probe.asked), [text[i] for i in probe.asked]].mean()))
        assert windowed["gain"][number] == pytest.approx(losses[1] - losses[0], abs=1e-5)


def test_passkeys_lie_at_every_depth(drawn: list[Probe]) -> None:
    keys = [p for p in drawn if p.name == "passkey" and len(p.planted) == 96]
    places = {d: np.flatnonzero(np.array(p.planted) != p.blank).min() for p in keys for d in [p.depth]}
    assert list(places) == list(DEPTHS) and sorted(places.values()) == list(places.values())


def test_words_are_words(tokenizer: Any) -> None:
    assert len(word_ids(tokenizer)) == 256  # a vocabulary of single bytes has none: every ordinary id is one


@pytest.mark.parametrize(
    ("lengths", "count", "text", "message"),
    [([16], 1, TEXT, f"at least {SHORTEST}"), ([64], 0, TEXT, "count is 0"), ([64], 1, [], "no text")],
)
def test_impossible_probes_are_refused(
    tokenizer: Any, lengths: list[int], count: int, text: list[int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        list(probes(tokenizer, text, lengths, count))
