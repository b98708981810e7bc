"""Trials of the study with planted readings, losses and scores, for the tests of what is made of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from rwkvgate.experiment.study.design import BASE, SIZES, STAGES, TUNED, cost
from rwkvgate.experiment.study.inside import LONG_TEXTS, OCTAVES
from rwkvgate.experiment.study.trials import Plan, Trial

SIZE, BUDGETS, TEXTS = SIZES["64x4"], (40, 75, 150, 300), 128
LAYERS, CHANNELS = SIZE.layers, 64
NETWORKS = ("base", "enhanced", "no-layer-norm", "fixed-gate")
DOCUMENTS, PROMPTS, CHOICES = 40, 30, 40


def planted(network: str, seed: int, jitter: float = 0.002, **changed: float) -> Trial:
    """A trial whose readings are its parameters, with jitter by seed."""
    rng = np.random.default_rng([seed, sum(map(ord, network))])
    made = {"drift": 0.5, "spread": 0.1, "gradient": 0.2, "jacobian": 0.5, "state": 1.0, "stream": 0.1}
    made |= {"noise": 0.3, "distractor": 0.3, "kept": 0.2, "context": 0.4, "gap": 0.4, "test": 4.0} | changed
    own = {name: value + rng.normal(0, jitter) for name, value in made.items()}
    octaves = np.linspace(0, 1, len(OCTAVES))[:, None, None] * np.ones((1, LAYERS, LONG_TEXTS))
    batches = np.exp(own["gradient"] * np.array([-1, 1, -1, 1, -1, 1, -1, 1]))[:, None] * np.ones(LAYERS)
    measures = {}
    for i, budget in enumerate(BUDGETS):
        spread = np.exp(i * own["spread"])
        of_channels = np.ones(LAYERS * CHANNELS)
        arrays = {"mean": own["drift"] * i * of_channels, "deviation": spread * of_channels, "gradient": batches}
        arrays |= {"jacobian": own["jacobian"] * np.ones(LAYERS * 32)}
        arrays |= {name: np.exp(own[name] * octaves) for name in ("state", "stream")}
        arrays |= {name: own[name] + rng.normal(0, jitter, TEXTS) for name in ("noise", "distractor", "context")}
        arrays |= {name: own["kept"] + rng.normal(0, jitter, TEXTS) for name in ("kept noise", "kept distractor")}
        arrays |= {"trained": own["test"] - own["gap"] + rng.normal(0, jitter, 64)}
        measures[budget] = {name: np.ravel(array).tolist() for name, array in arrays.items()}
    test = {budget: (own["test"] + rng.normal(0, jitter, TEXTS)).tolist() for budget in BUDGETS}
    plan = Plan(SIZE, network, 4e-3, seed, BUDGETS, "inside")
    validation = dict.fromkeys(BUDGETS, 4.0)
    return Trial(plan, 1, 1.0, validation, test, [1] * TEXTS, [], None, 1.0, "one", measures=measures)


def stages(seeds: int = 5, jitter: float = 0.002, **by_network: dict[str, float]) -> dict[str, list[Trial]]:
    """Both stages, in which every network reads the same but for what is given by its name with underscores."""
    trials = [
        planted(name, seed, jitter, **by_network.get(name.replace("-", "_"), {}))
        for name in NETWORKS
        for seed in range(seeds)
    ]
    return {"inside": trials, "data 1/64": trials}


def pretrained(stage: str, more: dict[str, float] | None = None, noise: float = 0.002) -> list[Trial]:
    """A finished stage of pretraining, in which each network's loss is that of the base after so many times its steps.

    The base's loss is 5 - 0.5 log(steps / 300), less 0.3 for each doubling of the width; networks that are not named
    are like it.
    """
    plan = STAGES[stage]
    trials = []
    for network in plan.networks:
        parameters, flops = cost(network, plan.size)
        for seed in plan.seeded(network):
            rng, shared = np.random.default_rng([seed, sum(map(ord, network))]), np.random.default_rng(seed)
            own = rng.normal(0, noise) + rng.normal(0, noise, DOCUMENTS) + shared.normal(0, 0.05, DOCUMENTS)
            level = 5 + own - 0.3 * np.log2(plan.size.hidden / 64)
            times = (more or {}).get(network, 1.0)
            budgets = plan.steps(network)
            test = {budget: (level - 0.5 * np.log(times * budget / 300)).tolist() for budget in budgets}
            validation = {budget: float(np.mean(losses)) for budget, losses in test.items()}
            planned = Plan(plan.size, network, 4e-3, seed, budgets, plan.task)
            trials.append(Trial(planned, parameters, flops, validation, test, [100] * DOCUMENTS, [], None, 60.0, "one"))
    return trials


def tuned(network: str, seed: int, gain: float = 0.0, times: float = 1.0) -> Trial:
    """A fine-tuning whose loss is `gain` below the base's, and whose ROUGE is so many times the base's."""
    rng, shared = np.random.default_rng([seed, sum(map(ord, network))]), np.random.default_rng(7)
    budgets = (400, 460, 520) if network == BASE else (400,)
    level, rouge = shared.normal(3, 0.1, DOCUMENTS), shared.uniform(0.1, 0.2, PROMPTS)
    test: dict[int, list[float]] = {}
    measures: dict[int, dict[str, list[Any]]] = {}
    for budget in budgets:
        noise = rng.normal(0, 0.002) + rng.normal(0, 0.002, DOCUMENTS)
        test[budget] = (level - 0.1 * np.log(budget / 400) - gain + noise).tolist()
        own = (times * rouge + rng.normal(0, 0.003, PROMPTS)).reshape(-1, 1).tolist()
        counts = [[20, 10, 5, 2, 50, 49, 48, 47, 50, 50]] * PROMPTS
        choice = rng.choice([0.0, 1.0], (CHOICES, 1)).tolist()
        measures[budget] = {"rougeL": own, "rouge1": own, "distinct2": own, "bleu": counts, "choice": choice}
    parameters, flops = cost(network, SIZE)
    plan = Plan(SIZE, network, 1e-3, seed, budgets, "tuned-stories")
    validation = {budget: float(np.mean(losses)) for budget, losses in test.items()}
    more: dict[str, Any] = {"forgotten": dict.fromkeys(budgets, 1.2), "measures": measures}
    return Trial(plan, parameters, flops, validation, test, [100] * DOCUMENTS, [], None, 1.0, "one", **more)


def tuned_trials(gain: float = 0.0, times: float = 1.0, seeds: int = 6) -> list[Trial]:
    """Fine-tunings of all networks but "no-layer-norm"; `enhanced` alone has the gain."""
    names = [name for name in TUNED if name != "no-layer-norm"]
    return [
        tuned(name, seed, *((gain, times) if name == "enhanced" else ())) for seed in range(seeds) for name in names
    ]


def breaking(trials: list[Trial], **broken: float) -> list[Trial]:
    """Trials at three rates, of which each network breaks from its rate on, given by its name with underscores."""
    return [
        replace(one, plan=replace(one.plan, rate=rate), validation={300: 9.0 if rate >= limit else 4.0})
        for one in trials
        for limit in (broken.get(one.plan.network.replace("-", "_"), 1.0),)
        for rate in (4e-3, 1.6e-2, 6.4e-2)
    ]
