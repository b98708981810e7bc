"""Other tasks, by log-likelihood on generated stories: who holds an object, which genre a sentence is of, and whether
a retrieved passage is used (`retrieval`).

Networks are trained on the stories alone. A *question* is a story whose people are in no training story, up to where
it begins to repeat who has what, and "Everyone knew that the silver key was with": the network answers the person of
the story whose name is likeliest to go on. A *sentence* of the story's middle is classed by the genre after whose
opening it is likeliest. Both are multiple choice, so nothing must be written, and a network without any skill is
right by chance.

A gain is one over every control, as in `analysis.decide`, 2 points or 0.01 nats per token being worth knowing. It is
undecided while the base is not shown to answer more questions than the system that names whom the story mentions last
before the object, or to gain from a retrieved passage. The classes of sentences get no verdict: the genres' words tell
them apart without a network. Decided on 2026-11-28, and made stricter on the 29th, before any trial of this kind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from torch import nn
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from rwkvgate.experiment.analysis.tables import NOTHING, markdown, number
from rwkvgate.experiment.corpora.documents import Document
from rwkvgate.experiment.corpora.stories import GENRES, generate_stories
from rwkvgate.experiment.corpora.stories.reading import understood
from rwkvgate.experiment.corpora.tokenizer import train_tokenizer
from rwkvgate.experiment.study.analysis import Ratios, compare, comparisons, control_cells, decide
from rwkvgate.experiment.study.design import BASE, STORY_BATCH, STORY_LENGTH, WORTH_KNOWING
from rwkvgate.experiment.study.retrieval import RANDOM, RETRIEVED, Prompt, half_losses, prompts
from rwkvgate.experiment.study.tasks import Books, Scores
from rwkvgate.experiment.study.texts import StudyTexts
from rwkvgate.experiment.study.trials import Trial
from rwkvgate.experiment.training.rows import Rows
from rwkvgate.metrics.inference import encode
from rwkvgate.metrics.likelihood import token_losses

TRAINED, VALIDATED, TESTED, PROMPTED = 3000, 128, 768, 256
REPEATS = ("holds", "moved", "lies", "sum", "sum-one", "sum-place")
"""Beats that restate who has what, at the end of a story."""
ASKED, CLOSED = " Everyone knew that the {} was with", " and"
"""A sentence of both genres as far as the answer, and what follows it: so no name wins by being another's beginning."""
QUESTIONS, SENTENCES, RETRIEVAL = "questions", "sentences", "retrieval"
HEADS = {
    QUESTIONS: "Share of questions answered right",
    RETRIEVAL: "Gain of the retrieved passage over a random one, nats per token",
}
WORTH = {QUESTIONS: WORTH_KNOWING["memory"], RETRIEVAL: WORTH_KNOWING["books"]}


@dataclass(frozen=True)
class Choice:
    """An item of multiple choice: what goes before, the options, the number of the right one, and a trivial answer."""

    prompts: tuple[str, ...]
    options: tuple[str, ...]
    right: int
    trivial: int = -1


