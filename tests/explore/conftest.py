"""What the explorer's tests share: a small gated model over the World vocabulary."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture
def reader(tiny_model: Any) -> Any:
    """`reader(arm="enhanced", **changes)`: model and tokenizer; float32, two layers of 16 channels."""
    import torch

    from rwkvgate import Rwkv6Tokenizer

    sizes = {"vocab_size": 65536, "hidden_size": 16, "num_hidden_layers": 2}

    def build(arm: Any = "enhanced", **changes: Any) -> Any:
        return tiny_model(arm, torch.float32, **(sizes | changes)), Rwkv6Tokenizer()

    return build
