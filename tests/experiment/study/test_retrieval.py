"""Retrieval: the passage that is most like the prompt comes first, and a network that copies gains from it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rwkvgate.experiment.corpora.stories import generate_stories
from rwkvgate.experiment.corpora.tokenizer import train_tokenizer
from rwkvgate.experiment.study.retrieval import half_losses, prompts, rank_first

pytest.importorskip("bm25s", reason="bm25s is not installed: make install")
PASSAGES, STORIES = generate_stories(40, 0), generate_stories(6, 3, "held-out")


def test_the_passage_with_the_rare_words_of_the_query_is_first() -> None:
    passages = ["The fox met the hare.", "The king lost a silver key.", "The fox lost the way.", "The hare slept."]
    assert rank_first(passages, ["A silver KEY!", "who slept?"]) == [1, 3]


def test_a_prompt_is_half_a_story_after_a_passage_of_its_genre() -> None:
    found = prompts(STORIES, PASSAGES)
    texts = {p.text: p.domain for p in PASSAGES}
    for prompt, story in zip(found, STORIES, strict=True):
        assert prompt.first + prompt.second == story.text and prompt.first.endswith((".", "!", "?"))
        assert texts[prompt.random] == story.domain and prompt.random != prompt.retrieved
    own = prompts([PASSAGES[7]], PASSAGES)[0]
    assert own.retrieved == PASSAGES[7].text


class Copying(nn.Module):
    """Finds the tokens likelier that occurred in the text."""

    def forward(self, input_ids: Tensor, **_: Any) -> Any:
        seen = torch.nn.functional.one_hot(input_ids, 2048).cummax(1).values
        return type("Output", (), {"logits": 3.0 * seen, "past_key_values": ()})()


def test_copying_gains_from_the_passage_that_has_the_answer() -> None:
    tokenizer = train_tokenizer([p.text for p in PASSAGES], 2048)
    found = prompts([PASSAGES[7], PASSAGES[8]], PASSAGES)  # whose second halves are in what is retrieved
    losses = half_losses(Copying(), tokenizer, found)
    assert all(a < b - 0.1 for a, b in zip(losses["retrieved"], losses["random"], strict=True))