class Stories(Books):
    """Language of the generated stories, with questions and sentences of those that are tested."""

    batch, length = STORY_BATCH, STORY_LENGTH

    def __init__(
        self, books: StudyTexts, trained: int = TRAINED, validated: int = VALIDATED, tested: int = TESTED
    ) -> None:
        train = generate_stories(trained, seed=0)
        validation, test = (generate_stories(n, seed, "held-out") for n, seed in ((validated, 1), (tested, 2)))
        super().__init__(StudyTexts(*(tuple(d.text for d in part) for part in (train, validation, test))))
        self._books = books
        self._documents = train, test[:PROMPTED]
        self.choices = {QUESTIONS: questions(test), SENTENCES: sentences(test, openings(train))}

    @property
    def inputs(self) -> dict[str, Any]:
        """The hash of the stories, and how they are read."""
        return super().inputs | {
            "books": self._books.hash,
            "stories": [self.batch, self.length, ASKED, CLOSED, REPEATS, PROMPTED],
        }

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """Trained on the books: on the stories it would give each of their names a token, and none to new ones."""
        return train_tokenizer(self._books.train, self.vocabulary)

    @cached_property
    def prompts(self) -> list[Prompt]:
        """Halves of tested stories, with the training stories that are retrieved."""
        train, test = self._documents
        return prompts(test, train)

    def rows(self, steps: int, seed: int) -> tuple[Rows, Rows]:
        """Rows as for the books; what is scored is made first, so that a missing package stops no finished training."""
        _ = self.prompts
        return super().rows(steps, seed)

    @cached_property
    def trivial(self) -> dict[str, float]:
        """The share that a trivial system answers rightly, by kind: chance where there is no better one."""
        return {
            kind: float(np.mean([c.trivial == c.right if c.trivial >= 0 else 1 / len(c.options) for c in choices]))
            for kind, choices in self.choices.items()
        } | {RETRIEVAL: 0.0}

    def score(self, model: nn.Module) -> Scores:
        """Losses in nats per token; `contexts` by kind and item, 1 for a wrong answer; `shares` of right ones, and the
        gain of retrieval in nats per token."""
        wrong = {kind: wrong_answers(model, self.tokenizer, choices) for kind, choices in self.choices.items()}
        shares = {kind: round(1 - float(np.mean(own)), 5) for kind, own in wrong.items()}
        halves = half_losses(model, self.tokenizer, self.prompts)
        shares[RETRIEVAL] = round(float(np.mean(halves[RANDOM]) - np.mean(halves[RETRIEVED])), 5)
        shares |= {f"trivial {kind}": round(share, 5) for kind, share in self.trivial.items()}
        return super().score(model) | {"contexts": wrong | halves, "shares": shares}


def questions(stories: Sequence[Document]) -> list[Choice]:
    """Who holds an object, one question a story that has one; the object is drawn, and each may be asked about.

    The trivial answer is the person whom the story mentions last before it last mentions the object.
    """
    rng = np.random.default_rng(0)
    found = []
    for story in stories:
        end = _before_repeats(story)
        persons = [m for m in story.mentions if m.kind in ("person", "machine") and m.end <= end]
        mentioned = [m.entity for m in persons]
        people = list(dict.fromkeys(mentioned))
        held = [(holder, thing) for holder, thing in story.owners if holder in people]
        if len(people) < 2 or not held:
            continue
        holder, thing = held[int(rng.integers(len(held)))]
        prompt = story.text[:end] + ASKED.format(thing)
        options = tuple(f" {name}{CLOSED}" for name in people)
        at = story.text.rfind(thing, 0, end)
        before = [m.entity for m in persons if m.end <= at] or mentioned
        found.append(Choice((prompt,) * len(people), options, people.index(holder), people.index(before[-1])))
    return found


def openings(stories: Sequence[Document]) -> list[str]:
    """The first sentence of the first story of each genre."""
    firsts = (next(story for story in stories if story.domain == genre.domain) for genre in GENRES)
    return [story.text[: story.sentence_ends[0]] for story in firsts]


def sentences(stories: Sequence[Document], labels: Sequence[str]) -> list[Choice]:
    """Which genre a sentence is of, one drawn from the middle of each story.

    Args:
        labels: an opening of each genre, of other stories.
    """
    rng = np.random.default_rng(1)
    found = []
    for story in stories:
        at = 1 + int(rng.integers(len(story.sentence_ends) - 2))  # neither the opening nor the last
        sentence = story.text[story.sentence_ends[at - 1] : story.sentence_ends[at]]
        right = [genre.domain for genre in GENRES].index(story.domain)
        found.append(Choice(tuple(labels), (sentence,) * len(labels), right))
    return found


def wrong_answers(model: nn.Module, tokenizer: PreTrainedTokenizerBase, choices: Sequence[Choice]) -> list[int]:
    """1 for each item where another option is likelier after its prompt than the right one, else 0."""
    prompts, options = (
        encode(tokenizer, [text for c in choices for text in side(c)])
        for side in (lambda c: c.prompts, lambda c: c.options)
    )
    losses = token_losses(model, [a + b for a, b in zip(prompts, options, strict=True)], batch_size=32)
    sums = iter(float(nll[-len(ids) :].sum()) for nll, ids in zip(losses, options, strict=True))
    return [int(np.argmin([next(sums) for _ in c.options]) != c.right) for c in choices]


