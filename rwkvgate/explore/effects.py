"""The effect of a clamp on the loss of each token and on the continuation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from rwkvgate.explore.interventions import Clamp, applied
from rwkvgate.explore.reading import model_lock, read
from rwkvgate.explore.tokens import token_texts
from rwkvgate.metrics.generation import end_ids
from rwkvgate.metrics.inference import PREFIX_ID, at_least_one, device_of, encode, evaluating
from rwkvgate.rwkv6.prefill import prefill

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class ClampEffect:
    """Losses and continuations of a text, without a clamp and with it.

    Attributes:
        free, clamped: negative log-likelihood of each token, nats, (time,).
        free_text, clamped_text: the continuations.
    """

    clamp: Clamp
    tokens: list[str]
    free: NDArray[np.float32]
    clamped: NDArray[np.float32]
    free_text: str
    clamped_text: str


def clamp_effect(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    clamp: Clamp,
    *,
    new_tokens: int = 40,
) -> ClampEffect:
    """Measure what a clamp changes: read the text after the prefix token and continue it greedily, twice.

    Raises:
        ValueError: the model has no gate, the clamp is out of range, or `new_tokens` is below 1.

    Example:
        >>> from rwkvgate import GateConfig, Rwkv6Config, Rwkv6ForCausalLM, Rwkv6Tokenizer, patch
        >>> config = Rwkv6Config(hidden_size=32, num_hidden_layers=2, head_size=16)
        >>> model = patch(Rwkv6ForCausalLM(config), GateConfig.preset("enhanced"))
        >>> effect = clamp_effect(model, Rwkv6Tokenizer(), "Once upon a time", Clamp(layer=1, value=0.0), new_tokens=2)
        >>> (effect.clamped - effect.free).shape == (len(effect.tokens),)
        True
    """
    sequence = encode(tokenizer, [text])[0]
    ids = torch.tensor([[PREFIX_ID, *sequence]], device=device_of(model))
    losses, texts = [], []
    for each in (None, clamp):
        nats = None
        if sequence:
            with applied(model, each):
                nats = read(model, ids, losses=True)
        losses.append(np.zeros(0, np.float32) if nats is None else nats[0, 1:].numpy())
        written = [""]
        written += stream(model, tokenizer, text, clamp=each, new_tokens=new_tokens)
        texts.append(written[-1])
    return ClampEffect(clamp, token_texts(tokenizer, sequence), losses[0], losses[1], texts[0], texts[1])


def stream(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    *,
    clamp: Clamp | None = None,
    **options: Any,
) -> Iterator[str]:
    """Yield a continuation after each of its tokens. An incomplete character shows as U+FFFD.

    Args:
        options: of `generated`, which says what is refused.
    """
    written = list[int]()
    for token, _ in generated(model, tokenizer, text, clamps=[] if clamp is None else [clamp], **options):
        written.append(token)
        yield str(tokenizer.decode(written, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def generated(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    *,
    clamps: Sequence[Clamp] = (),
    new_tokens: int = 40,
    temperature: float = 0.0,
    seed: int = 0,
) -> Iterator[tuple[int, float]]:
    """Generate a continuation: each token and its probability, until the end of text or `new_tokens`.

    The clamps and the model's lock apply inside a step only: between steps others may use the model.

    Args:
        temperature: 0 is greedy; otherwise a token is sampled from the logits divided by it. The probability is that
            without temperature.

    Raises:
        ValueError: the temperature is negative or not finite, `new_tokens` is below 1, or the model is not a
            `Rwkv6ForCausalLM`.
    """
    at_least_one(new_tokens=new_tokens)
    if not (temperature >= 0 and np.isfinite(temperature)):
        raise ValueError(f"temperature is {temperature}; it must be a finite number of at least 0")
    if not hasattr(model, "rwkv"):
        raise ValueError(f"the model is a {type(model).__name__}; continuations need a Rwkv6ForCausalLM")
    generator = torch.Generator().manual_seed(seed)
    ends = end_ids(model, tokenizer)
    ids = torch.tensor([[PREFIX_ID, *encode(tokenizer, [text])[0]]], device=device_of(model))
    state = None
    for _ in range(new_tokens):
        with ExitStack() as stack:
            for clamp in clamps:
                stack.enter_context(applied(model, clamp))
            stack.enter_context(model_lock(model))
            stack.enter_context(evaluating(model))
            logits, state = prefill(model, ids, past_key_values=state)
            scores = logits[0].float().cpu()  # (vocabulary,)
        if temperature == 0:
            chosen = int(scores.argmax())
        else:
            chosen = int(torch.multinomial((scores / temperature).softmax(-1), 1, generator=generator))
        if chosen in ends:
            return
        ids = ids.new_tensor([[chosen]])
        yield chosen, float(scores.softmax(-1)[chosen])
