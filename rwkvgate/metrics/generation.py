"""Greedy continuations of prompts, to be scored by the overlap metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from rwkvgate.metrics.inference import PREFIX_ID, at_least_one, device_of, encode, evaluating, rows_at_once

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def continue_prompts(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    new_tokens: int,
    batch_size: int,
    prefix_id: int = PREFIX_ID,
) -> list[str]:
    """The greedy continuation of each prompt, in the order given, without the prompt.

    The prefix token precedes each prompt as in training, so an empty prompt starts a text. Batches hold prompts of
    similar length, padded on the left; a continuation does not depend on the other prompts. It ends before the
    end-of-text token or after `new_tokens` tokens, and is decoded without special tokens and without cleaning of
    spaces; a character cut by the limit shows as U+FFFD.

    Raises:
        ValueError: `new_tokens` or `batch_size` is below 1, or the prompts are one string.

    Example:
        >>> from rwkvgate import Rwkv6Config, Rwkv6ForCausalLM, Rwkv6Tokenizer
        >>> sizes = {"hidden_size": 8, "num_hidden_layers": 1, "head_size": 4}
        >>> tokenizer = Rwkv6Tokenizer()
        >>> model = Rwkv6ForCausalLM(Rwkv6Config(vocab_size=len(tokenizer), **sizes))
        >>> len(continue_prompts(model, tokenizer, ["a fox", ""], new_tokens=2, batch_size=2))
        2
    """
    at_least_one(new_tokens=new_tokens, batch_size=batch_size)
    batch_size = rows_at_once(model, batch_size)
    sequences = [[prefix_id, *ids] for ids in encode(tokenizer, prompts)]
    order = sorted(range(len(sequences)), key=lambda row: len(sequences[row]))
    ends = end_ids(model, tokenizer)
    texts = [""] * len(sequences)
    with evaluating(model):
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            continued = _continue_batch(model, [sequences[row] for row in rows], new_tokens, ends, prefix_id)
            for row, ids in zip(rows, continued, strict=True):
                own = ids[: next((i for i, token in enumerate(ids) if token in ends), len(ids))]
                text = tokenizer.decode(own, skip_special_tokens=True, clean_up_tokenization_spaces=False)
                texts[row] = cast(str, text)
    return texts


def end_ids(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The token ids that end a text: of the model's generation settings, else of the tokenizer, which may have none.

    Example:
        >>> from rwkvgate import Rwkv6Tokenizer
        >>> end_ids(nn.Identity(), Rwkv6Tokenizer())
        [0]
    """
    ends = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    if ends is None:
        ends = tokenizer.eos_token_id
    if ends is None:
        return []
    return [int(ends)] if isinstance(ends, int) else [int(token) for token in ends]


def _continue_batch(
    model: nn.Module, sequences: list[list[int]], new_tokens: int, ends: list[int], pad_id: int
) -> list[list[int]]:
    width = max(map(len, sequences))
    ids = torch.full((len(sequences), width), pad_id)  # (batch, longest prompt)
    mask = torch.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        ids[row, width - len(sequence) :] = torch.tensor(sequence)
        mask[row, width - len(sequence) :] = 1
    device = device_of(model)
    output = cast(Any, model).generate(
        ids.to(device),
        attention_mask=mask.to(device),
        max_new_tokens=new_tokens,
        do_sample=False,
        num_beams=1,
        eos_token_id=ends or None,
        pad_token_id=ends[0] if ends else pad_id,
    )
    return cast(list[list[int]], output[:, width:].tolist())
