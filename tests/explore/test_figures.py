"""The matplotlib views: every kind of text gives a picture, and a difference needs the same tokens."""

from __future__ import annotations

from typing import Any

import pytest

from rwkvgate.explore.effects import Held, clamp_effect
from rwkvgate.explore.figures import clamp_figure, difference_figure, layers_figure, surprisal_figure
from rwkvgate.explore.gated_text import read_text


@pytest.mark.filterwarnings("ignore:Glyph")  # a script that the font lacks is drawn as boxes
@pytest.mark.parametrize("text", ["", "a", "$x^2$ <b> שלום 猫 \n\\frac", "one two " * 700])
def test_every_kind_of_text_gives_a_picture(text: str, reader: Any, tmp_path: Any) -> None:
    model, tokenizer = reader()
    left, right = read_text(model, tokenizer, text), read_text(reader("low-rank")[0], tokenizer, text)
    effect = clamp_effect(model, tokenizer, text, Held(2, 0.0), new_tokens=1)
    figures = (surprisal_figure(left, 2), layers_figure(left, 3), difference_figure(left, right), clamp_figure(effect))
    for i, figure in enumerate(figures):
        figure.savefig(tmp_path / f"{i}.png")
        assert (tmp_path / f"{i}.png").stat().st_size > 1000
    if len(left.tokens) > 1:  # nothing comes before the first token that a gate could let in
        bars = [bar.get_height() for bar in figures[3].axes[0].patches]
        assert sum(bars) != 0 and len(bars) <= 512
    with pytest.raises(ValueError, match="a difference needs the same tokens"):
        difference_figure(left, read_text(model, tokenizer, "other words"))
