"""Views of hostile texts: legible and escaped."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from rwkvgate.explore import views
from rwkvgate.explore.effects import clamp_effect
from rwkvgate.explore.gated_text import read_text
from rwkvgate.explore.interventions import Clamp
from tests.explore.hostile import TEXTS, Page


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_every_view_of_hostile_text_is_text(text: str, reader: Any) -> None:
    model, tokenizer = reader()
    gated = read_text(model, tokenizer, text)
    effect = clamp_effect(model, tokenizer, text, Clamp(1, 0.5), new_tokens=3)
    shown = [
        views.text_view(gated, 2, "saturated"),
        views.compare_view(gated, gated, 1, "low"),
        views.compare_view(gated, read_text(model, tokenizer, "another"), 1),
        views.clamp_view(effect),
    ]
    for view in shown:
        page = Page(view)
        assert not {name for name, _ in page.elements} & {"script", "b", "iframe", "img"}
        assert not any(
            name.startswith("on") or name == "style" for _, attributes in page.elements for name in attributes
        )
        assert not re.search(r"[\x00-\x09\x0b-\x1f\u202a-\u202e]", page.text)
        if not text:
            assert "The text is empty" in page.text
        assert view._repr_html_().startswith('<div class="rg"><style>')
    if text:
        spans = [attributes for name, attributes in Page(shown[0]).elements if name == "span" and "title" in attributes]
        assert len(spans) == len(gated.tokens)
        expected = gated.measure("saturated")[1]
        numbers = [float((attributes["title"] or "").rsplit(" ", 1)[1]) for attributes in spans]
        np.testing.assert_allclose(numbers, expected, atol=6e-4)


def test_long_texts_are_shown_in_groups(reader: Any) -> None:
    model, tokenizer = reader()
    gated = read_text(model, tokenizer, "one two three four five " * 1000)
    assert len(gated.tokens) > views.MOST_TOKENS
    assert "in groups of" in views.text_view(gated)
    assert len([1 for name, _ in Page(views.text_view(gated)).elements if name == "span"]) <= views.MOST_TOKENS + 4
