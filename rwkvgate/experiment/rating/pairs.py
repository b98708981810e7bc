"""Blind rating of continuations by people: which of two arms continues a prompt better?

A set of pairs is drawn from a run: prompts, arms, order and sides come from a seed, and each arm is A as often as B.
Its folder holds what raters may see, what they answered, and apart from it the key that says whose texts they are:

    rating/set-<hash>/sheet.md, sheet.csv    the pairs on paper, and the form to fill in
    rating/set-<hash>/answers/<rater>.csv    one rater's answers: by the widget, or the form filled in
    rating/set-<hash>/key.json               the arms behind A and B

`panel` is the widget; `preferences` turns the answers into strengths of the arms.
"""

from __future__ import annotations

import csv
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from rwkvgate.experiment.arms import find_arm
from rwkvgate.experiment.records import read_sealed, write_sealed
from rwkvgate.experiment.run import Run
from rwkvgate.experiment.steps import ensure_evaluation
from rwkvgate.explore.tokens import visible
from rwkvgate.gate.validation import SettingsError, shown
from rwkvgate.metrics.overlap import WORDS, repetition
from rwkvgate.rwkv6.files import digest, write_text

ANSWERS = {"A": "A is better", "B": "B is better", "tie": "no difference"}
"""What a rater can answer, with the words on its button."""
COLUMNS = ["set", "pair", "answer"]
"""Of a rater's file, and of the form to fill in."""
QUESTION = "Which continuation of the prompt is better? Two models wrote A and B; chance decided which of them is A."
KEY, SHEET, FORM, FOLDER = "key.json", "sheet.md", "sheet.csv", "answers"
NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
SCRIPTED = "scripted"
"""How the name of a rater that is a program begins; no person's may."""
SCRIPT = f"{SCRIPTED}-fewer-repeats"
WIDTH = 90
"""Characters of a line on paper."""


class Pair(NamedTuple):
    """What a rater sees: a prompt and two continuations, of nobody knows which arms."""

    prompt: str
    a: str
    b: str


@dataclass(frozen=True)
class Rating:
    """A set of blind pairs. It holds no name of an arm: those are in the key, a file that only the analysis reads.

    Attributes:
        folder: of the set.
        pairs: in the order of rating; the first is pair 1.
    """

    folder: Path
    pairs: tuple[Pair, ...]

    @property
    def name(self) -> str:
        """The name of the set, a hash of its texts and of its key."""
        return self.folder.name


def draw_rating(run: Run, arms: Sequence[str], *, seed: int = 0, count: int = 50) -> Rating:
    """Draw blind pairs of arms' continuations, and write their sheet and their key into the run folder.

    The training seed is drawn too, the same for both sides. Continuations that are equal are left out. The same
    arguments and the same run give the same set, so a rating can be resumed; if the run has changed, it is a new set.

    Args:
        arms: two or more; what is not measured yet is measured first.
        seed: of the drawing. Raters who are to be compared with each other need the same set.
        count: pairs to draw; fewer where the run has fewer.

    Raises:
        SettingsError: fewer than two different arms, an unknown one, or no pair that differs.
        FloatingPointError: an arm's training diverged.
    """
    names = [find_arm(name).name for name in arms]
    if len(set(names)) < 2 or len(set(names)) < len(names):
        raise SettingsError(f"arms are {shown(list(arms))}; there must be two or more, all different")
    for word, value, least in (("seed", seed, 0), ("count", count, 1)):
        if type(value) is not int or value < least:
            raise SettingsError(f"{word} is {shown(value)}; it must be a whole number of at least {least}")
    seeds = range(run.settings.evaluation.seeds)
    written = {name: [ensure_evaluation(v).samples for v in _variants(run, name, seeds)] for name in names}
    pairs, key = draw_pairs(written, seed, count)
    if not pairs:
        raise SettingsError(f"the continuations of {', '.join(names)} are the same for every prompt: nothing to rate")
    name = f"set-{digest([pairs, key])}"
    folder = run.target / "rating" / name
    blank = dict.fromkeys(range(1, len(pairs) + 1), "")
    for file, text in ((SHEET, _sheet(name, pairs)), (FORM, table(name, blank))):
        if not (folder / file).exists():  # somebody may have filled the form in where it lies
            write_text(folder / file, text)
    if read_sealed(folder / KEY) is None:
        write_sealed(folder / KEY, {"set": name, "arms": names, "seed": seed, "pairs": key})
    return Rating(folder, tuple(pairs))


