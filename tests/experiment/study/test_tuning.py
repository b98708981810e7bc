"""Fine-tuning in the study: every network starts from the base, and what is measured of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rwkvgate.experiment.corpora.stories import generate_stories
from rwkvgate.experiment.study.__main__ import best_rates
from rwkvgate.experiment.study.choices import balanced, story_choices
from rwkvgate.experiment.study.design import BASE, LORA, SIZES, TUNED, build, cost
from rwkvgate.experiment.study.tasks import BetterBase
from rwkvgate.experiment.study.texts import StudyTexts
from rwkvgate.experiment.study.trials import Plan, Trial, Trials
from rwkvgate.experiment.study.tuning import Genre, Tuned

SIZE = SIZES["64x4"]
BOOKS = tuple(f"The fox met hare {i} at dawn, and both ran into the {i + 1}th wood. " * 40 for i in range(30))


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    """Fine-tuning of a base that is not trained, on a few stories."""
    folder = tmp_path_factory.mktemp("study")
    path = folder / "base.safetensors"
    save_file(build(BASE, SIZE, 0).state_dict(), path)
    one = Tuned("stories", BetterBase(StudyTexts(BOOKS, BOOKS[:2], BOOKS[2:4]), path), folder)
    told = generate_stories(30, 1)
    texts = tuple(story.text for story in told)
    one.genre = Genre(texts[:20], texts[20:22], tuple(told[22:26]), balanced(story_choices(told), 8))
    return one


def test_controls_start_as_the_base_and_have_as_many_new_parameters(task: Tuned) -> None:
    ids = torch.randint(1, 2048, (2, 30), generator=torch.Generator().manual_seed(0))
    networks = {name: task.network(name, SIZE, 1).eval() for name in TUNED}
    with torch.no_grad():
        logits = {name: model(ids).logits for name, model in networks.items()}
    for name in ("base-wide", LORA):
        torch.testing.assert_close(logits[name], logits[BASE])
    assert not torch.allclose(logits["enhanced"], logits[BASE])
    size = {name: sum(p.numel() for p in model.parameters()) for name, model in networks.items()}
    assert size == {name: cost(name, SIZE)[0] for name in TUNED}
    new = size["enhanced"] - size[BASE]
    assert size["base-wide"] - size[BASE] == pytest.approx(new, rel=0.05)
    assert size[LORA] - size[BASE] == pytest.approx(new, rel=0.05)
    trained = {name: sum(p.numel() for p in model.parameters() if p.requires_grad) for name, model in networks.items()}
    assert trained == size | {LORA: size[LORA] - size[BASE]}


def test_one_row_in_ten_is_of_the_books(task: Tuned) -> None:
    rows = task.rows(5, seed=0)[0]
    assert len(rows) == 20 and rows == task.rows(6, seed=0)[0][:20]
    assert [i for i, row in enumerate(rows) if "met hare" in task.base.tokenizer.decode(row)] == [9, 19]


def test_a_trial_measures_loss_forgetting_overlap_and_choices(task: Tuned, tmp_path: Path) -> None:
    trials = Trials(tmp_path, {"tuned-stories": task})
    trial = trials.run(Plan(SIZE, "enhanced", 1e-3, 1, (2, 4), "tuned-stories"))
    assert trials.known(trial.plan) == trial
    assert len(trial.test[4]) == len(trial.weights) == 4
    assert 0 < trial.forgotten[4] < 2
    shapes = {name: (len(rows), len(rows[0])) for name, rows in trial.measures[4].items()}
    assert shapes == {"bleu": (4, 10), "rouge1": (4, 1), "rougeL": (4, 1), "distinct2": (4, 1), "choice": (8, 1)}
    assert {x for (x,) in trial.measures[2]["choice"]} <= {0.0, 0.5, 1.0}


def test_another_base_is_another_trial(task: Tuned, tmp_path: Path) -> None:
    plan = Plan(SIZE, "enhanced", 1e-3, 1, (2, 4), "tuned-stories")
    path = tmp_path / "other.safetensors"
    save_file(build(BASE, SIZE, 1).state_dict(), path)
    other = Tuned("stories", BetterBase(task.base.texts, path), tmp_path)
    other.genre = task.genre
    assert len({Trials(tmp_path, {"tuned-stories": one}).path(plan) for one in (task, other)}) == 2


@pytest.mark.parametrize(("forgotten", "best"), [((1.1, 1.5, 3.0), 2e-3), ((3.0, 2.5, 4.0), 2e-3)])
def test_where_every_rate_forgets_the_one_that_forgets_least_is_best(forgotten: tuple[float, ...], best: float) -> None:
    one = Trial(Plan(SIZE, BASE, 1e-3, 1, (4,)), 1, 1.0, {4: 3.0}, {4: [3.0]}, [1], [], None, 1.0, "")
    trials = [
        replace(one, plan=replace(one.plan, rate=rate), validation={4: loss}, forgotten={4: more})
        for rate, loss, more in zip((1e-3, 2e-3, 4e-3), (3.0, 2.9, 2.0), forgotten, strict=True)
    ]
    assert best_rates(trials) == {BASE: best}
    assert best_rates(trials, freely=True) == {BASE: 4e-3}
