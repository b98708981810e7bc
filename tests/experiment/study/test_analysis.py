"""What trials say, on planted curves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from rwkvgate.experiment.study.analysis import (
    ADAPTERS,
    absence,
    after_steps,
    after_training,
    broken,
    compare,
    comparisons,
    decide,
    equal_parameters,
    losses_at,
    multipliers,
    recall_decides_nothing,
    recalled_shares,
    weak_tasks,
)
from rwkvgate.experiment.study.design import SIZES, cost
from rwkvgate.experiment.study.trials import Plan, Trial
from rwkvgate.metrics.statistics import Floats

SIZE, BUDGETS, DOCUMENTS = SIZES["64x4"], (150, 172, 195, 300, 345, 390), 40
SECONDS = {"64x4": {"base": 1.0, "base-wide": 1.05, "enhanced": 1.1, "no-layer-norm": 1.1}}


def trial(network: str, seed: int, gain: float = 0.0, more: float = 1.0, noise: float = 0.002) -> Trial:
    """A network whose loss is 5 - 0.5 log(more * steps), less `gain`, with noise by seed and document."""
    rng = np.random.default_rng([seed, sum(map(ord, network))])
    shared = np.random.default_rng(seed).normal(0, 0.05, DOCUMENTS)
    own = rng.normal(0, noise) + rng.normal(0, noise, DOCUMENTS)
    budgets = BUDGETS if network == "base" else (150, 300)
    test: dict[int, list[float]] = {b: (5 - 0.5 * np.log(more * b) - gain + shared + own).tolist() for b in budgets}
    parameters, flops = cost(network, SIZE)
    plan = Plan(SIZE, network, 4e-3, seed, budgets)
    validation = {b: float(np.mean(losses)) for b, losses in test.items()}
    return Trial(plan, parameters, flops, validation, test, [100] * DOCUMENTS, [], None, 1.0, "a processor")


def trials(seeds: int = 6, **arms: float) -> list[Trial]:
    names = {"base": 1.0, "base-wide": 1.0} | {name.replace("_", "-"): more for name, more in arms.items()}
    return [trial(name, seed, more=more) for name, more in names.items() for seed in range(seeds)]


def test_a_loss_between_budgets_is_on_the_line_in_log_steps() -> None:
    one = trial("base", 0, noise=0.0)
    exact: Floats = np.array(one.test[150]) - 0.5 * np.log(200 / 150)
    np.testing.assert_allclose(losses_at(one, 200), exact)
    np.testing.assert_allclose(losses_at(one, 150), one.test[150])
    np.testing.assert_allclose(losses_at(one, 500), np.array(one.test[150]) - 0.5 * np.log(500 / 150))


def test_a_curved_loss_is_read_on_its_parabola_and_beyond_it_on_a_line() -> None:
    """A parabola in log steps is read without an error, where a line would lie above; the steps are found again."""

    def exact(steps: float) -> list[float]:
        return [6 - np.log(steps) + 0.05 * np.log(steps) ** 2, 7.0 - np.log(steps)]

    curve = {steps: exact(steps) for steps in BUDGETS}
    for steps in (160, 311.5, 380, *BUDGETS):
        np.testing.assert_allclose(after_steps(curve, steps), exact(steps), rtol=1e-12)
    beyond = after_steps(curve, 500)
    last, before = (np.array(curve[budget]) for budget in (390, 345))
    np.testing.assert_allclose(beyond, last + (last - before) * np.log(500 / 390) / np.log(390 / 345))
    assert beyond[0] < exact(500)[0]
    np.testing.assert_allclose(after_steps({10: [2.0], 20: [1.0]}, 200**0.5), [1.5])
    broken = after_steps({100: [1.0], 200: [np.inf]}, 100)
    np.testing.assert_allclose(broken, [1.0])  # what was measured needs no neighbour


def test_a_gain_that_only_pays_for_its_compute_is_no_gain() -> None:
    """An arm as good as a base of 1.1 times the steps is better at equal steps, and not at equal seconds."""
    found = comparisons(trials(enhanced=1.1), SECONDS, 0.01).set_index(["arm", "control", "budget"])
    steps, seconds = (found.loc[("enhanced", control, 300)] for control in ("steps", "seconds"))
    assert steps["high"] < 0
    assert steps["estimate"] == pytest.approx(-0.5 * np.log(1.1), abs=0.003)
    assert seconds["estimate"] == pytest.approx(0, abs=0.003)
    assert seconds["absent"] < 0.01 < steps["absent"]
    verdict = decide(found.reset_index()).set_index("arm").loc["enhanced"]
    assert verdict["verdict"] == "no better"
    assert verdict["control"] == "seconds"
    assert seconds["equivalent"] and not steps["equivalent"] and "seconds" in verdict["equivalent"].split(", ")


@pytest.mark.parametrize(
    ("more", "verdict"), [(1.4, "better than every control"), (0.8, "worse than every control"), (1.1, "no better")]
)
def test_planted_verdicts(more: float, verdict: str) -> None:
    assert decide(comparisons(trials(enhanced=more), SECONDS, 0.01))["verdict"].tolist() == [verdict]


def row(control: str, estimate: float, p: float, absent: float, arm: str = "enhanced") -> dict[str, object]:
    named = {"size": "64x4", "arm": arm, "budget": 300, "control": control, "seeds": 10, "low": 0.0, "high": 0.0}
    return named | {"estimate": estimate, "p": p, "absent": absent, "equivalent": False}


def test_no_better_is_corrected_for_controls_and_arms() -> None:
    """Any control would do, so the smallest p of several counts as many times; and so it does with a second arm."""
    one = [row("steps", 0.001, 0.6, 0.03), row("seconds", -0.001, 0.6, 0.4)]
    found = decide(pd.DataFrame(one))
    assert found["verdict"].tolist() == ["undecided"] and found["p"].tolist() == [pytest.approx(0.7)]
    shown = [row("steps", 0.001, 0.6, 0.02), row("seconds", -0.001, 0.6, 0.4)]
    found = decide(pd.DataFrame(shown))
    assert found["verdict"].tolist() == ["no better"] and found["p"].tolist() == [pytest.approx(0.04)]
    assert set(decide(pd.DataFrame(shown + [r | {"arm": "other"} for r in shown]))["verdict"]) == {"undecided"}


@pytest.mark.parametrize(("gain", "said"), [(0.01, "no better"), (0.0, "better than every control")])
def test_arms_at_the_edge_of_a_verdict_seldom_get_it(gain: float, said: str) -> None:
    """Of 60 experiments with two arms and two controls, any arm gets the verdict in about 5 %, or in fewer."""
    rng, wrong = np.random.default_rng(8), 0
    for _ in range(60):
        documents = rng.normal(0, 0.02, 30)
        rows = []
        for arm in ("enhanced", "no-layer-norm"):
            for control in ("steps", "seconds"):
                differences = -gain + documents + rng.normal(0, 0.01, (6, 1)) + rng.normal(0, 0.02, (6, 30))
                found = compare([(own, np.zeros(30)) for own in differences], [1] * 30)
                rows.append(row(control, found.estimate, found.p, absence(found, 0.01), arm))
        wrong += said in set(decide(pd.DataFrame(rows))["verdict"])
    assert wrong <= 9  # 99.9 % of binomial(60, 0.05)


def test_adapters_must_be_beaten_but_do_not_hide_a_loss() -> None:
    worse = [row("steps", 0.2, 1e-6, 1e-6), row(ADAPTERS, -1.0, 1e-6, 1.0)]
    found = decide(pd.DataFrame(worse))
    assert found["verdict"].tolist() == ["worse than every control"]
    assert found["p"].tolist() == [pytest.approx(5e-7)] and found["control"].tolist() == ["steps"]
    better = [row("steps", -0.2, 1e-6, 1.0), row(ADAPTERS, 0.1, 1e-6, 1e-6)]
    assert decide(pd.DataFrame(better))["verdict"].tolist() == ["no better"]


def test_one_seed_and_wide_noise_decide_nothing() -> None:
    assert decide(comparisons(trials(seeds=1, enhanced=1.4), SECONDS, 0.01))["verdict"].tolist() == ["undecided"]
    noisy = [trial(name, seed, noise=0.2) for name in ("base", "base-wide", "enhanced") for seed in range(3)]
    assert decide(comparisons(noisy, SECONDS, 0.01))["verdict"].tolist() == ["undecided"]


def test_without_times_the_verdict_waits_for_them() -> None:
    assert decide(comparisons(trials(enhanced=1.4), {}, 0.01))["verdict"].tolist() == ["undecided"]


def multipliers_of(several: list[Trial]) -> pd.DataFrame:
    return multipliers(several, comparisons(several, SECONDS, 0.01))


def test_the_multiplier_is_the_planted_one() -> None:
    found = multipliers_of(trials(enhanced=1.25)).set_index(["arm", "budget", "of"])
    row = found.loc[("enhanced", 300, "seconds")]
    assert row["estimate"] == pytest.approx(1.25 / 1.1, rel=0.02)
    assert row["low"] < 1.25 / 1.1 < row["high"] and row["beyond"] == ""


def test_the_intervals_of_multiplier_and_difference_agree() -> None:
    """The multiplier's is over seeds and documents too: it holds 1 about where that of the difference holds 0."""
    noisy = [trial(name, seed, noise=0.05) for name in ("base", "enhanced") for seed in range(6)]
    times = multipliers_of(noisy).set_index(["budget", "of"]).loc[(300, "FLOPs")]
    control = comparisons(noisy, SECONDS, 0.01).set_index(["budget", "control"]).loc[(300, "FLOPs")]
    ends = np.exp(-2 * control[["high", "estimate", "low"]].astype(float))  # the loss falls by 0.5 log(steps)
    np.testing.assert_allclose(times[["low", "estimate", "high"]].astype(float), ends, rtol=0.02)


