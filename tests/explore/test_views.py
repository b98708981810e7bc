"""Views of hostile texts: legible and escaped."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest

from rwkvgate.explore import views
from rwkvgate.explore.effects import clamp_effect
from rwkvgate.explore.gated_text import read_text
from rwkvgate.explore.interventions import Clamp
from rwkvgate.explore.page import static_page
from tests.explore.hostile import TEXTS, Page


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_every_view_of_hostile_text_is_text(text: str, reader: Any) -> None:
    model, tokenizer = reader()
    gated = read_text(model, tokenizer, text)
    effect = clamp_effect(model, tokenizer, text, Clamp(1, 0.5), new_tokens=3)
    shown = [
        views.text_view(gated, 2, "saturated"),
        views.layers_view(gated, 3),
        views.distribution_view(gated),
        views.extremes_view(gated, 1),
        views.surprisal_view(gated, 2),
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
    for view in (views.text_view(gated), views.layers_view(gated), views.surprisal_view(gated)):
        assert "in groups of" in view
    assert len([1 for name, _ in Page(views.text_view(gated)).elements if name == "span"]) <= views.MOST_TOKENS + 4
    assert json.loads(Page(static_page(gated)).blocks["script"][0])["hover"][1].startswith("tokens 2 to 3")


def test_the_rank_correlation_in_words() -> None:
    rising, level = np.arange(5, dtype=np.float32), np.ones(5, np.float32)
    assert views.correlation(rising, rising**3) == "rank correlation +1.00"
    assert views.correlation(rising, -rising) == "rank correlation -1.00"
    for a, b in ((rising[:2], rising[:2]), (rising, level), (np.full(5, np.nan, np.float32), rising)):
        assert views.correlation(a, b).startswith("no rank correlation")
