"""Entity coherence as a choice between two sentences, on which systems that know only names score one half.

A sentence continues a text that has named two people; the wrong choice is the same sentence with both names exchanged,
wherever they stand in it. The network reads both, and chooses the likelier. Among the items the one that is right
begins with the last-named person as often as with the other, and with the more often named as often as with the
other, and is shorter than the wrong one as often as longer. So always naming the last, always naming the commoner,
taking the shorter, and guessing score one half by construction.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain

import numpy as np
from torch import nn
from transformers import PreTrainedTokenizerFast

from rwkvgate.experiment.corpora.documents import Document
from rwkvgate.experiment.corpora.stories.reading import CLAIMS, understood
from rwkvgate.metrics.likelihood import encode, token_losses

CONTEXT = 800
"""Characters before the sentence that are read, at most."""
Name = tuple[int, int, str]
"""Where a name stands, [start, end) in characters, and whose it is."""
_SENTENCE = re.compile(r"\S[^.!?]*[.!?]")


@dataclass(frozen=True)
class Choice:
    """Two texts, of which one is right.

    Attributes:
        last: whether the person that the right sentence names first was named last before it.
        common: whether that person was named more often than the other.
    """

    right: str
    wrong: str
    last: bool
    common: bool


def story_choices(stories: Iterable[Document]) -> Iterator[Choice]:
    """The choices in generated stories: sentences that say who holds what, or hand it over."""
    for story in stories:
        people = [m for m in story.mentions if m.kind in ("person", "machine")]
        names = [(m.start, m.end, m.entity) for m in people if story.text[m.start : m.end] == m.entity]
        yield from choices(story.text, names, partial(_claims, story.domain))


def fiction_choices(text: str, people: Sequence[str]) -> Iterator[Choice]:
    """The choices in a novel, whose people are called by these names."""
    pattern = re.compile(rf"\b(?:{'|'.join(map(re.escape, sorted(people, key=len, reverse=True)))})\b")
    yield from choices(text, [(m.start(), m.end(), m.group()) for m in pattern.finditer(text)])


def choices(text: str, names: Sequence[Name], admitted: Callable[[str], bool] = bool) -> Iterator[Choice]:
    """A choice for each admitted sentence that begins with someone named before: or is it the last-named other one?

    Example:
        >>> text = "Ann met Bo. Ann spoke. Bo went, and Ann stayed."
        >>> names = [(m.start(), m.end(), m.group()) for m in re.finditer("Ann|Bo", text)]
        >>> found = list(choices(text, names))
        >>> found[-1].wrong, found[-1].last, found[-1].common
        ('Ann met Bo. Ann spoke. Ann went, and Bo stayed.', False, False)
    """
    for sentence in _SENTENCE.finditer(text):
        start, end = sentence.span()
        begin = max(0, start - CONTEXT)
        before = [who for at, _, who in names if begin <= at < start]
        inside = [name for name in names if start <= name[0] < end]
        if not inside or inside[0][2] not in before or not admitted(sentence.group()):
            continue
        first, counts = inside[0][2], Counter(before)
        other = next((who for who in reversed(before) if who != first), first)
        if counts[first] == counts[other]:
            continue
        wrong = _exchanged(text, inside, {first: other, other: first}, start, end)
        yield Choice(text[begin:end], text[begin:start] + wrong, first == before[-1], counts[first] > counts[other])


def balanced(found: Iterable[Choice], count: int) -> tuple[Choice, ...]:
    """At most `count` of the choices: as many of each kind of first name, and as many whose right text is the shorter
    as have the longer one."""
    kinds: dict[tuple[bool, bool], list[Choice]] = {(a, b): [] for a in (True, False) for b in (True, False)}
    for choice in found:
        kinds[choice.last, choice.common].append(choice)
    taken: list[Choice] = []
    for agree, most in ((False, count // 2), (True, count)):  # where both rules name one person, and where they differ
        pair = [_fair(kinds[last, last == agree]) for last in (True, False)]
        each = min((most - len(taken)) // 2, *map(len, pair)) // 2 * 2
        taken += pair[0][:each] + pair[1][:each]
    return tuple(taken)


def _fair(kind: Sequence[Choice]) -> list[Choice]:
    """As many choices whose right text is the shorter as have the longer one, in turn, and then those of one length."""
    shorter, same, longer = ([c for c in kind if np.sign(len(c.right) - len(c.wrong)) == x] for x in (-1, 0, 1))
    return [*chain.from_iterable(zip(shorter, longer, strict=False)), *same]


def chosen(model: nn.Module, tokenizer: PreTrainedTokenizerFast, items: Sequence[Choice]) -> list[float]:
    """Of each choice 1.0 where the network finds the right text likelier, 0.5 where both are alike, else 0.0."""
    texts = [text for item in items for text in (item.right, item.wrong)]
    losses = token_losses(model, encode(tokenizer, texts), batch_size=32)
    margins = np.array([x.sum() for x in losses]).reshape(-1, 2) @ (-1.0, 1.0)
    return [float(x) for x in (np.sign(margins) + 1) / 2]


def _claims(domain: str, sentence: str) -> bool:
    parsed = understood(domain, sentence)
    return parsed is not None and parsed[0] in CLAIMS


def _exchanged(text: str, names: Sequence[Name], other: dict[str, str], start: int, end: int) -> str:
    """A sentence with two people's names exchanged."""
    parts, done = [], start
    for at, stop, who in names:
        parts += [text[done:at], other.get(who, text[at:stop])]
        done = stop
    return "".join([*parts, text[done:end]])
