"""Fixtures for the tests of several packages: tiny networks with every weight drawn at random.

BlinkDL's initialisation starts every block as the identity, which would hide almost any mistake, so tests of behaviour
draw all parameters anew. The fixtures import torch inside, to keep tests of texts fast.
"""

from __future__ import annotations

import copy
import gc
import os
import signal
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import Any

import pytest

from tests.hub_server import Client, Hub, serve_hub

# A shell starts a background job, `make test &`, so that it ignores Ctrl-C, and every child would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


LONGEST = (
    "notebooks/test_chain.py",
    "04_ablations.ipynb",
    "05_gate_visualization.ipynb",
    "tests/test_lint.py",
    "steps/test_damage.py",
    "gate/test_compile.py",
    "gate/test_combinations.py",
    "distributed/test_training_together.py",
    "explore/test_front.py",
    "experiment/test_claims.py",
    "workflow/test_execute.py",
    "workflow/test_warm.py",
    "workflow/test_opening.py",
    "rwkv6/test_hub.py",
)
"""Ends of the paths of the files that take longest, the longest first."""
NBVAL_WARM = "RWKVGATE_NBVAL_WARM"
"""The environment variable with the address of nbval's warm process; no run graph that a test starts looks at it."""


def pytest_configure(config: pytest.Config) -> None:
    """Let nbval's kernels be forks of one process that has imported what notebooks do, where the system has such."""
    if not (config.getoption("nbval", False) or config.getoption("nbval_lax", False)):
        return
    from jupyter_client import launcher

    from rwkvgate.workflow.warm import launch, start_warm

    if not hasattr(config, "workerinput"):  # it ends with the first pytest, which starts the workers
        os.environ[NBVAL_WARM] = start_warm()
    launcher.Popen = partial(launch, address=os.environ.get(NBVAL_WARM, ""))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files, so that no worker is left alone with one at the end."""

    def rank(item: pytest.Item) -> int:
        path = item.path.as_posix()
        return next((i for i, end in enumerate(LONGEST) if path.endswith(end)), len(LONGEST))

    items.sort(key=rank)


def pytest_collection_finish() -> None:
    """Take the modules and tests that stay to the end out of what the garbage collector looks through, often."""
    gc.collect()
    gc.freeze()


ROUNDING = 1e-12
"""Largest difference in float64, relative to the largest magnitude, between different operations that compute the same
numbers: a product with more rows, a text in parts, a padded row. The very same operation repeated gives the same bits.
"""
SIZES = {
    "vocab_size": 37,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "head_size": 8,
    "time_mix_rank": 5,
    "time_decay_rank": 6,
}


@pytest.fixture(scope="session")
def tiny_config() -> Callable[..., Any]:
    """`tiny_config(**changes)`: a config of three blocks of 32 channels."""
    from rwkvgate import Rwkv6Config

    return lambda **changes: Rwkv6Config(**(SIZES | changes))


@pytest.fixture(scope="session")
def scramble() -> Callable[..., Any]:
    """`scramble(model, seed=0)`: every parameter moved by noise, in place; returns the model."""
    import torch

    def change(model: Any, seed: int = 0) -> Any:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                width = 0.3 if parameter.dim() > 1 and parameter.shape[0] > 1 else 0.2
                parameter.add_(width * noise.to(parameter.dtype))
        return model

    return change


@pytest.fixture(scope="session")
def tiny_model(tiny_config: Any, scramble: Any) -> Callable[..., Any]:
    """`tiny_model(arm=None, dtype=torch.float64, seed=0, **changes)`: a scrambled network in eval mode.

    `arm`, a name or a GateConfig, patches it with that gate, and scrambles the gate as well. A network is drawn once;
    each call gives a copy.
    """
    import torch

    from rwkvgate import GateConfig, Rwkv6ForCausalLM, patch
    from rwkvgate.gate.patch import gates_of

    @lru_cache(maxsize=256)
    def drawn(arm: Any, dtype: Any, seed: int, **changes: Any) -> Any:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = Rwkv6ForCausalLM(tiny_config(**changes)).eval().to(dtype)
            scramble(model, seed)
            if arm is not None:
                patch(model, GateConfig.preset(arm) if isinstance(arm, str) else arm)
                for gate in gates_of(model):
                    scramble(gate, seed + 1)
        return model

    def build(arm: Any = None, dtype: Any = torch.float64, seed: int = 0, **changes: Any) -> Any:
        return copy.deepcopy(drawn(arm, dtype, seed, **changes))

    return build


@pytest.fixture(scope="session")
def tokens() -> Callable[..., Any]:
    """`tokens(batch, time, seed=0)`: random ids, never 0, the padding and end of text."""
    import torch

    def draw(batch: int, time: int, seed: int = 0) -> Any:
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(1, SIZES["vocab_size"], (batch, time), generator=generator)

    return draw


@pytest.fixture(scope="session")
def relative_error() -> Callable[[Any, Any], float]:
    """`relative_error(actual, expected)`: the largest difference, relative to the largest expected magnitude."""

    def measure(actual: Any, expected: Any) -> float:
        actual, expected = actual.detach().double(), expected.detach().double()
        assert actual.shape == expected.shape
        if not expected.numel():
            return 0.0
        return float((actual - expected).abs().max() / expected.abs().max().clamp_min(1e-30))

    return measure


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    """A local server that speaks the hub's protocol."""
    with serve_hub() as served:
        yield served


@pytest.fixture(scope="module")
def online(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A process that reaches the hub."""
    client = Client(hub.address, tmp_path_factory.mktemp("home"))
    yield client
    client.close()
