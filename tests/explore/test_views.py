"""Pictures of hostile texts: every token stands there, legible, and the file is a PNG."""

from __future__ import annotations

import re
import warnings
from io import BytesIO
from typing import Any

import pytest
from matplotlib.figure import Figure

from rwkvgate.explore import views
from rwkvgate.explore.effects import clamp_effect
from rwkvgate.explore.gated_text import read_text
from rwkvgate.explore.interventions import Clamp
from rwkvgate.explore.tokens import readable
from tests.explore.hostile import TEXTS


def words(figure: Figure) -> list[str]:
    """Every text of a figure."""
    return [text.get_text() for text in figure.texts + [each for axes in figure.axes for each in axes.texts]]


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_every_picture_of_hostile_text_is_legible(text: str, reader: Any) -> None:
    model, tokenizer = reader()
    gated = read_text(model, tokenizer, text)
    effect = clamp_effect(model, tokenizer, text, Clamp(1, 0.5), new_tokens=3)
    for figure in (
        views.text_view(gated, 2, "saturated"),
        views.compare_view(gated, gated, 1, "low"),
        views.compare_view(gated, read_text(model, tokenizer, "another"), 1),
        views.clamp_view(effect),
    ):
        file = BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            figure.savefig(file, format="png")
        assert file.getvalue().startswith(b"\x89PNG")
        assert not any(re.search(r"[\x00-\x1f\u202a-\u202e]", each) for each in words(figure))
    shown = words(views.text_view(gated))
    assert shown[1:] == [readable(token) for token in gated.tokens]
    assert ("The text is empty" in shown[0]) == (not text)


def test_a_picture_has_lines_of_its_width_and_a_limit(reader: Any) -> None:
    model, tokenizer = reader()
    gated = read_text(model, tokenizer, "one two three $four_ five 漢字\n" * 200)
    assert len(gated.tokens) > views.MOST_TOKENS
    figure = views.text_view(gated)
    text = figure.axes[0]
    assert f"first 600 of {len(gated.tokens):,} tokens" in words(figure)[0] and len(text.texts) == 600
    assert all(patch.get_x() + patch.get_width() <= views.COLUMNS for patch in text.patches)
    lines = [each.get_position()[1] for each in text.texts]
    assert lines == sorted(lines) and len(set(lines)) > 50
