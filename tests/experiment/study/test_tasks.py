"""What the study trains on: the memory tasks' answers are in their texts, and more of a text changes no row."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rwkvgate.experiment.study.design import MEMORY_LENGTH, SIZES, build
from rwkvgate.experiment.study.tasks import Books, Memory
from rwkvgate.experiment.study.texts import StudyTexts
from rwkvgate.metrics.recall import FIRST, NOISE, SEPARATOR, induction, passkey
from rwkvgate.rwkv6.loss import IGNORED


@pytest.mark.parametrize("name", Memory.NAMES)
@pytest.mark.parametrize("times", Memory.TIMES)
def test_every_length_asks_for_as_much(name: str, times: int) -> None:
    ids, labels = Memory().draw(name, 6, times * MEMORY_LENGTH, seed=0)
    assert ids.shape == labels.shape == (6, times * MEMORY_LENGTH)
    assert bool(((labels == IGNORED) | (labels == ids)).all())
    assert int(ids.max()) < Memory.vocabulary
    asked = (labels != IGNORED).sum(1).tolist()
    if name != "induction":
        assert asked == [{"recall": 8, "copying": 16, "passkey": 5}[name]] * 6


def walks(ids: list[int], labels: list[int]) -> int:
    """Labelled tokens of an induction sequence whose bigram occurred before."""
    return sum(
        label != IGNORED and any(ids[j : j + 2] == ids[i - 1 : i + 1] for j in range(i - 1))
        for i, label in enumerate(labels)
    )


def test_induction_labels_only_what_was_seen_before() -> None:
    ids, labels = induction(20, 64, symbols=64, seed=1)
    for row, scored in zip(ids.tolist(), labels.tolist(), strict=True):
        assert walks(row, scored) == sum(label != IGNORED for label in scored) > 10


def test_the_passkey_stands_once_in_the_text() -> None:
    ids, labels = passkey(50, 20, digits=3, symbols=9, seed=2)
    for row, scored in zip(ids.tolist(), labels.tolist(), strict=True):
        places = [i for i, token in enumerate(row) if token == SEPARATOR]
        assert len(places) == 2 and places[1] == 16
        assert row[places[0] + 1 : places[0] + 4] == row[-3:] == scored[-3:]
        assert all(token >= FIRST + 18 for token in row[: places[0]]) and NOISE not in row
    with pytest.raises(ValueError, match="a key of 9 tokens needs 20, and the length is 19"):
        passkey(1, 19, digits=9, symbols=9, seed=0)


@pytest.mark.parametrize("arguments", [(1, 1, 9), (1, 8, 7)])
def test_induction_refuses_what_does_not_fit(arguments: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="length is"):
        induction(*arguments, seed=0)


def test_more_steps_begin_with_the_same_rows() -> None:
    books = Books(StudyTexts(tuple(f"A text of number {i}. " * 30 for i in range(40)), ("valid",), ("test it",)))
    for task in (books, Memory()):
        few, many = (task.rows(steps, seed=3)[0] for steps in (1, 2))
        assert len(few) == task.batch
        assert [list(row) for row in many[: task.batch]] == [list(row) for row in few]
        assert [list(row) for row in task.rows(2, seed=4)[0]] != [list(row) for row in many]


def test_an_oracle_recalls_everything_and_a_new_network_nothing() -> None:
    memory = Memory()

    class Oracle(torch.nn.Module):
        """Looks its answers up."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, ids: Tensor) -> object:
            logits = torch.nn.functional.one_hot(ids.roll(-1, 1), memory.vocabulary).float() * 100
            return type("Output", (), {"logits": logits})()

    assert set(memory.score(Oracle())["shares"].values()) == {1.0}
    scored = memory.score(build("base", SIZES["64x2"], 0, memory.vocabulary))
    assert len(scored["test"]) == len(memory.weights)
    assert max(scored["shares"].values()) < 0.2
