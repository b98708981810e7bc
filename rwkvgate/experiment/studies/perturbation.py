"""Controlled perturbation: change punctuation or names in a text, and see what the gate and the model do after it.

Every edit stands beside a neutral one of the same kind, on the ordinary word nearest to it: a gate that only notices
that *something* changed reacts to both alike. What is compared are the tokens after the edit, which are the same in
both texts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from rwkvgate.experiment.corpora.documents import Document, Mention
from rwkvgate.explore.traces import record_gates
from rwkvgate.metrics.statistics import interval

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CHANGE_COLUMNS = ("kind", "document", "layer", "reach", "edited", "neutral")
REACHES = {"at the site": (0, 1), "1 to 7 tokens after": (1, 8), "8 to 31 tokens after": (8, 32)}
"""Tokens after an edit, counted from the first that is unchanged."""
_WORD = re.compile(r"\b[a-z]{3,}\b")


@dataclass(frozen=True)
class Edit:
    """A text changed in one way, and in the neutral way beside it; both end as the original does."""

    kind: str
    edited: str
    neutral: str


Span = tuple[int, int]
Change = tuple[Span, str]
"""Characters that go, and what takes their place."""


@dataclass(frozen=True)
class _Page:
    """What can be edited in the beginning of a document."""

    text: str
    commas: list[int]
    names: list[Mention]
    words: list[Span]

    def word_near(self, at: int) -> Span:
        return min(self.words, key=lambda span: abs(span[0] - at))

    def other_word(self, span: Span, rng: np.random.Generator) -> str:
        own = self.text[slice(*span)]
        others = sorted({self.text[slice(*word)] for word in self.words} - {own})
        return others[int(rng.integers(len(others)))] if others else own


def edits(document: Document, limit: int, seed: int = 0) -> list[Edit]:
    """One edit of each kind in the first `limit` characters, at places drawn from the seed.

    Kinds: `drop-`, `swap-` (a semicolon for the comma) and `move-punctuation` (the comma one word on) at a clause
    boundary; `drop-name`, `swap-name` (another of the story's people) and `shuffle-names` (all of them). A kind that
    the text has no place for is left out: no comma at a boundary, fewer than two people, no ordinary word.
    """
    rng = np.random.default_rng(seed)
    page = _page(document, limit)
    if not page.words:
        return []
    found = [(kind, make(page, rng)) for kind, make in _KINDS.items()]
    made = [
        Edit(kind, _apply(document.text, changes), _apply(document.text, neutral))
        for kind, pair in found
        if pair is not None
        for changes, neutral in [pair]
    ]
    return [edit for edit in made if document.text not in (edit.edited, edit.neutral)]


def gate_changes(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, documents: Sequence[tuple[Document, Sequence[Edit]]]
) -> pd.DataFrame:
    """How far each edit moves the gate at the tokens after it.

    Returns:
        One row a document, kind, layer and reach with `CHANGE_COLUMNS`: `edited` and `neutral` are mean absolute
        changes over channels and tokens, in standard deviations of the layer's gate over the document.

    Raises:
        ValueError: the model carries no gate.
    """
    rows = []
    for number, (document, made) in enumerate(documents):
        ids, gates = _read(model, tokenizer, document.text)
        deviation = gates.flatten(1).std(dim=1).clamp(min=1e-6)
        for edit in made:
            both = [_change(ids, gates, *_read(model, tokenizer, text)) for text in (edit.edited, edit.neutral)]
            shared = min(change.shape[1] for change in both)
            for reach, (start, stop) in REACHES.items():
                if shared < stop:
                    continue
                edited, neutral = (_window_mean(change, start, stop) / deviation for change in both)
                rows += [
                    (edit.kind, number, layer + 1, reach, float(edited[layer]), float(neutral[layer]))
                    for layer in range(len(deviation))
                ]
    return pd.DataFrame(rows, columns=list(CHANGE_COLUMNS))


def change_table(changes: pd.DataFrame, resamples: int = 2000) -> pd.DataFrame:
    """Each kind's change beside its neutral edit's, with the difference and its 95 % interval over documents.

    Returns:
        One row a kind, reach and layer: `edited`, `neutral`, `difference`, `low`, `high`, `documents`.
    """
    rows = []
    for (kind, reach, layer), part in changes.groupby(["kind", "reach", "layer"], sort=False):
        found = interval(part["edited"].to_numpy() - part["neutral"].to_numpy(), resamples=resamples)
        rows.append(
            {
                "kind": kind,
                "reach": reach,
                "layer": layer,
                "edited": float(part["edited"].mean()),
                "neutral": float(part["neutral"].mean()),
                "difference": found.estimate,
                "low": found.low,
                "high": found.high,
                "documents": found.n,
            }
        )
    columns = ["kind", "reach", "layer", "edited", "neutral", "difference", "low", "high", "documents"]
    return pd.DataFrame(rows, columns=columns)


def _page(document: Document, limit: int) -> _Page:
    text, boundaries = document.text, set(document.boundaries)
    mentions = [m for m in document.mentions if m.end <= limit]
    names = [m for m in mentions if m.kind in ("person", "machine") and text[m.start : m.end] == m.entity]
    commas = [at - 2 for at in sorted(boundaries) if at <= limit and text[at - 2 : at] == ", "]
    taken = {place for m in document.mentions for place in range(m.start, m.end)}
    words = [
        found.span()
        for found in _WORD.finditer(text, 0, limit)
        if found.start() not in boundaries and found.start() not in taken
    ]
    return _Page(text, commas, names, words)


def _drop_punctuation(page: _Page, rng: np.random.Generator) -> tuple[list[Change], list[Change]] | None:
    if not page.commas:
        return None
    at = page.commas[int(rng.integers(len(page.commas)))]
    return [((at, at + 1), "")], [(_with_space(page, page.word_near(at)), "")]


def _swap_punctuation(page: _Page, rng: np.random.Generator) -> tuple[list[Change], list[Change]] | None:
    if not page.commas:
        return None
    at = page.commas[int(rng.integers(len(page.commas)))]
    word = page.word_near(at)
    return [((at, at + 1), ";")], [(word, page.other_word(word, rng))]


def _move_punctuation(page: _Page, rng: np.random.Generator) -> tuple[list[Change], list[Change]] | None:
    if not page.commas:
        return None
    at = page.commas[int(rng.integers(len(page.commas)))]
    following = re.compile(r" (\S+)").match(page.text, at + 1)
    pairs = [(a, b) for a, b in zip(page.words, page.words[1:], strict=False) if b[0] == a[1] + 1]
    if following is None or not following.group(1).isalpha() or not pairs:
        return None
    one, two = min(pairs, key=lambda pair: abs(pair[0][0] - at))
    exchanged = f"{page.text[slice(*two)]} {page.text[slice(*one)]}"
    return [((at, following.end()), f"{following.group()},")], [((one[0], two[1]), exchanged)]


def _drop_name(page: _Page, rng: np.random.Generator) -> tuple[list[Change], list[Change]] | None:
    inside = [m for m in page.names if m.start and page.text[m.start - 1] == " "]
    if not inside:
        return None
    name = inside[int(rng.integers(len(inside)))]
    return [((name.start - 1, name.end), "")], [(_with_space(page, page.word_near(name.start)), "")]


def _swap_name(page: _Page, rng: np.random.Generator) -> tuple[list[Change], list[Change]] | None:
    if len({m.entity for m in page.names}) < 2:
        return None
    name = page.names[int(rng.integers(len(page.names)))]
    others = sorted({m.entity for m in page.names} - {name.entity})
    word = page.word_near(name.start)
    return (
        [((name.start, name.end), others[int(rng.integers(len(others)))])],
        [(word, page.other_word(word, rng))],
    )


def _shuffle_names(page: _Page, rng: np.random.Generator) -> tuple[list[Change], list[Change]] | None:
    if len({m.entity for m in page.names}) < 2:
        return None
    surfaces = [m.entity for m in page.names]
    chosen = sorted(rng.choice(len(page.words), min(len(surfaces), len(page.words)), replace=False).tolist())
    words = [page.words[i] for i in chosen]
    return (
        [((m.start, m.end), name) for m, name in zip(page.names, _moved(surfaces, rng), strict=True)],
        [(span, new) for span, new in zip(words, _moved([page.text[slice(*w)] for w in words], rng), strict=True)],
    )


_KINDS: dict[str, Callable[[_Page, np.random.Generator], tuple[list[Change], list[Change]] | None]] = {
    "drop-punctuation": _drop_punctuation,
    "swap-punctuation": _swap_punctuation,
    "move-punctuation": _move_punctuation,
    "drop-name": _drop_name,
    "swap-name": _swap_name,
    "shuffle-names": _shuffle_names,
}
KINDS = tuple(_KINDS)


def _moved(items: list[str], rng: np.random.Generator) -> list[str]:
    """The items in another order, if they have one that differs."""
    found = items
    for _ in range(20):
        found = [items[i] for i in rng.permutation(len(items))]
        if found != items:
            break
    return found


def _with_space(page: _Page, span: Span) -> Span:
    start, end = span
    return (start - 1, end) if start and page.text[start - 1] == " " else span


def _apply(text: str, changes: Sequence[Change]) -> str:
    for (start, end), new in sorted(changes, reverse=True):
        text = text[:start] + new + text[end:]
    return text


def _read(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[list[int], torch.Tensor]:
    """Token ids of a text, and the gate (layer, token, channel) at each."""
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    device = next(model.parameters()).device
    trace = record_gates(model, torch.tensor([[tokenizer.bos_token_id or 0, *ids]], device=device))
    return ids, trace.values[:, 0, 1:].float()


def _change(ids: Sequence[int], gates: torch.Tensor, other_ids: Sequence[int], other: torch.Tensor) -> torch.Tensor:
    """Mean absolute change over channels at the tokens that both texts end in, (layer, token)."""
    shared = 0
    while shared < min(len(ids), len(other_ids)) and ids[-1 - shared] == other_ids[-1 - shared]:
        shared += 1
    if not shared:
        return gates.new_zeros(gates.shape[0], 0)
    return (gates[:, -shared:] - other[:, -shared:]).abs().mean(-1)


def _window_mean(change: torch.Tensor, start: int, stop: int) -> torch.Tensor:
    return change[:, start:stop].mean(-1)
