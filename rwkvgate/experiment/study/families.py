"""Networks of other families with the base's number of parameters: a GRU, a Transformer and RWKV-7.

The Transformer is transformers' Mistral, whose sliding window is the trained length, so that it reads longer texts as
it was trained. The GRU has the same residual blocks, with torch's GRU in place of attention. RWKV-7 is in `rwkv7`.
"""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gelu
from transformers import MistralConfig, MistralForCausalLM

from rwkvgate.experiment.study.rwkv7 import Rwkv7ForCausalLM

FAMILIES = ("gru", "transformer", "rwkv-7")


class _Block(nn.Module):
    """A GRU and a feed-forward layer, each on its normalised input and added to it."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(2))
        self.gru = nn.GRU(channels, channels, batch_first=True)
        self.up, self.down = nn.Linear(channels, inner, bias=False), nn.Linear(inner, channels, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = hidden + self.gru(self.norms[0](hidden))[0]
        output: Tensor = hidden + self.down(gelu(self.up(self.norms[1](hidden))))
        return output


class GruForCausalLM(nn.Module):
    """A language model of residual GRU blocks, called as a model of transformers is; it carries no state."""

    def __init__(self, vocabulary: int, channels: int, layers: int, inner: int) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(vocabulary, channels)
        self.blocks = nn.ModuleList(_Block(channels, inner) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(channels), nn.Linear(channels, vocabulary, bias=False)
        for weight in (self.embeddings.weight, self.head.weight):
            nn.init.normal_(weight, std=0.02)

    def forward(self, input_ids: Tensor, labels: Tensor | None = None, **_: Any) -> SimpleNamespace:
        """Logits (batch, time, vocabulary), and the mean loss of labelled tokens."""
        hidden = self.embeddings(input_ids)
        for block in self.blocks:
            hidden = block(hidden)
        logits = self.head(self.norm(hidden))
        if labels is None:
            return SimpleNamespace(logits=logits, loss=None)
        return SimpleNamespace(logits=logits, loss=cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()))


def build_family(
    name: str, channels: int, layers: int, heads: int, vocabulary: int, length: int, size: int
) -> nn.Module:
    """A network of a family, drawn from torch's generator.

    Args:
        length: the trained length, in tokens.
        size: parameters, which the width of the feed-forward layers comes nearest to.
    """
    make = partial(_network, name, channels, layers, heads, vocabulary, length)
    with torch.device("meta"):
        one, two = (sum(p.numel() for p in make(inner).parameters()) for inner in (1, 2))
    return make(1 + round((size - one) / (two - one)))


def family_flops(model: nn.Module, length: int) -> float:
    """FLOPs per token of one forward pass: two for each weight of a matrix product, and those of what mixes tokens:
    attention over the window, or the delta rule by its definition."""
    matrices = [p for name, p in model.named_parameters() if p.dim() == 2 and "embed" not in name]
    mixing = 0.0
    if isinstance(model, MistralForCausalLM):
        # On average half a window of keys and values.
        mixing = 2 * 2 * model.config.num_hidden_layers * model.config.hidden_size * (length + 1) / 2
    if isinstance(model, Rwkv7ForCausalLM):
        mixing = model.wkv_flops()
    return 2.0 * sum(p.numel() for p in matrices) + mixing


def _network(name: str, channels: int, layers: int, heads: int, vocabulary: int, length: int, inner: int) -> nn.Module:
    if name == "gru":
        return GruForCausalLM(vocabulary, channels, layers, inner)
    if name == "rwkv-7":
        return Rwkv7ForCausalLM(vocabulary, channels, layers, heads, inner)
    config = MistralConfig(
        vocab_size=vocabulary,
        hidden_size=channels,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=channels // heads,
        sliding_window=length,
        max_position_embeddings=32768,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=None,
    )
    return MistralForCausalLM(config)
