"""A text with its gates: layers and channels by name and number."""

from __future__ import annotations

from typing import Any

import pytest

from rwkvgate.explore import gated_text
from rwkvgate.explore.gated_text import read_text
from rwkvgate.explore.views import text_view


def test_layers_and_channels_out_of_range(reader: Any) -> None:
    model, tokenizer = reader("ungated-shift")
    gated = read_text(model, tokenizer, "a b")
    assert gated.labels == ["1 time", "1 channel", "2 time", "2 channel"]
    assert gated.gate(2) == 2 and gated.gate("2 channel") == 3
    with pytest.raises(ValueError, match="layer is 3; allowed are 1 time, 1 channel"):
        text_view(gated, 3)
    with pytest.raises(ValueError, match="channel is 16; allowed are 0 to 15"):
        text_view(gated, 1, 16)
    with pytest.raises(ValueError, match="measure is 'median'"):
        text_view(gated, 1, "median")


def test_a_text_too_long_for_single_channels_says_so(reader: Any, monkeypatch: Any) -> None:
    model, tokenizer = reader()
    monkeypatch.setattr(gated_text, "VALUES_LIMIT", 0)
    gated = read_text(model, tokenizer, "one two three")
    assert gated.values is None and "Layer 1" in text_view(gated).texts[0].get_text()
    with pytest.raises(ValueError, match="too long for single channels"):
        text_view(gated, 1, 3)
