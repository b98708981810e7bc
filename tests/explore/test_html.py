"""Views of hostile texts: legible, escaped, and one page that asks for nothing from outside."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from rwkvgate.experiment.corpora.tokenizer import train_tokenizer
from rwkvgate.explore import gated_text, html
from rwkvgate.explore.effects import Held, clamp_effect
from rwkvgate.explore.gated_text import read_text
from rwkvgate.explore.interventions import clamp_gate
from rwkvgate.explore.page import UNIT, safe_json, static_page
from rwkvgate.explore.palette import DIVERGING, SEQUENTIAL, STEPS, class_names, hex_colours, steps, value_range
from rwkvgate.explore.tokens import aggregate, direction, readable, token_texts

TEXTS = {
    "empty": "",
    "one token": "a",
    "script": "</script><script>alert('x')</script> <b onclick=\"x\">&amp;\u2028\u2029",
    "right to left": "في قديم الزمان שלום",
    "emoji and marks": "👩‍👩‍👧 e\u0301 \u0301 🏳️‍🌈 \x00\x07\u202eabc\u202c",
    "white space": "  \n\n\t \r\n x ",
    "many scripts": "猫 мир हिन्दी ไทย 한국어",
}


class Page(HTMLParser):
    """Every element with its attributes, and the text outside style and script."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text, self._inside = "", ""
        self.blocks: dict[str, list[str]] = {"script": [], "style": []}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag if tag in self.blocks else self._inside

    def handle_endtag(self, tag: str) -> None:
        self._inside = "" if tag == self._inside else self._inside

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.blocks[self._inside].append(data)
        else:
            self.text += data


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_every_view_of_hostile_text_is_text(text: str, reader: Any) -> None:
    model, tokenizer = reader()
    gated = read_text(model, tokenizer, text)
    effect = clamp_effect(model, tokenizer, text, Held(1, 0.5), new_tokens=3)
    views = [
        html.text_view(gated, 2, "saturated"),
        html.layers_view(gated, 3),
        html.distribution_view(gated),
        html.extremes_view(gated, 1),
        html.surprisal_view(gated, 2),
        html.compare_view(gated, gated, 1, "low"),
        html.compare_view(gated, read_text(model, tokenizer, "another"), 1),
        html.clamp_view(effect),
    ]
    for view in views:
        page = Page(view)
        assert not {name for name, _ in page.elements} & {"script", "b", "iframe", "img"}
        assert not any(name.startswith("on") or name == "style" for _, found in page.elements for name in found)
        assert not re.search(r"[\x00-\x09\x0b-\x1f\u202a-\u202e]", page.text)
        if not text:
            assert "The text is empty" in page.text
        assert view._repr_html_().startswith('<div class="rg"><style>')
    if text:
        spans = [found for name, found in Page(views[0]).elements if name == "span" and "title" in found]
        assert len(spans) == len(gated.tokens)
        wanted = gated.measure("saturated")[1]
        shown = [float((found["title"] or "").rsplit(" ", 1)[1]) for found in spans]
        np.testing.assert_allclose(shown, wanted, atol=6e-4)


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_the_page_is_one_file_that_allows_only_itself(text: str, reader: Any, tmp_path: Any) -> None:
    model, tokenizer = reader()
    gated = read_text(model, tokenizer, text)
    source = static_page(gated, title=text or "t")
    page = Page(source)
    data, script = page.blocks["script"]
    assert len(page.blocks["style"]) == 1
    policy = next(found["content"] or "" for name, found in page.elements if "http-equiv" in found)
    assert policy.startswith("default-src 'none'; ") and "unsafe" not in policy
    for block, kind in ((script, "script-src"), (page.blocks["style"][0], "style-src")):
        digest = base64.b64encode(hashlib.sha256(block.encode()).digest()).decode()
        assert f"{kind} 'sha256-{digest}'" in policy
    assert not any({"src", "href", "style"} & found.keys() for _, found in page.elements)
    assert "url(" not in page.blocks["style"][0] and "@import" not in page.blocks["style"][0]
    read = json.loads(data)
    values = gated.measure("mean")
    np.testing.assert_allclose(np.array(read["measures"][0]["values"]) / UNIT, values, atol=1 / UNIT)
    assert read["steps"] == STEPS and read["labels"] == ["1", "2"]


def test_json_cannot_leave_its_element() -> None:
    value = {"a": "</script><!--&\u2028\u2029", "b": [None, 1]}
    text = safe_json(value)
    assert not set("<>&\u2028\u2029") & set(text) and json.loads(text) == value


def test_tokens_that_hold_a_part_of_a_character_are_their_bytes(reader: Any) -> None:
    for tokenizer in (reader()[1], train_tokenizer(["plain English text"], 300)):
        for text in TEXTS.values():
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            found = b""
            for token in token_texts(tokenizer, ids):
                split = re.fullmatch(r"⟨([0-9a-f ]+)⟩", token)
                found += bytes.fromhex(split[1]) if split else token.encode()
            assert found.decode() == text


