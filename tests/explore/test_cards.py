"""Cards of channels: their numbers are those of the recorded gates, and a card names a document once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from rwkvgate.explore.cards import AFTER, BEFORE, BINS, LETTERS, TOP, ChannelCards
from rwkvgate.explore.observing import gates_over
from rwkvgate.gate.patch import gates_of

DOCUMENTS = ["Once upon a time, in a distant land there lived a baker", "", "a", "In the realm of thought", *"bcdefg"]


def test_cards_are_those_of_the_recorded_gates(reader: Any) -> None:
    model, tokenizer = reader()
    for gate in gates_of(model):
        torch.nn.init.normal_(gate.gating.linear.weight, std=0.3)  # values far apart
    ids = [tokenizer(text)["input_ids"] for text in DOCUMENTS]
    gates = [gates_over(model, each) for each in ids]
    cards = ChannelCards(model, tokenizer, DOCUMENTS)
    assert list(cards.steps()) == list(range(1, len(DOCUMENTS) + 1)) and not list(cards.steps())
    packed = cards.packed(cards)
    every = torch.cat(gates, dim=1)  # (gate, token, channel)
    assert packed["tokens"] == every.shape[1] and packed["documents"] == packed["of"] == len(DOCUMENTS)
    np.testing.assert_allclose(packed["mean"], every.mean(1), atol=1e-3)
    for gate, channel in ((0, 3), (1, 15)):
        best = sorted(((float(one[gate, :, channel].max()), i) for i, one in enumerate(gates) if ids[i]), reverse=True)
        tops = packed["top"][gate][channel * TOP : (channel + 1) * TOP]
        values = packed["value"][gate][channel * TOP : (channel + 1) * TOP]
        np.testing.assert_allclose(values, [value for value, _ in best[:TOP]], atol=2e-3)
        position = int(gates[best[0][1]][gate, :, channel].argmax())
        at, *context = packed["contexts"][tops[0]]
        words = [tokenizer.decode([token]) for token in ids[best[0][1]]]
        assert [packed["pieces"][i] for i in context] == words[max(0, position - BEFORE) : position + AFTER + 1]
        assert at == min(position, BEFORE)
        counts = every[gate, :, channel].histc(BINS, 0, 1) / every.shape[1]
        letters = packed["histogram"][gate][channel * BINS : (channel + 1) * BINS]
        shares = (np.array([LETTERS.index(letter) for letter in letters]) / 63) ** 2
        np.testing.assert_allclose(shares, counts, atol=0.02)
    assert packed["untrained"]["mean"] == packed["mean"]


def test_few_documents_and_controls_of_another_shape(reader: Any) -> None:
    model, tokenizer = reader()
    cards, other = (ChannelCards(reader(num_hidden_layers=n)[0], tokenizer, ["one fox"]) for n in (2, 3))
    list(cards.steps())
    packed = cards.packed(other)
    assert packed["top"][0][1:TOP] == [-1] * (TOP - 1) and packed["value"][0][1] == 0 and packed["untrained"] is None
    assert ChannelCards(model, tokenizer, []).packed()["contexts"] == []
    with pytest.raises(ValueError, match="arms with one"):
        ChannelCards(reader(None)[0], tokenizer, [])
