"""Other tasks: right answers follow from the story, known networks answer as they must, and the page's numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rwkvgate.experiment.corpora.stories import generate_stories
from rwkvgate.experiment.corpora.stories.reading import read_continuation
from rwkvgate.experiment.study.design import SIZES, build, cost
from rwkvgate.experiment.study.stories import (
    CLOSED,
    QUESTIONS,
    SENTENCES,
    Choice,
    Stories,
    openings,
    questions,
    section,
    sentences,
    wrong_answers,
)
from rwkvgate.experiment.study.texts import StudyTexts
from rwkvgate.experiment.study.trials import Plan, Trial

STORIES = generate_stories(60, 5, "held-out")
BOOKS = StudyTexts(tuple(story.text for story in generate_stories(40, 0)), (), ())
SECONDS = {"64x4": {"base": 1.0, "enhanced": 1.1}}


def test_a_question_has_one_true_answer_and_the_story_has_not_repeated_it() -> None:
    asked = [(story, choice) for story in STORIES for choice in questions([story])]
    for story, choice in asked:
        assert len(set(choice.prompts)) == 1 and len(set(choice.options)) == len(choice.options) >= 2
        before, question = choice.prompts[0].split(" Everyone knew")
        assert story.text.startswith(before) and "still had" not in before
        thing = question.removeprefix(" that the ").removesuffix(" was with")
        for number, option in enumerate(choice.options):
            # The frame makes two claims: the same one twice.
            name = option.removesuffix(CLOSED)
            claim = f"Everyone knew{question}{name} and the {thing} was with{name}."
            reading = read_continuation(story.domain, before, claim)
            assert reading.claims == 2 and reading.right == 2 * (number == choice.right)
    found = questions(STORIES)
    assert len(found) == len(asked) > 40
    shares = [sum(c.right == i for c in found) / len(found) for i in range(2)]
    assert max(shares) < 0.7 and 0.2 < sum(c.right == c.trivial for c in found) / len(found) < 0.8


def test_a_sentence_is_of_its_storys_middle_and_its_labels_of_other_stories() -> None:
    labels = openings(generate_stories(4, 0))
    assert [label.split(",")[0] for label in labels] == ["Once upon a time", "In the realm of artificial intelligence"]
    for choice, story in zip(sentences(STORIES, labels), STORIES, strict=True):
        assert choice.prompts == tuple(labels) and choice.options[0] == choice.options[1]
        assert choice.options[0] in story.text and choice.options[0].startswith(" ")
        assert not story.text.startswith(choice.options[0].strip()) and not story.text.endswith(choice.options[0])
        assert choice.right == ["fairy-tale", "technology"].index(story.domain)


class Likes(nn.Module):
    """Finds tokens likelier the later (or, with -1, the earlier) they occurred in the text."""

    def __init__(self, vocabulary: int, sign: int) -> None:
        super().__init__()
        self.vocabulary, self.sign = vocabulary, sign

    def forward(self, input_ids: Tensor, **_: Any) -> Any:
        time = torch.arange(1, input_ids.shape[1] + 1).view(1, -1, 1)
        seen = torch.nn.functional.one_hot(input_ids, self.vocabulary) * time
        return type("Output", (), {"logits": self.sign * seen.cummax(1).values.float(), "past_key_values": ()})()


def test_networks_of_known_taste_choose_as_they_must() -> None:
    task = Stories(BOOKS, 40, 4, 40)
    found = [Choice(("A man met a dog.",) * 2, (" a man", " a dog"), right) for right in (0, 1)]
    late, early = (wrong_answers(Likes(2048, sign), task.tokenizer, found) for sign in (1, -1))
    assert late == [1, 0] and early == [0, 1]


def test_the_task_scores_every_item() -> None:
    pytest.importorskip("bm25s", reason="bm25s is not installed: make install")
    task = Stories(BOOKS, 60, 4, 12)
    assert task.inputs != Stories(BOOKS, 60, 4, 13).inputs
    found = task.score(build("base", SIZES["64x2"], 0))
    assert len(found["test"]) == len(task.weights) == 12
    assert [len(found["contexts"][kind]) for kind in (QUESTIONS, SENTENCES)] == [len(c) for c in task.choices.values()]
    assert found["shares"]["trivial sentences"] == 0.5
    assert len(found["contexts"]["retrieved"]) == len(found["contexts"]["random"]) == 12
    rows, _ = task.rows(1, 0)
    assert (len(rows), len(rows[0])) == (8, 256)


def trial(network: str, seed: int, right: float) -> Trial:
    budgets = (600, 690, 780) if network == "base" else (600,)
    draw = torch.rand(400, generator=torch.Generator().manual_seed(seed))
    wrong = (draw > right).float().tolist()
    shares = {kind: 1 - sum(wrong) / 400 for kind in (QUESTIONS, SENTENCES)}
    trivial = {"trivial questions": 0.45, "trivial sentences": 0.5, "retrieval": 0.1, "trivial retrieval": 0.0}
    contexts: dict[str, list[float]] = dict.fromkeys((QUESTIONS, SENTENCES), wrong)
    contexts |= {"retrieved": [2.0 - right - 0.01 * w for w in wrong], "random": [2.0] * 400}
    parameters, flops = cost(network, SIZES["64x4"])
    return Trial(
        plan=Plan(SIZES["64x4"], network, 4e-3, seed, budgets, "stories"),
        parameters=parameters,
        flops=flops,
        validation=dict.fromkeys(budgets, 2.0),
        test=dict.fromkeys(budgets, [2.0] * 3),
        weights=[9] * 3,
        losses=[],
        diverged=None,
        seconds=1.0,
        processor="a processor",
        shares=dict.fromkeys(budgets, shares | trivial),
        contexts=dict.fromkeys(budgets, contexts),
    )


@pytest.mark.parametrize(("base", "verdict"), [(0.6, "better than every control"), (0.4, "undecided")])
def test_a_gain_counts_where_the_base_has_skill(base: float, verdict: str) -> None:
    trials = [trial("base", seed, base) for seed in range(5)]
    trials += [trial("enhanced", seed, base + 0.2) for seed in range(5)]
    parts, tables = section(trials, SECONDS)
    assert tables["stories-questions-verdicts"]["verdict"].tolist() == [verdict]
    assert tables["stories-questions-comparisons"]["estimate"].tolist() == pytest.approx([-0.2] * 4, abs=0.03)
    assert verdict in parts[4] and "| base |" in parts[2]
    assert tables["stories-retrieval-verdicts"]["verdict"].tolist() == ["better than every control"]
    assert tables["stories-retrieval-comparisons"]["estimate"].tolist() == pytest.approx([-0.2] * 4, abs=0.01)
    wide = [trial("base-wide", seed, base) for seed in range(5)]
    told = "\n".join(section([*trials, *wide], SECONDS)[0])
    assert f"| {verdict} |" in told and "| base-wide | 5 |" in told
    assert "| base-wide | 5 |" in "\n".join(section([*trials[:5], *wide], SECONDS)[0])
    assert section([], SECONDS) == ([], {})
    trials[-1].contexts.clear()
    assert section(trials, SECONDS)[1]["stories-questions-comparisons"]["estimate"].isna().all()
    assert section(trials[-1:], SECONDS) == ([], {})
