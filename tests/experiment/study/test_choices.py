"""Choices between two sentences: rules that know no story score one half, and a network's choice is its likelihood."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from rwkvgate.experiment.corpora.stories import generate_stories
from rwkvgate.experiment.corpora.tokenizer import train_tokenizer
from rwkvgate.experiment.study.choices import Choice, balanced, chosen, fiction_choices, story_choices

STORIES = balanced(story_choices(generate_stories(40, 3, "held-out")), 40)
NOVEL = " ".join(
    f"{first} saw {second}. {third} spoke to him, and {fourth} left."
    for first, second, third, fourth in zip(
        *[iter(["Ann", "Bo", "Cy", "Ann", "Bo", "Ann", "Bo", "Cy", "Cy", "Bo", "Ann"] * 60)] * 4, strict=False
    )
)
FICTION = balanced(fiction_choices(NOVEL, ("Ann", "Bo", "Cy")), 40)
RULES: dict[str, Callable[[Choice], bool]] = {
    "the last-named": lambda choice: choice.last,
    "the more often named": lambda choice: choice.common,
    "the last-named, where it is the more often named": lambda choice: choice.last == choice.common and choice.last,
}


@pytest.mark.parametrize("items", [STORIES, FICTION], ids=["stories", "fiction"])
def test_rules_that_know_only_names_are_right_half_of_the_time(items: tuple[Choice, ...]) -> None:
    assert len(items) >= 20
    agreeing = [choice for choice in items if choice.last == choice.common]
    assert sum(choice.last for choice in items) == sum(choice.common for choice in items) == len(items) / 2
    assert sum(choice.last for choice in agreeing) == len(agreeing) / 2
    shorter, longer = (sum(sign * len(c.right) < sign * len(c.wrong) for c in items) for sign in (1, -1))
    assert shorter == longer


def test_the_wrong_text_has_two_names_exchanged_in_its_last_sentence() -> None:
    for choice in STORIES:
        first, second = re.split(r"(?<=[.!?]) ", choice.right), re.split(r"(?<=[.!?]) ", choice.wrong)
        assert first[:-1] == second[:-1] and first[-1] != second[-1]
    (only,) = list(fiction_choices("Ann saw Bo. Ann ran. Bo and Cy left, said Ann.", ("Ann", "Bo", "Cy")))[-1:]
    assert only == Choice(
        "Ann saw Bo. Ann ran. Bo and Cy left, said Ann.", "Ann saw Bo. Ann ran. Ann and Cy left, said Bo.", False, False
    )


class Repeating(nn.Module):
    """Finds a token likelier that it has just read."""

    def forward(self, input_ids: Any, **_: Any) -> Any:
        return SimpleNamespace(logits=torch.nn.functional.one_hot(input_ids, 300).float(), state=None)


def test_a_network_chooses_what_it_finds_likelier() -> None:
    tokenizer = train_tokenizer(["a b c d e f g"] * 20, 300)
    items = [Choice("xxxx", "xyzw", False, False), Choice("xyzw", "xxxx", True, True)]
    assert chosen(Repeating(), tokenizer, items) == [1.0, 0.0]
