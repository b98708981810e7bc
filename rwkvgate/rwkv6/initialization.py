"""BlinkDL's initialisation of RWKV-6, as functions of the layer's depth.

Source: the x060 model and `generate_init_weight` of the RWKV-LM repository. Output projections and the
channel mixing's receptance and value start at zero, so that every block starts as the identity.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers import initialization as init


def _depth(layer: int, layers: int) -> tuple[float, float]:
    """Two fractions: one from 0 at the first layer to 1 at the last, the other from 1 to nearly 0."""
    return layer / max(layers - 1, 1), 1 - layer / layers


def init_attention(module: nn.Module, layer: int, layers: int) -> None:
    """Initialise time mixing: an `Rwkv6Attention` at depth `layer` of `layers`."""
    rising, falling = _depth(layer, layers)
    hidden, width = module.time_maa_x.shape[-1], module.time_decay.shape[-1]
    a = torch.arange(hidden, dtype=torch.float32) / hidden
    ramp = torch.arange(width, dtype=torch.float32) / max(width - 1, 1)
    for name in ("x", "w", "k"):
        init.copy_(getattr(module, f"time_maa_{name}"), (1 - a**falling).view(1, 1, -1))
    init.copy_(module.time_maa_v, (1 - (a**falling + 0.3 * rising)).view(1, 1, -1))
    for name in ("r", "g"):
        init.copy_(getattr(module, f"time_maa_{name}"), (1 - a ** (0.5 * falling)).view(1, 1, -1))
    init.copy_(module.time_decay, (-6 + 5 * ramp ** (0.7 + 1.3 * rising)).view(1, 1, -1))
    zigzag = ((torch.arange(len(ramp)) + 1) % 3 - 1) * 0.1
    init.copy_(module.time_faaaa, (rising * (1 - ramp) + zigzag).view_as(module.time_faaaa))
    for name in ("time_maa", "time_decay"):
        init.zeros_(getattr(module, f"{name}_w1"))
        init.uniform_(getattr(module, f"{name}_w2"), -0.01, 0.01)
    init.orthogonal_(module.receptance.weight, gain=1)
    init.orthogonal_(module.value.weight, gain=1)
    init.orthogonal_(module.key.weight, gain=0.1)
    init.orthogonal_(module.gate.weight, gain=0.1)
    init.zeros_(module.output.weight)
    init.constant_(module.ln_x.weight, ((1 + layer) / layers) ** 0.7)
    init.zeros_(module.ln_x.bias)


def init_feed_forward(module: nn.Module, layer: int, layers: int) -> None:
    """Initialise channel mixing: an `Rwkv6FeedForward` at depth `layer` of `layers`."""
    _, falling = _depth(layer, layers)
    hidden = module.time_maa_k.shape[-1]
    a = torch.arange(hidden, dtype=torch.float32) / hidden
    for name in ("k", "r"):
        init.copy_(getattr(module, f"time_maa_{name}"), (1 - a ** (falling**3)).view(1, 1, -1))
    init.orthogonal_(module.key.weight, gain=1)
    init.zeros_(module.value.weight)
    init.zeros_(module.receptance.weight)


def init_head(head: nn.Linear) -> None:
    """Initialise the output head: orthogonal, with a gain for vocabularies wider than the model."""
    vocabulary, channels = head.weight.shape
    init.orthogonal_(head.weight, gain=0.5 * max(1.0, (vocabulary / channels) ** 0.5))
