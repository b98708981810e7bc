"""Edits of punctuation and names: how far each moves the gate at the tokens after it, and how the text is continued.

Every edit has a neutral one beside it, of the same form, on the nearest ordinary word: a gate that only notices that
*something* changed moves as far after both. Gates are compared at the tokens after an edit, which are the same in both
texts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rwkvgate.experiment.analysis.coherence import entity_scores
from rwkvgate.experiment.corpora.documents import Document, Mention
from rwkvgate.experiment.run import Run, Variant
from rwkvgate.experiment.steps import Texts, ensure_arm, ensure_texts
from rwkvgate.experiment.steps.probes import sample_size
from rwkvgate.experiment.studies.study import Study, documents_read, intervals, record_text, variants_of
from rwkvgate.metrics.generation import continue_prompts
from rwkvgate.metrics.measures import MEASURES

CHANGE_COLUMNS = ("kind", "document", "layer", "reach", "edited", "neutral")
REWRITTEN_COLUMNS = ("kind", "edit", "document", "entity_right", "entity_claims", "arm")
REACHES = {"at the site": (0, 1), "1 to 7 tokens after": (1, 8), "8 to 31 tokens after": (8, 32)}
"""Tokens after an edit, counted from the first that is unchanged."""
UNEDITED = "unedited"
_WORD = re.compile(r"\b[a-z]{3,}\b")

Span = tuple[int, int]
Change = tuple[Span, str]
"""Characters to remove, and the text that takes their place."""
Pair = tuple[list[Change], list[Change]]
"""The changes of an edit, and those of the neutral edit beside it."""


@dataclass(frozen=True)
class Edit:
    """A text edited in one way, and neutrally; both end as the original does."""

    kind: str
    edited: str
    neutral: str


@dataclass(frozen=True)
class _Prompt:
    """The places of a document's beginning that can be edited.

    `names` are people and machines by name; `words` are ordinary: no clause begins there, and nobody is mentioned.
    """

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
    boundary; `drop-name`, `swap-name` (another of the story's people) and `shuffle-names` (all of them). A kind is left
    out where the text has no place for it: no comma at a boundary, fewer than two people, no ordinary word.
    """
    rng = np.random.default_rng(seed)
    prompt = _prompt(document, limit)
    if not prompt.words:
        return []
    pairs = {kind: make(prompt, rng) for kind, make in _KINDS.items()}
    made = [
        Edit(kind, _apply(document.text, pair[0]), _apply(document.text, pair[1]))
        for kind, pair in pairs.items()
        if pair is not None
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
        ids, gates = _gates(model, tokenizer, document.text)
        deviation = gates.flatten(1).std(dim=1).clamp(min=1e-6)  # (layer,)
        for edit in made:
            both = [_change(ids, gates, *_gates(model, tokenizer, text)) for text in (edit.edited, edit.neutral)]
            shared = min(change.shape[1] for change in both)
            for reach, (start, stop) in REACHES.items():
                if shared < stop:
                    continue
                edited, neutral = (change[:, start:stop].mean(-1) / deviation for change in both)
                rows += [
                    (edit.kind, number, layer + 1, reach, float(edited[layer]), float(neutral[layer]))
                    for layer in range(len(deviation))
                ]
    return pd.DataFrame(rows, columns=list(CHANGE_COLUMNS))


def changes_by_kind(table: pd.DataFrame) -> pd.DataFrame:
    """How much further an edit moves the gate than its neutral edit does.

    Args:
        table: of the study `CHANGES`.

    Returns:
        One row an arm, kind and reach: `arm`, `kind`, `reach`, the means `edited` and `neutral` over layers, seeds and
        documents, and `estimate`, their difference, with its 95 % interval `low` and `high` over `n` documents. All in
        standard deviations of the layer's gate.
    """
    by = ["arm", "kind", "reach"]
    differences = table.assign(difference=table["edited"] - table["neutral"])
    means = table.groupby(by, sort=False)[["edited", "neutral"]].mean().reset_index()
    return means.merge(intervals(differences, by, ("document",), ("difference",)), on=by)


def claims_right(table: pd.DataFrame) -> pd.DataFrame:
    """The share of a continuation's claims about who holds what that are right, by the edit of its prompt.

    Args:
        table: of the study `REWRITTEN`.

    Returns:
        One row an arm, kind and edit: `arm`, `kind`, `edit` ("unedited", of the same documents; "edited"; "neutral"),
        and `estimate`, the share of all claims, with its 95 % interval `low` and `high` over `n` documents.
    """
    edited, plain = table[table["edit"] != UNEDITED], table[table["edit"] == UNEDITED]
    documents = edited[["arm", "kind", "document"]].drop_duplicates()
    plain = plain.drop(columns="kind").merge(documents, on=["arm", "document"])
    measure = MEASURES["entity_consistency"]
    by = ("arm", "kind", "edit")
    return intervals(pd.concat([plain, edited]), by, ("document",), measure.columns, measure.reduce)


def _changes(run: Run, variants: Sequence[Variant]) -> Iterator[pd.DataFrame]:
    texts = ensure_texts(run)
    documents = _edited_documents(run, texts)
    for variant in variants:
        print(f"reading the gate around edits, {variant}", flush=True)
        found = gate_changes(ensure_arm(variant), texts.tokenizer, documents)
        yield found.assign(arm=variant.arm.name, seed=variant.seed)


def _rewritten(run: Run, variants: Sequence[Variant]) -> Iterator[pd.DataFrame]:
    texts, settings = ensure_texts(run), run.settings
    rows, prompts, domains = [], [], []
    for number, (document, made) in enumerate(_edited_documents(run, texts)):
        prompt, rest = texts.prompt(document, settings)
        versions = [(UNEDITED, UNEDITED, prompt)]
        for edit in made:
            versions.append((edit.kind, "edited", edit.edited.removesuffix(rest)))
            versions.append((edit.kind, "neutral", edit.neutral.removesuffix(rest)))
        rows += [(kind, name, number) for kind, name, _ in versions]
        prompts += [text for *_, text in versions]
        domains += [document.domain] * len(versions)
    for variant in variants:
        print(f"continuing edited prompts, {variant}", flush=True)
        written = continue_prompts(
            ensure_arm(variant),
            texts.tokenizer,
            prompts,
            new_tokens=settings.evaluation.new_tokens,
            batch_size=settings.evaluation.batch_size,
        )
        scores = entity_scores(domains, prompts, written)[["entity_right", "entity_claims"]]
        frame = pd.DataFrame(rows, columns=["kind", "edit", "document"])
        yield pd.concat([frame, scores], axis=1).assign(arm=variant.arm.name)


def _edited_documents(run: Run, texts: Texts) -> list[tuple[Document, list[Edit]]]:
    """Test documents, each with one edit of each kind in its prompt."""
    return [
        (document, edits(document, len(texts.prompt(document, run.settings)[0]), seed=number))
        for number, document in enumerate(texts.corpus.test[: sample_size(run)])
    ]


def _prompt(document: Document, limit: int) -> _Prompt:
    text, boundaries = document.text, set(document.boundaries)
    mentions = [m for m in document.mentions if m.end <= limit]
    names = [m for m in mentions if m.kind in ("person", "machine") and text[m.start : m.end] == m.entity]
    commas = [at - 2 for at in sorted(boundaries) if at <= limit and text[at - 2 : at] == ", "]
    special = boundaries | {place for m in document.mentions for place in range(m.start, m.end)}
    words = [match.span() for match in _WORD.finditer(text, 0, limit) if match.start() not in special]
    return _Prompt(text, commas, names, words)


def _drop_punctuation(prompt: _Prompt, rng: np.random.Generator) -> Pair | None:
    if not prompt.commas:
        return None
    at = prompt.commas[int(rng.integers(len(prompt.commas)))]
    return [((at, at + 1), "")], [(_with_space(prompt, prompt.word_near(at)), "")]


def _swap_punctuation(prompt: _Prompt, rng: np.random.Generator) -> Pair | None:
    if not prompt.commas:
        return None
    at = prompt.commas[int(rng.integers(len(prompt.commas)))]
    word = prompt.word_near(at)
    return [((at, at + 1), ";")], [(word, prompt.other_word(word, rng))]


def _move_punctuation(prompt: _Prompt, rng: np.random.Generator) -> Pair | None:
    if not prompt.commas:
        return None
    at = prompt.commas[int(rng.integers(len(prompt.commas)))]
    following = re.compile(r" (\S+)").match(prompt.text, at + 1)
    neighbours = [(a, b) for a, b in zip(prompt.words, prompt.words[1:], strict=False) if b[0] == a[1] + 1]
    if following is None or not following.group(1).isalpha() or not neighbours:
        return None
    one, two = min(neighbours, key=lambda pair: abs(pair[0][0] - at))
    exchanged = f"{prompt.text[slice(*two)]} {prompt.text[slice(*one)]}"
    return [((at, following.end()), f"{following.group()},")], [((one[0], two[1]), exchanged)]


def _drop_name(prompt: _Prompt, rng: np.random.Generator) -> Pair | None:
    inside = [m for m in prompt.names if m.start and prompt.text[m.start - 1] == " "]
    if not inside:
        return None
    name = inside[int(rng.integers(len(inside)))]
    return [((name.start - 1, name.end), "")], [(_with_space(prompt, prompt.word_near(name.start)), "")]


def _swap_name(prompt: _Prompt, rng: np.random.Generator) -> Pair | None:
    people = {m.entity for m in prompt.names}
    if len(people) < 2:
        return None
    name = prompt.names[int(rng.integers(len(prompt.names)))]
    others = sorted(people - {name.entity})
    word = prompt.word_near(name.start)
    swapped = [((name.start, name.end), others[int(rng.integers(len(others)))])]
    return swapped, [(word, prompt.other_word(word, rng))]


def _shuffle_names(prompt: _Prompt, rng: np.random.Generator) -> Pair | None:
    names = [m.entity for m in prompt.names]
    if len(set(names)) < 2:
        return None
    chosen = sorted(rng.choice(len(prompt.words), min(len(names), len(prompt.words)), replace=False).tolist())
    spans = [prompt.words[i] for i in chosen]
    shuffled = list(zip([(m.start, m.end) for m in prompt.names], _reordered(names, rng), strict=True))
    return shuffled, list(zip(spans, _reordered([prompt.text[slice(*span)] for span in spans], rng), strict=True))


_KINDS: dict[str, Callable[[_Prompt, np.random.Generator], Pair | None]] = {
    "drop-punctuation": _drop_punctuation,
    "swap-punctuation": _swap_punctuation,
    "move-punctuation": _move_punctuation,
    "drop-name": _drop_name,
    "swap-name": _swap_name,
    "shuffle-names": _shuffle_names,
}
KINDS = tuple(_KINDS)


def _reordered(items: list[str], rng: np.random.Generator) -> list[str]:
    """The items in another order, if one that differs is drawn in 20 attempts."""
    drawn = items
    for _ in range(20):
        drawn = [items[i] for i in rng.permutation(len(items))]
        if drawn != items:
            break
    return drawn


def _with_space(prompt: _Prompt, span: Span) -> Span:
    start, end = span
    return (start - 1, end) if start and prompt.text[start - 1] == " " else span


def _apply(text: str, changes: Sequence[Change]) -> str:
    for (start, end), new in sorted(changes, reverse=True):
        text = text[:start] + new + text[end:]
    return text


def _gates(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[list[int], torch.Tensor]:
    """Token ids of a text, and the gate (layer, token, channel) at each."""
    trace = record_text(model, tokenizer, text)
    return trace.input_ids[0, 1:].tolist(), trace.values[:, 0, 1:].float()


def _change(ids: Sequence[int], gates: torch.Tensor, other_ids: Sequence[int], other: torch.Tensor) -> torch.Tensor:
    """Mean absolute change over channels at the tokens that both texts end in, (layer, token)."""
    shared = 0
    while shared < min(len(ids), len(other_ids)) and ids[-1 - shared] == other_ids[-1 - shared]:
        shared += 1
    if not shared:
        return gates.new_zeros(gates.shape[0], 0)
    return (gates[:, -shared:] - other[:, -shared:]).abs().mean(-1)


def _rewritten_inputs(run: Run) -> dict[str, Any]:
    return documents_read(run) | {"new_tokens": run.settings.evaluation.new_tokens}


CHANGES = Study(
    "changes",
    (*CHANGE_COLUMNS, "arm", "seed"),
    _changes,
    documents_read,
    lambda run: variants_of(run, ("enhanced", "enhanced-untrained")),
)
"""The columns of `gate_changes`, tuned and untuned."""
REWRITTEN = Study(
    "rewritten",
    REWRITTEN_COLUMNS,
    _rewritten,
    _rewritten_inputs,
    lambda run: [variant for variant in variants_of(run, ("base-tuned", "enhanced")) if variant.seed == 0],
)
"""Claims about who holds what in continuations of edited prompts, and those of them that are right: `kind` of edit, and
`edit`, which is "edited", "neutral" or `UNEDITED`. A continuation is compared with the prompt that it continues."""