def draw_pairs(
    written: Mapping[str, Sequence[Sequence[Mapping[str, str]]]], seed: int, count: int
) -> tuple[list[Pair], list[dict[str, Any]]]:
    """Draw the pairs and their key.

    Args:
        written: by arm, of each of its training seeds, the samples of `steps.evaluation`, for the same documents.
        seed: of the drawing.
        count: most pairs.

    Returns:
        What raters see, and for each of these pairs its `pair`, `document`, training `seed`, and the arms `a` and `b`.
    """
    rng = np.random.default_rng(seed)
    duels = list(combinations(written, 2))
    first = written[duels[0][0]][0]
    drawn: list[tuple[int, int, tuple[str, str]]] = []
    documents = rng.permutation(len(first)).tolist()
    # Every prompt once, the duels in turn, before any prompt comes again with other arms.
    for round_ in range(len(duels)):
        for place, document in enumerate(documents):
            duel = duels[(place + round_) % len(duels)]
            training = int(rng.integers(max(len(written[arm]) for arm in duel)))
            if len({_sample(written, arm, training, document)["continuation"] for arm in duel}) == 2:
                drawn.append((document, training, duel))
    drawn = drawn[:count]
    sides: dict[int, int] = {}
    for duel in duels:  # half of them swapped, in an order that nobody can foresee
        places = [place for place, each in enumerate(drawn) if each[2] == duel]
        swapped = rng.permutation((np.arange(len(places)) + rng.integers(2)) % 2).tolist()
        sides |= dict(zip(places, swapped, strict=True))
    pairs, key = [], []
    for place in rng.permutation(len(drawn)).tolist():
        document, training, duel = drawn[place]
        a, b = duel[::-1] if sides[place] else duel
        left, right = (_sample(written, arm, training, document)["continuation"] for arm in (a, b))
        pairs.append(Pair(first[document]["prompt"], left, right))
        key.append({"pair": len(pairs), "document": document, "seed": training, "a": a, "b": b})
    return pairs, key


def judgements(folder: Path, *, scripted: bool = False) -> pd.DataFrame:
    """All answers of a set, with the arms that they are about.

    Args:
        folder: of the set, `Rating.folder`.
        scripted: the answers of scripted raters, which are programs, instead of people's; never both.

    Returns:
        One row an answer: `rater`, `pair`, `document`, the arms `a` and `b`, and `answer`, a key of `ANSWERS`.

    Raises:
        SettingsError: the key or a rater's file is damaged, or of another set; or nobody has answered.
    """
    key = read_sealed(folder / KEY)
    if key is None:
        raise SettingsError(f"{folder / KEY} is missing or damaged; draw the set again, which writes it")
    rows = []
    for path in sorted((folder / FOLDER).glob("*.csv")):
        if check_name(path.stem).startswith(SCRIPTED) == scripted:
            answers = read_answers(path, key["set"], len(key["pairs"]))
            asked = {one["pair"]: one for one in key["pairs"]}
            rows += [{"rater": path.stem, **asked[pair], "answer": answer} for pair, answer in sorted(answers.items())]
    if not rows:
        raise SettingsError(f"{folder / FOLDER} holds no answer of a {'scripted rater' if scripted else 'person'} yet")
    return pd.DataFrame(rows)[["rater", "pair", "document", "a", "b", "answer"]]


def answer_by_script(rating: Rating) -> None:
    """Answer the whole set by a program that prefers the continuation with fewer repeated words.

    It shows the machinery without a person. It is no human evaluation, and its name says so wherever it appears.
    """
    answers = {}
    for number, pair in enumerate(rating.pairs, start=1):
        a, b = (repetition(WORDS.tokenize(text), 1) for text in (pair.a, pair.b))
        answers[number] = "tie" if a == b else "A" if a < b else "B"
    write_text(rating.folder / FOLDER / f"{SCRIPT}.csv", table(rating.name, answers))


