"""Effects of a clamp: losses and continuations against readings and generation under the same clamp."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from rwkvgate.explore.effects import clamp_effect, stream
from rwkvgate.explore.gated_text import read_text
from rwkvgate.explore.interventions import Clamp, clamp_gate


def test_the_effect_of_a_clamp_is_the_difference_of_two_readings(reader: Any) -> None:
    model, tokenizer = reader()
    effect = clamp_effect(model, tokenizer, "Once upon a time", Clamp(None, 0.0), new_tokens=4)
    with clamp_gate(model, None, 0.0):
        expected = read_text(model, tokenizer, "Once upon a time")
    np.testing.assert_allclose(effect.clamped, expected.losses, atol=1e-5)
    assert not np.allclose(effect.free, effect.clamped)
    assert str(effect.clamp) == "every layer clamped to 0.00"
    with pytest.raises(ValueError, match="layer is 3; the model has layers 1 to 2"):
        clamp_effect(model, tokenizer, "Once", Clamp(3, 0.0), new_tokens=1)


def test_a_streamed_continuation_is_that_of_generation_under_the_clamp(reader: Any) -> None:
    model, tokenizer = reader()
    ids = torch.tensor([[0, *tokenizer("Once")["input_ids"]]])
    with clamp_gate(model, 1, 0.2):
        expected = model.generate(ids, max_new_tokens=6, do_sample=False)[0, ids.shape[1] :]
    steps = list(stream(model, tokenizer, "Once", clamp=Clamp(1, 0.2), new_tokens=6))
    assert steps[-1] == tokenizer.decode(expected, skip_special_tokens=True) and len(steps) == len(expected)
    first, again, other = (
        list(stream(model, tokenizer, "Once", new_tokens=5, temperature=1.0, seed=seed))[-1] for seed in (1, 1, 2)
    )
    assert first == again != other
