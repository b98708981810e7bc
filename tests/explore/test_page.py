"""The page: one file that requests nothing, whatever the text."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import numpy as np
import pytest

from rwkvgate.explore.gated_text import read_text
from rwkvgate.explore.page import UNIT, safe_json, static_page
from rwkvgate.explore.palette import STEPS
from tests.explore.hostile import TEXTS, Page


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_the_page_is_one_file_that_allows_only_itself(text: str, reader: Any, tmp_path: Any) -> None:
    model, tokenizer = reader()
    gated = read_text(model, tokenizer, text)
    source = static_page(gated, title=text or "t")
    page = Page(source)
    data, script = page.blocks["script"]
    assert len(page.blocks["style"]) == 1
    policy = next(attributes["content"] or "" for name, attributes in page.elements if "http-equiv" in attributes)
    assert policy.startswith("default-src 'none'; ") and "unsafe" not in policy
    for block, directive in ((script, "script-src"), (page.blocks["style"][0], "style-src")):
        digest = base64.b64encode(hashlib.sha256(block.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}'" in policy
    assert not any({"src", "href", "style"} & attributes.keys() for _, attributes in page.elements)
    assert "url(" not in page.blocks["style"][0] and "@import" not in page.blocks["style"][0]
    read = json.loads(data)
    values = gated.measure("mean")
    np.testing.assert_allclose(np.array(read["measures"][0]["values"]) / UNIT, values, atol=1 / UNIT)
    assert read["steps"] == STEPS and read["labels"] == ["1", "2"]


def test_json_cannot_leave_its_element() -> None:
    value = {"a": "</script><!--&\u2028\u2029", "b": [None, 1]}
    text = safe_json(value)
    assert not set("<>&\u2028\u2029") & set(text) and json.loads(text) == value