def check_name(name: object) -> str:
    """The name of a rater, which becomes the name of a file.

    Raises:
        SettingsError: it is not plain.
    """
    if not isinstance(name, str) or not NAME.fullmatch(name):
        allowed = "1 to 32 small letters a-z, digits and hyphens, with a letter or digit first"
        raise SettingsError(f"the rater's name is {shown(name)}; allowed are {allowed}")
    return name


def read_answers(path: Path, name: str, count: int) -> dict[int, str]:
    """A rater's answers by pair; lines without an answer are passed over. A spreadsheet may have written the file.

    Args:
        name: of the set.
        count: its pairs.

    Raises:
        SettingsError: the file is no form of this set, or a line is not what may stand there.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        lines = list(csv.reader(StringIO(text), delimiter=";" if ";" in text.partition("\n")[0] else ","))
    except (OSError, UnicodeError, csv.Error) as error:
        raise SettingsError(f"{path} cannot be read as a table: {error}") from None
    if not lines or lines[0] != COLUMNS:
        raise SettingsError(f"{path} is no rater's file: it must begin with the line {','.join(COLUMNS)}")
    answers: dict[int, str] = {}
    for number, line in enumerate(lines[1:], start=2):
        cells = [cell.strip() for cell in line]
        if not any(cells):
            continue
        if len(cells) != len(COLUMNS):
            raise SettingsError(f"{path}, line {number} has {len(cells)} cells; it must have {len(COLUMNS)}")
        if cells[0] != name:
            raise SettingsError(f"{path}, line {number} belongs to {shown(cells[0])}, and this set is {name}")
        if not cells[1].isascii() or not cells[1].isdigit() or not 1 <= int(cells[1][:9]) <= count:
            raise SettingsError(f"{path}, line {number}: the pair is {shown(cells[1])}; allowed are 1 to {count}")
        if not cells[2]:
            continue
        pair = int(cells[1])
        answer = next((each for each in ANSWERS if each.lower() == cells[2].lower()), None)
        if answer is None:
            raise SettingsError(f"{path}, line {number}: the answer is {shown(cells[2])}; allowed are A, B and tie")
        if pair in answers:
            raise SettingsError(f"{path}, line {number}: pair {pair} is answered twice; leave one of the answers")
        answers[pair] = answer
    return answers


def table(name: str, answers: Mapping[int, str]) -> str:
    """A rater's file, as `read_answers` reads it."""
    rows = [COLUMNS, *([name, str(pair), answer] for pair, answer in answers.items())]
    return "".join(f"{','.join(row)}\n" for row in rows)


def _variants(run: Run, arm: str, seeds: range) -> list[Any]:
    return [run.variant(arm, seed) for seed in (seeds if find_arm(arm).trained else [0])]


def _sample(written: Mapping[str, Any], arm: str, training: int, document: int) -> Mapping[str, str]:
    """An arm's sample; an arm that is not trained has one seed."""
    sample: Mapping[str, str] = written[arm][min(training, len(written[arm]) - 1)][document]
    return sample


def _sheet(name: str, pairs: Sequence[Pair]) -> str:
    """The pairs as Markdown for paper, each text in a block that nothing in it can end."""
    parts = [f"# Rating {name}", f"{QUESTION} Write A, B or tie into {FORM}, in the line of the pair."]
    for number, pair in enumerate(pairs, start=1):
        parts += [f"## Pair {number}", "Prompt:", _block(pair.prompt), "A:", _block(pair.a), "B:", _block(pair.b)]
        parts.append(f"Better in pair {number}: A / B / tie")
    return "\n\n".join(parts) + "\n"


def _block(text: str) -> str:
    lines = visible(text).split("\n")
    wrapped = [part for line in lines for part in textwrap.wrap(line, WIDTH, replace_whitespace=False) or [""]]
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return "\n".join([fence, *(wrapped if text else ["(it ends at once)"]), fence])
