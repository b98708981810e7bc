"""A tiny recurrent language model and a byte-level tokenizer with the interfaces the room relies on."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from rwkvgate.metrics.latency import LATENCY_COLUMNS
from rwkvgate.metrics.measures import tidy
from rwkvgate.metrics.overlap import document_overlap

VOCABULARY = 257
END = 0


class TinyModel(nn.Module):
    """A GRU over bytes: each row's real tokens are run alone, so that padding cannot matter."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embedding = nn.Embedding(VOCABULARY, 8)
        self.gru = nn.GRU(8, 16, batch_first=True)
        self.head = nn.Linear(16, VOCABULARY)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.mul_(3)
            self.head.bias[END] += 2.0
        self.generation_config = SimpleNamespace(eos_token_id=END)
        self.shapes: list[tuple[int, ...]] = []

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Tensor | None = None,
        use_cache: bool = True,
    ) -> SimpleNamespace:
        self.shapes.append(tuple(input_ids.shape))
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        state = torch.zeros(len(input_ids), 16) if past_key_values is None else past_key_values.clone()
        state = state.to(self.head.weight.dtype)
        # Outputs at padding are poison: whoever reads them shows it.
        logits = torch.full((*input_ids.shape, VOCABULARY), torch.nan, dtype=state.dtype)
        for row, real in enumerate(mask.bool()):
            if real.any():
                inputs = self.embedding(input_ids[row, real])[None]
                hidden, last = self.gru(inputs, state[row][None, None].contiguous())
                logits[row, real] = self.head(hidden[0])
                state[row] = last[0, 0]
        return SimpleNamespace(logits=logits, past_key_values=state if use_cache else None)

    def generate(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        max_new_tokens: int,
        min_new_tokens: int = 0,
        eos_token_id: list[int] | None = None,
        pad_token_id: int = END,
        **_: object,
    ) -> Tensor:
        ends = eos_token_id or [END]
        output = self(input_ids, attention_mask=attention_mask)
        ended = torch.zeros(len(input_ids), dtype=torch.bool)
        for step in range(max_new_tokens):
            logits = output.logits[:, -1].clone()
            if step < min_new_tokens:
                logits[:, ends] = -torch.inf
            token = torch.where(ended, pad_token_id, logits.argmax(dim=-1))
            ended |= torch.isin(token, torch.tensor(ends))
            input_ids = torch.cat([input_ids, token[:, None]], dim=1)
            if ended.all():
                break
            output = self(token[:, None], past_key_values=output.past_key_values)
        return input_ids


@pytest.fixture
def model() -> TinyModel:
    return TinyModel()


@pytest.fixture(scope="session")
def make_model() -> type[TinyModel]:
    return TinyModel


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<end>": END, **{letter: 1 + i for i, letter in enumerate(letters)}}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>", pad_token="<end>")


@pytest.fixture(scope="session")
def results() -> pd.DataFrame:
    """Results of four arms and up to three seeds over 24 documents; enhanced is better than base."""
    rng = np.random.default_rng(7)
    sentence = "the fox saw a dog by the old mill and ran home before the rain came down"
    words = sentence.split()
    references = [" ".join(rng.permutation(words)) for _ in range(24)]
    parts = []
    for arm, seeds, kept in (
        ("base", 1, 5),
        ("base-tuned", 3, 12),
        ("enhanced", 3, 11),
        ("fixed-gate", 3, 9),
    ):
        for seed in range(seeds):
            predictions = []
            for reference in references:
                right = reference.split()
                said = right[: kept + int(rng.integers(-2, 3))]
                said += list(rng.permutation(right[len(said) :]))
                predictions.append(" ".join(said))
            parts.append(tidy(document_overlap(predictions, references), arm=arm, seed=seed))
            tokens = rng.integers(30, 60, size=24)
            scored = {
                "document": range(24),
                "nll": tokens * (2 - kept / 12 + rng.normal(0, 0.05, 24)),
                "tokens": tokens,
                "bytes": tokens * 4,
            }
            parts.append(tidy(pd.DataFrame(scored), arm=arm, seed=seed))
    return pd.concat(parts, ignore_index=True)


@pytest.fixture(scope="session")
def latency() -> pd.DataFrame:
    """Forward and generation times of four arms."""
    times = {"base": 1.0, "base-tuned": 1.004, "enhanced": 1.071, "fixed-gate": 1.045}
    rows = []
    for measure, tokens, scale in (("forward", 128, 0.0431), ("generation", 50, 0.61)):
        for arm, ratio in times.items():
            for seed in range(1 if arm == "base" else 2):
                seconds = scale * ratio * (1 + 0.002 * seed)
                rows.append(
                    {
                        "arm": arm,
                        "seed": seed,
                        "measure": measure,
                        "batch": 1,
                        "tokens": tokens,
                        "seconds_median": seconds,
                        "seconds_low": seconds * 0.98,
                        "seconds_high": seconds * 1.05,
                        "ratio": ratio,
                        "ratio_low": ratio - 0.01,
                        "ratio_high": ratio + 0.012,
                        "repeats": 20,
                        "peak_mib": 512.0,
                        "peak_of": "process",
                        "dtype": "float32",
                        "threads": 2,
                        "device": "cpu",
                    }
                )
    return pd.DataFrame(rows, columns=list(LATENCY_COLUMNS))
