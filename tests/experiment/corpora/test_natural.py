"""Natural text: prose only, once each, the same every time."""

from __future__ import annotations

import platform
from importlib import metadata

import pytest

from rwkvgate.experiment.corpora import natural as module
from rwkvgate.experiment.corpora.build import split_natural
from rwkvgate.experiment.corpora.documents import Document
from rwkvgate.experiment.corpora.natural import (
    PYTHON_CHARACTERS,
    docstrings,
    is_prose,
    natural_documents,
    prose_paragraphs,
    text_versions,
    without_paragraphs,
)
from rwkvgate.experiment.corpora.punctuation import weak_document

SOURCE = '''# a licence

"""What the module does, told in more than forty characters."""

def one(a,
        b) -> None:  # noqa
    r"""A raw docstring with a \\d in it, told at some length."""
    text = """not a docstring, although it is long enough to be one"""

class Two:
    """A class with a docstring that spans lines,

    and a second paragraph with a tab\\tin it.
    """
'''
DOCSTRING = """Compute the answer to the question that was asked.

Parameters
----------
x : array_like
    The values that the answer is computed from, in any order.

>>> compute(3)
The result that follows is not prose, although it looks like it.

==== ====
one  two and three and four and five and six, all in a table.
==== ====

x = compute(y[0], z={1: 2}); return x + 1 if y else None, 3.14159265
"""


def test_it_reads_about_what_was_asked(natural: list[Document]) -> None:
    total = sum(len(document.text) for document in natural)
    assert 1_000_000 <= total < 1_300_000
    assert {document.domain for document in natural} == {"natural"}
    assert len({document.key for document in natural}) == len(natural)


def test_it_is_deterministic_and_the_seed_orders_it(natural: list[Document]) -> None:
    small = natural_documents(100_000, seed=0)
    assert natural_documents(100_000, seed=0) == small
    other = natural_documents(100_000, seed=1)
    assert [d.key for d in other] != [d.key for d in small]


def test_no_paragraph_comes_twice(natural: list[Document]) -> None:
    paragraphs = [text.lower() for document in natural for text in document.text.split("\n\n")]
    assert len(set(paragraphs)) == len(paragraphs)
    assert all(is_prose(text) for document in natural for text in document.text.split("\n\n"))


def test_docstrings_are_found_by_their_place() -> None:
    found = docstrings(SOURCE)
    assert [text.split("\n")[0] for text in found] == [
        "What the module does, told in more than forty characters.",
        "A raw docstring with a \\d in it, told at some length.",
        "A class with a docstring that spans lines,",
    ]
    assert "a tab\tin it" in found[2].expandtabs(1) or "a tab" in found[2]
    assert docstrings('"""unfinished') == []
    assert docstrings("") == []


def test_only_prose_is_kept() -> None:
    assert prose_paragraphs(DOCSTRING) == [
        "Compute the answer to the question that was asked.",
        "The values that the answer is computed from, in any order.",
    ]


def test_the_split_is_by_document_and_without_repeats(natural: list[Document]) -> None:
    train, validation = split_natural(natural)
    assert 0.02 < len(validation) / len(natural) < 0.04
    assert not {d.key for d in train} & {d.key for d in validation}
    assert len(train) > 0.9 * len(natural)


def test_a_repeated_paragraph_is_cut_out_and_the_rest_relabelled() -> None:
    copy = "This very paragraph is found in two places, which is one place too many for us."
    own = "And this one is found here only, so it stays where it is and keeps its labels."
    held = [weak_document(copy, "natural", "held")]
    left = without_paragraphs([weak_document(f"{copy}\n\n{own}", "natural", "a"), held[0]], held)
    assert left == [weak_document(own, "natural", "a")]


def test_a_text_names_the_versions_it_depends_on() -> None:
    few, many = text_versions(PYTHON_CHARACTERS), text_versions(PYTHON_CHARACTERS + 1)
    assert few == {"python": platform.python_version()}
    assert {"python", "numpy", "PIL", "zmq", "yaml", "absl"} <= set(many) <= {"python", *module.PACKAGES}
    assert many["numpy"] == metadata.version("numpy") and many["PIL"] == metadata.version("pillow")


def test_a_text_reads_the_packages_that_it_names_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def sources(characters: int) -> set[str]:
        return {document.key.split("/")[0] for document in natural_documents(characters, seed=0)}

    assert sources(PYTHON_CHARACTERS) <= {"topics", "stdlib"}
    monkeypatch.setattr(module, "PACKAGES", ("yaml", "no_such_package"))
    assert sources(10**9) == {"topics", "stdlib", "yaml"}
