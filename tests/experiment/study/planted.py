"""Trials of the study with planted readings, for the tests of what is read inside."""

from __future__ import annotations

import numpy as np

from rwkvgate.experiment.study.design import SIZES
from rwkvgate.experiment.study.inside import LONG_TEXTS, OCTAVES
from rwkvgate.experiment.study.trials import Plan, Trial

SIZE, BUDGETS, TEXTS = SIZES["64x4"], (40, 75, 150, 300), 128
LAYERS, CHANNELS = SIZE.layers, 64
NETWORKS = ("base", "enhanced", "no-layer-norm", "fixed-gate")


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
