"""Trivial baselines: what they write, and that empty and foreign texts are scored."""

from __future__ import annotations

import pytest

from rwkvgate.metrics.trivial import SYSTEMS, commonest_word, last_sentence, repeated, trivial_overlap


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("One day. A fox came!", "A fox came!"),
        ("No end here", "No end here"),
        ("Alles gut?  Ja. ", "Ja."),
        ("猫がいた。犬もいた。", "犬もいた。"),
        ("", ""),
        ('She said, "Go home."', 'She said, "Go home."'),
        ("It was dark. He left (at last.)", "He left (at last.)"),
        ("Really?! And then...", "And then..."),
        ("It cost 3.5 coins.", "It cost 3.5 coins."),
        ("他说。“走吧。”", "“走吧。”"),
    ],
)
def test_the_last_sentence(text: str, sentence: str) -> None:
    assert last_sentence(text) == sentence


def test_the_commonest_word_and_repetition() -> None:
    assert commonest_word(["the cat the dog", "a the a a"]) == "a" and commonest_word([""]) == ""
    with pytest.raises(ValueError, match="texts is one string; it must be a list"):
        commonest_word("the cat")
    assert repeated("ab", "x" * 9) == "ab ab ab" and repeated("", "xyz") == "" and repeated("long sentence", "x")


def test_every_system_is_scored_on_every_document() -> None:
    prompts, references = ["One fox. It ran.", "Two.", "", "猫。"], ["It ran away.", "Two ran home.", "x", ""]
    frame = trivial_overlap(prompts, references, ["ran ran home"])
    assert set(frame["system"]) == set(SYSTEMS) and len(frame) == 3 * 4
    scores = frame.set_index(["system", "document"])["rouge1"]
    assert scores["commonest-word", 1] > 0 and scores["last-sentence", 0] > 0
    assert trivial_overlap(["a"], ["b"], [])["rouge1"].eq(0).all()
    with pytest.raises(ValueError, match="2 prompts for 1 references"):
        trivial_overlap(["a", "b"], ["c"], [])