@pytest.mark.parametrize(("more", "beyond"), [(0.2, "below"), (3.0, "above")])
def test_a_loss_that_the_base_never_had_bounds_the_multiplier(more: float, beyond: str) -> None:
    row = multipliers_of(trials(enhanced=more)).set_index(["arm", "budget", "of"]).loc[("enhanced", 300, "seconds")]
    assert row["beyond"] == beyond and np.isnan(row["low"])
    assert more < 1.1 * row["estimate"] if beyond == "below" else more > 1.1 * row["estimate"]


def test_shares_are_those_of_a_budget_that_all_networks_have() -> None:
    def remembering(network: str, budgets: tuple[int, ...], copied: float) -> Trial:
        shares = {b: {"recall x1": 0.9, "copying x1": copied if b == 800 else 0.99, "copying x2": 0.1} for b in budgets}
        return replace(trial(network, 0), shares=shares)

    def shares(copied: float) -> pd.DataFrame:
        return recalled_shares(
            [remembering("base", (800, 1040), copied), remembering("enhanced", (400, 800), copied=0.2)]
        )

    assert set(after_training(shares(0.4))["budget"]) == {800}
    assert set(after_training(shares(0.4))["network"]) == {"base", "enhanced"}
    assert weak_tasks(shares(0.4)) == ["copying"]
    assert weak_tasks(shares(0.6)) == []
    only_the_arm = recalled_shares([remembering("base", (800,), 0.1), remembering("enhanced", (800,), 0.9)])
    assert weak_tasks(only_the_arm) == []