def test_what_a_token_looks_like() -> None:
    shown = {" ": "·", " a": " a", "\n": "⏎", "a\t": "a⇥", "\x07": "□", "\u0301": "◌\u0301", "\u200d": "□"}
    assert {token: readable(token) for token in shown} == shown
    assert readable("👩\u200d") == "👩\u200d" and readable("") == ""
    assert direction(["שלום", " hi"]) == "rtl" and direction(["hello", " ש"]) == "ltr" and direction(["1"]) == "ltr"


def test_groups_of_tokens() -> None:
    values = np.array([[1, 3, np.nan, 5, 7]], dtype=np.float32)
    texts, means, size = aggregate(list("abcde"), values, 3)
    assert texts == ["ab", "cd", "e"] and size == 2 and means.tolist() == [[2, 5, 7]]
    assert aggregate([], values[:, :0], 3)[2] == 1
    assert np.isnan(aggregate(["a", "b"], np.full(2, np.nan, np.float32), 1)[1]).all()


def test_long_texts_are_shown_in_groups_and_it_is_said(reader: Any) -> None:
    model, tokenizer = reader()
    gated = read_text(model, tokenizer, "one two three four five " * 1000)
    assert len(gated.tokens) > html.MOST_TOKENS
    for view in (html.text_view(gated), html.layers_view(gated), html.surprisal_view(gated)):
        assert "in groups of" in view
    assert len([1 for name, _ in Page(html.text_view(gated)).elements if name == "span"]) <= html.MOST_TOKENS + 4
    assert json.loads(Page(static_page(gated)).blocks["script"][0])["hover"][1].startswith("tokens 2 to 3")


def test_colours_are_even_and_know_their_ends() -> None:
    assert steps(np.array([-1, 0, 0.5, 1, 2, np.nan], np.float32), 0, 1).tolist() == [0, 0, 32, 63, 63, -1]
    assert class_names(np.array([np.nan, 0], np.float32), 0, 1, DIVERGING) == ["dn", "d0"]
    assert value_range(np.array([0.1, -0.3], np.float32), DIVERGING) == pytest.approx((-0.3, 0.3))
    assert value_range(np.array([np.nan], np.float32)) == (0, 1)
    low, high = value_range(np.array([0.5], np.float32))
    assert low < 0.5 < high
    brightness = [
        int(colour[1:3], 16) + int(colour[3:5], 16) + int(colour[5:], 16) for colour in hex_colours(SEQUENTIAL)
    ]
    assert brightness[0] < brightness[32] < brightness[63]


def test_the_effect_of_a_clamp_is_the_difference_of_two_readings(reader: Any) -> None:
    model, tokenizer = reader()
    effect = clamp_effect(model, tokenizer, "Once upon a time", Held(None, 0.0), new_tokens=4)
    with clamp_gate(model, None, 0.0):
        wanted = read_text(model, tokenizer, "Once upon a time")
    np.testing.assert_allclose(effect.clamped, wanted.losses, atol=1e-5)
    assert not np.allclose(effect.free, effect.clamped)
    assert "every layer held at 0.00" in str(effect.held)
    with pytest.raises(ValueError, match="layer is 3; the model has layers 1 to 2"):
        clamp_effect(model, tokenizer, "Once", Held(3, 0.0), new_tokens=1)


def test_layers_and_channels_out_of_range(reader: Any) -> None:
    model, tokenizer = reader("ungated-shift")
    gated = read_text(model, tokenizer, "a b")
    assert gated.labels == ["1 time", "1 channel", "2 time", "2 channel"]
    assert gated.gate(2) == 2 and gated.gate("2 channel") == 3
    with pytest.raises(ValueError, match="layer is 3; allowed are 1 time, 1 channel"):
        html.text_view(gated, 3)
    with pytest.raises(ValueError, match="channel is 16; allowed are 0 to 15"):
        html.text_view(gated, 1, 16)
    with pytest.raises(ValueError, match="measure is 'median'"):
        html.text_view(gated, 1, "median")


def test_a_text_too_long_for_single_channels_says_so(reader: Any, monkeypatch: Any) -> None:
    model, tokenizer = reader()
    monkeypatch.setattr(gated_text, "MOST_KEPT", 0)
    gated = read_text(model, tokenizer, "one two three")
    assert gated.values is None and "layer 1" in html.text_view(gated)
    with pytest.raises(ValueError, match="too long for single channels"):
        html.text_view(gated, 1, 3)


def test_the_rank_correlation_in_words() -> None:
    rising, level = np.arange(5, dtype=np.float32), np.ones(5, np.float32)
    assert html.correlation(rising, rising**3) == "rank correlation +1.00"
    assert html.correlation(rising, -rising) == "rank correlation -1.00"
    for a, b in ((rising[:2], rising[:2]), (rising, level), (np.full(5, np.nan, np.float32), rising)):
        assert html.correlation(a, b).startswith("no rank correlation")
