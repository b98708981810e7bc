"""Loss by position adds up to the loss of the text; shuffling moves only what lies far back."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from rwkvgate.metrics import context
from rwkvgate.metrics.context import (
    CONTEXT_COLUMNS,
    distant_context,
    long_texts,
    losses_by_position,
    position_edges,
)
from rwkvgate.metrics.likelihood import score_texts, token_losses


def document(sentences: list[str]) -> SimpleNamespace:
    """A text of these sentences and the offsets of their ends."""
    ends = [len(" ".join(sentences[: i + 1])) for i in range(len(sentences))]
    return SimpleNamespace(text=" ".join(sentences), sentence_ends=tuple(ends))


def test_long_texts_are_cut_exactly_and_short_ones_are_read_again() -> None:
    assert long_texts([[1, 2], [3]], 2, separator=9) == [[9, 1], [2, 9]]
    assert long_texts([[1], []], 5, separator=9) == [[9, 1, 9, 1, 9]]
    for documents, length in (([[]], 3), ([[1]], 0)):
        with pytest.raises(ValueError, match=r"no document|length is 0"):
            long_texts(documents, length)


def test_edges_double_up_to_eight_times_the_trained_length() -> None:
    assert position_edges(256, 8) == [0, 32, 64, 128, 256, 512, 1024, 2048]
    assert position_edges(1, 8)[:2] == [0, 1]


def test_buckets_add_up(model: Any) -> None:
    texts = [[3, 4, 5] * 30, [7] * 90]
    complete = token_losses(model, texts, batch_size=2)
    frame = losses_by_position(model, texts, [0, 10, 40, 90, 400], batch_size=1, window=16)
    for number, losses in enumerate(complete):
        own = frame[frame["text"] == number]
        assert own["tokens"].tolist() == [10, 30, 50] and own["nll"].sum() == pytest.approx(losses.sum(), rel=1e-5)
        assert own["nll"].iloc[0] == pytest.approx(losses[:10].sum(), rel=1e-5)


def test_a_forgotten_state_is_another_loss_and_the_first_window_is_not(model: Any) -> None:
    carried, forgotten = (token_losses(model, [[3, 4, 5] * 30], batch_size=1, window=30, carried=c)[0] for c in (1, 0))
    assert carried[:30] == pytest.approx(forgotten[:30], rel=1e-5)
    assert abs(carried[30:] - forgotten[30:]).max() > 1e-3


def test_the_tail_is_scored_after_three_contexts(model: Any, tokenizer: Any) -> None:
    stories = [document([f"The fox {i} saw dog number {j}." for j in range(5 + i)]) for i in range(6)]
    frame = distant_context(model, tokenizer, stories, batch_size=4)
    assert list(frame.columns) == list(CONTEXT_COLUMNS) and frame["document"].tolist() == list(range(6))
    for row, story in zip(frame.itertuples(), stories, strict=True):
        cut = story.sentence_ends[-3]
        complete, head = score_texts(model, tokenizer, [story.text, story.text[:cut]], batch_size=1)["nll"]
        assert row.intact_nll == pytest.approx(complete - head, rel=1e-4)
        assert row.tail_tokens == len(story.text[cut:].encode())


def test_the_shuffled_text_differs_in_its_order_alone(model: Any, tokenizer: Any, monkeypatch: Any) -> None:
    read: list[str] = []
    plain = context.encode
    monkeypatch.setattr(context, "encode", lambda t, texts: read.extend(texts) or plain(t, texts))
    for parts in (
        ["甲一。", "乙二。", "丙三。", "丁四。", "戊五。", "己六。"],
        ["A b.", "\nC d.", "  E f.", " G.", "\nH.", " I."],
    ):
        text, ends = "".join(parts), tuple(itertools.accumulate(map(len, parts)))
        read.clear()
        distant_context(model, tokenizer, [SimpleNamespace(text=text, sentence_ends=ends)], batch_size=2)
        _, intact, shuffled, _ = read
        assert shuffled != intact and sorted(shuffled) == sorted(intact)
        assert [c for c in shuffled if c.isspace()] == [c for c in intact if c.isspace()]


def test_documents_without_an_order_to_shuffle_are_left_out(model: Any, tokenizer: Any) -> None:
    short = [
        document(["One.", "Two.", "Three.", "Four."]),
        document([]),
        SimpleNamespace(text="字" * 50, sentence_ends=()),
    ]
    assert distant_context(model, tokenizer, short, batch_size=2).empty
    enough = document(["A one.", "B two.", "C.", "D.", "E."])
    frame = distant_context(model, tokenizer, [*short, enough], batch_size=2)
    assert frame["document"].tolist() == [3] and isinstance(frame, pd.DataFrame)