@pytest.mark.parametrize(("missed", "said"), [(0.3, ""), (0.03, "the base recalls all but 3.0 %, no room for a gain")])
def test_a_base_that_recalls_nearly_all_decides_nothing(missed: float, said: str) -> None:
    def remembering(network: str) -> Trial:
        shares = {800: {"copying x1": 0.9}}
        return replace(trial(network, 0), shares=shares, test={800: [missed] * DOCUMENTS})

    assert recall_decides_nothing([remembering("base"), remembering("enhanced")], 0.02) == said


def test_an_arms_control_of_equal_parameters_is_of_its_own_stage() -> None:
    """A stage that is trained later, with a wider base, changes nothing of the arms before it."""
    names = ("base", "base-wide", "base-wider", "conv-no-position", "conv-routing")
    by_network = {name: {0: trial(name, 0)} for name in names}
    found = [equal_parameters(by_network[name][0], by_network) for name in ("conv-no-position", "conv-routing")]
    assert found == ["base-wide", "base-wider"]


def test_a_training_that_ends_high_or_diverges_is_broken() -> None:
    def at(rate: float, seed: int, loss: float) -> Trial:
        one = trial("base", seed)
        return replace(one, plan=replace(one.plan, rate=rate, budgets=(300,)), validation={300: loss})

    losses = {1e-3: (3.0, 3.1), 2e-3: (2.9, 3.2), 4e-3: (3.3, 5.0), 8e-3: (np.inf, np.nan)}
    found = broken([at(rate, seed, loss) for rate, both in losses.items() for seed, loss in enumerate(both)])
    assert dict(zip(found["rate"], found["share"], strict=True)) == {1e-3: 0.0, 2e-3: 0.0, 4e-3: 0.5, 8e-3: 1.0}
    assert broken([at(1e-3, 0, np.inf), at(2e-3, 0, np.nan)])["share"].tolist() == [1.0, 1.0]


def test_short_and_long_trainings_of_the_same_seeds_stand_beside_one_another() -> None:
    """Arms of a short stage and of a long one, of the same seeds: each budget is compared among its own trainings."""
    short, long = trials(5, enhanced=1.2), trials(5, enhanced=1.2)
    later = [replace(one, test={10 * b: [x - 1 for x in losses] for b, losses in one.test.items()}) for one in long]
    found, alone = (comparisons(some, SECONDS, 0.01).query("control == 'steps'") for some in (short + later, short))
    pd.testing.assert_frame_equal(found[found["budget"] <= 390].reset_index(drop=True), alone.reset_index(drop=True))
    assert sorted(found.loc[found["arm"] == "enhanced", "budget"]) == [150, 300, 1500, 3000]
    assert (found.loc[found["arm"] == "enhanced", "seeds"] == 5).all()
