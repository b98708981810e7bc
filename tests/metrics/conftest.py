"""A tiny recurrent language model and a byte-level tokenizer with the interfaces that the metrics rely on."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

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
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask[:, -input_ids.shape[1] :]
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
