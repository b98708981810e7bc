"""A session's choices: what it refuses, and that a refusal changes nothing."""

from __future__ import annotations

from typing import Any

import pytest

from rwkvgate.explore.interventions import Clamp
from rwkvgate.explore.session import Session


def test_a_refused_change_changes_nothing(reader: Any) -> None:
    model, tokenizer = reader()
    session = Session({"a": model}, tokenizer, "x")
    start = session.choice
    for change, message in (
        ({"arm": "b"}, "arm is 'b'; allowed are 'a'"),
        ({"view": "x"}, "view is 'x'"),
        ({"layer": "9"}, "layer is '9'; allowed are 1, 2"),
        ({"measure": "median"}, "measure is 'median'"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"length": 0}, "length is 0; allowed are 1 to 1000"),
        ({"clamp": Clamp(1, 1.5)}, "must be 0 to 1"),
        ({"text": "x" * 10**6}, "the text has 1,000,000 characters; at most 200,000 are read"),
        ({"other_text": "x" * 10**6}, "at most 200,000 are read"),
        ({"text": "a\ud800"}, "half of a surrogate pair"),
        ({"text": None}, "of type NoneType; it must be a string"),
    ):
        with pytest.raises(ValueError, match=message):
            session.change(**change)
        assert session.choice == start and not session.can_undo
    assert session.undo() == session.redo() == start
    with pytest.raises(ValueError, match="at least one model"):
        Session({}, tokenizer)
    with pytest.raises(ValueError, match="at most 200,000 are read"):
        Session({"a": model}, tokenizer, "x" * 10**6)
