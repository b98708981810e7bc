"""transformers' own tests of a model, on RWKV-6 and on a patched one: `make test-transformers` runs them.

RWKV-6 passes them without exception but for those in `REFUSED` below, which need what is refused by design:

- Loading is strict. `from_pretrained` refuses a checkpoint that lacks tensors or has them in other shapes, whatever the
  options (`ignore_mismatched_sizes` too): a network that is partly at random is never what was asked for.
- Weights with gates load only under a config that names the gate.
"""

from __future__ import annotations

import os
import random
import unittest
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.models.auto import modeling_auto

from rwkvgate import GateConfig, Rwkv6Config, Rwkv6ForCausalLM, Rwkv6Model, patch
from rwkvgate.rwkv6.state import Rwkv6State
from tests.rwkv6.transformers_tests import VARIABLE, load, missing

FOLDER = os.environ.get(VARIABLE)
if not FOLDER:
    reason = f"needs the test files of transformers: make test-transformers fetches them, or {VARIABLE} names a folder"
    pytest.skip(reason, allow_module_level=True)
MODULES = load(Path(FOLDER))
ABSENT = missing(Path(FOLDER))

STRICT = "loading is strict: a checkpoint that lacks tensors is refused"
REFUSED = {
    "test_base_model_prefix_loads_base_weights": STRICT,
    "test_correct_missing_keys": STRICT,
    "test_model_weights_reload_no_missing_tied_weights": STRICT,
}
"""Tests that RWKV-6 and a patched one must fail, with the reason."""
REFUSED_PATCHED = {
    "test_from_pretrained_no_checkpoint": "weights with gates are refused under a config that names no gate",
}
"""Tests that a patched one must fail too, with the reason."""

# By these names the tests learn which class has a head with labels.
modeling_auto.MODEL_MAPPING_NAMES.setdefault("rwkv6", "Rwkv6Model")
modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.setdefault("rwkv6", "Rwkv6ForCausalLM")


class Sizes:
    """A network of a size that the tests accept, and inputs for it."""

    batch_size, seq_length, hidden_size, num_hidden_layers, is_training = 4, 7, 32, 2, True

    def get_config(self) -> Rwkv6Config:
        """Two layers of 32 channels."""
        return Rwkv6Config(
            vocab_size=99,
            hidden_size=self.hidden_size,
            num_hidden_layers=self.num_hidden_layers,
            head_size=8,
            time_mix_rank=4,
            time_decay_rank=4,
            pad_token_id=98,
            eos_token_id=97,
        )

    def prepare_config_and_inputs_for_common(self) -> tuple[Rwkv6Config, dict[str, Any]]:
        """The config, and a batch without padding."""
        ids = [[random.randrange(1, 97) for _ in range(self.seq_length)] for _ in range(self.batch_size)]
        return self.get_config(), {
            "input_ids": torch.tensor(ids),
            "attention_mask": torch.ones(self.batch_size, self.seq_length, dtype=torch.long),
        }


def expected(reasons: dict[str, str]) -> Callable[[type], type]:
    """Mark tests of a class as ones that fail."""

    def mark(tests: type) -> type:
        for name, reason in reasons.items():
            setattr(tests, name, pytest.mark.xfail(strict=True, reason=reason)(getattr(tests, name)))
        return tests

    return mark


def patched(base: type) -> type:
    """A class of the same name, whose models carry the paper's gate from their construction on."""

    def init(self: Any, config: Rwkv6Config) -> None:
        base.__init__(self, config)
        if self.device.type != "meta":
            patch(self, GateConfig.preset("enhanced"))

    return type(base.__name__, (base,), {"__init__": init, "__module__": __name__})


@expected(REFUSED)
class TestBase(
    MODULES["test_modeling_common"].ModelTesterMixin,  # type: ignore[misc, name-defined]
    MODULES["generation.test_utils"].GenerationTesterMixin,
    unittest.TestCase,
):
    """RWKV-6 as it is."""

    all_model_classes = (Rwkv6Model, Rwkv6ForCausalLM)
    has_attentions = False

    def setUp(self) -> None:
        self.model_tester = Sizes()

    def test_config(self) -> None:
        tester = MODULES["test_configuration_common"].ConfigTester(self, config_class=Rwkv6Config, hidden_size=64)
        tester.run_common_tests()

    def _check_past_key_values_for_generate(self, batch_size: int, state: Any, *_: Any) -> None:
        """In place of a look at keys and values: one state of every layer, of fixed size."""
        assert isinstance(state, Rwkv6State)
        assert (len(state.layers), state.batch_size) == (self.model_tester.num_hidden_layers, batch_size)

    def _check_caches_are_equal(self, one: Rwkv6State, other: Rwkv6State) -> None:
        for here, there in zip(one.layers, other.layers, strict=True):
            for name, tensor in vars(here).items():
                torch.testing.assert_close(tensor, vars(there)[name])


@expected(REFUSED_PATCHED)
class TestPatched(TestBase):
    """RWKV-6 with the paper's gate."""

    all_model_classes = tuple(map(patched, TestBase.all_model_classes))


@pytest.mark.parametrize("path", ABSENT)
def test_what_is_not_run(path: str) -> None:
    pytest.skip(f"{path}: not in the source distribution of transformers, and GitHub gave no answer")