def section(trials: Sequence[Trial], seconds: Mapping[str, Ratios]) -> tuple[list[str], dict[str, pd.DataFrame]]:
    """The part of the page on other tasks, and its tables by name."""
    if not any(trial.contexts for trial in trials):
        return [], {}
    head = (
        "Share right, and the gain of a retrieved passage over a random one in nats per token; means of the seeds "
        "after the most steps that all have, and those of a trivial system:"
    )
    parts, tables = ["## Other tasks", head, markdown(_right(trials))], {}
    for kind, head in HEADS.items():
        compared = comparisons(_as_losses(trials, kind), seconds, WORTH[kind])
        if not len(compared):
            continue
        tables[f"stories-{kind}-comparisons"] = compared
        verdicts = decide(compared)
        said = f"{head}, the arm's minus its control's:"
        if _no_skill(trials, kind):
            verdicts["verdict"] = "undecided"
            said = f"The base is not shown to be better than the trivial system, so nothing is decided. {said}"
        tables[f"stories-{kind}-verdicts"] = verdicts
        parts += [said, markdown(_cells(compared, verdicts))]
    return parts, tables


def _before_repeats(story: Document) -> int:
    """The end of the last sentence before the story begins to repeat who has what, in characters."""
    start = 0
    for end in story.sentence_ends:
        parsed = understood(story.domain, story.text[start:end].strip())
        if parsed is not None and parsed[0] in REPEATS:
            return start
        start = end
    return start


def _as_losses(trials: Sequence[Trial], kind: str) -> list[Trial]:
    """The trials with what a kind measures as their test losses, lower being better; infinite after divergence."""
    measured = [{b: _values(by, kind) for b, by in trial.contexts.items()} for trial in trials]
    count = max(len(values) for by in measured for values in by.values())
    return [
        replace(trial, test={b: by.get(b, [np.inf] * count) for b in trial.test}, weights=[1] * count)
        for trial, by in zip(trials, measured, strict=True)
    ]


def _values(contexts: Mapping[str, Sequence[float]], kind: str) -> list[float]:
    if kind == RETRIEVAL:
        return [a - b for a, b in zip(contexts[RETRIEVED], contexts[RANDOM], strict=True)]
    return [float(wrong) for wrong in contexts[kind]]


def _right(trials: Sequence[Trial]) -> pd.DataFrame:
    budget = min(max(trial.test) for trial in trials)
    rows = [{"Network": t.plan.network} | t.shares[budget] for t in trials if budget in t.shares]
    table = pd.DataFrame(rows).groupby("Network", sort=False).mean()
    gains = {name: table[name].map(number) for name in (RETRIEVAL, f"trivial {RETRIEVAL}")}
    return table.map(lambda x: f"{100 * x:.1f} %").assign(**gains).reset_index()


def _no_skill(trials: Sequence[Trial], kind: str) -> bool:
    """Whether the base is not shown to be better than the trivial system, at its largest budget."""
    pairs = []
    for trial in (t for t in trials if t.plan.network == BASE and t.contexts):
        budget = max(trial.contexts)
        own = np.array(_values(trial.contexts[budget], kind))
        trivial = 0.0 if kind == RETRIEVAL else 1 - trial.shares[budget][f"trivial {kind}"]
        pairs.append((own, np.full(len(own), trivial)))
    return not pairs or not compare(pairs, [1] * len(pairs[0][0])).interval()[1] < 0


def _cells(compared: pd.DataFrame, verdicts: pd.DataFrame) -> pd.DataFrame:
    said = verdicts.set_index("arm")["verdict"]
    rows = []
    for arm, part in compared.groupby("arm", sort=False):
        row = {"Arm": arm, "Seeds": int(part["seeds"].max())} | control_cells(part, sign=-1)  # more right is better
        rows.append(row | {"Verdict": said.get(arm, NOTHING)})
    return pd.DataFrame(rows)
