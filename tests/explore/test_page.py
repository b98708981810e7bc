"""The single file: it allows only itself, asks no host, and records the gate on, off and open, whatever the text."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import numpy as np
import pytest

from rwkvgate.explore.gated_text import read_text
from rwkvgate.explore.interventions import clamp_gate
from rwkvgate.explore.kernel import KernelEngine
from rwkvgate.explore.page import recorded_page, recording, safe_json
from tests.explore.hostile import TEXTS, Page


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_the_page_is_one_file_that_allows_only_itself(text: str, reader: Any) -> None:
    model, tokenizer = reader()
    page = Page(recorded_page(KernelEngine({"arm": model}, tokenizer, text), title=text or "t"))
    data, script = page.blocks["script"]
    assert len(page.blocks["style"]) == 1
    policy = next(attributes["content"] or "" for name, attributes in page.elements if "http-equiv" in attributes)
    assert policy.startswith("default-src 'none'; ") and "unsafe" not in policy
    for block, directive in ((script, "script-src"), (page.blocks["style"][0], "style-src")):
        digest = base64.b64encode(hashlib.sha256(block.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}'" in policy
    sources = [attributes["src"] or "" for _, attributes in page.elements if "src" in attributes]
    assert all(source.startswith("data:image/png;base64,") for source in sources) and len(sources) == bool(text)
    assert not any({"href", "style"} & attributes.keys() for _, attributes in page.elements)
    assert ("meta", {"name": "color-scheme", "content": "light dark"}) in page.elements  # else white while it loads
    about = json.loads(data)["about"]
    assert about["engine"] == "recorded" and about["text"] == text and about["title"] == (text or "t")


def test_a_recording_holds_the_gate_as_it_is_and_clamped(reader: Any) -> None:
    model, tokenizer = reader()
    text = "Once upon a time"
    record = recording(KernelEngine({"arm": model, "other": lambda: 1 / 0}, tokenizer, text), "arm")
    assert [arm["name"] for arm in record["about"]["arms"]] == ["arm"]
    readings = {json.dumps(one["reading"]["interventions"]): one for one in record["readings"]}
    assert len(readings) == 1 + 2 * 3  # every layer, the first, the second
    for layer, value in ((None, 0), (2, 1)):
        one = readings[json.dumps([{"layer": layer, "channels": None, "tokens": None, "value": value}])]
        means, _, surprisal, *rest = [np.frombuffer(base64.b64decode(each), np.float32) for each in one["buffers"]]
        with clamp_gate(model, layer, value):
            expected = read_text(model, tokenizer, text)
        np.testing.assert_allclose(means.reshape(2, -1), expected.measure("mean"), atol=1e-4)
        np.testing.assert_allclose(surprisal[1:], expected.losses[1:], atol=1e-4)
        assert len(rest) == 2 and one["continuation"]
    with pytest.raises(ValueError, match="arms with one"):
        recording(KernelEngine({"arm": reader(None)[0]}, tokenizer, text), "arm")


def test_a_page_holds_cards_whose_words_stay_words(reader: Any) -> None:
    model, tokenizer = reader()
    engine = KernelEngine({"arm": model}, tokenizer, "Once", documents=list(TEXTS.values()))
    page = Page(recorded_page(engine, title="Cards"))
    data, _ = page.blocks["script"]
    cards = json.loads(data)["cards"]["arm"]
    assert cards["documents"] == len(TEXTS) and "script" in "".join(cards["pieces"]) and "<" not in data
    assert {name for name, _ in page.elements} <= {
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "main",
        "h1",
        "img",
        "noscript",
        "script",
    }


def test_json_cannot_leave_its_element() -> None:
    value = {"a": "</script><!--&\u2028\u2029", "b": [None, 1]}
    text = safe_json(value)
    assert not set("<>&\u2028\u2029") & set(text) and json.loads(text) == value
