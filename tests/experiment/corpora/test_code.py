"""Code of the running Python: it parses, and holds none of the words that a base is pretrained on."""

from __future__ import annotations

import ast
import tokenize
from io import StringIO
from pathlib import Path

import pytest

from rwkvgate.experiment.corpora.code import code_documents, plain_code


def test_documents_are_code_without_comments_and_the_same_each_time() -> None:
    found = code_documents(12, 1500, seed=1)
    assert len(found) == 12 and found == code_documents(12, 1500, seed=1) != code_documents(12, 1500, seed=2)
    assert all(len(d.text) + 1 >= 200 and len(d.text) <= 1500 and d.domain == "code" for d in found)
    assert len({d.key for d in found}) == 12


def test_docstrings_and_comments_go_and_the_rest_stays(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text('"""Words."""\n# more words\nX = "a # string"\n\ndef f():\n    """Words."""\n\nclass A:\n    "w"\n')
    text = plain_code(path)
    assert "ords" not in text and "a # string" in text and "pass" in text
    ast.parse(text)
    assert not [t for t in tokenize.generate_tokens(StringIO(text).readline) if t.type == tokenize.COMMENT]


@pytest.mark.parametrize("content", [b"def f(:\n", b"\xff\xfe\x00", b"x = '\x00'"])
def test_what_is_no_python_gives_nothing(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.py"
    path.write_bytes(content)
    assert plain_code(path) == "" and plain_code(tmp_path / "missing.py") == ""


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 and 200"):
        code_documents(0, 1000)
