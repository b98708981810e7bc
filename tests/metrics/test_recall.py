"""Recall tasks: every answer can be inferred, nothing else is asked, and a seed determines the sequences."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from rwkvgate.metrics.recall import FIRST, SEPARATOR, associative_recall, copying, recalled
from rwkvgate.rwkv6.loss import IGNORED


@pytest.mark.parametrize(("length", "pairs", "symbols"), [(4, 1, 1), (64, 8, 64), (64, 16, 16), (257, 5, 9)])
def test_every_key_is_asked_once_and_its_value_was_given(length: int, pairs: int, symbols: int) -> None:
    ids, labels = associative_recall(20, length, pairs, symbols, seed=3)
    assert ids.shape == labels.shape == (20, length)
    for row, target in zip(ids.tolist(), labels.tolist(), strict=True):
        given = dict(zip(row[: 2 * pairs : 2], row[1 : 2 * pairs : 2], strict=True))
        asked = [i for i, label in enumerate(target) if label != IGNORED]
        assert sorted(row[i - 1] for i in asked) == sorted(given) and len(given) == pairs
        assert all(row[i] == target[i] == given[row[i - 1]] and i >= 2 * pairs for i in asked)
        assert all(FIRST <= key < FIRST + symbols <= value < FIRST + 2 * symbols for key, value in given.items())


def test_distances_follow_the_power_law() -> None:
    _, labels = associative_recall(400, 256, 4, 64, seed=0)
    near, far = (labels[:, part] != IGNORED for part in (slice(0, 64), slice(192, 256)))
    assert int(near.sum()) > 3 * int(far.sum()) > 0


def test_a_copy_is_the_string_again() -> None:
    ids, labels = copying(9, 12, 30, seed=1)
    assert ids.shape == (9, 25) and torch.equal(ids[:, :12], ids[:, 13:])
    assert bool((ids[:, 12] == SEPARATOR).all()) and torch.equal(labels[:, 13:], ids[:, 13:])
    assert bool((labels[:, :13] == IGNORED).all())


def test_a_seed_determines_the_sequences() -> None:
    for draw in (lambda s: associative_recall(5, 40, 4, 9, s), lambda s: copying(5, 9, 9, s)):
        assert torch.equal(draw(1)[0], draw(1)[0]) and not torch.equal(draw(1)[0], draw(2)[0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: associative_recall(1, 31, 8, 9, 0), "8 pairs need 32 tokens, and the length is 31"),
        (lambda: associative_recall(1, 64, 8, 7, 0), "7 symbols are too few for 8 different keys"),
        (lambda: associative_recall(1, 64, 0, 7, 0), "0 pairs need 4 tokens"),
        (lambda: copying(1, 0, 5, 0), "both must be at least 1"),
    ],
)
def test_what_does_not_fit_is_refused(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]


class Oracle(nn.Module):
    """Knows the answers of one batch with certainty, or is certain of a wrong one."""

    def __init__(self, labels: Tensor, right: float) -> None:
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(1))
        self.labels, self.right = labels, right

    def forward(self, ids: Tensor) -> SimpleNamespace:
        target = self.labels.roll(-1, dims=1).clamp(min=0)
        wrong = torch.arange(len(ids))[:, None] >= self.right * len(ids)
        logits = torch.zeros(*ids.shape, 200)
        return SimpleNamespace(logits=logits.scatter(-1, (target + wrong.long()).unsqueeze(-1), 50.0))


@pytest.mark.parametrize("right", [0.0, 0.5, 1.0])
def test_scores_are_shares_and_nats(right: float) -> None:
    ids, labels = associative_recall(8, 40, 4, 9, seed=0)
    share, nll = recalled(Oracle(labels, right), ids, labels)
    assert float(share.mean()) == right
    assert float(nll.mean()) == pytest.approx((1 - right) * 50, abs=1e-3)
