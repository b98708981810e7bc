"""The study from end to end on networks of a few steps: stages, edges of the grid, resuming, the page."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from safetensors.torch import load

from rwkvgate.experiment.locks import take
from rwkvgate.experiment.study import __main__ as study
from rwkvgate.experiment.study import page
from rwkvgate.experiment.study.design import BASE, PROTOCOL, SIZES, STAGES, WIDE, Size, Stage, build, cost
from rwkvgate.experiment.study.tasks import BetterBase, Books
from rwkvgate.experiment.study.texts import StudyTexts
from rwkvgate.experiment.study.trials import Plan, Trial, Trials, made_with
from rwkvgate.gate.validation import SettingsError
from rwkvgate.rwkv6.files import file_hash

TINY = Size("tiny", 16, 1, 8)
TEXTS = tuple(f"The fox met hare {i} at dawn, and both ran into the {i + 1}th wood. " * 40 for i in range(30))
RATES = Stage("rates", TINY, ("base", "enhanced"), (1,), (4, 6), rates=(1e-3, 2e-3))
MAIN = Stage("main", TINY, ("base", "enhanced", "base-wide"), (2, 3), (4, 6), rated="rates")


@pytest.fixture
def trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trials:
    """An empty folder, and a design of two tiny stages."""
    own = {"rates": replace(RATES, networks=MAIN.networks), "main": MAIN}
    for module in (study, page):
        monkeypatch.setattr(module, "STAGES", own)
    return Trials(tmp_path / "trials", {"books": Books(StudyTexts(TEXTS, TEXTS[:2], TEXTS[2:6]))})


def test_a_trial_is_run_once_and_a_damaged_one_again(trials: Trials, capsys: Any) -> None:
    plan = Plan(TINY, "enhanced", 1e-3, 1, (4, 6))
    first = trials.run(plan)
    assert trials.known(plan) == first
    assert list(first.test) == [4, 6] and len(first.test[6]) == 4 and first.diverged is None
    assert first.validation[6] < 7.6
    assert [replace(trials.run(plan), seconds=0)] == [replace(first, seconds=0)]
    assert first.made["wkv"] and "commit" in first.made and not trials.path(plan).with_suffix(".pt").exists()
    path = trials.path(plan)
    path.write_bytes(path.read_bytes().replace(b'"diverged": null', b'"diverged": 3'))
    assert trials.known(plan) is None
    assert "is damaged" in capsys.readouterr().out


@pytest.mark.parametrize(("network", "losses"), [("base", (6.0593, 5.9639)), ("enhanced", (6.0071, 5.9083))])
def test_what_a_trial_computes_is_that_of_its_protocol(
    trials: Trials, network: str, losses: tuple[float, float]
) -> None:
    """Other numbers than rounding makes are another protocol: raise `design.PROTOCOL`, then put them here."""
    found = trials.run(Plan(TINY, network, 1e-2, 1, (4, 6)))
    assert PROTOCOL == 1 and [found.loss(4), found.loss(6)] == pytest.approx(losses, abs=3e-4)


def test_another_text_or_plan_is_another_trial(trials: Trials) -> None:
    plan = Plan(TINY, "enhanced", 1e-3, 1, (4, 6))
    others = [
        replace(plan, rate=2e-3),
        replace(plan, seed=2),
        replace(plan, budgets=(4,)),
        replace(plan, network="base"),
    ]
    other_text = Trials(trials.folder, {"books": Books(StudyTexts(TEXTS[1:], TEXTS[:2], TEXTS[2:6]))})
    paths = [trials.path(plan), *map(trials.path, others), other_text.path(plan)]
    assert len(set(paths)) == len(paths)


def test_the_better_base_is_kept_and_trained_again_if_it_changes(
    trials: Trials, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bases" / "tiny.safetensors"
    one = Trials(trials.folder, {"base": BetterBase(StudyTexts(TEXTS, TEXTS[:2], TEXTS[2:6]), path)})
    plan = Plan(TINY, BASE, 1e-3, 0, (6,), "base")
    first = one.run(plan)
    assert one.known(plan) == first and first.saved == file_hash(path)
    weights = load(path.read_bytes())
    assert weights.keys() == build(BASE, TINY, 0).state_dict().keys()
    path.write_bytes(b"nothing")
    assert one.known(plan) is None and "has changed" in capsys.readouterr().out
    one.run(plan)
    assert all((load(path.read_bytes())[name] == weight).all() for name, weight in weights.items())


def planted(trials: Trials, monkeypatch: pytest.MonkeyPatch, best: float) -> list[Plan]:
    """Trials that need no training: the validation loss is least at the rate `best`. Returns what was run."""
    known: dict[Path, Trial] = {}
    run: list[Plan] = []

    def train(plan: Plan, _: Any = None) -> None:
        run.append(plan)
        losses = dict.fromkeys(plan.budgets, abs(plan.rate - best))
        test = {
            budget: [1 / budget + plan.seed * len(plan.network) * 1e-3, 1.0, 1.1 + plan.rate] for budget in plan.budgets
        }
        parameters, flops = cost(plan.network, plan.size)
        known[trials.path(plan)] = Trial(plan, parameters, flops, losses, test, [1, 1, 1], [], None, 1.0, "one")

    monkeypatch.setattr(trials, "known", lambda plan: known.get(trials.path(plan)))
    monkeypatch.setattr(trials, "run", train)
    return run


@pytest.mark.parametrize(("best", "rates"), [(4e-3, {1e-3, 2e-3, 4e-3, 8e-3}), (5e-4, {5e-4, 1e-3, 2e-3, 2.5e-4})])
def test_a_best_rate_at_the_edge_adds_one_beyond(
    trials: Trials, monkeypatch: pytest.MonkeyPatch, best: float, rates: set[float]
) -> None:
    run = planted(trials, monkeypatch, best)
    one = study.Study(trials)
    assert one.rates(study.STAGES["rates"]) == {} and one.plans(MAIN) == []
    one.run([study.STAGES["rates"]])
    assert {plan.rate for plan in run} == rates
    assert one.rates(study.STAGES["rates"]) == dict.fromkeys(MAIN.networks, best)
    assert {plan.rate for plan in one.plans(MAIN)} == {best}


def test_the_base_alone_is_annealed_at_more_steps_and_seeds_come_in_turn(
    trials: Trials, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted(trials, monkeypatch, 1e-3)
    one = study.Study(trials)
    one.run([study.STAGES["rates"]])
    plans = one.plans(MAIN)
    assert [plan.seed for plan in plans] == [2, 2, 2, 3, 3, 3]
    assert {plan.network: plan.budgets for plan in plans}["enhanced"] == (4, 6)
    assert {plan.network: plan.budgets for plan in plans}["base"] == (4, 5, 6, 8)


def test_a_trial_that_another_process_runs_is_passed_over(trials: Trials, monkeypatch: pytest.MonkeyPatch) -> None:
    run = planted(trials, monkeypatch, 1e-3)
    one = study.Study(trials)
    first = one.plans(study.STAGES["rates"])[0]
    held = take(trials.path(first).with_suffix(".lock"), "held")
    one.run([study.STAGES["rates"]])
    assert first not in run and run
    assert held is not None
    held.release()


def test_a_worker_returns_to_a_stage_that_waited_for_another(trials: Trials, monkeypatch: pytest.MonkeyPatch) -> None:
    run = planted(trials, monkeypatch, 1e-3)
    one = study.Study(trials)
    last = one.plans(study.STAGES["rates"])[-1]
    held = take(trials.path(last).with_suffix(".lock"), "held")
    other = replace(RATES, name="other", networks=("base",), seeds=(9,), rates=(1e-3,), sweep=True)
    train = trials.run

    def ends(plan: Plan, report: Any = None) -> Any:
        if plan.seed == 9 and held is not None:  # meanwhile the other process is finished
            train(last)
            held.release()
        return train(plan, report)

    monkeypatch.setattr(trials, "run", ends)
    one.run([study.STAGES["rates"], MAIN, other])
    assert {plan.seed for plan in run} == {1, 2, 3, 9} and not one.trials.path(last).exists()


def test_a_folder_of_another_study_is_left_alone(trials: Trials) -> None:
    one = study.Study(trials)
    one.refuse_others(run=True)
    (trials.folder / "tiny").mkdir(parents=True)
    (trials.folder / "tiny" / "base-rate0.001-seed1-0123456789abcdef.json").write_text("{}")
    with pytest.raises(SettingsError, match="holds trials, and none of this protocol"):
        one.refuse_others(run=False)


def test_trials_made_with_other_packages_are_not_added_to(trials: Trials, monkeypatch: pytest.MonkeyPatch) -> None:
    one = study.Study(trials)
    trials.run(one.plans(study.STAGES["rates"])[0])
    one.refuse_others(run=True)
    monkeypatch.setattr(study, "made_with", lambda: made_with() | {"numpy": "1.0", "commit": "another"})
    one.refuse_others(run=False)
    with pytest.raises(SettingsError, match=r"made with numpy 2[0-9.]*, here it is 1\.0; use what they were"):
        one.refuse_others(run=True)


def test_a_loss_that_is_no_number_is_never_the_best(trials: Trials) -> None:
    one = Trial(Plan(TINY, "base", 1e-3, 1, (4,)), 1, 1.0, {4: float("nan")}, {4: [1.0]}, [1], [], None, 1.0, "one")
    other = replace(one, plan=replace(one.plan, rate=2e-3), validation={4: 4.0})
    assert study.best_rates([one, other]) == {"base": 2e-3}


def test_trials_that_cannot_be_written_are_no_success(trials: Trials, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise SettingsError("the folder cannot be written")

    monkeypatch.setattr(study, "take", refuse)
    with pytest.raises(SettingsError, match="cannot be written"):
        study.Study(trials).run([study.STAGES["rates"]])


def test_a_page_that_fails_leaves_the_earlier_one(
    trials: Trials, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    planted(trials, monkeypatch, 1e-3)
    one = study.Study(trials)
    one.run([study.STAGES["rates"], MAIN])
    found = {name: one.finished(stage) for name, stage in study.STAGES.items()}

    def write() -> dict[str, bytes]:
        page.write_page(
            tmp_path / "study.md", tmp_path / "tables", found, {"tiny": {"enhanced": 1.1, "base-wide": 1.0}}
        )
        return {path.name: path.read_bytes() for path in (tmp_path / "tables").iterdir()}

    before = write()
    monkeypatch.setattr(page, "study_ledger", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write()
    assert {path.name: path.read_bytes() for path in (tmp_path / "tables").iterdir()} == before


def test_the_page_says_what_is_finished_and_what_waits(
    trials: Trials, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    planted(trials, monkeypatch, 1e-3)
    one = study.Study(trials)

    def written() -> str:
        found = {name: one.finished(stage) for name, stage in study.STAGES.items()}
        page.write_page(
            tmp_path / "study.md", tmp_path / "tables", found, {"tiny": {"enhanced": 1.1, "base-wide": 1.0}}
        )
        return (tmp_path / "study.md").read_text(encoding="utf-8")

    assert "waits for rates" in written()
    earlier = [tmp_path / "tables" / name for name in ("dropped.csv", "dropped.svg", "seconds.csv")]
    for path in earlier:
        path.write_text("of a design that was changed", encoding="utf-8")
    one.run([study.STAGES["rates"]])
    assert "| main | **not finished** | 0 of 6 |" in written()
    one.run([MAIN])
    told = written()
    assert "| network | 0.0005 | 0.001 | 0.002 |" in told.split("## Learning rates")[1]
    assert re.search(r"\| enhanced \| [\d.]+ \| \*\*", told)
    assert (
        "## Where training breaks" not in told
        and "| main | finished | 6 of 6 |" in told
        and "Compute multipliers" in told
        and "gap-books-tiny.svg" in told
    )
    drawn = (tmp_path / "tables" / "compute-tiny.svg").read_text(encoding="utf-8")
    assert "The next figure shows" in " ".join(drawn.split())
    verdicts = pd.read_csv(tmp_path / "tables" / "books-verdicts.csv")
    assert verdicts["arm"].tolist() == ["enhanced"]
    for name in ("trials", "books-comparisons", "multipliers"):
        assert len(pd.read_csv(tmp_path / "tables" / f"{name}.csv"))
    assert [path.exists() for path in earlier] == [False, False, True]


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_controls_of_equal_parameters_have_as_many(size: Size) -> None:
    networks = dict.fromkeys(n for stage in STAGES.values() if stage.timed == size.name for n in stage.networks)
    for network in networks:
        counted = sum(p.numel() for p in build(network, size, 0).parameters())
        assert cost(network, size)[0] == counted
        if network in WIDE:
            assert counted == pytest.approx(cost(WIDE[network], size)[0], rel=2e-3)
    assert cost(BASE, size)[1] < cost("enhanced", size)[1]


def test_arms_of_a_seed_start_from_the_same_weights() -> None:
    base, gated = (dict(build(name, TINY, 5).named_parameters()) for name in ("base", "enhanced"))
    assert all((gated[name] == weight).all() for name, weight in base.items())
    assert len(gated) > len(base)
